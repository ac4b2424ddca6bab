"""Two processes of one name, daemons that start in the wrong order, and a Redis that forgot everything."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet, free_ports
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    check_recorded_once,
    live_tasks,
    runs,
    user_fleet,
    wait_until,
)


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    with user_fleet(workers=2) as fleet:
        yield fleet


class Double:
    """A second process with the name, keys and settings of a daemon of the fleet; only its ports are its own."""

    def __init__(self, fleet: LocalFleet, name: str, log: Path) -> None:
        original = fleet.daemons[name]
        self.port, hub = free_ports(2)
        env = {**original.env, "A2A_METRICS_PORT": str(self.port)}
        if "A2A_BIND" in env:
            env["A2A_BIND"] = f"tcp://127.0.0.1:{hub}"
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", original.module],
                env=env,
                cwd=original.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def ready(self) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_S)
        self.process.kill()
        self.process.wait(PATIENCE_S)


WHY = {
    "worker-1": "refused by distributor-1: a live process has this name: pid",
    "distributor-1": "another process named distributor-1 holds the lease",
    "coordinator-1": "another process named coordinator-1 holds the lease",
}


@pytest.mark.parametrize("name", ["worker-1", "distributor-1", "coordinator-1"])
def test_a_second_process_of_the_same_name_stands_by(
    fleet: LocalFleet, client: FleetClient, ledger: Path, tmp_path: Path, name: str
) -> None:
    """Under load; the first one notices nothing. Once it is gone the second may take its place."""
    pids = fleet.pids
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 50, "the load runs")
        with Double(fleet, name, tmp_path / "log") as double:
            wait_until(lambda: double.ready()[0] == 503, "the second process is up and not ready")
            before = load.done
            wait_until(lambda: load.done > before + 200, "the load runs on")
            assert double.ready()[0] == 503, "it stays so"
            wait_until(lambda: WHY[name] in double.ready()[1], "it says why")
            wait_until(lambda: WHY[name] in double.log.read_text(), "the log says why")
            assert double.log.read_text().count('"level":"warning"') == 1
        load.finish()
    assert fleet.pids == pids
    check_recorded_once(fleet, load.handles)
    assert len(runs(ledger)) == len(load.handles)


def test_the_order_of_starting_does_not_matter(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    handles = client.submit_many("counted", [{"n": n, "seconds": 1.0, "ledger": str(ledger)} for n in range(20)])
    for name in fleet.daemons:
        fleet.kill(name, restart=False)
    wait_until(lambda: not any(fleet.pids.values()), "all are dead")
    for name in reversed(list(fleet.daemons)):
        fleet.restart(name, wait=False)
    fleet.wait_ready()
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(20))
    check_recorded_once(fleet, handles)


def test_a_redis_that_forgot_everything_costs_no_task_that_a_daemon_remembers(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    """Its files are gone: what coordinator and distributor have in memory is written again."""
    handles = client.submit_many("counted", [{"n": n, "seconds": 2.0, "ledger": str(ledger)} for n in range(30)])
    waiting = client.submit("noop", {"x": 1}, labels={"no": "such"})
    wait_until(lambda: len(runs(ledger)) == 30, "all are running")
    fleet.kill("redis", restart=False)
    wait_until(lambda: not fleet.pids["redis"], "redis is dead")
    for path in (fleet.directory / "redis").glob("appendonly*"):
        shutil.rmtree(path)
    for path in (fleet.directory / "redis").glob("*.rdb"):
        path.unlink()
    fleet.restart("redis")
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(30))
    check_recorded_once(fleet, handles)
    wait_until(lambda: waiting.task_id in live_tasks(fleet), "the waiting task is in the state again")
    client.cancel(waiting.task_id)
    wait_until(waiting.done, "and can be cancelled")
    fleet.wait_ready()
    assert client.submit("noop", {}).result(PATIENCE_S) == {}
