"""The trace that a task belongs to, as its metadata carries it: ``traceparent`` and ``tracestate`` of W3C Trace
Context. Pure.

The metadata is in every signed message about the task and in every stored record, so whoever has the task has its
trace: every tier, every attempt, and who takes over from a dead process. Ids of our own spans follow from the trace,
the task and the attempt. So a worker knows the id of the span that its distributor will report for this attempt, a
distributor that takes over reports the one that its predecessor would have, and nothing more has to be carried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
# What W3C Trace Context asks everybody to carry of a tracestate.
MAX_STATE_CHARS: Final = 512

# Version 00, and what a later version has in common with it.
_HEADER: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_SAMPLED: Final = 1


class TraceContext(NamedTuple):
    """A place in a trace.

    Attributes:
        trace_id, span_id: lowercase hexadecimal; the span is the parent of what is done for the task.
        sampled: whether spans of this trace are reported, as whoever began it decided.
        state: what other systems add to it, passed on as it is.
    """

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def members(self) -> dict[str, Any]:
        """What goes into the metadata of a task."""
        return {TRACEPARENT: self.traceparent, **({TRACESTATE: self.state} if self.state else {})}


def parse(traceparent: Any, tracestate: Any = "") -> TraceContext | None:
    """The place that these headers name; None if they are none."""
    found = _HEADER.match(traceparent) if isinstance(traceparent, str) else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    state = tracestate if isinstance(tracestate, str) and len(tracestate) <= MAX_STATE_CHARS else ""
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), state)


def sampled_in(metadata: Mapping[str, Any]) -> TraceContext | None:
    """The trace in which this task's spans are to be reported; None if they are not."""
    header = metadata.get(TRACEPARENT)
    if header is None:
        return None
    found = parse(header, metadata.get(TRACESTATE, ""))
    return found if found is not None and found.sampled else None


def trace_id_of(metadata: Mapping[str, Any]) -> str:
    """The trace id for a log line about this task, "" for none."""
    found = parse(metadata.get(TRACEPARENT))
    return found.trace_id if found is not None else ""


def task_fields(task_id: str, attempt: int, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a log line about an attempt names."""
    trace_id = trace_id_of(metadata)
    return {"task_id": task_id, "attempt": attempt, **({"trace_id": trace_id} if trace_id else {})}


def span_id(trace: TraceContext, kind: str, task_id: str, attempt: int = 0) -> str:
    """The id of our span of this kind, the same in whatever process it is worked out."""
    text = f"{trace.trace_id}\x00{trace.span_id}\x00{kind}\x00{task_id}\x00{attempt}"
    return blake2b(text.encode(), digest_size=8).hexdigest()
