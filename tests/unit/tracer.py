"""A tracer that keeps what it gets."""

from __future__ import annotations

from a2a_zmq.tracing.context import TraceContext
from a2a_zmq.tracing.spans import Span

TRACE = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
UNSAMPLED = TRACE._replace(sampled=False)


class KeepingTracer:
    """Attributes:
    spans: all of them.
    begun: how many traces were asked for.
    samples: whether these are sampled.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.begun = 0
        self.samples = True

    def span(self, span: Span) -> None:
        self.spans.append(span)

    def begin(self) -> TraceContext:
        self.begun += 1
        return TraceContext(f"{self.begun:032x}", f"{self.begun:016x}", self.samples)

    def of(self, kind: str) -> list[Span]:
        return [span for span in self.spans if span.kind == kind]
