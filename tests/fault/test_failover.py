"""A distributor that is killed and not started again: its tasks finish with another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    a2actl,
    check_recorded_once,
    complaints,
    runs,
    scrape,
    total,
    user_fleet,
    wait_until,
)

GONE, LEFT = "distributor-1", "distributor-2"


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    """Two distributors with a worker each."""
    with user_fleet(workers=2, distributors=2, env={"A2A_DISTRIBUTOR_FAILOVER_S": "2"}) as fleet:
        yield fleet
        assert complaints(fleet, "distributor_absent") == []


def begun_twice(ledger: Path) -> list[tuple[str, int]]:
    counted = Counter((run.task_id, run.attempt) for run in runs(ledger))
    return [key for key, count in counted.items() if count > 1]


def failed_over(fleet: LocalFleet) -> float:
    return total(scrape(fleet, "coordinator-1"), "a2a_tasks_failed_over_total")


def test_what_a_dead_distributor_had_finishes_elsewhere_once(
    fleet: LocalFleet, client: FleetClient, ledger: Path, tmp_path: Path
) -> None:
    end = tmp_path / "end"
    payloads = [{"n": n, "until": str(end), "ledger": str(ledger)} for n in range(20)]
    handles = client.submit_many("held", payloads)
    wait_until(lambda: len(runs(ledger)) == 20, "all are running")
    before = failed_over(fleet)
    fleet.kill(GONE, restart=False)
    # Not before its lease has expired (5 s), and 2 s more.
    wait_until(lambda: len(runs(ledger)) > 20, "what it had runs again", timeout_s=3 * PATIENCE_S)
    end.touch()
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(20))
    check_recorded_once(fleet, handles)
    moved = {handle.task_id for handle in handles if (handle.record or {})["metadata"]["attempt"] > 1}
    assert moved
    assert failed_over(fleet) == before + len(moved)

    # Its worker has finished them, too, and shows their results to the process that comes back.
    fleet.restart(GONE)
    fleet.wait_ready()
    again = client.submit_many("counted", [{"n": n, "ledger": str(ledger)} for n in range(50)])
    assert [handle.result(PATIENCE_S) for handle in again] == list(range(50))
    check_recorded_once(fleet, [*handles, *again])
    assert begun_twice(ledger) == []
    assert len(runs(ledger)) == 20 + len(moved) + 50


def test_an_operator_moves_them_under_load(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    refused = a2actl(fleet, "failover", GONE)
    assert refused.returncode == 1
    assert "drain it first" in refused.stderr
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        fleet.kill(GONE, restart=False)
        wait_until(lambda: a2actl(fleet, "failover", GONE).returncode == 0, "it is known to be away")
        before = load.done
        wait_until(lambda: load.done > before + 100, "the load runs without it")
        fleet.restart(GONE)
        before = load.done
        wait_until(lambda: load.done > before + 100, "the load runs with it")
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert begun_twice(ledger) == []
