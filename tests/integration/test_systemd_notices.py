"""A daemon that systemd starts tells it when it is ready, that it lives, and when it leaves."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from daemons.cli.fleet import LocalFleet
from tests.integration.rig import wait_until


class Heard:
    """What a systemd would have heard, read at once as that does it."""

    def __init__(self, path: Path) -> None:
        self.lines: list[str] = []
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := self._socket.recv(4096):
            self.lines += data.decode().splitlines()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ourselves:
            ourselves.sendto(b"", str(self.path))
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Heard]:
    made = Heard(tmp_path / "notify")
    yield made
    made.close()


def test_a_worker_is_started_alive_and_leaving(heard: Heard) -> None:
    asked = {"NOTIFY_SOCKET": str(heard.path), "WATCHDOG_USEC": "800000"}
    with LocalFleet(workers=1, env_of={"worker-1": asked}, supervise=False) as fleet:
        wait_until(lambda: "READY=1" in heard.lines, "the worker says that it is ready")
        assert "STATUS=ready" in heard.lines
        before = heard.lines.count("WATCHDOG=1")
        wait_until(lambda: heard.lines.count("WATCHDOG=1") > before + 2, "an idle worker feeds the watchdog")
        assert "STOPPING=1" not in heard.lines
        worker = fleet.daemons["worker-1"]
        worker.signal(signal.SIGTERM)
        assert worker.wait(10)
        wait_until(lambda: "STOPPING=1" in heard.lines, "the worker says that it leaves")
        assert "STATUS=leaving: SIGTERM" in heard.lines
    assert heard.lines.count("READY=1") == 1
