"""Every daemon is restarted under load, one after the other: nobody outside notices, and no work is done twice."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    check_recorded_once,
    client_of,
    complaints,
    runs,
    user_fleet,
    wait_until,
)

ROLLING = ("worker-1", "worker-2", "distributor-1", "coordinator-1")

Leave = Callable[[LocalFleet, FleetClient, str], None]


def by_sigterm(fleet: LocalFleet, operator: FleetClient, name: str) -> None:
    fleet.kill(name, signal.SIGTERM)


def by_drain(fleet: LocalFleet, operator: FleetClient, name: str) -> None:
    answer = operator.drain(name)
    assert answer["draining"] is True, answer


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    """A daemon that has left stays down until the test starts it again."""
    with user_fleet(workers=2, supervise=False) as fleet:
        yield fleet
        assert complaints(fleet) == []


@pytest.mark.parametrize("leave", [by_sigterm, by_drain])
def test_a_rolling_restart_under_load_is_noticed_by_nobody(fleet: LocalFleet, ledger: Path, leave: Leave) -> None:
    """With a single attempt allowed: a task that was handed back must not have used one up."""
    with (
        client_of(fleet) as client,
        client_of(fleet, operator=True) as operator,
        Load(client, ledger, seconds=0.05, max_attempts=1) as load,
    ):
        for name in ROLLING:
            before = load.done
            wait_until(lambda before=before: load.done > before + 60, "the load runs")
            leave(fleet, operator, name)
            wait_until(lambda name=name: not fleet.pids[name], f"{name} has left")
            assert fleet.daemons[name].exit_status == 0, fleet.daemons[name].tail()
            fleet.restart(name)
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert Counter(run.task_id for run in runs(ledger)) == Counter(handle.task_id for handle in load.handles)
    assert len(runs(ledger, "end")) == len(load.handles)


def test_a_worker_leaves_when_its_results_are_taken_and_not_before(fleet: LocalFleet, ledger: Path) -> None:
    """More than a window of the link, at a moment at which the distributor reads nothing: what had not gone out was
    lost with the process, and counted as failed attempts."""
    fleet.wait_ready()
    let_go = ledger.with_name("let-go")
    with client_of(fleet) as client:
        payloads = [{"ledger": str(ledger), "until": str(let_go), "bytes": 200_000} for _ in range(24)]
        handles = client.submit_many("held", payloads, max_attempts=1)
        wait_until(lambda: len(runs(ledger)) == len(handles), "all run")
        fleet.kill("distributor-1", signal.SIGSTOP)
        try:
            let_go.touch()
            wait_until(lambda: len(runs(ledger, "end")) == len(handles), "all have ended")
            for name in ("worker-1", "worker-2"):
                fleet.kill(name, signal.SIGTERM)
            time.sleep(0.3)  # nothing shows that they would have left by now
        finally:
            fleet.kill("distributor-1", signal.SIGCONT)
        assert [len(handle.result(10)) for handle in handles] == [200_000] * len(handles)
        for name in ("worker-1", "worker-2"):
            wait_until(lambda name=name: not fleet.pids[name], f"{name} has left")
            assert fleet.daemons[name].exit_status == 0, fleet.daemons[name].tail()
            fleet.restart(name)
    check_recorded_once(fleet, handles)
    assert len(runs(ledger)) == len(handles)


def test_a_task_longer_than_a_drain_uses_up_no_attempt(no_orphans: Path, ledger: Path) -> None:
    """Worker after worker leaves, each before the task has ended; a single attempt is allowed."""
    env = {"A2A_DRAIN_TIMEOUT_S": "0.3"}
    with user_fleet(workers=2, supervise=False, env=env) as fleet, client_of(fleet) as client:
        until = ledger.with_name("until")
        task = client.submit("held", {"n": 7, "until": str(until), "ledger": str(ledger)}, max_attempts=1)
        for turn in range(1, 4):
            wait_until(lambda turn=turn: len(runs(ledger)) == turn, "it runs")
            pid = runs(ledger)[-1].pid
            name = next(name for name, each in fleet.pids.items() if each == pid)
            fleet.kill(name, signal.SIGTERM)
            wait_until(lambda name=name: not fleet.pids[name], f"{name} has left")
            fleet.restart(name)
        until.touch()
        assert task.result(PATIENCE_S) == 7
        assert task.record is not None
        assert task.record["retry_count"] == 0
        assert len(runs(ledger, "end")) == 1
