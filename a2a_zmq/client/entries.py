"""What the client's core keeps: tasks that somebody waits for, and requests. Pure values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from a2a_zmq.errors import FleetError, RequestRefused
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.tasks import Record
from a2a_zmq.tracing.context import TraceContext

# Phases of an entry, in the order in which they are passed.
QUEUED: Final = 0  # not sent, or to be sent again
SENT: Final = 1  # in a submission that is not answered
WATCHED: Final = 2  # attached: asked for, not answered
ACCEPTED: Final = 3  # durable at the coordinator
DONE: Final = 4  # outcome is set


class Asked(NamedTuple):
    """What a task asks somebody, and which attempt of it asked."""

    attempt: int
    interrupts: list[dict[str, Any]]


class Submitted(Protocol):
    """A submission's span.

    Attributes:
        trace: what goes with the task.
    """

    trace: TraceContext

    def ended(self, error: str = "") -> None:
        """The coordinator has the task, or (``error``) it is not to get it; later calls change nothing."""


class Sink(Protocol):
    """Where an entry's progress goes; called by the shell, never by the core."""

    def accepted(self, entry: Entry) -> None:
        """The task is durable at the coordinator."""

    def asked(self, entry: Entry) -> None:
        """``entry.asked`` was set: the task waits for an answer; or unset: it goes on."""

    def finished(self, entry: Entry) -> None:
        """``entry.outcome`` is set (possibly without :meth:`accepted` before it)."""


class Entry:
    """One task that a caller waits for.

    Attributes:
        alone: it is sent in a message of its own: one that had others as well was not well-formed.
        asked: what the task waits for; None if it waits for nothing.
        body: the task as JSON bytes; dropped once the coordinator has it.
        check: the coordinator may know this id already.
        deadline: monotonic time until which it must be accepted (inf: for as long as it takes).
        outcome: result record, or the error to raise; None until known.
        submitted: the span of its submission; None where nothing is traced.
        index: the sink's own number for it.
        trouble: the last refusal that asked for patience; None if there was none.
        twins: entries with the same task id that other callers wait for.
    """

    __slots__ = (
        "alone", "asked", "body", "check", "deadline", "index", "outcome", "phase", "sink", "submitted", "task_id",
        "trouble", "twins",
    )  # fmt: skip

    def __init__(
        self,
        task_id: str,
        body: bytes,
        sink: Sink,
        *,
        check: bool = False,
        deadline: float = math.inf,
        index: int = 0,
    ) -> None:
        self.task_id = task_id
        self.body = body
        self.sink = sink
        self.check = check
        self.deadline = deadline
        self.index = index
        self.phase = QUEUED
        self.alone = False
        self.outcome: Record | FleetError | None = None
        self.trouble: RequestRefused | None = None
        self.submitted: Submitted | None = None
        self.asked: Asked | None = None
        self.twins: list[Entry] | None = None

    def inherit(self, twins: list[Entry]) -> None:
        """Its caller is gone: it belongs to the first of these now, and the others are its twins."""
        heir, *others = twins
        self.sink, self.index, self.deadline, self.twins = heir.sink, heir.index, heir.deadline, others


class Call:
    """One request that is not a submission.

    Attributes:
        trouble: as an entry's.
        repeatable: asking twice does no harm, so it is repeated after a reconnect; others may fail then with
            FleetUnavailable.
        done: called by the shell when ``answer`` is set.
        answer: the response's payload, or the error to raise.
    """

    __slots__ = ("action", "answer", "deadline", "done", "payload", "repeatable", "trouble")

    def __init__(
        self,
        action: str,
        payload: dict[str, Any],
        done: Callable[[Call], None],
        *,
        deadline: float = math.inf,
        repeatable: bool = True,
    ) -> None:
        self.action = action
        self.payload = payload
        self.done = done
        self.deadline = deadline
        self.repeatable = repeatable
        self.answer: dict[str, Any] | FleetError | None = None
        self.trouble: RequestRefused | None = None


class Outbound(NamedTuple):
    """A reliable message to the coordinator."""

    payload: dict[str, Any]
    request_id: str
    type: MessageType = MessageType.REQUEST


def refused_too_long(what: str, last: RequestRefused) -> RequestRefused:
    """The error for what was refused with a request for patience, until its caller had none left."""
    why = f": {last.message}" if last.message else ""
    return RequestRefused(last.code, f"{what} was refused until the caller's deadline passed{why}")
