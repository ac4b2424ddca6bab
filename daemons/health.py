"""The HTTP port of a daemon: ``/metrics``, ``/livez``, ``/readyz``, ``/state``, and pages of its role (``/sd``).

It runs in threads of its own, so it answers (and says so) even if the main loop hangs. What belongs to the
loop, readiness and state, is asked *on* the loop with a time limit: no other thread ever reads a core.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import orjson

from a2a_zmq.errors import ConfigError

# Scrapers and probes are few; whoever holds more connections than this waits in the listen queue.
MAX_CONNECTIONS: Final = 8
# A client that sends nothing, or reads nothing, is cut off after this many seconds.
CLIENT_TIMEOUT_S: Final = 5.0
# How long the main loop may take to answer before /readyz and /state say that it does not.
LOOP_TIMEOUT_S: Final = 1.0
# Where the process is out of descriptors, a connection that waits is looked at again after this long.
NO_DESCRIPTOR_S: Final = 0.1

JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

# A page's (there is something to show, a JSON-able document, or else the reason why not).
Page = Callable[[], tuple[bool, Any]]


class HealthServer:
    """Serves one daemon's health until :meth:`stop`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        exposition: Callable[[str], tuple[str, bytes]],
        ready: Callable[[], tuple[bool, str]],
        state: Callable[[], Any],
        pages: Mapping[str, Page] | None = None,
        live_after_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            port: 0 for any free one, see :attr:`port`.
            exposition: (content type, the metrics) for an ``Accept`` header; called in a server thread.
            ready: (able to claim work, why not); called on the loop.
            state: a JSON-able document, for example ``LocalAgentState.model_dump(mode="json")``; called on the loop.
            pages: further paths; called on the loop. 503 where there is nothing to show.
            live_after_s: age of the last :meth:`beat` at which ``/livez`` answers 503.

        Raises:
            ConfigError: the address cannot be bound; names the port.
        """
        self._exposition = exposition
        self._ready = ready
        self._state = state
        self._pages = dict(pages or {})
        self._live_after_s = live_after_s
        self._clock = clock
        self._beat = clock()
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror or error}"
            advice = "choose another with --metrics-port or A2A_METRICS_PORT (0 takes any free one)"
            raise ConfigError(f"metrics_port: {host}:{port} {why}; {advice}") from None
        except OverflowError as error:
            raise ConfigError(f"metrics_port: {port}: {error}") from None
        self._server.health = self
        self.port: int = self._server.server_address[1]
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to serve; ``loop`` is the main loop, on which readiness and state are asked."""
        self._loop = loop
        self.beat()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.5,), name="health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(CLIENT_TIMEOUT_S)
        self._server.server_close()

    def beat(self, mono: float | None = None) -> None:
        """The main loop went round (monotonic seconds); call it at least once a second."""
        self._beat = self._clock() if mono is None else mono

    def age_s(self) -> float:
        """Seconds since the main loop's last round."""
        return max(0.0, self._clock() - self._beat)

    # ------------------------------------------------------------ answers, in server threads

    def answer(self, path: str, accept: str = "") -> tuple[int, str, bytes]:
        """(status, content type, body) of a GET."""
        if path == "/metrics":
            return 200, *self._exposition(accept)
        if path == "/livez":
            return self._livez()
        if path == "/readyz":
            return self._readyz()
        if path == "/state":
            found, value = self._on_loop(self._state)
            return (200, JSON, orjson.dumps(value)) if found else (503, JSON, orjson.dumps({"error": value}))
        if path in self._pages:
            found, value = self._on_loop(self._pages[path])
            shown, value = value if found else (False, value)
            return (200, JSON, orjson.dumps(value)) if shown else (503, JSON, orjson.dumps({"error": value}))
        paths = " ".join(["/metrics", "/livez", "/readyz", "/state", *self._pages])
        return 404, TEXT, f"here are {paths}\n".encode()

    def _livez(self) -> tuple[int, str, bytes]:
        age_s = self.age_s()
        if age_s > self._live_after_s:
            return 503, JSON, orjson.dumps({"live": False, "reason": f"the main loop hangs for {age_s:.1f} s"})
        return 200, JSON, orjson.dumps({"live": True})

    def _readyz(self) -> tuple[int, str, bytes]:
        found, value = self._on_loop(self._ready)
        ready, reason = value if found else (False, str(value))
        return 200 if ready else 503, JSON, orjson.dumps({"ready": ready, "reason": reason})

    def _on_loop(self, call: Callable[[], Any]) -> tuple[bool, Any]:
        """(True, what ``call`` returned on the main loop) or (False, why there is no answer)."""
        if self._loop is None:
            return False, "starting"
        result: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            # A caller that gave up has cancelled the future: then there is nobody to compute it for.
            if result.set_running_or_notify_cancel():
                try:
                    result.set_result(call())
                except Exception as error:
                    result.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run)
            return True, result.result(LOOP_TIMEOUT_S)
        except TimeoutError:
            result.cancel()
            return False, f"the main loop did not answer within {LOOP_TIMEOUT_S:g} s"
        except RuntimeError:
            return False, "the main loop has ended" if self._loop.is_closed() else "stopping"
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 16
    health: HealthServer

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, handler)

    def get_request(self) -> tuple[Any, Any]:
        try:
            return super().get_request()
        except OSError as error:
            # The connection stays in the listen queue, so the socket is readable again at once.
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(NO_DESCRIPTOR_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(timeout=CLIENT_TIMEOUT_S):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event of ours."""


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server: _Server
    server_version = "a2a-zmq"
    sys_version = ""

    def do_GET(self) -> None:
        accept = ",".join(self.headers.get_all("Accept", []))
        status, content_type, body = self.server.health.answer(self.path.partition("?")[0], accept)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        """Probes come every few seconds; they are not logged."""
