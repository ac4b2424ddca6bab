"""The health port, over real HTTP and a real event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from a2a_zmq.errors import ConfigError
from daemons import health
from daemons.health import HealthServer
from daemons.meter import PrometheusMeter
from daemons.runtime.exemplars import Exemplar


class Daemon:
    """A main loop in a thread, whose readiness and state a test sets."""

    def __init__(self) -> None:
        self.ready: tuple[bool, str] = (True, "")
        self.state: Any = {"agent_id": "worker-1", "status": "idle"}
        self.page: tuple[bool, Any] = (True, [])
        self.clock = 0.0
        self.meter = PrometheusMeter()
        self.asked_on: list[int] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.server = HealthServer(
            "127.0.0.1",
            0,
            exposition=self.meter.exposition,
            ready=self.on_ready,
            state=lambda: self.state,
            pages={"/sd": lambda: self.page},
            live_after_s=5.0,
            clock=lambda: self.clock,
        )
        self.thread.start()
        self.server.start(self.loop)

    def on_ready(self) -> tuple[bool, str]:
        self.asked_on.append(threading.get_ident())
        return self.ready

    def get(self, path: str) -> tuple[int, str]:
        status, _, body = self.ask(path)
        return status, body

    def ask(self, path: str, accept: str = "") -> tuple[int, str, str]:
        """(status, content type, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        try:
            connection.request("GET", path, headers={"Accept": accept} if accept else {})
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read().decode()
        finally:
            connection.close()

    def close(self) -> None:
        self.server.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.close()


def test_metrics_are_served(daemon: Daemon) -> None:
    daemon.meter.count("task_retries_total", 3)
    status, body = daemon.get("/metrics")
    assert status == 200
    assert "a2a_task_retries_total 3.0" in body


def test_metrics_come_with_exemplars_if_the_scraper_asks_for_openmetrics(daemon: Daemon) -> None:
    daemon.meter.observe("message_latency_seconds", 0.001, Exemplar(None, "task-1"))
    status, content_type, body = daemon.ask("/metrics", "application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert (status, content_type.partition(";")[0]) == (200, "application/openmetrics-text")
    assert '# {task_id="task-1"} 0.001' in body
    assert body.endswith("# EOF\n")
    status, content_type, body = daemon.ask("/metrics")
    assert (status, content_type.partition(";")[0]) == (200, "text/plain")
    assert "task-1" not in body


def test_a_page_of_the_role_is_shown_or_says_why_not(daemon: Daemon) -> None:
    daemon.page = (True, [{"targets": ["127.0.0.1:1"], "labels": {}}])
    assert daemon.ask("/sd") == (200, "application/json", '[{"targets":["127.0.0.1:1"],"labels":{}}]')
    daemon.page = (False, "just started")
    assert daemon.ask("/sd") == (503, "application/json", '{"error":"just started"}')
    assert "/sd" in daemon.get("/elsewhere")[1]


def test_livez_notices_a_loop_that_hangs(daemon: Daemon) -> None:
    assert daemon.get("/livez")[0] == 200
    daemon.clock = 5.5
    status, body = daemon.get("/livez")
    assert status == 503
    assert "hangs for 5.5 s" in json.loads(body)["reason"]
    daemon.server.beat(5.4)
    assert daemon.get("/livez")[0] == 200


def test_readyz_tells_why_not_and_is_asked_on_the_loop(daemon: Daemon) -> None:
    assert daemon.get("/readyz") == (200, '{"ready":true,"reason":""}')
    daemon.ready = (False, "no session with distributor-1")
    status, body = daemon.get("/readyz?verbose")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reason": "no session with distributor-1"}
    assert set(daemon.asked_on) == {daemon.thread.ident}


def test_state_is_the_agents_document(daemon: Daemon) -> None:
    status, body = daemon.get("/state")
    assert (status, json.loads(body)) == (200, {"agent_id": "worker-1", "status": "idle"})


def test_a_loop_that_hangs_is_not_waited_for(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOP_TIMEOUT_S", 0.05)
    hanging, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        go_on.wait(5)

    daemon.loop.call_soon_threadsafe(hang)
    assert hanging.wait(5)
    try:
        for path in ("/readyz", "/state"):
            status, body = daemon.get(path)
            assert status == 503
            assert "did not answer" in body
        assert daemon.get("/metrics")[0] == 200
    finally:
        go_on.set()
    assert daemon.get("/readyz")[0] == 200


def test_an_error_in_the_state_is_an_answer(daemon: Daemon) -> None:
    def broken() -> tuple[bool, str]:
        raise KeyError("x")

    daemon.on_ready = broken  # type: ignore[method-assign]  # what the server holds is the bound method: set it there
    daemon.server._ready = broken
    status, body = daemon.get("/readyz")
    assert status == 503
    assert "KeyError" in body


def test_unknown_paths_and_methods(daemon: Daemon) -> None:
    assert daemon.get("/etc/passwd")[0] == 404
    with socket.create_connection(("127.0.0.1", daemon.server.port), timeout=5) as raw:
        raw.sendall(b"POST /state HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b" 501 " in raw.recv(4096)


def test_a_silent_client_does_not_keep_others_out(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [socket.create_connection(("127.0.0.1", daemon.server.port)) for _ in range(health.MAX_CONNECTIONS - 1)]
    try:
        assert daemon.get("/livez")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_process_without_descriptors_does_not_spin(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection that cannot be accepted stays in the listen queue, so that the socket is readable for ever."""
    pauses: list[float] = []
    failures = [
        OSError(errno.EMFILE, "too many open files"),
        OSError(errno.ENFILE, ""),
        OSError(errno.ECONNABORTED, ""),
    ]

    def accept(_server: object) -> None:
        raise failures.pop(0)

    listener = daemon.server._server
    with monkeypatch.context() as patched:
        patched.setattr(socketserver.TCPServer, "get_request", accept)
        patched.setattr(time, "sleep", pauses.append)
        for _ in range(3):
            with pytest.raises(OSError, match=r"."):
                listener.get_request()
    assert pauses == [health.NO_DESCRIPTOR_S] * 2
    assert daemon.get("/livez")[0] == 200


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics_port: 127\.0\.0\.1:{port} is in use"):
            server("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no-such-host.invalid", 0), ("127.0.0.1", 99999)])
def test_an_address_that_cannot_be_bound_is_named(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="metrics_port"):
        server(host, port)


def server(host: str, port: int, ready: Callable[[], tuple[bool, str]] = lambda: (True, "")) -> HealthServer:
    return HealthServer(host, port, exposition=lambda accept: (accept, b""), ready=ready, state=dict)
