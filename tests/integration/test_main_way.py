"""The main way through a fleet of real daemons: what a user submits, gets, asks and cancels."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq import FleetClient, RequestRefused, TaskCancelled, TaskFailed, TaskTimeout
from a2a_zmq.security.keyring import KeyDirectory
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import PATIENCE_S, client_of, complaints, runs, user_fleet, wait_until

Payload = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def nothing_goes_wrong(fleet: LocalFleet) -> Iterator[None]:
    """No daemon has anything to log as an error in this module."""
    yield
    assert complaints(fleet) == []


@pytest.mark.parametrize(
    ("task_type", "payload", "value"),
    [
        ("noop", {"a": [1, None, "ü", {"deep": 2.5}]}, {"a": [1, None, "ü", {"deep": 2.5}]}),
        ("noop", {}, {}),
        ("sleep", {"seconds": 0.01}, {"slept_s": 0.01}),
        ("compute", {"operation": "sum", "numbers": [1, 2, 3]}, {"operation": "sum", "count": 3, "result": 6}),
        ("compute", {"operation": "sort", "numbers": [3, 1]}, {"operation": "sort", "count": 2, "result": [1, 3]}),
        ("typed", {"name": "bolts", "count": 3}, {"bolts": 3}),
    ],
)
def test_a_task_gives_its_value(client: FleetClient, task_type: str, payload: Payload, value: Any) -> None:
    assert client.submit(task_type, payload).result(PATIENCE_S) == value


def test_data_processing_and_source_stats_read_files_of_the_host(client: FleetClient, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("name,count\nbolt,3\nnut,4\n")
    source = tmp_path / "source.py"
    source.write_text("def f(x):\n    return 1 if x else 2\n")
    summary = client.submit("data_processing", {"operation": "csv_summary", "path": str(table)})
    words = client.submit("data_processing", {"operation": "word_count", "text": "one two two"})
    stats = client.submit("python_source_stats", {"path": str(source)})
    found = summary.result(PATIENCE_S)
    assert (found["rows"], [column["name"] for column in found["columns"]]) == (2, ["name", "count"])
    assert words.result(PATIENCE_S)["words"] == 3
    assert (stats.result(PATIENCE_S)["functions"], stats.result()["max_complexity"]) == (1, 2)


def test_map_keeps_the_order_and_uses_every_worker(client: FleetClient) -> None:
    records = list(client.map("noop", ({"n": n} for n in range(500)), records=True))
    assert [record["result"]["n"] for record in records] == list(range(500))
    assert {record["metadata"]["worker"] for record in records} == {"worker-1", "worker-2"}


def test_as_completed_gives_what_is_ready_first(client: FleetClient) -> None:
    payloads: list[Payload] = [{"n": 0, "seconds": 0.8}, *({"n": n} for n in range(1, 20))]
    values = list(client.map("counted", payloads, as_completed=True))
    assert sorted(values) == list(range(20))
    assert values[-1] == 0


def test_map_raises_or_gives_errors_in_place(client: FleetClient) -> None:
    payloads: list[Payload] = [{"name": "a", "count": 1}, {"name": "b"}, {"name": "c", "count": 3}]
    first, second, third = client.map("typed", payloads, return_exceptions=True)
    assert (first, third) == ({"a": 1}, {"c": 3})
    assert isinstance(second, TaskFailed)
    assert second.kind == "invalid_input"
    with pytest.raises(TaskFailed, match="count"):
        list(client.map("typed", payloads))


def test_submit_many_and_mixed_tasks(client: FleetClient) -> None:
    many = client.submit_many("noop", ({"n": n} for n in range(1500)))
    mixed = client.submit_tasks(
        [
            {"task_type": "compute", "payload": {"operation": "max", "numbers": [1, 5]}, "priority": 3},
            {"task_type": "noop", "payload": {"x": 1}},
        ]
    )
    assert [handle.result(PATIENCE_S)["n"] for handle in many] == list(range(1500))
    assert len({handle.task_id for handle in many}) == 1500
    assert [handle.result(PATIENCE_S) for handle in mixed] == [{"operation": "max", "count": 2, "result": 5}, {"x": 1}]


def test_another_client_attaches_to_a_task_before_and_after_its_end(
    fleet: LocalFleet, client: FleetClient, tmp_path: Path
) -> None:
    until = tmp_path / "go"
    handle = client.submit("held", {"until": str(until), "n": 41})
    with client_of(fleet) as other:
        waiting = other.attach(handle.task_id)
        assert not waiting.done()
        until.touch()
        assert waiting.result(PATIENCE_S) == 41
        assert handle.result(PATIENCE_S) == 41
        assert other.attach(handle.task_id).result(PATIENCE_S) == 41
        with pytest.raises(RequestRefused) as refused:
            other.attach("never-heard-of")
    assert refused.value.code == "UNKNOWN_TASK"


def test_get_and_history_tell_a_tasks_whole_story(client: FleetClient, tmp_path: Path) -> None:
    until = tmp_path / "go"
    payload = {"until": str(until), "n": 1}
    handle = client.submit("held", payload, priority=7, timeout_s=30, max_attempts=2)
    wait_until(lambda: handle.status() == "in_progress", "the task is shown as running")
    running = client.get(handle.task_id)
    assert running is not None
    assert (running["task_type"], running["payload"]) == ("held", payload)
    assert {name: running["metadata"][name] for name in ("priority", "timeout_s", "max_attempts")} == {
        "priority": 7,
        "timeout_s": 30,
        "max_attempts": 2,
    }
    until.touch()
    assert handle.result(PATIENCE_S) == 1
    ended = client.get(handle.task_id)
    assert ended is not None
    assert handle.record is not None
    for record in (ended, handle.record):
        assert (record["status"], record["result"], record["error"], record["retry_count"]) == ("completed", 1, None, 0)
        assert record["metadata"]["worker"] in ("worker-1", "worker-2")
        assert record["metadata"]["distributor"] == "distributor-1"
        assert record["metadata"]["client"] == "client"
        assert record["metadata"]["attempt"] == 1
        times = [datetime.fromisoformat(record[name]) for name in ("created_at", "started_at", "completed_at")]
        assert times == sorted(times)
    assert client.get("never-heard-of") is None
    events = client.history(handle.task_id)
    assert events, "the history knows the task"
    assert {event.task_id for event in events} == {handle.task_id}


def test_status_shows_the_fleet(client: FleetClient) -> None:
    assert client.submit("noop", {}).result(PATIENCE_S) == {}
    found = client.status()
    assert found["coordinator"]["id"] == "coordinator-1"
    assert found["coordinator"]["leading"] is True
    assert found["store"]["available"] is True
    (distributor,) = found["distributors"]
    assert (distributor["id"], distributor["up"]) == ("distributor-1", True)
    assert {worker["id"]: worker["labels"] for worker in distributor["workers"]} == {
        "worker-1": {},
        "worker-2": {"gpu": "yes"},
    }
    assert {"noop", "sleep", "compute", "data_processing", "python_source_stats", "counted"} <= set(
        distributor["task_types"]
    )
    assert found["tasks"]["completed"] >= 1


def test_tasks_lists_by_status_and_type(client: FleetClient, tmp_path: Path) -> None:
    until = tmp_path / "go"
    handles = client.submit_many("held", [{"until": str(until)}] * 3)
    wait_until(lambda: client.tasks(status="in_progress", task_type="held").total == 3, "three tasks are running")
    page = client.tasks(task_type="held", limit=2)
    assert (len(page.tasks), page.total) == (2, 3)
    assert all("payload" not in record and "result" not in record for record in page.tasks)
    until.touch()
    for handle in handles:
        handle.result(PATIENCE_S)
    assert client.tasks(task_type="held").total == 0


def test_the_same_idempotency_key_is_the_same_task(fleet: LocalFleet, client: FleetClient, ledger: Path) -> None:
    payload = {"ledger": str(ledger), "n": 5, "seconds": 0.1}
    first = client.submit("counted", payload, idempotency_key="order-17")
    again = client.submit("counted", payload, idempotency_key="order-17")
    assert first.task_id == again.task_id
    assert first.result(PATIENCE_S) == again.result(PATIENCE_S) == 5
    with client_of(fleet) as other:
        assert other.submit("counted", payload, idempotency_key="order-17").result(PATIENCE_S) == 5
        assert other.submit("counted", {**payload, "n": 6}, idempotency_key="order-18").result(PATIENCE_S) == 6
    assert len(runs(ledger)) == 2


def test_the_same_task_id_is_the_same_task(client: FleetClient, ledger: Path) -> None:
    payload = {"ledger": str(ledger), "n": 1}
    assert client.submit("counted", payload, task_id="mine:1").result(PATIENCE_S) == 1
    assert client.submit("counted", {**payload, "n": 2}, task_id="mine:1").result(PATIENCE_S) == 1
    assert [run.task_id for run in runs(ledger)] == ["mine:1"]


def test_higher_priorities_go_first(no_orphans: Path, ledger: Path, tmp_path: Path) -> None:
    with user_fleet(workers=1, env={"A2A_WORKER_SLOTS": "1"}) as narrow, client_of(narrow) as client:
        until = tmp_path / "go"
        gate = client.submit("in-process", {"ledger": str(ledger), "seconds": 0.6})
        wait_until(lambda: runs(ledger), "the only slot is taken")
        low = client.submit_many("in-process", [{"ledger": str(ledger)}] * 40, priority=0)
        high = client.submit_many("in-process", [{"ledger": str(ledger)}] * 3, priority=9)
        until.touch()
        for handle in (gate, *low, *high):
            handle.result(PATIENCE_S)
        order = [run.task_id for run in runs(ledger)]
    last_high = max(order.index(handle.task_id) for handle in high)
    # What the worker had been given before is not called back; that is its credit, a handful.
    assert last_high < 15, f"the last of the urgent tasks ran as number {last_high} of {len(order)}"


def test_a_task_that_takes_too_long_is_stopped(client: FleetClient, ledger: Path) -> None:
    handles = [
        client.submit("hangs", {"ledger": str(ledger)}, timeout_s=0.3, max_attempts=1),
        client.submit("deaf", {"ledger": str(ledger)}, timeout_s=0.3, max_attempts=1),
        client.submit("sleep", {"seconds": 60}, timeout_s=0.3, max_attempts=1),
    ]
    for handle in handles:
        with pytest.raises(TaskFailed) as failed:
            handle.result(PATIENCE_S)
        assert failed.value.kind == "timeout"
    # The slots are free again.
    assert client.submit("in-process", {}).result(PATIENCE_S) > 0


def test_attempts_are_repeated_until_one_succeeds(client: FleetClient, ledger: Path) -> None:
    handle = client.submit("flaky", {"ledger": str(ledger), "failures": 2}, max_attempts=3)
    assert handle.result(PATIENCE_S) == 3
    assert handle.record is not None
    assert handle.record["retry_count"] == 2
    assert [run.attempt for run in runs(ledger)] == [1, 2, 3]
    assert [event.name for event in client.history(handle.task_id)].count("retry") == 2


def test_a_task_that_fails_in_every_attempt_fails_with_its_last_error(client: FleetClient, ledger: Path) -> None:
    handle = client.submit("raises", {"ledger": str(ledger), "text": "no paper"}, max_attempts=2)
    with pytest.raises(TaskFailed, match="no paper") as failed:
        handle.result(PATIENCE_S)
    assert failed.value.kind == "raised"
    assert [run.attempt for run in runs(ledger)] == [1, 2]
    assert handle.record is not None
    assert (handle.record["status"], handle.record["retry_count"]) == ("failed", 2)
    assert handle.task_id in [record["task_id"] for record in client.tasks(dead=True, limit=1000).tasks]


def test_an_operator_retries_a_failed_task(client: FleetClient, operator: FleetClient, ledger: Path) -> None:
    handle = client.submit("flaky", {"ledger": str(ledger), "failures": 1}, max_attempts=1)
    with pytest.raises(TaskFailed):
        handle.result(PATIENCE_S)
    with pytest.raises(RequestRefused) as refused:
        client.retry(handle.task_id)
    assert refused.value.code == "FORBIDDEN"
    assert operator.retry(handle.task_id)["retried"] == [handle.task_id]
    assert client.attach(handle.task_id).result(PATIENCE_S) == 2
    assert [run.attempt for run in runs(ledger)] == [1, 2]
    refusals = operator.retry(handle.task_id, "never-heard-of")["refused"]
    assert sorted(task_id for task_id, _ in refusals) == sorted([handle.task_id, "never-heard-of"])


def test_labels_choose_workers(client: FleetClient) -> None:
    records = list(client.map("noop", [{}] * 40, labels={"gpu": "yes"}, records=True))
    assert {record["metadata"]["worker"] for record in records} == {"worker-2"}


def test_a_task_for_labels_that_no_worker_has_waits_and_can_be_cancelled(client: FleetClient) -> None:
    handle = client.submit("noop", {}, labels={"gpu": "huge"})
    with pytest.raises(TaskTimeout):
        handle.result(0.3)
    assert handle.status() == "pending"
    assert client.cancel(handle.task_id)["cancelled"] + client.cancel(handle.task_id)["terminal"]
    with pytest.raises(TaskCancelled):
        handle.result(PATIENCE_S)


def test_a_running_task_is_cancelled(client: FleetClient, ledger: Path) -> None:
    handles = [client.submit(kind, {"ledger": str(ledger), "seconds": 60}) for kind in ("counted", "in-process")]
    wait_until(lambda: len(runs(ledger)) == 2, "both are running")
    outcome = client.cancel(*(handle.task_id for handle in handles), "never-heard-of")
    assert sorted(outcome["requested"]) == sorted(handle.task_id for handle in handles)
    assert outcome["unknown"] == ["never-heard-of"]
    for handle in handles:
        with pytest.raises(TaskCancelled):
            handle.result(PATIENCE_S)
        assert handle.status() == "abandoned"
    assert client.cancel(handles[0].task_id)["terminal"] == [handles[0].task_id]
    assert runs(ledger, "end") == []


def test_a_distributor_can_be_named(client: FleetClient) -> None:
    handle = client.submit("noop", {"n": 1}, distributor="distributor-1")
    elsewhere = client.submit("noop", {"n": 2}, distributor="distributor-9")
    assert handle.result(PATIENCE_S) == {"n": 1}
    with pytest.raises(TaskTimeout):
        elsewhere.result(0.2)
    client.cancel(elsewhere.task_id)
    with pytest.raises(TaskCancelled):
        elsewhere.result(PATIENCE_S)


def test_clients_see_their_own_tasks_only(fleet: LocalFleet, client: FleetClient, operator: FleetClient) -> None:
    KeyDirectory(fleet.key_dir).add("bob", "client")
    handle = client.submit("noop", {"secret": 1})
    assert handle.result(PATIENCE_S) == {"secret": 1}
    with client_of(fleet, client_id="bob") as bob:
        wait_until(bob.status, "the coordinator has learnt of bob")
        assert bob.get(handle.task_id) is None
        with pytest.raises(RequestRefused):
            bob.attach(handle.task_id)
        assert bob.cancel(handle.task_id)["unknown"] == [handle.task_id]
        with pytest.raises(RequestRefused, match="FORBIDDEN"):
            bob.submit("noop", {}, task_id=handle.task_id)
        assert bob.submit("noop", {"mine": 1}).result(PATIENCE_S) == {"mine": 1}
    seen = operator.get(handle.task_id)
    assert seen is not None
    assert seen["result"] == {"secret": 1}


def test_a_result_that_is_not_there_in_time_is_no_failure(client: FleetClient, tmp_path: Path) -> None:
    until = tmp_path / "go"
    handle = client.submit("held", {"until": str(until), "n": 3})
    with pytest.raises(TaskTimeout):
        handle.result(0.1)
    until.touch()
    assert handle.result(PATIENCE_S) == 3
