"""What a core asks the user's policy, and what it hears of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Consult:
    """Ask the user's policy (see :mod:`daemons.runtime.policies`). :class:`Consulted` comes late or never where user
    code hangs, so a core has a deadline of its own.

    ``facts``: plain data made for this question; another thread reads it.
    """

    question_id: int
    facts: dict[str, Any]
    timeout_s: float


@dataclass(slots=True)
class Consulted:
    """What became of a :class:`Consult`.

    Attributes:
        answer: the graph's output, whatever that is; nobody has looked at it.
        reason: why there is no answer: ``late``, ``raised``, ``busy`` (with an earlier question); "" if there is one.
        why: one line for the log.
    """

    question_id: int
    answer: Any = None
    reason: str = ""
    why: str = ""
