"""Two coordinators: the leader is killed, frozen, drained under load, and the other one goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq import AsyncFleetClient, FleetClient
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    a2actl,
    check_recorded_once,
    client_of,
    complaints,
    log_events,
    runs,
    scrape,
    total,
    user_fleet,
    wait_until,
)

LEASE_TTL_S = 5.0


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    with user_fleet(workers=2, coordinators=2) as fleet:
        yield fleet
        assert [str(each) for each in complaints(fleet, "ownership_lost")] == []


def leader_of(fleet: LocalFleet) -> str:
    name = fleet.leader()
    assert name
    return name


def other_than(name: str) -> str:
    return "coordinator-2" if name == "coordinator-1" else "coordinator-1"


def wait_for_leader(fleet: LocalFleet, name: str, timeout_s: float = PATIENCE_S) -> float:
    return wait_until(lambda: fleet.get(name, "/readyz")[0] == 200, f"{name} leads", timeout_s)


def test_one_leads_and_the_other_says_that_it_stands_by(fleet: LocalFleet, client: FleetClient) -> None:
    leader = leader_of(fleet)
    standby = other_than(leader)
    status, text = fleet.get(standby, "/readyz")
    assert status == 503
    assert f"standing by: {leader} leads" in text
    assert fleet.get(standby, "/livez")[0] == 200
    wait_until(lambda: client.status()["standbys"] == [{"id": standby, "distributors": 1}], "the leader knows of it")
    assert client.status()["coordinator"]["id"] == leader
    wait_until(lambda: total(scrape(fleet, leader), "a2a_leading") == 1, "the leader's gauge is up")
    assert total(scrape(fleet, standby), "a2a_leading") == 0
    done = a2actl(fleet, "status")
    assert done.returncode == 0, done.stderr
    assert f"coordinator {leader} leads" in done.stdout
    assert f"standing by: {standby}" in done.stdout


def test_a_standby_that_is_asked_alone_says_who_leads(fleet: LocalFleet, client: FleetClient) -> None:
    leader = leader_of(fleet)
    standby = other_than(leader)
    address = next(text for text in fleet.coordinator_address.split(",") if text.startswith(standby))
    with client_of(fleet, addresses=address) as alone:
        answer = alone.status()["coordinator"]
        assert (answer["id"], answer["leading"], answer["leader"]) == (standby, False, leader)
    done = a2actl(fleet, "status", A2A_COORDINATOR_ADDRESS=address)
    assert f"coordinator {standby} stands by for {leader}" in done.stdout


def test_the_leader_killed_under_load_again_and_again(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    with Load(client, ledger) as load:
        for _ in range(3):
            before = load.done
            wait_until(lambda before=before: load.done > before + 100, "the load runs")
            leader = leader_of(fleet)
            fleet.kill(leader)
            killed, before = time.monotonic(), load.done
            took = wait_for_leader(fleet, other_than(leader), LEASE_TTL_S)
            wait_until(lambda before=before: load.done > before + 100, "the load runs under the new leader")
            print(f"the standby leads {took:.2f} s after the kill, 100 more results {time.monotonic() - killed:.2f} s")
            fleet.wait_ready()
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert len(runs(ledger)) == len(load.handles), "nothing ran twice"


def test_a_drained_leader_hands_over_at_once(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        leader = leader_of(fleet)
        fleet.kill(leader, signal.SIGTERM, restart=False)
        took = wait_for_leader(fleet, other_than(leader), LEASE_TTL_S)
        wait_until(lambda: not fleet.pids[leader], "the drained one has left")
        assert fleet.daemons[leader].exit_status == 0
        before = load.done
        wait_until(lambda: load.done > before + 100, "the load runs under the new leader")
        print(f"the standby leads {took:.2f} s after SIGTERM")
        load.finish()
    fleet.restart(leader)
    check_recorded_once(fleet, load.handles)


def test_a_frozen_leader_is_replaced_and_fenced_when_it_wakes(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        leader = leader_of(fleet)
        pid = fleet.kill(leader, signal.SIGSTOP)
        took = wait_for_leader(fleet, other_than(leader))
        before = load.done
        wait_until(lambda: load.done > before + 100, "the load runs under the new leader")
        print(f"the standby leads {took:.2f} s after the freeze")
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: fleet.pids[leader] not in (0, pid), "the old leader ends, and is started again")
        fleet.wait_ready()
        assert leader_of(fleet) == other_than(leader)
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert any(event.get("event") == "ownership_lost" for event in log_events(fleet, leader))


def test_work_goes_on_while_nobody_leads(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    handles = client.submit_many("counted", [{"n": n, "seconds": 0.3, "ledger": str(ledger)} for n in range(40)])
    wait_until(lambda: len(runs(ledger)) == 40, "all are running")
    leader = leader_of(fleet)
    for name in (other_than(leader), leader):
        fleet.kill(name, restart=False)
    wait_until(lambda: len(runs(ledger, "end")) == 40, "the workers finish without a coordinator")
    fleet.restart(other_than(leader), wait=False)
    assert [handle.result(PATIENCE_S) for handle in handles] == list(range(40))
    fleet.restart(leader)
    check_recorded_once(fleet, handles)


def test_an_async_client_finds_the_new_leader(fleet: LocalFleet) -> None:
    async def main() -> None:
        async with AsyncFleetClient(**fleet.client_arguments()) as client:
            assert await (await client.submit("noop", {"x": 1})).result(PATIENCE_S) == {"x": 1}
            fleet.kill(leader_of(fleet))
            assert await (await client.submit("noop", {"x": 2})).result(PATIENCE_S) == {"x": 2}

    fleet.wait_ready()
    asyncio.run(main())
    fleet.wait_ready()


def test_a_redis_that_forgot_everything_does_not_make_a_leader_of_one_that_knows_nothing(
    fleet: LocalFleet, client: FleetClient
) -> None:
    """The standby finds the lease free and the fence gone: it lets the leader come back, which remembers the tasks."""
    import redis

    leader = leader_of(fleet)
    waiting = client.submit("noop", {"x": 1}, labels={"no": "such"})
    with redis.Redis(port=fleet.redis_port) as connection:
        connection.flushall()
        wait_until(lambda: connection.hexists("tasks:{shared:coordinator}", waiting.task_id), "the task is there again")
    assert leader_of(fleet) == leader
    client.cancel(waiting.task_id)
    wait_until(waiting.done, "and can be cancelled")


def started(fleet: LocalFleet) -> list[dict[str, Any]]:
    return [each for each in log_events(fleet, "distributor-1") if each["event"] == "started"]


def test_an_address_of_a_standby_whose_keys_are_gone_stops_nobody(no_orphans: Path) -> None:
    """It was revoked, and stayed in everybody's settings."""
    with user_fleet(workers=1, coordinators=2) as fleet, client_of(fleet) as client:
        leader = leader_of(fleet)
        other = other_than(leader)
        assert client.submit("noop", {"x": 1}).result(PATIENCE_S) == {"x": 1}
        fleet.kill(other, restart=False)
        assert a2actl(fleet, "keys", "revoke", other).returncode == 0
        fleet.kill("distributor-1")
        wait_until(lambda: len(started(fleet)) == 2 and fleet.ready("distributor-1"), "it is back")
        left_out = [each for each in log_events(fleet, "distributor-1") if each["event"] == "address_left_out"]
        assert [other in each["address"] for each in left_out] == [True]
        fleet.kill(leader)
        assert client.submit("noop", {"x": 2}).result(PATIENCE_S) == {"x": 2}
        addresses = sorted(fleet.coordinator_address.split(","), key=lambda each: not each.startswith(other))
        with client_of(fleet, addresses=",".join(addresses)) as fresh:
            assert fresh.submit("noop", {"x": 3}).result(PATIENCE_S) == {"x": 3}
