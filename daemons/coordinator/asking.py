"""That a task asked somebody something, as the coordinator remembers it, and as records and messages say it. Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson

from a2a_zmq.tasks import PENDING, WAITING, Record

# What a task asks is kept in memory up to this length, else read from the store where it is wanted.
MAX_QUESTION_BYTES: Final = 1_024


class Wait:
    """That a task asked somebody something.

    Attributes:
        attempt: the one that asked; a later one goes on with the answer.
        questions: JSON of what it asks, empty if that is long.
        open: it is not answered yet, as far as we know.
    """

    __slots__ = ("attempt", "open", "questions")

    def __init__(self, attempt: int, questions: bytes) -> None:
        self.attempt = attempt
        self.questions = questions if len(questions) <= MAX_QUESTION_BYTES else b""
        self.open = True


def questions_in(told: dict[str, Any]) -> list[dict[str, Any]]:
    """The well-formed members of ``interrupts``."""
    given = told.get("interrupts")
    return [
        {"id": each["id"], "value": each.get("value")}
        for each in (given if isinstance(given, list) else ())
        if isinstance(each, dict) and isinstance(each.get("id"), str)
    ]


def wait_of(record: bytes) -> Wait | None:
    """What a stored record says of its task's waiting, if it waits."""
    if b'"waiting"' not in record:
        return None
    found = orjson.loads(record)
    metadata = found.get("metadata") or {}
    attempt, questions = metadata.get("asked", metadata.get("attempt")), questions_in(metadata)
    if found.get("status") != WAITING or not isinstance(attempt, int) or not questions:
        return None
    return Wait(attempt, orjson.dumps(questions))


def as_answered(record: Record, wait: Wait | None) -> Record:
    """A stored record as it is to be shown: the store may still say that a task waits for what is answered, as its
    distributor has the answer on its own disk while it cannot reach Redis."""
    metadata = record.get("metadata") or {}
    if wait is None or wait.open or record.get("status") != WAITING:
        return record
    if metadata.get("asked", metadata.get("attempt")) != wait.attempt:
        return record
    left = {name: value for name, value in metadata.items() if name not in ("interrupts", "asked")}
    return {**record, "status": PENDING, "metadata": left}
