"""Two processes of one distributor: whoever has the lease works, the other one takes over what the workers run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient
from daemons.cli.fleet import TWIN, LocalFleet, free_ports
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    check_recorded_once,
    client_of,
    complaints,
    runs,
    scrape,
    total,
    user_fleet,
    wait_until,
)
from tests.integration.wire import Relay

PAIR = ("distributor-1", "distributor-1" + TWIN)
LEASE_TTL_S = 5.0


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    with user_fleet(workers=2, twins=True) as fleet:
        yield fleet
        assert complaints(fleet) == []


def acting(fleet: LocalFleet) -> str:
    wait_until(lambda: fleet.acting(PAIR), "one of the two works")
    return fleet.acting(PAIR)


def other_than(name: str) -> str:
    return PAIR[1 - PAIR.index(name)]


def wait_for(fleet: LocalFleet, name: str, timeout_s: float = PATIENCE_S) -> float:
    return wait_until(lambda: fleet.get(name, "/readyz")[0] == 200, f"{name} works", timeout_s)


def test_the_second_process_stands_by_and_troubles_nobody(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    twin = other_than(acting(fleet))
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 200, "the load runs")
        status, text = fleet.get(twin, "/readyz")
        assert status == 503
        assert "standing by" in text
        load.finish()
    assert total(scrape(fleet, twin), "a2a_leading") == 0
    assert total(scrape(fleet, "coordinator-1"), "a2a_signature_failures_total") == 0
    check_recorded_once(fleet, load.handles)


def test_running_tasks_are_adopted_and_not_run_again(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    name = acting(fleet)
    handles = client.submit_many("counted", [{"n": n, "seconds": 4.0, "ledger": str(ledger)} for n in range(30)])
    wait_until(lambda: len(runs(ledger)) == 30, "all are running")
    fleet.kill(name, restart=False)
    took = wait_for(fleet, other_than(name), LEASE_TTL_S)
    print(f"the other one works {took:.2f} s after the kill")
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(30))
    assert len(runs(ledger)) == 30
    assert {handle.record["metadata"]["attempt"] for handle in handles if handle.record is not None} == {1}
    check_recorded_once(fleet, handles)
    fleet.restart(name)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_working_one_ends_under_load(fleet: LocalFleet, client: FleetClient, ledger: Path, number: int) -> None:
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        name = acting(fleet)
        fleet.kill(name, number, restart=False)
        ended, before = time.monotonic(), load.done
        took = wait_for(fleet, other_than(name), LEASE_TTL_S)
        wait_until(lambda: load.done > before + 100, "the load runs on")
        print(f"{number}: the other one works after {took:.2f} s, 100 more results {time.monotonic() - ended:.2f} s")
        load.finish()
    check_recorded_once(fleet, load.handles)
    fleet.restart(name)


def test_a_frozen_one_is_replaced_and_stands_by_when_it_wakes(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        name = acting(fleet)
        pid = fleet.kill(name, signal.SIGSTOP)
        took = wait_for(fleet, other_than(name))
        before = load.done
        wait_until(lambda: load.done > before + 100, "the load runs on")
        print(f"the other one works {took:.2f} s after the freeze")
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: fleet.pids[name] not in (0, pid), "it ends, and is started again")
        fleet.wait_ready()
        assert acting(fleet) == other_than(name)
        load.finish()
    check_recorded_once(fleet, load.handles)


def test_one_that_is_cut_off_from_redis_alone_gives_its_workers_to_the_other_one(
    no_orphans: Path, ledger: Path
) -> None:
    """It holds its sessions, and cannot know that its lease is gone: the coordinator lets the other one in."""
    [port] = free_ports(1)
    with Relay(f"tcp://127.0.0.1:{port}", plain=True) as relay:
        relayed = {"REDIS_PORT": relay.address.rpartition(":")[2], "A2A_LEASE_TTL_MS": "2000", "A2A_REDIS_WAIT_S": "1"}
        twin = {"A2A_LEASE_TTL_MS": "2000"}
        fleet = user_fleet(workers=2, twins=True, env_of={PAIR[0]: relayed, PAIR[1]: twin})
        fleet.redis_port = port
        with fleet:
            if acting(fleet) != PAIR[0]:
                fleet.kill(PAIR[1])
                wait_for(fleet, PAIR[0])
                fleet.wait_ready()
            with client_of(fleet) as client, Load(client, ledger) as load:
                wait_until(lambda: load.done > 100, "the load runs")
                relay.pause()
                took = wait_for(fleet, PAIR[1])
                before = load.done
                wait_until(lambda: load.done > before + 100, "the load runs on")
                print(f"the other one works {took:.2f} s after the cut")
                relay.resume()
                load.finish()
            check_recorded_once(fleet, load.handles)
