"""A call of the in-process API, as a core sees it, and the core's answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class LocalCall:
    """A call of the in-process API (``CoordinatorAgent.assign_task_to_distributor`` …).

    The core answers with :class:`LocalAnswer` carrying the same ``call_id``: in its effects, or in a batch's ``after``.
    """

    call_id: int
    name: str
    args: dict[str, Any]


@dataclass(slots=True)
class LocalAnswer:
    call_id: int
    value: Any
