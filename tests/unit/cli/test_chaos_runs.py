"""What a run of the nemesis leaves behind where it is ended, and what it says of daemons that end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemons.cli.chaos import report, soak
from daemons.cli.chaos import run as lab
from daemons.cli.chaos.checker import judge
from daemons.cli.chaos.faults import ACTS, Deed
from daemons.cli.chaos.kinds import BY_NAME
from daemons.cli.chaos.plan import Fault
from daemons.cli.chaos.stage import OwnFleet
from daemons.cli.ends import End, Ends
from daemons.cli.fleet import LocalFleet
from daemons.cli.processes import Daemon

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


# ---------------------------------------------------------------- daemons that end by themselves


WAIT = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('up', flush=True)\n"
WAIT += "time.sleep(60)\n"
# Ends by itself the first time only.
ENDS = "import os, pathlib, signal, sys\nonce = pathlib.Path(__file__ + '.once')\n"
ENDS += "if not once.exists():\n    once.touch()\n    {}\n"


class Small(LocalFleet):
    """Daemons of a few lines each."""

    def __init__(self, tmp_path: Path, codes: dict[str, str]) -> None:
        super().__init__(workers=0, directory=tmp_path, redis="127.0.0.1:1")
        self._codes = codes

    def _prepare(self) -> None:
        for name, code in self._codes.items():
            (self.directory / f"{name}.py").write_text(code)
            env = {**os.environ, "PYTHONPATH": str(self.directory)}
            log = self.directory / f"{name}.log"
            self.daemons[name] = Daemon(name, name, env=env, log=log, cwd=self.directory)

    def wait_ready(self, names: list[str] | None = None) -> None:
        """They are."""


def test_a_fleet_knows_which_of_its_daemons_ended_unasked(tmp_path: Path, wait_until: WaitUntil) -> None:
    codes = {
        "broken": ENDS.format("sys.exit(70)") + WAIT,
        "usurped": ENDS.format("sys.exit(75)") + WAIT,
        "shot": ENDS.format("os.kill(os.getpid(), signal.SIGSEGV)") + WAIT,
        "killed": WAIT,
        "drained": WAIT,
    }
    with Small(tmp_path, codes) as fleet:
        for name in codes:
            wait_until(lambda name=name: "up" in fleet.daemons[name].tail(), f"{name} is up", 20)
        fleet.kill("killed")
        fleet.kill("drained", signal.SIGTERM, restart=False)
        assert fleet.daemons["drained"].wait(10)
        fleet.restart("drained")
        wait_until(lambda: fleet.daemons["killed"].starts == 2, "it was started again", 20)
        told = {str(end): end.crashed for end in fleet.ends()}
        stage = OwnFleet(fleet, {}, {}, {})
        crashes = stage.crashes()
    assert told == {
        "broken ended with status 70": True,
        "usurped ended with status 75": False,
        "shot was ended by SIGSEGV": True,
    }
    assert sorted(crashes) == ["broken ended with status 70", "shot was ended by SIGSEGV"]
    assert len(fleet.ends()) == 3, "being stopped is no crash"


def test_who_ends_by_itself_before_our_signal_was_not_ended_by_it() -> None:
    ends, daemon = Ends(), SimpleNamespace(name="w1", starts=1, exit_status=-9)
    ends.sent(daemon, signal.SIGKILL)
    ends.note(daemon)
    ends.note(daemon)
    assert ends.unasked == [End("w1", -9)]
    daemon.starts, daemon.exit_status = 2, None
    ends.sent(daemon, signal.SIGTERM)
    daemon.exit_status = 70
    ends.note(daemon)
    assert ends.unasked[1:] == [End("w1", 70)], "it failed as it was asked to leave"


def test_a_crash_is_a_broken_promise_of_chaos() -> None:
    verdict = judge(
        [], errors=[], outcomes=[], deaths=[], ledger=None, stored=None, agents={}, crashes=["w1 ended with status 70"]
    )
    about = {"slack": 1.0, "skipped": {}, "seconds": 1.0, "seed": 7}
    found = report.summary([], verdict, about)
    assert not found["ok"]
    assert report.complaints(found) == ["crashes of daemons: w1 ended with status 70"]
    assert "1 crashes of daemons" in report.headline(found)


def test_any_end_is_a_broken_promise_of_soak(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = SimpleNamespace(
        client_arguments=lambda **_: {}, redis_host="", redis_port=0, ends=lambda: [End("distributor-1", 75)]
    )
    load = SimpleNamespace(trouble=[], right=5, submitted=5, finish=lambda: None)
    monkeypatch.setattr(soak, "private_fleet", lambda **_: nullcontext(fleet))
    monkeypatch.setattr(soak, "FleetClient", lambda **_: nullcontext(None))
    monkeypatch.setattr(soak, "SteadyLoad", lambda *_: load)
    monkeypatch.setattr("daemons.cli.chaos.soak.redis.Redis", lambda **_: nullcontext(None))
    for name in ("wait_started", "run_noops"):
        monkeypatch.setattr(soak, name, lambda *_: 1.0)
    monkeypatch.setattr(soak, "_sample", lambda *_: {})
    monkeypatch.setattr(soak, "keys_without_end", lambda _: [])
    found = soak.run_soak(seconds=10, share=0.5, workers=1, rate=10, say=lambda _: None)
    assert (found["ok"], found["broken"]) == (False, ["distributor-1 ended with status 75"])
