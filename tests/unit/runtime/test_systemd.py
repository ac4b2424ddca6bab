"""What daemons tell systemd of themselves: started, alive, leaving."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from daemons.runtime.systemd import PATIENCE_S, Notices, Notifier


def not_ready() -> tuple[bool, str]:
    return False, "no session with\ndistributor-1"


def is_ready() -> tuple[bool, str]:
    return True, ""


def test_the_start_is_reported_when_the_agent_is_ready() -> None:
    notices = Notices()
    assert notices.at(1.0, not_ready, "") == ["STATUS=no session with distributor-1"]
    assert notices.at(1.5, not_ready, "") == []
    assert notices.at(2.0, is_ready, "") == ["STATUS=ready", "READY=1"]
    assert notices.at(9.0, is_ready, "") == []


def test_what_others_have_to_mend_is_no_failed_start() -> None:
    notices = Notices()
    notices.at(5.0, not_ready, "")
    assert notices.at(5.0 + PATIENCE_S / 2, not_ready, "") == []
    assert notices.at(5.0 + PATIENCE_S, not_ready, "") == ["READY=1"]
    assert notices.at(7.0 + PATIENCE_S, is_ready, "") == ["STATUS=ready"]


def test_the_loop_reports_several_times_within_the_watchdogs_time() -> None:
    notices = Notices(watchdog_s=20.0)
    times = [step / 10 for step in range(400)]
    beats = [mono for mono in times if "WATCHDOG=1" in notices.at(mono, is_ready, "")]
    assert beats == pytest.approx([0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0])


def test_leaving_is_said_once_and_the_watchdog_is_fed_to_the_end() -> None:
    notices = Notices(watchdog_s=4.0)
    notices.at(0.0, is_ready, "")
    assert notices.at(0.5, not_ready, "SIGTERM") == ["STOPPING=1", "STATUS=leaving: SIGTERM"]
    assert notices.at(2.0, not_ready, "SIGTERM") == ["WATCHDOG=1"]


class Loop:
    """A loop that goes round when told to."""

    def __init__(self) -> None:
        self.rounds: list[float] = []
        self.on_beat = self.rounds.append


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(str(tmp_path / "notify"))
        reader.settimeout(5)
        yield reader


def test_notices_arrive_and_children_are_not_asked(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier.of_environment()
    assert notifier is not None
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    loop = Loop()
    with closing(notifier):
        notifier.follow(loop, ready=is_ready, leaving=str)
        loop.on_beat(1.0)
    assert loop.rounds == [1.0]
    assert systemd.recv(4096).decode().splitlines() == ["WATCHDOG=1", "STATUS=ready", "READY=1"]


def test_a_watchdog_of_somebody_else_is_not_fed(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "20000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = Notifier.of_environment()
    assert notifier is not None
    loop = Loop()
    with closing(notifier):
        notifier.follow(loop, ready=is_ready, leaving=str)
        loop.on_beat(1.0)
    assert systemd.recv(4096).decode().splitlines() == ["STATUS=ready", "READY=1"]


def test_what_systemd_could_not_hear_is_said_again(tmp_path: Path) -> None:
    loop = Loop()
    with (
        closing(Notifier(str(tmp_path / "notify"))) as notifier,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader,
    ):
        notifier.follow(loop, ready=is_ready, leaving=str)
        loop.on_beat(1.0)
        assert loop.rounds == [1.0]
        reader.bind(str(tmp_path / "notify"))
        reader.settimeout(5)
        loop.on_beat(1.1)
        assert reader.recv(4096).decode().splitlines() == ["STATUS=ready", "READY=1"]


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert Notifier.of_environment() is None
