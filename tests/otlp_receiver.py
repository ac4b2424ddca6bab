"""An OTLP receiver on a free port, for tests: it decodes what comes, as a collector does."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Received:
    """A span as it came.

    Attributes:
        service: ``service.name`` of who reported it; ``instance`` its ``service.instance.id``.
        error: the status' text if it is an error, else "".
        links: ids of the spans that it links to.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    instance: str
    start: float
    end: float
    error: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    state: str

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]


class Receiver:
    """``with Receiver() as receiver:``; ``receiver.url`` is its address.

    Attributes:
        spans: all that came, in order.
        requests: how many messages brought them.
        headers: of the last one.
        refuse: answer with this status instead of taking anything.
    """

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.requests = 0
        self.headers: dict[str, str] = {}
        self.refuse = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.headers = dict(self.headers.items())
                status = receiver.refuse or (200 if self.path == "/v1/traces" else 404)
                if status == 200:
                    receiver.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: ExportTraceServiceRequest) -> None:
        self.requests += 1
        for resource in request.resource_spans:
            who = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    error = span.status.message or "?" if span.status.code == Status.STATUS_CODE_ERROR else ""
                    self.spans.append(
                        Received(
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            who["service.name"],
                            who["service.instance.id"],
                            span.start_time_unix_nano / 1e9,
                            span.end_time_unix_nano / 1e9,
                            error,
                            {each.key: _value(each.value) for each in span.attributes},
                            tuple(link.span_id.hex() for link in span.links),
                            span.trace_state,
                        )
                    )

    def of(self, task_id: str) -> list[Received]:
        """All spans of the trace of this task."""
        traces = {span.trace_id for span in self.spans if span.attributes.get("a2a.task_id") == task_id}
        return [span for span in self.spans if span.trace_id in traces]


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
