"""Daemons that were left behind by a supervisord that was killed, and processes that only look like one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemons.runtime.orphans import MARKS, find_orphans, hidden_marks, hide_marks, own_marks, take_over
from daemons.runtime.procs import start_time_of
from tests.conftest import WaitUntil

Leave = Callable[..., int]

# Starts a program and ends, so that nobody looks after that any more.
LEAVE = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-S", "-c", *sys.argv[1:]], stdout=subprocess.DEVNULL).pid)
"""
NAP = "import time; time.sleep(60)"
DEAF = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1], 'w'); time.sleep(60)"
PARENT = (
    f"import subprocess, sys, time; subprocess.Popen([{sys.executable!r}, '-S', '-c', sys.argv[1]]); time.sleep(60)"
)


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This process is the program ``worker-1`` of a supervisord."""
    marks = dict(zip(MARKS, (f"unix://{tmp_path}/supervisor.sock", "worker-1", "worker-1"), strict=True))
    for name, value in marks.items():
        monkeypatch.setenv(name, value)
    return marks


@pytest.fixture
def leave_behind(marks: dict[str, str]) -> Iterator[Leave]:
    """Leave a process behind, with these marks unless told otherwise; it is killed after the test."""
    left: list[int] = []

    def leave(*program: str, **other: str) -> int:
        environment = {**os.environ, **marks, **other}
        text = subprocess.run(
            [sys.executable, "-S", "-c", LEAVE, *program],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        left.append(int(text))
        return left[-1]

    yield leave
    for pid in left:
        if start_time_of(pid) is not None:
            os.kill(pid, signal.SIGKILL)


def test_an_orphan_is_asked_to_leave(leave_behind: Leave, marks: dict[str, str]) -> None:
    pid = leave_behind(NAP)
    said: list[str] = []
    take_over(marks, 5.0, said.append)
    assert start_time_of(pid) is None
    assert said == [f"process {pid} was left behind by a supervisord that was killed: it is asked to leave"]


def test_an_orphan_that_does_not_leave_is_killed(
    leave_behind: Leave,
    marks: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wait_until: WaitUntil,
) -> None:
    monkeypatch.setattr("daemons.runtime.orphans.GRACE_S", 0.2)
    pid = leave_behind(DEAF, str(tmp_path / "deaf"))
    wait_until((tmp_path / "deaf").exists, "it does not listen to SIGTERM")
    said: list[str] = []
    take_over(own_marks(), 0.0, said.append)
    assert start_time_of(pid) is None
    assert "is killed" in said[-1]


@pytest.mark.parametrize(
    "other",
    [
        {"SUPERVISOR_PROCESS_NAME": "worker-2"},
        {"SUPERVISOR_GROUP_NAME": "others"},
        {"SUPERVISOR_SERVER_URL": "unix:///another/supervisor.sock"},
        {"SUPERVISOR_SERVER_URL": ""},
    ],
)
def test_processes_of_others_are_left_alone(leave_behind: Leave, other: dict[str, str]) -> None:
    pid = leave_behind(NAP, **other)
    said: list[str] = []
    take_over(own_marks(), 0.0, said.append)
    assert start_time_of(pid) is not None
    assert not said


def test_what_a_supervisord_looks_after_is_no_orphan(marks: dict[str, str], wait_until: WaitUntil) -> None:
    """The socket's file may have been removed while a supervisord listened there, and another one started."""
    environment = {**os.environ, **marks}
    with subprocess.Popen(["supervisord", "-S", "-c", PARENT, NAP], executable=sys.executable, env=environment) as one:
        try:
            children = Path(f"/proc/{one.pid}/task/{one.pid}/children")
            wait_until(lambda: children.read_text().strip(), "its program runs")
            assert int(children.read_text()) not in find_orphans(marks)
        finally:
            for pid in map(int, children.read_text().split()):
                os.kill(pid, signal.SIGKILL)
            one.kill()


def test_children_of_an_orphan_are_not_orphans_themselves(
    leave_behind: Leave, marks: dict[str, str], wait_until: WaitUntil
) -> None:
    pid = leave_behind(PARENT, NAP)
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_until(lambda: children.read_text().strip(), "it has a child")
    try:
        assert find_orphans(marks) == [pid]
    finally:
        os.kill(int(children.read_text()), signal.SIGKILL)


def test_what_a_daemon_starts_is_not_taken_for_it(marks: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemons.runtime.orphans._hidden", {})
    assert hidden_marks() == {}, "a program that is no daemon takes nobody's place"
    hide_marks()
    assert hidden_marks() == marks
    assert not set(MARKS) & set(os.environ)
    with subprocess.Popen([sys.executable, "-S", "-c", NAP]) as child:
        try:
            assert child.pid not in find_orphans(marks)
        finally:
            child.kill()


def test_without_a_supervisord_nothing_is_looked_for(leave_behind: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = leave_behind(NAP)
    monkeypatch.delenv("SUPERVISOR_SERVER_URL")
    said: list[str] = []
    take_over(own_marks(), 0.0, said.append)
    assert start_time_of(pid) is not None
    assert not said
