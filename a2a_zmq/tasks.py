"""Task records and the one table of their moves.

A *record* is a plain dict with the members of :class:`a2a_zmq.models.Task`; members that have their default
value may be absent. Times in records are ISO 8601 texts. Records are what travels and what is stored.
"""

from __future__ import annotations

from typing import Any, Final

from a2a_zmq.errors import IllegalTransition

Record = dict[str, Any]

PENDING: Final = "pending"
IN_PROGRESS: Final = "in_progress"
WAITING: Final = "waiting"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
ABANDONED: Final = "abandoned"

TERMINAL: Final = frozenset({COMPLETED, FAILED, ABANDONED})

# pending → pending is not a move: a retry goes through in_progress first.
# abandoned = cancelled by its client or operator, or given up by quarantine before it could run.
TRANSITIONS: Final[dict[str, frozenset[str]]] = {
    PENDING: frozenset({IN_PROGRESS, FAILED, ABANDONED}),
    IN_PROGRESS: frozenset({PENDING, WAITING, COMPLETED, FAILED, ABANDONED}),
    WAITING: frozenset({PENDING, IN_PROGRESS, FAILED, ABANDONED}),
    COMPLETED: frozenset(),
    FAILED: frozenset({PENDING}),  # only by an operator's `retry`
    ABANDONED: frozenset({PENDING}),  # only by an operator's `retry`
}


def check_move(task_id: str, old: str, new: str) -> None:
    """Raise unless the table has the move.

    Raises:
        IllegalTransition: and nothing was changed.
    """
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(task_id, old, new)
