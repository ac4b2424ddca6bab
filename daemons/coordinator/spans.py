"""Spans of accepting and placing tasks, and of delivering their results; and the traces that begin here. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from a2a_zmq.clock import Now, parse_iso
from a2a_zmq.tasks import Record
from a2a_zmq.tracing.context import TRACEPARENT, TraceContext, sampled_in, span_id
from a2a_zmq.tracing.spans import ACCEPT, CONSUMER, DELIVER, PLACE, PRODUCER, Span, Tracer, Value
from daemons.coordinator.records import DONE, Entry

# Tasks between submission and distributor of which something is kept; beyond it the oldest have no span of that.
MAX_KEPT: Final = 65_536


class _Open:
    """A traced task that is not with a distributor yet."""

    __slots__ = ("root", "since", "trace")

    def __init__(self, trace: TraceContext, since: float, *, root: bool) -> None:
        self.trace = trace
        self.since = since
        self.root = root  # its trace begins here


class TaskSpans:
    """See the module's text."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._begun = ""  # the traceparent that was given last
        self._taken: dict[str, _Open] = {}
        self._accepting: list[tuple[Entry, _Open]] = []
        self._placing: dict[str, _Open] = {}

    # ------------------------------------------------------------ submissions

    def traced(self, metadata: Any, traceparent: str | None) -> Any:
        """The metadata of a submitted task, with a trace: its own, else its message's, else one that begins here."""
        if metadata is None:
            metadata = {}
        if not isinstance(metadata, dict) or metadata.get(TRACEPARENT) is not None:
            return metadata
        if traceparent is not None:
            return {**metadata, TRACEPARENT: traceparent}
        trace = self._tracer.begin()
        if not trace.sampled:  # nobody after us begins one
            return metadata
        self._begun = trace.traceparent
        return {**metadata, **trace.members()}

    def taken(self, task_id: str, metadata: Any, now: Now) -> None:
        """A submitted task is valid."""
        trace = sampled_in(metadata)
        if trace is not None:
            root = metadata[TRACEPARENT] == self._begun
            _keep(self._taken, task_id, _Open(trace, now.wall, root=root))

    def accepted(self, entry: Entry) -> None:
        """And it is a new one."""
        taken = self._taken.pop(entry.task_id, None)
        if taken is not None:
            self._accepting.append((entry, taken))
            _keep(self._placing, entry.task_id, taken)

    def durable(self, applied: int, now: Now) -> None:
        """All batches up to this one are applied."""
        waiting: list[tuple[Entry, _Open]] = []
        for entry, taken in self._accepting:
            if 0 < entry.batch <= applied:
                trace = taken.trace
                span = _span(taken, ACCEPT, entry, now)
                if taken.root:
                    span.span_id, span.parent_id = trace.span_id, ""
                span.role = CONSUMER
                self._tracer.span(span)
            elif entry.state != DONE:
                waiting.append((entry, taken))
        self._accepting = waiting[-MAX_KEPT:]

    def assigned(self, distributor: str, entries: Iterable[Entry], now: Now) -> None:
        """This distributor is told of these tasks now."""
        for entry in entries if self._placing else ():
            placed = self._placing.pop(entry.task_id, None)
            if placed is not None:
                span = _span(placed, PLACE, entry, now)
                span.role = PRODUCER
                span.attributes["a2a.distributor"] = distributor
                self._tracer.span(span)

    # ------------------------------------------------------------ results

    def delivered(self, record: Record, sent: str, now: Now) -> None:
        """This result, which its distributor sent at that time, goes to those who wait for it."""
        metadata = record.get("metadata")
        trace = sampled_in(metadata) if isinstance(metadata, dict) else None
        if trace is None:
            return
        task_id, task_type = str(record["task_id"]), str(record.get("task_type", ""))
        self._placing.pop(task_id, None)
        attributes: dict[str, Value] = {"a2a.task_id": task_id, "a2a.status": str(record["status"])}
        own = span_id(trace, DELIVER, task_id)
        start = now.wall
        with suppress(ValueError):  # it is a peer's text
            start = min(start, parse_iso(sent))
        self._tracer.span(Span(trace, DELIVER, task_type, own, trace.span_id, start, now.wall, attributes=attributes))


def _span(task: _Open, kind: str, entry: Entry, now: Now) -> Span:
    """What began with the submission and ends now."""
    trace, task_type = task.trace, entry.need.task_type
    attributes: dict[str, Value] = {
        "a2a.task_id": entry.task_id,
        "a2a.task_type": task_type,
        "a2a.client": entry.owner,
    }
    own = span_id(trace, kind, entry.task_id)
    return Span(trace, kind, task_type, own, trace.span_id, task.since, now.wall, attributes=attributes)


def _keep(kept: dict[str, _Open], task_id: str, value: _Open) -> None:
    if len(kept) >= MAX_KEPT and task_id not in kept:
        del kept[next(iter(kept))]
    kept[task_id] = value
