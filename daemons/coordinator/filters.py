"""What a ``list_tasks`` asks for, and whether a task is that."""

from __future__ import annotations

from typing import Any, Final

from a2a_zmq.clock import Now, parse_iso
from a2a_zmq.tasks import PENDING, TERMINAL, Record
from daemons.coordinator.clients import Client
from daemons.coordinator.records import Entry, owner_of

# Longer texts occur in no list's row.
MAX_TEXT: Final = 256


class Filter:
    """The conditions of one request; what is malformed is no condition.

    Attributes:
        deep: memory alone cannot tell of every task: its present record has to be read.
        newest: the newest tasks first, of those that have not ended.
        narrow: something besides status and type is asked for.
    """

    __slots__ = (
        "client", "dead", "deep", "distributor", "narrow", "newer_s", "newest", "older_s", "owner", "status",
        "task_type", "text", "wall", "worker",
    )  # fmt: skip

    def __init__(self, client: Client, payload: dict[str, Any], now: Now) -> None:
        self.client = client
        self.wall = now.wall
        self.status = payload.get("status")
        self.task_type = payload.get("task_type")
        self.dead = payload.get("dead") is True
        self.distributor = _text(payload.get("distributor"))
        self.worker = _text(payload.get("worker"))
        self.owner = _text(payload.get("owner"))
        self.text = _text(payload.get("text"))[:MAX_TEXT].casefold()
        self.older_s = _seconds(payload.get("older_s"))
        self.newer_s = _seconds(payload.get("newer_s"))
        self.newest = payload.get("newest") is True or self.newer_s is not None
        aged = self.older_s is not None or self.newer_s is not None
        self.deep = aged or bool(self.worker or self.text) or self.status is not None
        self.narrow = aged or bool(self.worker or self.text or self.owner or self.distributor)

    @property
    def ended(self) -> bool:
        """Ended tasks are asked for."""
        return self.dead or (isinstance(self.status, str) and self.status in TERMINAL)

    def may_be(self, entry: Entry) -> bool:
        """By what memory knows of an unfinished task."""
        if self.task_type not in (None, entry.need.task_type) or not self.client.may_see(entry.owner):
            return False
        if self.owner and self.owner != entry.owner:
            return False
        where = entry.home.agent_id if entry.home is not None else entry.need.pinned
        return not self.distributor or self.distributor == where

    def names(self, entry: Entry) -> bool:
        """The text is in what memory knows: no record need be read to see that."""
        return not self.text or self.text in entry.task_id.casefold() or self.text in entry.need.task_type.casefold()

    def is_live(self, record: Record) -> bool:
        """By the present record of an unfinished task that :meth:`may_be` it."""
        return self.status in (None, record.get("status", PENDING)) and self._details(record)

    def is_ended(self, record: Record) -> bool:
        """By the record of an ended task."""
        owner = owner_of(record)
        return (
            self.status in (None, record.get("status"))
            and self.task_type in (None, record.get("task_type"))
            and self.client.may_see(owner)
            and self.owner in ("", owner)
            and self.distributor in ("", _told(record).get("distributor"))
            and self._details(record)
        )

    def _details(self, record: Record) -> bool:
        if self.worker and _told(record).get("worker") != self.worker:
            return False
        if self.text and not any(self.text in text.casefold() for text in _texts(record)):
            return False
        return (self.older_s is None and self.newer_s is None) or self._of_age(record)

    def _of_age(self, record: Record) -> bool:
        try:
            age_s = self.wall - parse_iso(str(record.get("created_at")))
        except ValueError:
            return False
        return (self.older_s is None or age_s >= self.older_s) and (self.newer_s is None or age_s <= self.newer_s)


def _told(record: Record) -> dict[str, Any]:
    found = record.get("metadata")
    return found if isinstance(found, dict) else {}


def _texts(record: Record) -> list[str]:
    """What people look for: id, type, error, and what it asks."""
    asked = _told(record).get("interrupts")
    questions = [str(each.get("value")) for each in asked if isinstance(each, dict)] if isinstance(asked, list) else []
    return [str(record.get("task_id")), str(record.get("task_type")), str(record.get("error") or ""), *questions]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
