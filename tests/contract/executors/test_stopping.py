"""Ending runs: cancel, timeout, drain; and nothing that outlives its worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemons.worker.executors import cooperative

ENDS = {
    "cancelled": ("abandoned", "cancelled", False),
    "timeout": ("failed", "timeout", True),
    "drain": ("failed", "killed", True),
}


@pytest.mark.parametrize("reason", sorted(ENDS))
@pytest.mark.parametrize("task_type", ["hang", "polite", "polite-thread", "wait-async"])
def test_runs_end_when_asked(rig: Any, tmp_path: Path, task_type: str, reason: str) -> None:
    mark = tmp_path / "mark"
    rig.start(task_type, {"mark": str(mark)}, timeout_s=9.0)
    rig.wait(mark.exists, "the handler runs")
    asked = time.monotonic()
    rig.stop(task_type, reason)
    outcome = rig.end_of(task_type)
    assert (outcome.outcome, outcome.error_kind, outcome.retryable) == ENDS[reason]
    assert time.monotonic() - asked < 2.0
    assert outcome.started_at > 0
    if reason == "timeout":
        assert outcome.error == "timed out after 9 s"
    if task_type == "hang":
        assert mark.read_text() == "cleaned up"


def test_cooperative_run_keeps_its_child(rig: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    rig.start("polite", {"mark": str(mark)})
    rig.wait(lambda: mark.exists() and mark.read_text(), "the handler runs")
    rig.stop("polite")
    rig.end_of("polite")
    assert rig.value("echo", {}) == {}


@pytest.mark.parametrize("task_type", ["spin", "deaf"])
def test_run_that_does_not_listen_is_killed(rig: Any, tmp_path: Path, task_type: str) -> None:
    mark = tmp_path / "mark"
    rig.start(task_type, {"mark": str(mark)})
    rig.wait(lambda: task_type in rig.begun and (task_type == "spin" or mark.exists()), "the handler runs")
    pid, *_spares = rig.executor.child_pids()
    rig.stop(task_type, "timeout")
    assert rig.end_of(task_type).error_kind == "timeout"
    assert rig.gone(pid)
    assert rig.value("echo", {"after": 1}) == {"after": 1}


def test_what_a_handler_started_is_killed_with_it(rig: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    rig.start("grandchild", {"mark": str(mark)})
    rig.wait(lambda: mark.exists() and mark.read_text(), "the grandchild runs")
    pid = int(mark.read_text())
    rig.stop("grandchild")
    rig.end_of("grandchild")
    rig.wait(lambda: rig.gone(pid), "the grandchild is gone")


@pytest.mark.parametrize("task_type", ["stubborn-thread", "stubborn-async"])
def test_cooperative_run_that_does_not_end_is_given_up(rig: Any, tmp_path: Path, task_type: str) -> None:
    mark, release = tmp_path / "mark", tmp_path / "release"
    rig.start(task_type, {"mark": str(mark), "release": str(release)})
    rig.wait(mark.exists, "the handler runs")
    rig.stop(task_type, "timeout")
    outcome = rig.end_of(task_type)
    assert (outcome.error_kind, outcome.detail["still_running"]) == ("timeout", True)
    release.write_text("")
    kind = "raise-thread" if task_type == "stubborn-thread" else "raise-async"
    assert rig.run(kind).error_kind == "raised"  # others still run


def hang_two_threads(rig: Any, tmp_path: Path) -> Path:
    """Two runs were given up and hang on: the file that lets them end."""
    release = tmp_path / "release"
    for n in range(2):
        mark = tmp_path / f"mark{n}"
        rig.start("stubborn-thread", {"mark": str(mark), "release": str(release)}, f"t{n}")
        rig.wait(mark.exists, "the handler runs")
        rig.stop(f"t{n}")
        rig.end_of(f"t{n}")
    return release


def test_too_many_hanging_threads_make_the_worker_unfit(make_rig: Callable[..., Any], tmp_path: Path) -> None:
    rig = make_rig(thread_slots=1, stop_grace_s=0.02, kill_grace_s=0.02)
    release = hang_two_threads(rig, tmp_path)
    assert rig.executor.problem() == "2 thread handlers hang"
    release.write_text("")
    rig.wait(lambda: not rig.executor.problem(), "the threads have ended")
    assert rig.run("raise-thread").error_kind == "raised"


def test_what_waits_behind_hanging_threads_is_let_go_and_what_has_begun_is_not(
    make_rig: Callable[..., Any], tmp_path: Path
) -> None:
    rig = make_rig(thread_slots=1)
    mark, release = tmp_path / "mark", tmp_path / "release"
    rig.start("stubborn-thread", {"mark": str(mark), "release": str(release)})
    rig.wait(mark.exists, "the handler runs")
    rig.start("raise-thread")
    for task_id in ("stubborn-thread", "raise-thread"):
        rig.stop(task_id, "drain", unbegun=True)
    let_go = rig.end_of("raise-thread")
    assert (let_go.outcome, let_go.error_kind, let_go.started_at) == ("failed", "killed", 0.0)
    release.write_text("")
    assert rig.end_of("stubborn-thread").outcome == "completed"


def test_what_a_blocked_loop_has_not_begun_is_let_go_and_who_blocks_it_is_known(
    make_rig: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooperative, "BLOCKED_S", 0.2)
    rig = make_rig()
    mark, release = tmp_path / "mark", tmp_path / "release"
    rig.start("sleep", {"seconds": 0.5}, "begun")
    rig.value("sleep", {"seconds": 0}, task_id="before")
    rig.start("block-async", {"mark": str(mark), "release": str(release)})
    rig.wait(mark.exists, "the handler runs")
    rig.start("sleep", {"seconds": 0}, "waits")
    rig.wait(rig.executor.problem, "it is noticed")
    assert rig.executor.health() == ("an async handler blocks the handler loop", ["async"], ("block-async", 1))
    for task_id in ("begun", "block-async", "waits"):
        rig.stop(task_id, "drain", unbegun=True)
    let_go = rig.end_of("waits")
    assert (let_go.outcome, let_go.error_kind, let_go.started_at) == ("failed", "killed", 0.0)
    release.write_text("")
    assert rig.end_of("block-async").result == b'"released"'
    assert rig.end_of("begun").outcome == "completed"
    rig.wait(lambda: rig.executor.health() == ("", [], None), "it has passed")
    assert rig.value("sleep", {"seconds": 0}) == {"slept_s": 0.0}


def test_threads_that_stop_hanging_run_what_waits(make_rig: Callable[..., Any], tmp_path: Path) -> None:
    rig = make_rig(thread_slots=1, stop_grace_s=0.02, kill_grace_s=0.02)
    release = hang_two_threads(rig, tmp_path)
    rig.start("raise-thread")
    release.write_text("")
    rig.wait(lambda: not rig.executor.problem(), "the threads have ended")
    assert rig.end_of("raise-thread").error_kind == "raised"


def test_runs_that_wait_for_a_child_are_stopped_without_having_begun(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(slots=1)
    for n in range(10):
        rig.value("nap", {"seconds": 0}, task_id=f"warm{n}")  # taken for short: the next ones are given ahead
    rig.start("nap", {"seconds": 30}, "first")
    rig.start("nap", {"seconds": 30}, "second")
    rig.start("nap", {"seconds": 30}, "third")
    rig.wait(lambda: "first" in rig.begun, "the first runs")
    for task_id in ("second", "third"):
        rig.stop(task_id, "drain")
        assert rig.end_of(task_id).started_at == 0.0
    rig.stop("first", "drain")
    assert rig.end_of("first").started_at > 0


def test_stopping_a_run_costs_the_one_that_waits_behind_it_nothing(make_rig: Callable[..., Any]) -> None:
    """Its child is replaced; what the child had at hand was not begun, so it is no failure of that one."""
    rig = make_rig(slots=1)
    for n in range(10):
        rig.value("nap", {"seconds": 0}, task_id=f"warm{n}")  # taken for short: the next one is given ahead
    for n in range(10):
        rig.start("nap", {"seconds": 30}, f"long{n}")
        rig.start("nap", {"seconds": 0.05}, f"behind{n}")
        rig.wait(lambda n=n: f"long{n}" in rig.begun, "the long one runs")
        rig.stop(f"long{n}", "timeout")
        assert rig.end_of(f"long{n}").error_kind == "timeout"
        assert rig.end_of(f"behind{n}").outcome == "completed"


def test_run_that_is_stopped_right_after_its_start_ends(rig: Any, tmp_path: Path) -> None:
    for n in range(20):
        for task_type in ("hang", "wait-async", "polite-thread"):
            task_id = f"{task_type}{n}"
            rig.start(task_type, {"mark": str(tmp_path / "mark")}, task_id)
            rig.stop(task_id)
            assert rig.end_of(task_id).outcome == "abandoned"


def test_stopping_what_is_not_there_changes_nothing(rig: Any) -> None:
    rig.stop("nothing")
    rig.value("echo", {})
    rig.stop("echo")
    assert rig.value("echo", {"after": 1}, task_id="after") == {"after": 1}


def test_sigterm_and_sigint_from_outside_end_no_run(rig: Any) -> None:
    """Service managers signal the whole control group, terminals the foreground group; the worker wants to drain."""
    rig.value("echo", {})
    rig.start("nap", {"seconds": 0.4})
    rig.wait(lambda: "nap" in rig.begun, "the nap runs")
    for pid in rig.executor.child_pids():
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert rig.end_of("nap").outcome == "completed"


WORKER = """
import asyncio, sys
from daemons.runtime.contract import StartRun
from daemons.worker.config import WorkerConfig
from daemons.worker.executors.facade import Executor
from daemons.worker.registry import Registry

async def main():
    executor = Executor(Registry.load(["trouble"]), WorkerConfig(slots=2), lambda batch: None)
    executor.start(StartRun("busy", 1, "spin", {}, None, {}))
    executor.start(StartRun("idle", 1, "echo", {}, None, {}))
    while len(executor.child_pids()) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    print(*executor.child_pids(), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_no_child_outlives_a_killed_worker(rig: Any, wait_until: Callable[..., None]) -> None:
    path = [str(Path(__file__).parent), *sys.path]
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        text=True,
    )
    assert worker.stdout is not None
    with worker.stdout:
        pids = [int(text) for text in worker.stdout.readline().split()]
        assert len(pids) >= 2
        worker.kill()
        worker.wait()
    wait_until(lambda: all(rig.gone(pid) for pid in pids), "busy and idle child are gone")
