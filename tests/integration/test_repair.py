"""``a2actl doctor`` on a real fleet whose state somebody has damaged in Redis, and on one that is busy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from a2a_zmq import FleetClient, TaskHandle
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import PATIENCE_S, Load, a2actl, wait_until

SECTION = "tasks:{shared:distributor:distributor-1}"
INBOX = "tasks:{shared:coordinator}"
TASKS = 4


@pytest.fixture
def store(fleet: LocalFleet) -> Iterator[Any]:
    with redis.Redis(port=fleet.redis_port) as store:
        yield store


def doctor(fleet: LocalFleet, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and the check of the state."""
    done = a2actl(fleet, "doctor", "--json", *options)
    return done.returncode, {check["name"]: check for check in orjson.loads(done.stdout)["checks"]}["state"]


def kinds(check: dict[str, Any]) -> set[tuple[str, str]]:
    return {(row["kind"], row["task_id"]) for row in check["findings"]}


@pytest.fixture
def held(client: FleetClient, store: Any, tmp_path: Path) -> tuple[list[TaskHandle], Path]:
    """Tasks that run, and the file that lets them end. Their records say that they run, so nobody writes them again."""
    until = tmp_path / "go"
    handles = [client.submit("held", {"until": str(until)}) for _ in range(TASKS)]
    wait_until(lambda: all(handle.status() == "in_progress" for handle in handles), "all of them run")
    assert store.hlen(SECTION) == TASKS
    return handles, until


def test_damage_is_reported_repaired_and_gone(
    fleet: LocalFleet, client: FleetClient, store: Any, held: tuple[list[TaskHandle], Path]
) -> None:
    handles, until = held
    ended = client.submit("noop", {})
    ended.result(PATIENCE_S)
    first, copied, third = (handle.task_id for handle in handles[:3])
    record = store.hget(SECTION, copied)
    store.hdel(SECTION, first, third)
    store.hset(INBOX, copied, record)
    store.hset(SECTION, ended.task_id, orjson.dumps(orjson.loads(record) | {"task_id": ended.task_id}))
    store.hset(SECTION, "stranger", orjson.dumps(orjson.loads(record) | {"task_id": "stranger"}))
    wanted = {
        ("not_stored", first),
        ("not_stored", third),
        ("two_places", copied),
        ("ended_and_live", ended.task_id),
        ("unknown_task", "stranger"),
    }
    status, check = doctor(fleet)
    assert (status, kinds(check)) == (1, wanted)
    assert "--repair" in check["fix"]
    status, check = doctor(fleet, "--repair")
    assert (status, kinds(check)) == (0, wanted)
    assert all(row["repaired"] for row in check["findings"])
    status, check = doctor(fleet)
    assert (status, kinds(check)) == (0, set()), check
    until.touch()
    assert [handle.result(PATIENCE_S) for handle in handles] == [None] * len(handles)
    assert client.attach(ended.task_id).result(PATIENCE_S) == {}
    wait_until(lambda: store.hlen(SECTION) == 0, "the adopted task has ended too")
    assert store.hlen(INBOX) == 0


def test_what_has_no_one_answer_is_only_reported(fleet: LocalFleet, store: Any) -> None:
    store.hset(SECTION, "garbage", "{{{")
    store.set("shared:stray", "x")
    try:
        done = a2actl(fleet, "doctor", "--repair")
        assert done.returncode == 1
        assert "garbage in distributor-1: its live record cannot be read [only reported]" in done.stdout
        assert "shared:stray is no key of the shared state" in done.stdout
        assert store.hget(SECTION, "garbage") == b"{{{"
    finally:
        store.hdel(SECTION, "garbage")
        store.delete("shared:stray")
    assert doctor(fleet)[0] == 0


def test_a_record_that_cannot_be_read_ends_no_daemon(fleet: LocalFleet, client: FleetClient, store: Any) -> None:
    broken, good = client.submit("noop", {}), client.submit("noop", {})
    for handle in (broken, good):
        handle.result(PATIENCE_S)
    pids = {name: fleet.daemons[name].pid for name in ("coordinator-1", "distributor-1")}

    def bucket() -> Any:
        return next((key for key in store.scan_iter("results:*") if store.hexists(key, broken.task_id)), None)

    wait_until(bucket, "the result is stored")
    key = bucket()
    store.hset(key, broken.task_id, "{broken")
    try:
        # A coordinator remembers what ended lately: one that comes after it has only the store.
        fleet.kill("coordinator-1", restart=False)
        wait_until(lambda: not fleet.daemons["coordinator-1"].pid, "it is gone")
        fleet.restart("coordinator-1")
        pids["coordinator-1"] = fleet.daemons["coordinator-1"].pid
        explained = a2actl(fleet, "explain", broken.task_id)
        assert (explained.returncode, "UNREADABLE" in explained.stderr) == (1, True), explained
        assert f"task {broken.task_id} " in explained.stderr
        assert a2actl(fleet, "result", broken.task_id).returncode == 1
        assert a2actl(fleet, "history", broken.task_id).returncode == 0
        listed = a2actl(fleet, "tasks", "--status", "completed")
        assert (listed.returncode, good.task_id in listed.stdout) == (0, True), listed
        assert a2actl(fleet, "tasks", "--dead").returncode == 0
        assert {name: fleet.daemons[name].pid for name in pids} == pids
    finally:
        store.hdel(key, broken.task_id)


def test_a_repair_leaves_a_line_in_the_history(fleet: LocalFleet, operator: FleetClient, store: Any) -> None:
    store.hdel("distributors:{shared:coordinator}", "distributor-1")
    status, check = doctor(fleet, "--repair")
    assert (status, kinds(check)) == (0, {("unregistered", "")})
    assert store.hexists("distributors:{shared:coordinator}", "distributor-1")
    lines = [event.detail for event in operator.history(limit=20) if event.name == "state_repaired"]
    assert lines[0] == {"kind": "unregistered", "section": "distributor-1", "repair": "register"}


def test_a_busy_fleet_is_consistent(client: FleetClient, operator: FleetClient, tmp_path: Path) -> None:
    with Load(client, tmp_path / "ledger", seconds=0.01, pause_s=0.005) as load:
        wait_until(lambda: len(load.handles) > 100, "the load is under way")
        answers = [operator.audit() for _ in range(5)]
    assert [row for answer in answers for row in answer["findings"]] == []
    assert sum(answer["checked"] for answer in answers) > 0


def test_an_ordinary_client_is_told_that_the_state_is_for_operators(fleet: LocalFleet) -> None:
    done = a2actl(fleet, "doctor", "--json", "--client-id", "client")
    checks = {check["name"]: check for check in orjson.loads(done.stdout)["checks"]}
    assert done.returncode == 0, done.stdout
    assert "only operators" in checks["state"]["text"]
