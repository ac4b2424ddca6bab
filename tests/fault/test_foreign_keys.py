"""Somebody else writes over one of the fleet's keys in Redis; it goes on as soon as that is mended, without help."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from a2a_zmq import FleetClient
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import Load, check_recorded_once, complaints, log_events, user_fleet, wait_until

SECTION = "{shared:distributor:distributor-1}"


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    with user_fleet(workers=2) as fleet:
        yield fleet
        assert complaints(fleet, "write_refused") == []


@pytest.mark.parametrize(
    "key",
    [f"history:{SECTION}", f"tasks:{SECTION}", f"coordinator:{SECTION}", "shared:distributor:distributor-1"],
    ids=["history", "live tasks", "assignments", "header"],
)
def test_a_foreign_type_in_a_key_that_is_in_use_ends_nobody(
    fleet: LocalFleet, client: FleetClient, ledger: Path, key: str
) -> None:
    """Symptom: whoever wrote there ended with status 70, and again and again, until its supervisor gave up."""
    pids = fleet.pids
    with Load(client, ledger) as load, redis.Redis(port=fleet.redis_port) as connection:
        wait_until(lambda: load.done > 100, "the load runs")
        with connection.pipeline(transaction=True) as swap:
            swap.rename(key, "kept").set(key, "foreign").execute()
        wait_until(lambda: refused(fleet, key), "a write is refused, and the key named")
        time.sleep(1.5)
        with connection.pipeline(transaction=True) as swap:
            swap.delete(key).rename("kept", key).execute()
        done = load.done
        wait_until(lambda: load.done > done + 100, "the load runs again")
        load.finish()
    assert fleet.pids == pids
    check_recorded_once(fleet, load.handles)


def refused(fleet: LocalFleet, key: str) -> set[str]:
    """Who has said that a write was refused, or its section cannot be read, because of this key."""
    told = ("write_refused", "section_unreadable")
    return {
        name
        for name in ("coordinator-1", "distributor-1")
        for event in log_events(fleet, name)
        if event["event"] in told and key in event["why"]
    }
