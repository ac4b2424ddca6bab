"""Task records and the one table of their moves.

A *record* is a plain dict with the members of :class:`a2a_zmq.models.Task`; members that have their default
value may be absent. Times in records are ISO 8601 texts. Records are what travels and what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from a2a_zmq.errors import IllegalTransition

Record = dict[str, Any]

PENDING: Final = "pending"
IN_PROGRESS: Final = "in_progress"
WAITING: Final = "waiting"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
ABANDONED: Final = "abandoned"
# Kind of the error of a graph's run that cannot go on: its checkpoints are no more. A retry begins it anew.
CHECKPOINT_GONE: Final = "checkpoint_gone"

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


# Members of a record that say what is to become of its task; any of them may be missing.
_DECISIVE: Final = (("task_id", str), ("status", str), ("metadata", dict))


def read_object(stored: bytes | str) -> dict[str, Any] | None:
    """A JSON object that was stored; None if it cannot be read, for whoever may write to Redis may have put anything
    there."""
    try:
        found = orjson.loads(stored)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def read_record(stored: bytes) -> Record | None:
    """A stored record, live or of a result; None if it cannot be read as one: what decides is of another type."""
    found = read_object(stored)
    if found is None or any(not isinstance(found.get(name), kind | None) for name, kind in _DECISIVE):
        return None
    return found


def attempt_of(record: Mapping[str, Any]) -> int:
    """The attempt that a record, live or of a result, names; 0 for none."""
    metadata = record.get("metadata")
    attempt = metadata.get("attempt") if isinstance(metadata, dict) else None
    return attempt if isinstance(attempt, int) else 0


def ends(result: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Is this result the end of the life that the live record is of? (An operator's retry begins another one.)"""
    metadata = record.get("metadata")
    if not isinstance(metadata, dict) or not metadata.get("retried"):
        return True
    floor = metadata.get("floor")
    return not isinstance(floor, int) or attempt_of(result) > floor


def dead_letter(record: Mapping[str, Any]) -> bool:
    """Whether a result record is one of a task that was given up, rather than cancelled."""
    kind = (record.get("metadata") or {}).get("error_kind")
    return record.get("status") == FAILED or (record.get("status") == ABANDONED and kind != "cancelled")


def check_move(task_id: str, old: str, new: str) -> None:
    """Raise unless the table has the move.

    Raises:
        IllegalTransition: and nothing was changed.
    """
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(task_id, old, new)
