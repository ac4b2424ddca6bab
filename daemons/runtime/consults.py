"""What a core asks the user's policy, and what it hears of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Consult:
    """Ask the user's policy (see :mod:`daemons.runtime.policies`). :class:`Consulted` comes late or never where user
    code hangs, so a core has a deadline of its own.

    Attributes:
        facts: JSON; the graph's input.
        answer: the member of the graph's output that is wanted.
    """

    question_id: int
    facts: dict[str, Any]
    timeout_s: float
    answer: str


@dataclass(slots=True)
class Consulted:
    """What became of a :class:`Consult`.

    Attributes:
        answer: that member of the graph's output, whatever it is, or None; nobody has looked at it.
        reason: why there is no answer: ``late``, ``raised``, ``busy`` (with an earlier question), ``invalid`` (no
            JSON), ``died``; "" if there is one.
        why: one line for the log.
    """

    question_id: int
    answer: Any = None
    reason: str = ""
    why: str = ""
