"""An audit of the whole state on its way: what it found so far, and what it waits for."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, NamedTuple

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import Message
from daemons.coordinator.auditing import Finding

# Tasks that the second look takes; with more than this wrong, another audit follows.
MAX_NOTED: Final = 10_000
TOO_MANY: Final = "more tasks seem wrong than one audit takes"

Wait = Generator[Any, Any, Any]


class Read(NamedTuple):
    """Wait for a read of the store; gives its value."""

    op: str
    args: dict[str, Any]


class Said(NamedTuple):
    """Wait for what distributors say to ``audit``; gives their answers by id. Those that do not answer are left out."""

    payloads: dict[str, dict[str, Any]]


class Pause(NamedTuple):
    """Wait until the next supervision that is so many seconds away."""

    seconds: float


class StoreAway(Exception):
    """The store could not be read, or we do not lead any more: the audit is over."""


class Audit:
    """One audit on its way.

    Attributes:
        pace_s: pause between two steps of the first look.
        noted: ids that seem wrong. ``there``: ids that were found where they belong.
        free: distributors whose lease nobody holds.
        theirs: tasks of which a distributor says (and does) what there is to it.
        unchecked: what could not be looked at, one line each.
    """

    def __init__(self, message: Message | None, *, repair: bool, pace_s: float, number: int, now: Now) -> None:
        self.message = message
        self.repair = repair
        self.pace_s = pace_s
        self.number = number
        self.began = now.mono
        self.steps: Wait | None = None
        self.fence = 0
        self.noted: dict[str, None] = {}
        self.there: set[str] = set()
        self.free: set[str] = set()
        self.findings: list[Finding] = []
        self.theirs: set[str] = set()
        self.repaired = 0
        self.checked = 0
        self.unchecked: list[str] = []
        self.waiting: set[str] = set()
        self.said: dict[str, dict[str, Any]] = {}
        self.until = 0.0

    def note(self, task_id: str) -> None:
        if len(self.noted) < MAX_NOTED:
            self.noted[task_id] = None
        elif TOO_MANY not in self.unchecked:
            self.unchecked.append(TOO_MANY)
