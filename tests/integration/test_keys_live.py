"""Keys change while everything runs: revoked, rotated, added; nobody is restarted for it and no task is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient, FleetUnavailable, KeyRefused, TaskTimeout
from a2a_zmq.security.keyring import KeyDirectory
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    PATIENCE_S,
    Load,
    a2actl,
    check_recorded_once,
    client_of,
    log_events,
    one_line,
    scrape,
    total,
    user_fleet,
    wait_until,
)

# How long a revoked peer may still be heard.
REVOKED_WITHIN_S = 2.0


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    with user_fleet(workers=2) as fleet:
        yield fleet


def works(client: FleetClient) -> bool:
    try:
        return bool(client.submit("noop", {"x": 1}).result(1) == {"x": 1})
    except (FleetUnavailable, TaskTimeout):
        return False


def test_revoking_cuts_a_live_client_off(fleet: LocalFleet, client: FleetClient) -> None:
    assert a2actl(fleet, "keys", "add", "mallory", "client").returncode == 0
    wait_until(lambda: reloads(fleet, "coordinator-1") > 0, "the coordinator has read the new keys")
    with client_of(fleet, client_id="mallory", request_timeout_s=1.0) as mallory:
        assert works(mallory)
        assert a2actl(fleet, "keys", "revoke", "mallory").returncode == 0
        revoked = last_heard = time.monotonic()
        while works(mallory) and last_heard - revoked < PATIENCE_S:
            last_heard = time.monotonic()
        assert last_heard - revoked < REVOKED_WITHIN_S
        assert total(scrape(fleet, "coordinator-1"), "a2a_signature_failures_total", reason="revoked") > 0
        assert works(client), "others are not disturbed"
    again = a2actl(fleet, "status", "--client-id", "mallory", "--timeout", "2")
    assert again.returncode == 78
    assert "mallory" in one_line(again, "a2actl")


def reloads(fleet: LocalFleet, name: str) -> int:
    return [event["event"] for event in log_events(fleet, name)].count("keys_reloaded")


def test_sighup_reads_the_keys_at_once(no_orphans: Path) -> None:
    # Supervision would look by itself after a while: here only in a minute.
    with user_fleet(workers=1, env={"A2A_SUPERVISION_INTERVAL_MS": "60000"}) as slow:
        KeyDirectory(slow.key_dir).add("carol", "client")
        before = reloads(slow, "coordinator-1")
        slow.kill("coordinator-1", signal.SIGHUP)
        wait_until(lambda: reloads(slow, "coordinator-1") > before, "SIGHUP makes it read the keys", 2)
        with client_of(slow, client_id="carol") as carol:
            assert works(carol)


def test_rotated_keys_are_taken_up_without_losing_a_task(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    """Every agent's key is replaced under load, and replaced again; then each is restarted with its newest."""
    with Load(client, ledger) as load:
        for name in ("worker-1", "distributor-1", "coordinator-1", "client"):
            assert a2actl(fleet, "keys", "rotate", name).returncode == 0
        wait_until(lambda: reloads(fleet, "worker-2") > 0, "the rotated keys are read")
        before = load.done
        wait_until(lambda: load.done > before + 100, "work goes on with rotated keys")
        for name in ("worker-1", "distributor-1", "coordinator-1"):
            fleet.kill(name)
            fleet.restart(name)
            before = load.done
            wait_until(lambda before=before: load.done > before + 50, f"work goes on after the restart of {name}")
        load.finish()
    check_recorded_once(fleet, load.handles)


def test_a_revoked_worker_is_out_and_its_tasks_run_elsewhere(
    fleet: LocalFleet, client: FleetClient, ledger: Path
) -> None:
    with Load(client, ledger, seconds=0.05) as load:
        wait_until(lambda: load.done > 100, "the load runs")
        assert a2actl(fleet, "keys", "revoke", "worker-2").returncode == 0
        wait_until(
            lambda: (
                [worker["id"] for worker in client.status()["distributors"][0]["workers"] if worker["up"]]
                == ["worker-1"]
            ),
            "worker-2 is out",
        )
        load.finish()
    check_recorded_once(fleet, load.handles)
    wait_until(lambda: not fleet.ready("worker-2"), "worker-2 is not ready")
    assert a2actl(fleet, "keys", "add", "worker-2").returncode == 0
    wait_until(lambda: fleet.ready("worker-2"), "worker-2 is back")
    assert client.submit("noop", {}).result(PATIENCE_S) == {}


@pytest.mark.parametrize("name", ["worker-1", "distributor-1", "coordinator-1"])
def test_who_is_revoked_and_added_again_comes_back_by_itself(fleet: LocalFleet, client: FleetClient, name: str) -> None:
    fleet.wait_ready()
    pid, before = fleet.pids[name], len(log_events(fleet, name))
    assert a2actl(fleet, "keys", "revoke", name, "--force").returncode == 0
    wait_until(lambda: f"a2actl keys add {name}" in fleet.get(name, "/readyz")[1], "it says what keeps it out")
    assert a2actl(fleet, "keys", "add", name).returncode == 0
    wait_until(lambda: all(fleet.ready(one) for one in fleet.daemons), "all are ready again")
    assert client.submit("noop", {"x": 1}).result(PATIENCE_S) == {"x": 1}
    if name == "worker-1":
        assert fleet.pids[name] == pid, "it greeted anew"
    else:
        left = [event for event in log_events(fleet, name)[before:] if event["event"] == "leaving"]
        assert [event["status"] for event in left] == [75], "what listens was started again with its new keys"
        assert "key pair was replaced" in left[0]["reason"]


def test_a_client_whose_key_is_refused_hears_so_soon(fleet: LocalFleet, client: FleetClient, tmp_path: Path) -> None:
    """Its host has not heard of the revocation, so only the coordinator can tell it."""
    keys = KeyDirectory(fleet.key_dir)

    def heard(change: Callable[[], object]) -> None:
        before = reloads(fleet, "coordinator-1")
        change()
        wait_until(lambda: reloads(fleet, "coordinator-1") > before, "the coordinator has heard of it")

    heard(lambda: keys.add("zoe", "client"))
    keys.export("zoe", tmp_path / "zoe")
    heard(lambda: keys.revoke("zoe"))
    began = time.monotonic()
    with (
        client_of(fleet, client_id="zoe", key_dir=tmp_path / "zoe", request_timeout_s=60) as zoe,
        pytest.raises(KeyRefused, match="refuses our key"),
    ):
        zoe.status()
    assert time.monotonic() - began < PATIENCE_S, "not a bare timeout"
    assert works(client)


def test_a_lost_key_file_of_a_running_daemon_does_not_keep_revocations_from_it(
    fleet: LocalFleet, client: FleetClient
) -> None:
    keys = KeyDirectory(fleet.key_dir)
    path = keys.key_file("coordinator-1")
    content = path.read_bytes()
    path.unlink()
    try:
        keys.add("mike", "client")
        with client_of(fleet, client_id="mike", request_timeout_s=1.0) as mike:
            assert works(mike), "new keys are known"
            keys.revoke("mike")
            wait_until(lambda: not works(mike), "revoked ones are refused")
        assert works(client)
        lines = [e["why"] for e in log_events(fleet, "coordinator-1") if e["event"] == "keys_not_reloaded"]
        assert str(path) in lines[-1]
    finally:
        path.write_bytes(content)
        path.chmod(0o600)
