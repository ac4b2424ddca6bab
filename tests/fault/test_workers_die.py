"""Workers are killed, frozen, or lose their executors, under load: nothing is lost, nothing is recorded twice."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient, TaskFailed
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    check_recorded_once,
    children_of,
    client_of,
    complaints,
    runs,
    scrape,
    total,
    user_fleet,
    wait_until,
)


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    with user_fleet(workers=3) as fleet:
        yield fleet
        assert complaints(fleet) == []


def attempts_are_told_apart(ledger: Path) -> None:
    """No two runs of a task have the same attempt number: a result can be told from a late one."""
    counted = Counter((run.task_id, run.attempt) for run in runs(ledger))
    assert [key for key, count in counted.items() if count > 1] == []


def test_a_killed_workers_tasks_run_elsewhere_at_once(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    """Tasks that are running on the victim begin again on another worker; how soon is only reported here."""
    handles = client.submit_many("counted", [{"n": n, "seconds": 2.0, "ledger": str(ledger)} for n in range(30)])
    wait_until(lambda: len(runs(ledger)) == 30, "all are running")
    on_victim = {run.task_id for run in runs(ledger) if run.pid == fleet.pids["worker-1"]}
    assert on_victim, "the victim has some of them"
    killed = time.monotonic()
    fleet.kill("worker-1")
    wait_until(lambda: {run.task_id for run in runs(ledger) if run.attempt > 1} == on_victim, "its tasks run again")
    again = [run for run in runs(ledger) if run.attempt > 1]
    took_ms = sorted(round((run.mono - killed) * 1000) for run in again)
    print(f"{len(again)} tasks of the killed worker ran again after {took_ms[0]} to {took_ms[-1]} ms")
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(30))
    check_recorded_once(fleet, handles)
    attempts_are_told_apart(ledger)
    for handle in handles:
        assert handle.record is not None
        assert (handle.record["metadata"]["attempt"] > 1) is (handle.task_id in on_victim)
    found = scrape(fleet, "distributor-1")
    assert total(found, "a2a_failure_detection_seconds_count", role="worker") >= 1


def marks_open(fleet: LocalFleet, name: str) -> int:
    """How many life marks a daemon has open: its own, and those of the processes that it watches."""
    count = 0
    for entry in Path(f"/proc/{fleet.pids[name]}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(entry.readlink()).startswith("/memfd:a2a-life")
    return count


@pytest.mark.skipif(sys.platform != "linux", reason="life marks")
def test_daemons_watch_the_processes_below_them(fleet: LocalFleet) -> None:
    """Each of its workers by the distributor, the distributor by the coordinator, also after they were replaced."""
    fleet.wait_ready()
    (coordinator,) = fleet.names("coordinator")
    for victim in ("worker-1", "worker-2", "distributor-1"):
        wait_until(lambda: marks_open(fleet, "distributor-1") == 4, "the distributor watches three workers")
        wait_until(lambda: marks_open(fleet, coordinator) == 2, "the coordinator watches the distributor")
        assert marks_open(fleet, "worker-3") == 1
        fleet.kill(victim)
        fleet.wait_ready()
    wait_until(lambda: marks_open(fleet, "distributor-1") == 4, "the new distributor watches them, too")
    wait_until(lambda: marks_open(fleet, coordinator) == 2, "the coordinator watches the new one only")


def test_workers_killed_one_after_the_other_under_load(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    with Load(client, ledger, max_attempts=10) as load:
        for name in ("worker-1", "worker-2", "worker-3", "worker-1"):
            before = load.done
            wait_until(lambda before=before: load.done > before + 100, "the load runs")
            fleet.kill(name)
        load.finish()
    check_recorded_once(fleet, load.handles)
    attempts_are_told_apart(ledger)


@pytest.mark.parametrize("gap_s", [0, 0.06])
def test_all_workers_killed_shortly_one_after_the_other(
    fleet: LocalFleet, client: FleetClient, ledger: Path, gap_s: float
) -> None:
    """As when a host goes down, or runs out of memory."""
    handles = client.submit_many("counted", [{"n": n, "seconds": 0.5, "ledger": str(ledger)} for n in range(60)])
    wait_until(lambda: len(runs(ledger)) == 60, "all are running")
    for pid in [fleet.pids[name] for name in fleet.names("worker")]:
        os.kill(pid, signal.SIGKILL)
        time.sleep(gap_s)
    # Suspects run one at a time.
    assert [handle.result(3 * PATIENCE_S) for handle in handles] == list(range(60))
    check_recorded_once(fleet, handles)
    attempts_are_told_apart(ledger)


def test_a_killed_executor_child_fails_its_attempt_only(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    handle = client.submit("in-process", {"seconds": 1.0, "ledger": str(ledger)}, max_attempts=3)
    others = client.submit_many("counted", [{"n": n, "seconds": 0.5, "ledger": str(ledger)} for n in range(50)])
    wait_until(lambda: [run for run in runs(ledger) if run.task_id == handle.task_id], "the child runs")
    (victim,) = [run for run in runs(ledger) if run.task_id == handle.task_id]
    parents = [name for name, pid in fleet.pids.items() if victim.pid in children_of(pid)]
    assert len(parents) == 1, "the handler runs in a child of a worker"
    before = fleet.pids
    os.kill(victim.pid, signal.SIGKILL)
    assert handle.result(PATIENCE_S) != victim.pid
    assert [other.result(PATIENCE_S) for other in others] == list(range(50))
    assert handle.record is not None
    assert (handle.record["metadata"]["attempt"], handle.record["retry_count"]) == (2, 1)
    assert all(other.record is not None and other.record["metadata"]["attempt"] == 1 for other in others)
    assert fleet.pids == before
    check_recorded_once(fleet, [handle, *others])


def test_all_executor_children_killed(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    handles = client.submit_many("in-process", [{"seconds": 0.1, "ledger": str(ledger)}] * 40, max_attempts=5)
    wait_until(lambda: len(runs(ledger)) > 6, "they run")
    for name in fleet.names("worker"):
        for pid in children_of(fleet.pids[name]):
            os.kill(pid, signal.SIGKILL)
    for handle in handles:
        assert handle.result(PATIENCE_S) > 0
    check_recorded_once(fleet, handles)
    attempts_are_told_apart(ledger)


def test_a_frozen_worker_is_found_and_what_it_says_when_it_wakes_is_refused(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    handles = client.submit_many("counted", [{"n": n, "seconds": 0.6, "ledger": str(ledger)} for n in range(30)])
    wait_until(lambda: len(runs(ledger)) == 30, "all are running")
    late = total(scrape(fleet, "distributor-1"), "a2a_late_results_total")
    pid = fleet.kill("worker-1", signal.SIGSTOP)
    frozen = time.monotonic()
    try:
        assert [handle.result(PATIENCE_S) for handle in handles] == list(range(30))
        print(f"all results {time.monotonic() - frozen:.2f} s after the freeze")
        again = {run.task_id for run in runs(ledger) if run.attempt > 1}
        assert again, "the frozen worker's tasks were run again"
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: fleet.ready("worker-1"), "worker-1 is back")
    assert fleet.pids["worker-1"] == pid
    records = {handle.task_id: handle.record for handle in handles}
    wait_until(
        lambda: (
            total(scrape(fleet, "distributor-1"), "a2a_late_results_total") > late
            or not [run for run in runs(ledger, "end") if run.pid == pid and run.task_id in again]
        ),
        "its late results are counted",
    )
    check_recorded_once(fleet, handles)
    for handle in handles:
        now = client.get(handle.task_id)
        assert now is not None
        assert now["metadata"] == (records[handle.task_id] or {})["metadata"]
    # It is trusted with work again.
    wait_until(
        lambda: "worker-1" in {r["metadata"]["worker"] for r in client.map("noop", [{}] * 60, records=True)},
        "worker-1 gets work again",
    )


def test_short_freezes_are_survived(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    """Shorter than the patience of the others: nobody is declared dead, nothing runs twice."""
    with Load(client, ledger) as load:
        for name in (*fleet.names("worker"), "distributor-1", "coordinator-1"):
            before = load.done
            wait_until(lambda before=before: load.done > before + 50, "the load runs")
            pid = fleet.kill(name, signal.SIGSTOP)
            time.sleep(0.25)
            os.kill(pid, signal.SIGCONT)
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert len(runs(ledger)) == len(load.handles)


def test_a_task_that_kills_its_worker_is_set_aside(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    """It takes two workers with it, and then a process that ran nothing else."""
    poison = client.submit("kills-worker", {"ledger": str(ledger)}, max_attempts=10)
    with pytest.raises(TaskFailed) as failed:
        poison.result(PATIENCE_S)
    assert failed.value.kind == "killed"
    began = [run for run in runs(ledger) if run.task_id == poison.task_id]
    assert len(began) == 3
    assert began[-1].pid not in fleet.pids.values()
    assert poison.record is not None
    detail = poison.record["metadata"]["detail"]
    assert (detail["worker_deaths"], detail["signal"]) == (2, "SIGKILL")
    check_recorded_once(fleet, [poison])


def test_a_task_that_kills_its_worker_from_a_process_of_its_own_is_set_aside(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    """Later, since workers that die meanwhile are hardly ever the doing of such a task."""
    poison = client.submit("kills-parent", {"ledger": str(ledger)}, max_attempts=20)
    with pytest.raises(TaskFailed) as failed:
        poison.result(PATIENCE_S)
    assert failed.value.kind == "worker_lost"
    assert len([run for run in runs(ledger) if run.task_id == poison.task_id]) == 6
    check_recorded_once(fleet, [poison])


def test_tasks_beside_one_that_kills_its_worker_are_done(no_orphans: Path, ledger: Path, tmp_path: Path) -> None:
    until = tmp_path / "go"
    with user_fleet(workers=1) as narrow, client_of(narrow) as client:
        payloads = [{"n": n, "until": str(until), "ledger": str(ledger)} for n in range(20)]
        beside = client.submit_many("held", payloads, max_attempts=20)
        wait_until(lambda: len(runs(ledger)) == 20, "they run")
        poison = client.submit("kills-worker", {"ledger": str(ledger)}, max_attempts=10)
        with pytest.raises(TaskFailed):
            poison.result(3 * PATIENCE_S)  # the only worker starts again three times
        until.touch()
        assert [handle.result(PATIENCE_S) for handle in beside] == list(range(20))


def test_tasks_beside_some_that_kill_their_worker_at_once_are_done(no_orphans: Path) -> None:
    """All were given to the worker together, and none has been told to run."""
    with user_fleet(workers=2) as young, client_of(young) as client:
        beside = client.submit_many("sleep", [{"seconds": 0.2}] * 20)
        poisons = client.submit_many("kills-worker-at-once", [{}] * 2)
        beside += client.submit_many("sleep", [{"seconds": 0.2}] * 20)
        for poison in poisons:
            with pytest.raises(TaskFailed) as failed:
                poison.result(60)
            assert failed.value.kind == "exited"
            assert poison.record is not None
            assert poison.record["metadata"]["detail"]["exit_code"] == 7
        for handle in beside:
            handle.result(60)


def test_what_waits_behind_a_handler_that_blocks_all_others_runs_elsewhere(
    no_orphans: Path, ledger: Path, tmp_path: Path
) -> None:
    until = tmp_path / "go"
    env_of = {"worker-1": {"A2A_WORKER_LABELS": "its=own"}}
    with user_fleet(workers=2, env_of=env_of) as pair, client_of(pair) as client:
        pid = pair.pids["worker-1"]
        blocker = client.submit("blocks-loop", {"until": str(until)}, labels={"its": "own"})
        wait_until(lambda: '"running":1' in pair.get("worker-1", "/state")[1], "it runs")
        others = client.submit_many("counted", [{"n": n, "ledger": str(ledger)} for n in range(20)])
        assert [handle.result(2 * PATIENCE_S) for handle in others] == list(range(20))
        assert "blocks the handler loop" in pair.get("worker-1", "/readyz")[1]
        until.touch()
        assert blocker.result(PATIENCE_S) == "done"
        wait_until(lambda: pair.ready("worker-1"), "its worker is fit again")
        assert pair.pids["worker-1"] == pid
        check_recorded_once(pair, [*others, blocker])
    assert len(runs(ledger)) == 20, "what was handed back had not begun"
