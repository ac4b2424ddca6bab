"""What a run of the nemesis leaves behind where it is ended, and what it says of daemons that end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from daemons.cli.chaos import run as lab
from daemons.cli.chaos.faults import ACTS, Deed
from daemons.cli.chaos.kinds import BY_NAME
from daemons.cli.chaos.plan import Fault

WaitUntil = Callable[..., None]


def state(pid: int) -> str:
    """As ps tells it: T is frozen; "" is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.fixture
def victim() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process.pid
        process.kill()


class Standing:
    """A fleet of one process."""

    def __init__(self, pid: int) -> None:
        self.pids = {"worker-1": pid}

    def pid(self, name: str) -> int:
        return self.pids[name]

    def signal(self, name: str, number: int) -> int:
        os.kill(self.pids[name], number)
        return self.pids[name]


def deed(kind: str) -> Deed:
    return Deed(Fault(1, 0.0, BY_NAME[kind], "worker-1", 1.0, 0.5), [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_no_daemon_of_a_running_fleet_frozen(
    monkeypatch: pytest.MonkeyPatch, victim: int, number: int, wait_until: WaitUntil
) -> None:
    stage = Standing(victim)
    seen: list[str] = []

    class Breaks:
        def __init__(self, *_: Any) -> None: ...

        def run(self) -> dict[str, Any]:
            with ACTS["freeze"](stage, deed("freeze")):  # type: ignore[arg-type]
                wait_until(lambda: state(victim) == "T", "it is frozen")
                os.kill(os.getpid(), number)
                seen.append("it went on")
            return {}

    monkeypatch.setattr(lab, "running_fleet", lambda *_: nullcontext(stage))
    monkeypatch.setattr(lab, "Nemesis", Breaks)
    monkeypatch.setattr(lab, "HistoryWatch", lambda *_: None)
    before = signal.signal(number, lambda *_: seen.append("nobody undid it"))
    try:
        with pytest.raises(KeyboardInterrupt):
            lab.run_on(lambda: nullcontext(None), [], lab.Options(), sure=True, quiet=True)  # type: ignore[arg-type,return-value]
        assert seen == []
        wait_until(lambda: state(victim) == "S", "it is awake")
        os.kill(os.getpid(), number)
        assert seen == ["nobody undid it"], "handlers are as before"
    finally:
        signal.signal(number, before)


def test_whoever_is_interrupted_right_behind_the_freezing_wakes_it(victim: int, wait_until: WaitUntil) -> None:
    class Interrupted(Standing):
        def signal(self, name: str, number: int) -> int:
            super().signal(name, number)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ACTS["freeze"](Interrupted(victim), deed("freeze")):  # type: ignore[arg-type]
        pass
    wait_until(lambda: state(victim) == "S", "it is awake")


def test_what_loads_the_cores_ends_with_the_command(wait_until: WaitUntil) -> None:
    code = "from daemons.cli.chaos.faults import _burner; print(_burner().pid, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            assert state(pid) in ("R", "S", "D")
            parent.kill()
            wait_until(lambda: state(pid) in ("", "Z"), "it is gone")
        finally:
            if state(pid) not in ("", "Z"):
                os.kill(pid, signal.SIGKILL)
