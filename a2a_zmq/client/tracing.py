"""A span for each submission: of the caller's own trace if there is one, else of a new one where traces are wanted.

OpenTelemetry is not imported here unless the caller has done so, or named a receiver.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from a2a_zmq.client.entries import Submitted
from a2a_zmq.errors import FleetError
from a2a_zmq.tracing.context import MAX_STATE_CHARS, TraceContext
from a2a_zmq.tracing.spans import PRODUCER, SUBMIT, Span

CLOSE_WAIT_S = 1.0
# What a program that has traces has imported.
API = "opentelemetry.trace"
MODULES = sys.modules


class _Theirs:
    """A span of the caller's own OpenTelemetry."""

    def __init__(self, span: Any, trace: TraceContext) -> None:
        """
        Args:
            span: the submission's own; None where nobody reports spans.
        """
        self.trace = trace
        self._span = span

    def ended(self, error: str = "") -> None:
        span, self._span = self._span, None
        if span is None:
            return
        with contextlib.suppress(Exception):  # of a processor of theirs; nobody's task waits for it
            if error:
                api = MODULES[API]
                span.set_status(api.Status(api.StatusCode.ERROR, error))
            span.end()


class _Ours:
    """A span that we report, the first one of its trace."""

    def __init__(self, exporter: Any, trace: TraceContext, task_type: str, task_id: str) -> None:
        self.trace = trace
        self._exporter = exporter
        self._task_type, self._task_id = task_type, task_id
        self._began = time.time()

    def ended(self, error: str = "") -> None:
        exporter, self._exporter = self._exporter, None
        if exporter is None or not self.trace.sampled:
            return
        exporter.span(
            Span(
                self.trace,
                SUBMIT,
                self._task_type,
                self.trace.span_id,
                "",
                self._began,
                time.time(),
                PRODUCER,
                error,
                {"a2a.task_id": self._task_id, "a2a.task_type": self._task_type},
            )
        )


class ClientTraces:
    """What a client does about traces.

    Args:
        endpoint: URL of an OTLP receiver, "" for none.
        ratio: share of the traces begun here that is reported.
        client_id: who we are.

    Attributes:
        reports: there is an endpoint.

    Raises:
        ConfigError: there is an endpoint and the packages are not installed.
    """

    def __init__(self, endpoint: str, ratio: float, client_id: str) -> None:
        self.reports = bool(endpoint)
        self._exporter: Any = None
        if endpoint:
            from a2a_zmq.tracing.export import Exporter

            resource = {"service.name": "a2a-client", "service.instance.id": client_id}
            self._exporter = Exporter(endpoint, resource, ratio=ratio)

    def begin(self, task_type: str, task_id: str) -> Submitted | None:
        """A submission begins in the caller's context; None if it has no trace."""
        api = MODULES.get(API)
        if api is not None:
            theirs = self._begin_theirs(api, task_type, task_id)
            if theirs is not None:
                return theirs
        if self._exporter is None:
            return None
        return _Ours(self._exporter, self._exporter.begin(), task_type, task_id)

    @staticmethod
    def _begin_theirs(api: Any, task_type: str, task_id: str) -> Submitted | None:
        span = None
        if isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
            place = api.get_current_span().get_span_context()  # nobody reports spans here; it is passed on all the same
        else:
            attributes = {"a2a.task_id": task_id, "a2a.task_type": task_type}
            tracer = api.get_tracer("a2a_zmq")
            span = tracer.start_span(f"{SUBMIT} {task_type}", kind=api.SpanKind.PRODUCER, attributes=attributes)
            place = span.get_span_context()
        if not place.is_valid:
            return None
        state = place.trace_state.to_header() if place.trace_state else ""
        sampled = bool(place.trace_flags & api.TraceFlags.SAMPLED)
        trace = TraceContext(
            f"{place.trace_id:032x}", f"{place.span_id:016x}", sampled, state if len(state) <= MAX_STATE_CHARS else ""
        )
        return _Theirs(span, trace)

    def close(self) -> None:
        """Send what waits, if the receiver takes it within a moment."""
        if self._exporter is not None:
            self._exporter.close(CLOSE_WAIT_S)


def failed(submitted: Submitted, outcome: object) -> None:
    """The task ended, with this outcome, before its acceptance was told."""
    submitted.ended(str(outcome) if isinstance(outcome, FleetError) else "")
