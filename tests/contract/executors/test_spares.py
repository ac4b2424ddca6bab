"""The process pool's spare child: there while others work (or always), warm, bounded."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemons.runtime.contract import StartRun
from daemons.worker.executors.facade import Executor
from daemons.worker.kinds import TaskKind
from daemons.worker.registry import Registry


def begin(rig: Any, mark: Path, task_id: str) -> int:
    """Start a run that lasts until it is stopped; returns its process."""
    mark.unlink(missing_ok=True)
    rig.start("polite", {"mark": str(mark)}, task_id)
    rig.wait(lambda: mark.exists() and mark.read_text(), f"{task_id} runs")
    return int(mark.read_text())


def spare_of(rig: Any, not_in: set[int]) -> int:
    rig.wait(lambda: set(rig.executor.spare_pids()) - not_in, "there is a spare child")
    (spare,) = rig.executor.spare_pids()
    return int(spare)


def test_the_run_after_a_killed_one_is_in_the_spare(make_rig: Callable[..., Any], tmp_path: Path) -> None:
    rig = make_rig(slots=1)
    mark = tmp_path / "pid"
    victim = begin(rig, mark, "first")
    used = {victim}
    for n in range(3):
        spare = spare_of(rig, used)
        assert sorted(rig.executor.child_pids()) == sorted([victim, spare]), "one for the slot, and one to spare"
        os.kill(victim, signal.SIGKILL)
        victim = begin(rig, mark, f"after{n}")
        assert victim == spare
        used.add(victim)
    assert rig.end_of("first").error_kind == "killed"
    spare_of(rig, used)


def test_a_spare_runs_nothing_beyond_the_slots(make_rig: Callable[..., Any], tmp_path: Path) -> None:
    rig = make_rig(slots=1)
    victim = begin(rig, tmp_path / "first", "first")
    spare = spare_of(rig, {victim})
    rig.start("polite", {"mark": str(tmp_path / "second")}, "second")
    rig.value("sleep", {"seconds": 0.2})
    assert rig.executor.spare_pids() == [spare]
    assert "second" not in rig.begun
    rig.stop("first")
    rig.end_of("first")
    rig.wait(lambda: "second" in rig.begun, "the slot is free")
    rig.stop("second")


def test_the_spare_goes_when_nothing_runs(make_rig: Callable[..., Any], tmp_path: Path) -> None:
    rig = make_rig(slots=1, child_idle_s=0.1)
    victim = begin(rig, tmp_path / "mark", "long")
    spare = spare_of(rig, {victim})
    rig.value("sleep", {"seconds": 0.3})
    assert rig.executor.spare_pids() == [spare], "it stays as long as the pool is in use"
    rig.stop("long")
    rig.end_of("long")
    rig.wait(lambda: rig.executor.child_pids() == [], "all children have left")
    rig.wait(lambda: rig.gone(spare), "its process is gone")


def test_a_pool_that_is_kept_warm_has_a_spare_before_the_first_run(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(slots=1)
    rig.executor.keep_warm()
    spare = spare_of(rig, set())
    assert rig.ready == [1]
    assert rig.value("about-me", {"look_for": ""})["pid"] == spare


def test_a_pool_that_is_kept_warm_keeps_a_process_that_has_run_nothing(make_rig: Callable[..., Any]) -> None:
    """What a run leaves in the memory of its process goes with that one when nothing runs."""
    rig = make_rig(slots=1, child_idle_s=0.1)
    rig.executor.keep_warm()
    first = spare_of(rig, set())
    assert rig.value("about-me", {"look_for": ""})["pid"] == first
    rig.wait(lambda: rig.gone(first), "the process that was used has left")
    second = spare_of(rig, {first})
    rig.wait(lambda: rig.ready[-1] == 1, "the next one is ready")
    rig.wait(lambda: rig.executor.child_pids() == [second], "it is the only one")


def test_none_is_kept_where_none_is_wanted(make_rig: Callable[..., Any], tmp_path: Path) -> None:
    rig = make_rig(slots=1, spare_children=0)
    victim = begin(rig, tmp_path / "mark", "long")
    rig.value("sleep", {"seconds": 0.3})
    assert rig.executor.child_pids() == [victim]
    os.kill(victim, signal.SIGKILL)
    assert rig.end_of("long").error_kind == "killed"
    assert rig.value("echo", {"after": 1}) == {"after": 1}


# ------------------------------------------------------------ what it imports

NOTES_ITS_IMPORT = """
import os, time
with open({seen!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
if len(open({seen!r}).read().split()) > 1:
    {second}

def wait(payload):
    time.sleep(payload["seconds"])
    return os.getpid()
"""


@pytest.fixture
def noting(tmp_path: Path, make_rig: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A rig with a task type ``wait`` whose module notes each process that imports it, as ``rig.importers()``."""

    def make(second: str) -> Any:
        seen = tmp_path / "seen"
        (tmp_path / "noting.py").write_text(NOTES_ITS_IMPORT.format(seen=str(seen), second=second))
        monkeypatch.syspath_prepend(str(tmp_path))
        rig = make_rig(slots=1)
        kinds = {"wait": TaskKind("process", None, "noting:wait")}
        old, rig.executor = rig.executor, Executor(Registry(kinds), rig.config, rig._deliver, rig.loop)
        rig.loop.run_until_complete(old.close())
        rig.importers = lambda: [int(pid) for pid in seen.read_text().split()] if seen.exists() else []
        return rig

    return make


def test_the_spare_has_imported_what_the_pool_runs(noting: Callable[[str], Any]) -> None:
    rig = noting("pass")
    rig.executor.start(StartRun("long", 1, "wait", {"seconds": 30}, None, {}))
    rig.wait(lambda: len(rig.importers()) == 2, "both children have imported the handler")
    victim, spare = rig.importers()
    rig.wait(lambda: rig.executor.spare_pids() == [spare], "the spare is ready")
    os.kill(victim, signal.SIGKILL)
    assert rig.value("wait", {"seconds": 0}, task_id="again") == spare


@pytest.mark.parametrize("second", ["raise SystemExit('not twice')", "raise ValueError('not twice')", "os._exit(5)"])
def test_a_module_that_fails_in_the_spare_harms_nobody(noting: Callable[[str], Any], second: str) -> None:
    rig = noting(second)
    rig.executor.start(StartRun("long", 1, "wait", {"seconds": 1}, None, {}))
    rig.wait(lambda: len(rig.importers()) == 2, "the spare has tried to import the handler")
    assert rig.end_of("long").outcome == "completed"
    assert rig.value("wait", {"seconds": 0}, task_id="next") == rig.importers()[0]
    assert rig.executor.problem() == ""
    assert len(rig.importers()) == 2, "it is not tried again and again"
