"""The trace of a task as OpenTelemetry's current context while its handler runs, so that what the handler does, with
whatever instrumentation, belongs to it. Loaded only where traces are reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Token
from typing import Any

from opentelemetry import context as current
from opentelemetry import trace as api

from a2a_zmq.tracing.context import TRACEPARENT, TRACESTATE, parse
from a2a_zmq.tracing.export import Counts, Exporter, place
from a2a_zmq.tracing.spans import run_span

Entered = Token[Any]


class Runs:
    """Enters and leaves runs; used by the threads and tasks that run them."""

    def __init__(self, exporter: Exporter) -> None:
        self.exporter = exporter

    def enter(self, metadata: Mapping[str, Any], task_id: str, attempt: int) -> Entered | None:
        """A run begins here. None if its task has no trace.

        A trace that is not sampled is entered as well: what the handler calls elsewhere is not to begin one of its own.
        """
        trace = parse(metadata.get(TRACEPARENT), metadata.get(TRACESTATE, ""))
        if trace is None:
            return None
        self.exporter.adopt()
        span = api.NonRecordingSpan(place(trace, run_span(trace, task_id, attempt)))
        return current.attach(api.set_span_in_context(span))

    def for_child(self) -> list[Any]:
        """What a child process needs to report spans as this one does: arguments of :class:`Exporter`."""
        return [self.exporter.endpoint, self.exporter.resource]

    def child_counted(self, counts: Sequence[int]) -> None:
        self.exporter.counted(Counts(*counts))

    @staticmethod
    def leave(entered: Entered | None) -> None:
        if entered is not None:
            current.detach(entered)
