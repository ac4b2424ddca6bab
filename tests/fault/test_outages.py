"""Redis is away for a while, and worse things happen meanwhile; clients are served all the same."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    Load,
    a2actl,
    check_recorded_once,
    client_of,
    complaints,
    log_events,
    scrape,
    total,
    user_fleet,
    wait_until,
)

OWNERS = ("coordinator-1", "distributor-1")


def store_of(fleet: LocalFleet, name: str) -> dict[str, Any]:
    status, text = fleet.get(name, "/state")
    assert status == 200, text
    found: dict[str, Any] = orjson.loads(text)["store"]
    return found


def closed(fleet: LocalFleet) -> bool:
    return all(store_of(fleet, name)["circuit"] == "closed" for name in OWNERS)


def test_clients_get_results_and_are_accepted_while_redis_is_away(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    pids = {name: pid for name, pid in fleet.pids.items() if name != "redis"}
    with Load(client, ledger) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        fleet.kill("redis", restart=False)
        wait_until(lambda: not client.status()["store"]["available"], "the coordinator knows that Redis is away")
        submitted, done = load.submitted, load.done
        wait_until(lambda: load.submitted > submitted + 200, "further work is accepted")
        wait_until(lambda: load.done > done + 500, "results come")
        for name in OWNERS:
            assert total(scrape(fleet, name), "a2a_store_up") == 0
            assert total(scrape(fleet, name), "a2a_store_circuit") > 0
            assert store_of(fleet, name)["spooled_writes"] > 0
        fleet.restart("redis")
        took = wait_until(lambda: closed(fleet), "the spools are handed in")
        print(f"handed in {took:.2f} s after Redis was back")
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert {name: pid for name, pid in fleet.pids.items() if name != "redis"} == pids
    for name in OWNERS:
        assert total(scrape(fleet, name), "a2a_store_up") == 1
        assert store_of(fleet, name)["spooled_writes"] == 0
        said = [event["event"] for event in log_events(fleet, name) if event["event"].startswith("circuit_")]
        assert (said[0], said[-2:]) == ("circuit_open", ["circuit_half_open", "circuit_closed"])


def test_a_password_that_redis_wants_all_at_once_ends_no_daemon(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    """Symptom: the first NOAUTH ended coordinator and distributor with 78, which no supervisor starts again."""
    pids = fleet.pids
    with Load(client, ledger) as load, redis.Redis(port=fleet.redis_port) as connection:
        wait_until(lambda: load.done > 100, "the load runs")
        connection.config_set("requirepass", "new")
        try:
            connection.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            wait_until(lambda: store_of(fleet, "coordinator-1")["reason"] == "noauth", "the coordinator is locked out")
            submitted, done = load.submitted, load.done
            wait_until(lambda: load.submitted > submitted + 200, "further work is accepted")
            wait_until(lambda: load.done > done + 200, "results come")
            told = a2actl(fleet, "--timeout", "5", "doctor")
            assert "noauth" in told.stdout, told.stdout
            assert told.returncode == 1
        finally:
            connection.config_set("requirepass", "")
        wait_until(lambda: closed(fleet), "the spools are handed in")
        load.finish()
    check_recorded_once(fleet, load.handles)
    assert fleet.pids == pids
    said = [(event["event"], event.get("reason")) for event in log_events(fleet, "coordinator-1")]
    assert said.count(("circuit_open", "noauth")) == 1


@pytest.mark.parametrize(
    "killed", [("coordinator-1",), ("distributor-1",), OWNERS], ids=["coordinator", "distributor", "both"]
)
def test_owners_killed_while_redis_is_away_lose_nothing_of_what_they_took(
    fleet: LocalFleet, client: FleetClient, ledger: Path, killed: tuple[str, ...]
) -> None:
    with Load(client, ledger, seconds=0.1) as load:
        wait_until(lambda: load.done > 50, "the load runs")
        fleet.kill("redis", restart=False)
        wait_until(lambda: not client.status()["store"]["available"], "the coordinator knows that Redis is away")
        submitted, done = load.submitted, load.done
        wait_until(
            lambda: load.submitted > submitted + 100 and load.done > done + 100, "accepted and done without Redis"
        )
        for name in killed:
            fleet.kill(name)
        time.sleep(0.3)
        fleet.restart("redis")
        fleet.wait_ready()
        load.finish()
    check_recorded_once(fleet, load.handles)
    for name in killed:
        assert store_of(fleet, name)["spooled_writes"] == 0
        assert "spool_merged" in {event["event"] for event in log_events(fleet, name)}


def test_a_full_spool_refuses_new_work_and_keeps_what_was_accepted(no_orphans: Path, ledger: Path) -> None:
    with user_fleet(workers=2, env={"A2A_SPOOL_MAX_MB": "1"}) as fleet, client_of(fleet) as client:
        fleet.kill("redis", restart=False)
        wait_until(lambda: not client.status()["store"]["available"], "the coordinator knows that Redis is away")
        with Load(client, ledger, seconds=0.0, group=50, pause_s=0.0, pad="x" * 5_000) as load:
            wait_until(lambda: client.status()["store"]["reason"].startswith("spool"), "the spool is full")
            full = load.submitted
            time.sleep(0.3)
            assert load.submitted <= full + 50, "refused as BUSY, and the client waits"
            assert store_of(fleet, "coordinator-1")["spooled_bytes"] <= 1024 * 1024
            fleet.restart("redis")
            wait_until(lambda: load.submitted > full + 100, "new work is accepted again")
            load.finish()
        check_recorded_once(fleet, load.handles)
        assert complaints(fleet, "spool_full") == []
        assert "spool_full" in {event["event"] for event in log_events(fleet, "coordinator-1")}


def test_a_spool_that_was_switched_off_makes_clients_wait(no_orphans: Path, ledger: Path) -> None:
    with user_fleet(workers=1, env={"A2A_SPOOL": "off"}) as fleet, client_of(fleet) as client:
        fleet.kill("redis", restart=False)
        wait_until(lambda: not client.status()["store"]["available"], "the coordinator knows that Redis is away")
        with Load(client, ledger, group=5) as load:
            time.sleep(0.5)
            assert load.submitted == 0, "accepted means persisted"
            fleet.restart("redis")
            wait_until(lambda: load.done > 10, "the submission is accepted")
            load.finish()
        check_recorded_once(fleet, load.handles)
        assert not (fleet.directory / "spool").exists()


def test_keys_of_a_standby_that_is_gone_keep_the_spool_off_and_revoking_them_ends_that(no_orphans: Path) -> None:
    with user_fleet(workers=1) as fleet:
        a2actl(fleet, "keys", "add", "coordinator-2")
        wait_until(lambda: store_of(fleet, "coordinator-1")["spool"] == "off", "the keys are seen")
        why = "coordinator-2 may take over (known by keys)"
        assert f"while it is away no new tasks are taken: {why}" in a2actl(fleet, "doctor").stdout
        fleet.kill("redis", restart=False)
        wait_until(lambda: store_of(fleet, "coordinator-1")["circuit"] != "closed", "the coordinator sees that")
        refused = a2actl(fleet, "--timeout", "10", "submit", "noop", "--wait")
        assert "BUSY: the task was refused until the caller's deadline passed: the store is not available" in (
            refused.stderr
        )
        assert f"nothing is taken into the spool: {why}" in refused.stderr
        assert f"no new tasks are taken while Redis is away: {why}" in a2actl(fleet, "status").stdout
        fleet.restart("redis")
        wait_until(lambda: closed(fleet), "Redis is back")
        a2actl(fleet, "keys", "revoke", "coordinator-2")
        wait_until(lambda: store_of(fleet, "coordinator-1")["spool"] == "on", "without a restart")
        fleet.kill("redis", restart=False)
        done = a2actl(fleet, "--timeout", "20", "submit", "noop", "--payload", '{"n": 1}', "--wait")
        assert done.returncode == 0, done.stderr
        fleet.restart("redis")


def test_a_spool_that_cannot_be_read_is_set_aside_and_said(no_orphans: Path, ledger: Path) -> None:
    with user_fleet(workers=1) as fleet, client_of(fleet) as client:
        fleet.kill("coordinator-1", restart=False)
        path = fleet.directory / "spool" / "coordinator-1.db"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no database at all, however long one reads" * 100)
        fleet.restart("coordinator-1")
        assert client.submit("counted", {"n": 1, "seconds": 0, "ledger": str(ledger)}).result(10) == 1
        (said,) = complaints(fleet)
        assert said["event"] == "spool_damaged"
        assert Path(said["set_aside"]).read_bytes().startswith(b"no database")
        with sqlite3.connect(path) as fresh:
            assert fresh.execute("SELECT COUNT(*) FROM writes").fetchone() == (0,)
