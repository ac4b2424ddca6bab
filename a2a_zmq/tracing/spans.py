"""Spans as values, and who takes them. Pure; what they mean is in ``docs/tracing.md``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from a2a_zmq.tracing.context import TraceContext, span_id

# Kinds of spans: the first word of their names.
SUBMIT: Final = "submit"  # client: until the coordinator has the task on disk
ACCEPT: Final = "accept"  # coordinator: until that is so
PLACE: Final = "place"  # coordinator: until a distributor is told
ATTEMPT: Final = "attempt"  # distributor: from the dispatch to a worker until its report, or its loss
RUN: Final = "run"  # worker: while the handler runs
RECORD: Final = "record"  # distributor: until the result is durable
DELIVER: Final = "deliver"  # coordinator: the result's way to those who wait for it
NODE: Final = "node"  # graph: one node of one step

PRODUCER: Final = "producer"
CONSUMER: Final = "consumer"
INTERNAL: Final = "internal"

Value = str | bool | int | float


@dataclass(slots=True)
class Span:
    """A span that has ended.

    Attributes:
        kind: one of the above.
        subject: what the kind is done with, a task type mostly; the rest of the name.
        span_id, parent_id: hexadecimal; no parent for the first span of a trace.
        start, end: wall times in seconds.
        role: ``producer``, ``consumer`` or ``internal``.
        error: why it failed, "" if it did not.
        links: ids of spans of the same trace that this one goes on from.
    """

    trace: TraceContext
    kind: str
    subject: str
    span_id: str
    parent_id: str
    start: float
    end: float
    role: str = INTERNAL
    error: str = ""
    attributes: dict[str, Value] = field(default_factory=dict)
    links: tuple[str, ...] = ()


class Tracer(Protocol):
    """Where spans go. None instead of one where nothing is traced, which costs one comparison."""

    def span(self, span: Span) -> None:
        """Take it; never waits and never fails."""

    def begin(self) -> TraceContext:
        """A place in a new trace, whose sampling is decided here, once for all who will have the task."""


def attempt_span(trace: TraceContext, task_id: str, attempt: int) -> str:
    """The id of the span of this attempt, the parent of its run."""
    return span_id(trace, ATTEMPT, task_id, attempt)


def run_span(trace: TraceContext, task_id: str, attempt: int) -> str:
    """The id of the span of this run, the parent of what a handler or a graph does."""
    return span_id(trace, RUN, task_id, attempt)


def ending(outcome: str, kind: Any, detail: Any) -> dict[str, Value]:
    """Attributes that say how an attempt ended.

    Args:
        kind: its ``error_kind``, if any.
        detail: what its worker told besides; what is malformed counts as not said.
    """
    found: dict[str, Value] = {"a2a.outcome": outcome}
    if isinstance(kind, str) and kind:
        found["a2a.error_kind"] = kind
    for name in ("signal", "exit_code") if isinstance(detail, dict) else ():
        value = detail.get(name)
        if isinstance(value, (str, int)):
            found[f"a2a.{name}"] = value
    return found
