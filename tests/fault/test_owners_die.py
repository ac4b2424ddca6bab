"""Distributor, coordinator and Redis are killed and frozen under load; the client's handles stay valid throughout."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import redis

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    check_recorded_once,
    client_of,
    runs,
    scrape,
    total,
    wait_until,
)


def fence_of(fleet: LocalFleet) -> int:
    with redis.Redis(port=fleet.redis_port) as connection:
        return int(connection.hget("shared:distributor:distributor-1", "fence") or 0)


@pytest.mark.parametrize("name", ["distributor-1", "coordinator-1"])
def test_an_owner_killed_under_load(fleet: LocalFleet, client: FleetClient, ledger: Path, name: str) -> None:
    with Load(client, ledger) as load:
        for _ in range(2):
            before = load.done
            wait_until(lambda before=before: load.done > before + 100, "the load runs")
            fleet.kill(name)
            killed, before = time.monotonic(), load.done
            wait_until(lambda before=before: load.done > before + 100, f"the load runs after {name} was killed")
            print(f"100 more results {time.monotonic() - killed:.2f} s after {name} was killed")
        load.finish()
    check_recorded_once(fleet, load.handles)


def test_a_restarted_distributor_adopts_what_its_workers_still_run(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    handles = client.submit_many("counted", [{"n": n, "seconds": 4.0, "ledger": str(ledger)} for n in range(30)])
    wait_until(lambda: len(runs(ledger)) == 30, "all are running")
    fence = fence_of(fleet)
    fleet.kill("distributor-1")
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(30))
    # Adopted, not restarted.
    assert len(runs(ledger)) == 30
    assert {handle.record["metadata"]["attempt"] for handle in handles if handle.record is not None} == {1}
    assert fence_of(fleet) == fence + 1
    check_recorded_once(fleet, handles)


def test_results_that_came_while_there_was_no_distributor_are_recorded(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    handles = client.submit_many("counted", [{"n": n, "seconds": 0.5, "ledger": str(ledger)} for n in range(30)])
    wait_until(lambda: len(runs(ledger)) == 30, "all are running")
    fleet.kill("distributor-1", restart=False)
    wait_until(lambda: len(runs(ledger, "end")) == 30, "all have run to their end")
    fleet.restart("distributor-1")
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(30))
    assert len(runs(ledger)) == 30
    check_recorded_once(fleet, handles)


def test_a_distributor_and_its_workers_killed_together(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    with Load(client, ledger, max_attempts=5) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        for name in ("distributor-1", "worker-1", "worker-2"):
            fleet.kill(name)
        before = load.done
        wait_until(lambda: load.done > before + 100, "the load runs again")
        load.finish()
    check_recorded_once(fleet, load.handles)
    counted = Counter((run.task_id, run.attempt) for run in runs(ledger))
    assert [key for key, count in counted.items() if count > 1] == []


def test_handles_outlive_a_coordinator_that_is_away_for_a_while(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    handles = client.submit_many("counted", [{"n": n, "seconds": 0.3, "ledger": str(ledger)} for n in range(50)])
    wait_until(lambda: len(runs(ledger)) == 50, "all are running")
    fleet.kill("coordinator-1", restart=False)
    wait_until(lambda: len(runs(ledger, "end")) == 50, "the fleet works on without its coordinator")
    fleet.restart("coordinator-1")
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(50))
    assert len(runs(ledger)) == 50
    check_recorded_once(fleet, handles)
    # Another process finds the results too.
    with client_of(fleet) as other:
        assert [other.attach(handle.task_id).result(PATIENCE_S) for handle in handles[:10]] == list(range(10))


@pytest.mark.parametrize("name", ["distributor-1", "coordinator-1"])
def test_an_owner_frozen_under_load(fleet: LocalFleet, client: FleetClient, ledger: Path, name: str) -> None:
    """Longer than everybody's patience; when it wakes it is still the owner, since nobody else asked for the lease."""
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        pid = fleet.kill(name, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(pid, signal.SIGCONT)
        before = load.done
        wait_until(lambda: load.done > before + 100, f"the load runs after {name} woke")
        load.finish()
    assert fleet.pids[name] == pid
    check_recorded_once(fleet, load.handles)


def test_redis_killed_under_load(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    before_pids = {name: pid for name, pid in fleet.pids.items() if name != "redis"}
    with Load(client, ledger) as load:
        for _ in range(2):
            before = load.done
            wait_until(lambda before=before: load.done > before + 100, "the load runs")
            fleet.kill("redis")
            killed, before = time.monotonic(), load.done
            wait_until(lambda before=before: load.done > before + 100, "the load runs after Redis was killed")
            print(f"100 more results {time.monotonic() - killed:.2f} s after Redis was killed")
            fleet.wait_ready()
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert {name: pid for name, pid in fleet.pids.items() if name != "redis"} == before_pids


def test_running_work_goes_on_without_redis(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    handles = client.submit_many("counted", [{"n": n, "seconds": 0.5, "ledger": str(ledger)} for n in range(30)])
    wait_until(lambda: len(runs(ledger)) == 30, "all are running")
    fleet.kill("redis", restart=False)
    wait_until(lambda: len(runs(ledger, "end")) == 30, "they run to their end")
    assert client.status()["coordinator"]["id"] == "coordinator-1"
    fleet.restart("redis")
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(30))
    assert len(runs(ledger)) == 30
    check_recorded_once(fleet, handles)


def test_redis_frozen_for_two_seconds(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        pid = fleet.kill("redis", signal.SIGSTOP)
        time.sleep(2)
        os.kill(pid, signal.SIGCONT)
        woke, before = time.monotonic(), load.done
        wait_until(lambda: load.done > before + 100, "the load runs after Redis woke")
        print(f"100 more results {time.monotonic() - woke:.2f} s after Redis woke")
        load.finish()
    check_recorded_once(fleet, load.handles)


def test_redis_frozen_for_longer_than_the_leases_live(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        pid = fleet.kill("redis", signal.SIGSTOP)
        time.sleep(6)
        os.kill(pid, signal.SIGCONT)
        before = load.done
        wait_until(lambda: load.done > before + 100, "the load runs after Redis woke")
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert total(scrape(fleet, "distributor-1"), "a2a_lease_renewal_failures_total") > 0
    # Its owners took their leases again, under higher fences, and show these: the audit finds nothing odd.
    with client_of(fleet, operator=True) as operator:
        wait_until(lambda: not operator.audit()["findings"], "the audit finds nothing odd")


def test_everything_killed_at_once(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    with Load(client, ledger, max_attempts=5) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        for name in fleet.daemons:
            fleet.kill(name)
        killed, before = time.monotonic(), load.done
        wait_until(lambda: load.done > before + 100, "the load runs again", 18)
        print(f"100 more results {time.monotonic() - killed:.2f} s after everything was killed")
        load.finish()
    check_recorded_once(fleet, load.handles)
