"""Authentic clients that ask for nonsense: each request is answered with a reason, and the fleet is unharmed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from a2a_zmq import FleetClient, RequestRefused
from a2a_zmq.client.requests import Ask
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import PATIENCE_S, client_of, complaints, scrape, total, wait_until

VALID = {"task_id": "t-1", "task_type": "noop", "payload": {}}


@pytest.fixture(scope="module")
def impatient(fleet: LocalFleet) -> Iterator[FleetClient]:
    """No answer counts as a failure soon."""
    with client_of(fleet, request_timeout_s=5.0) as client:
        yield client


@pytest.fixture(autouse=True)
def the_fleet_is_unharmed(fleet: LocalFleet, client: FleetClient) -> Iterator[None]:
    before = fleet.pids
    yield
    assert client.submit("noop", {"x": 1}).result(PATIENCE_S) == {"x": 1}
    assert fleet.pids == before
    assert complaints(fleet) == []


def ask(client: FleetClient, action: str, payload: dict[str, Any]) -> dict[str, Any]:
    """A request as only a program of one's own would send it."""
    return client._ask(Ask(action, {"action": action, **payload}))


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("submit_tasks", {}),
        ("submit_tasks", {"tasks": None}),
        ("submit_tasks", {"tasks": "noop"}),
        ("submit_tasks", {"tasks": {"a": 1}}),
        ("submit_tasks", {"tasks": [VALID] * 5000}),
        ("watch_tasks", {}),
        ("watch_tasks", {"task_ids": "all"}),
        ("watch_tasks", {"task_ids": [1, 2]}),
        ("watch_tasks", {"task_ids": ["x"] * 9000}),
        ("get_task", {}),
        ("get_task", {"task_id": 7}),
        ("get_task", {"task_id": ["a"]}),
        ("cancel_tasks", {"task_ids": {"a": 1}}),
        ("cancel_tasks", {"task_ids": [None]}),
        ("history", {"task_id": 7}),
        ("history", {"task_id": {"$gt": ""}}),
        ("retry_tasks", {"task_ids": ["a"]}),
        ("drain_agent", {"agent_id": "worker-1"}),
        ("drain_agent", {}),
        ("launch_missiles", {}),
        ("", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:40],
)
def test_a_request_of_the_wrong_form_is_refused(impatient: FleetClient, action: str, payload: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as refused:
        ask(impatient, action, payload)
    assert refused.value.code in ("INVALID_TASK", "PAYLOAD_TOO_LARGE", "FORBIDDEN", "UNKNOWN_ACTION", "UNKNOWN_TASK")
    assert refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    "task",
    [
        None,
        7,
        "noop",
        [],
        {},
        {"task_id": "t"},
        {**VALID, "task_id": 7},
        {**VALID, "task_id": ""},
        {**VALID, "task_id": "a b"},
        {**VALID, "task_id": "x" * 500},
        {**VALID, "task_type": None},
        {**VALID, "task_type": ["noop"]},
        {**VALID, "task_type": ""},
        {**VALID, "task_type": "never-heard-of"},
        {**VALID, "payload": [1]},
        {**VALID, "payload": "text"},
        {**VALID, "metadata": 7},
        {**VALID, "metadata": {"priority": "high"}},
        {**VALID, "metadata": {"priority": 1.5}},
        {**VALID, "metadata": {"priority": True}},
        {**VALID, "metadata": {"priority": 2**63}},
        {**VALID, "metadata": {"timeout_s": "soon"}},
        {**VALID, "metadata": {"timeout_s": -1}},
        {**VALID, "metadata": {"timeout_s": True}},
        {**VALID, "metadata": {"max_attempts": 0}},
        {**VALID, "metadata": {"max_attempts": "many"}},
        {**VALID, "metadata": {"distributor": 7}},
        {**VALID, "metadata": {"labels": "gpu"}},
        {**VALID, "metadata": {"labels": {"gpu": 1}}},
        {**VALID, "metadata": {"labels": {"gpu": None}}},
    ],
    ids=lambda value: repr(value)[-60:],
)
def test_a_task_of_the_wrong_form_is_rejected_and_its_neighbour_taken(impatient: FleetClient, task: Any) -> None:
    answer = ask(impatient, "submit_tasks", {"tasks": [task, {**VALID, "task_id": "neighbour"}], "check": True})
    (rejected,) = answer["rejected"]
    assert rejected["code"] in ("INVALID_TASK", "UNKNOWN_TASK_TYPE")
    assert rejected["message"]
    assert answer["accepted"] + len(answer["duplicates"]) == 1
    assert impatient.attach("neighbour").result(PATIENCE_S) == {}


@pytest.mark.parametrize(
    "smuggled",
    [
        {"status": "completed", "result": 42},
        {"retry_count": 99, "error": "x"},
        {"metadata": {"attempt": 7, "worker": "worker-9", "client": "operator", "worker_deaths": 5, "forgiven": 100}},
        {"created_at": "long ago", "started_at": 7},
        {"unknown": {"member": 1}},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_members_that_are_the_fleets_own_cannot_be_set(impatient: FleetClient, smuggled: dict[str, Any]) -> None:
    """Either the task is rejected, or they are left out: it runs as any other, for the client that sent it."""
    task_id = f"smuggled-{abs(hash(repr(smuggled)))}"
    answer = ask(impatient, "submit_tasks", {"tasks": [{**VALID, "task_id": task_id, **smuggled}], "check": True})
    if answer["rejected"]:
        assert answer["rejected"][0]["code"] == "INVALID_TASK"
        return
    assert impatient.attach(task_id).result(PATIENCE_S) == {}
    record = impatient.get(task_id)
    assert record is not None
    assert (record["status"], record["result"], record["error"], record["retry_count"]) == ("completed", {}, None, 0)
    assert record["metadata"]["client"] == "client"
    assert record["metadata"]["attempt"] == 1
    assert record["metadata"]["worker"] in ("worker-1", "worker-2")
    assert not {"worker_deaths", "forgiven"} & set(record["metadata"])


def test_no_payload_is_an_empty_one(impatient: FleetClient) -> None:
    tasks = [{"task_id": "without", "task_type": "noop"}, {"task_id": "null", "task_type": "noop", "payload": None}]
    ask(impatient, "submit_tasks", {"tasks": tasks, "check": True})
    assert [impatient.attach(task_id).result(PATIENCE_S) for task_id in ("without", "null")] == [{}, {}]


@pytest.mark.parametrize("limit", [0, -1, True, None, "all", 1.5, 10**12])
def test_odd_limits_are_bounded(impatient: FleetClient, limit: Any) -> None:
    assert "tasks" in ask(impatient, "list_tasks", {"limit": limit})
    assert "tasks" in ask(impatient, "list_tasks", {"limit": limit, "status": {"x": 1}, "task_type": [1], "dead": "no"})


def test_what_a_client_may_not_do_is_counted(fleet: LocalFleet, impatient: FleetClient) -> None:
    def forbidden() -> float:
        return total(scrape(fleet, "coordinator-1"), "a2a_routing_errors_total", reason="forbidden")

    before = forbidden()
    for action in ("assign_tasks", "task_results", "workers_changed", "resync"):
        with pytest.raises(RequestRefused) as refused:
            ask(impatient, action, {"tasks": [], "results": [], "fence": 99})
        assert refused.value.code in ("FORBIDDEN", "UNKNOWN_ACTION")
    wait_until(lambda: forbidden() >= before + 4, "the refusals are counted")
