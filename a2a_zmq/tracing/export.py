"""Spans on their way to an OTLP receiver. The only module that needs the OpenTelemetry SDK; imported on demand.

Whoever has a span puts it into a queue and goes on; a thread makes OpenTelemetry's spans of them and sends these in
batches. The queue is bounded: what finds no room is dropped and counted, and so is what a receiver that is away or slow
did not take. Nothing waits for the thread, but for a moment at the end of the process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final, NamedTuple

from a2a_zmq.errors import ConfigError
from a2a_zmq.tracing.context import TraceContext
from a2a_zmq.tracing.spans import Span

try:
    from opentelemetry import trace as api
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
except ImportError as error:
    raise ConfigError(f"otlp_endpoint: pip install 'a2a-zmq[otel]' first ({error})") from None

PATH: Final = "/v1/traces"
SCOPE: Final = "a2a_zmq"
# Spans that wait; at some 700 bytes each a receiver that is away costs 6 MB.
MAX_WAITING: Final = 8192
BATCH: Final = 512
GATHER_S: Final = 0.5
CLOSE_WAIT_S: Final = 1.0

_KINDS: Final = {
    "producer": api.SpanKind.PRODUCER,
    "consumer": api.SpanKind.CONSUMER,
    "internal": api.SpanKind.INTERNAL,
}


class Counts(NamedTuple):
    """Spans since they were last asked for: taken by the receiver, not taken by it, and dropped before."""

    exported: int = 0
    failed: int = 0
    dropped: int = 0


def quiet() -> None:
    """A receiver that is away is not told of by OpenTelemetry at each attempt: we count what it did not take."""
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)


def endpoint_url(endpoint: str) -> str:
    """Where a receiver takes traces: the path is added to an address that has none."""
    base = endpoint.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


class Exporter:
    """See the module's text. A :class:`a2a_zmq.tracing.spans.Tracer`; to be used by any thread."""

    def __init__(
        self,
        endpoint: str,
        resource: Mapping[str, str],
        *,
        ratio: float = 1.0,
        gather_s: float = GATHER_S,
        clean: Callable[[str], str] = str,
        receiver: SpanExporter | None = None,
    ) -> None:
        """
        Args:
            endpoint: URL of the receiver; headers, certificates and time limits are OpenTelemetry's own variables.
            resource: who we are.
            ratio: share of the traces begun here that is reported.
            gather_s: for so long the first span of a batch waits for others.
            clean: takes secrets out of the texts of errors.
            receiver: where batches go instead.
        """
        self.endpoint = endpoint
        self.resource = dict(resource)
        self._receiver = receiver or OTLPSpanExporter(endpoint=endpoint_url(endpoint))
        self.clean = clean
        self._gather_s = gather_s
        self._bound = round(ratio * 2**64)
        known = Resource.create({**resource})
        self._queue: deque[Span | ReadableSpan] = deque()
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._exported = self._failed = self._dropped = 0
        self._told = Counts()
        self._others: deque[Counts] = deque()  # of processes that report through us
        self._ids = _GivenIds()
        self._made: list[ReadableSpan] = []
        ours = TracerProvider(sampler=ALWAYS_ON, resource=known, id_generator=self._ids, shutdown_on_exit=False)
        ours.add_span_processor(_Ended(self._made.append))
        self._tracer = ours.get_tracer(SCOPE, _own_version())
        # What handlers begin belongs to the trace of their task, or to none.
        self.handlers = TracerProvider(sampler=ParentBased(root=ALWAYS_OFF), resource=known, shutdown_on_exit=False)
        self.handlers.add_span_processor(_Ended(self._put))

    # ------------------------------------------------------------ any thread

    def span(self, span: Span) -> None:
        self._put(span)

    def begin(self) -> TraceContext:
        drawn = os.urandom(24)
        sampled = int.from_bytes(drawn[8:16], "big") < self._bound  # as OpenTelemetry does it, by the id's last half
        return TraceContext(drawn[:16].hex(), drawn[16:].hex(), sampled)

    def adopt(self) -> None:
        """Take up the spans of user code, unless it sends them somewhere itself."""
        if isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
            api.set_tracer_provider(self.handlers)

    def counts(self) -> Counts:
        """Since the last call, with those that were handed in by :meth:`counted`."""
        seen = Counts(self._exported, self._failed, self._dropped)
        more = [now - before for now, before in zip(seen, self._told, strict=True)]
        self._told = seen
        while self._others:
            more = [one + other for one, other in zip(more, self._others.popleft(), strict=True)]
        return Counts(*more)

    def counted(self, counts: Counts) -> None:
        """Another process, a child of ours, counted these."""
        self._others.append(counts)

    def _put(self, span: Span | ReadableSpan) -> None:
        if len(self._queue) >= MAX_WAITING or self._closing.is_set():
            with self._lock:
                self._dropped += 1
            return
        self._queue.append(span)
        if self._thread is None:
            self._start()
        if not self._wanted.is_set():
            self._wanted.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="a2a-spans", daemon=True)
                self._thread.start()

    def close(self, wait_s: float = CLOSE_WAIT_S) -> None:
        """Send what waits, if the receiver takes it within this time."""
        self._closing.set()
        self._wanted.set()
        thread = self._thread
        if thread is not None:
            thread.join(wait_s)
            if thread.is_alive():  # it waits for the receiver; it is a daemon, so the process may end
                self._receiver.shutdown()

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        while not self._closing.is_set() or self._queue:
            self._wanted.wait()
            self._closing.wait(self._gather_s)
            self._wanted.clear()
            while self._queue:
                self._send(self._take())
        with contextlib.suppress(Exception):
            self._receiver.shutdown()

    def _take(self) -> list[ReadableSpan]:
        batch: list[ReadableSpan] = []
        while self._queue and len(batch) < BATCH:
            span = self._queue.popleft()
            if isinstance(span, Span):
                self._make(span)
                batch += self._made
                self._made.clear()
            else:
                batch.append(span)
        return batch

    def _send(self, batch: Sequence[ReadableSpan]) -> None:
        if not batch:
            return
        try:
            taken = self._receiver.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # whatever a receiver answers, the thread goes on
            taken = False
        if taken:
            self._exported += len(batch)
        else:
            self._failed += len(batch)

    def _make(self, span: Span) -> None:
        trace = span.trace
        self._ids.next = (int(trace.trace_id, 16), int(span.span_id, 16))
        context = Context()
        if span.parent_id:
            context = api.set_span_in_context(api.NonRecordingSpan(place(trace, span.parent_id)), context)
        made = self._tracer.start_span(
            f"{span.kind} {span.subject}".strip(),
            context,
            kind=_KINDS[span.role],
            attributes=span.attributes,
            links=[api.Link(place(trace, each)) for each in span.links],
            start_time=int(span.start * 1e9),
        )
        if span.error:
            made.set_status(api.Status(api.StatusCode.ERROR, self.clean(span.error)))
        made.end(max(int(span.start * 1e9), int(span.end * 1e9)))


def place(trace: TraceContext, span_id: str) -> api.SpanContext:
    """This span as OpenTelemetry names it."""
    return api.SpanContext(
        int(trace.trace_id, 16),
        int(span_id, 16),
        is_remote=True,
        trace_flags=api.TraceFlags(int(trace.sampled)),
        trace_state=api.TraceState.from_header([trace.state]) if trace.state else None,
    )


class _GivenIds(IdGenerator):
    """Our spans have the ids that they say; only the exporter's thread asks for them."""

    next = (0, 0)

    def generate_trace_id(self) -> int:
        return self.next[0]

    def generate_span_id(self) -> int:
        return self.next[1]


class _Ended(SpanProcessor):
    """Hands on what has ended."""

    def __init__(self, take: Callable[[ReadableSpan], None]) -> None:
        self._take = take

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self._take(span)


def _own_version() -> str:
    try:
        return version("a2a-zmq")
    except PackageNotFoundError:
        return ""
