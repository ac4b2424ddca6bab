"""Taking tasks in: what is accepted is durable, what is not is explained, what is known is not run twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import Received
from daemons.coordinator.desk import MAX_KNOWN_TYPES
from daemons.runtime.contract import StoreChanged
from tests.unit.coordinator.fakes import COORDINATOR, task
from tests.unit.coordinator.harness import World


def test_accepted_tasks_are_durable_before_anybody_is_told(fleet: World) -> None:
    fleet.batches_held = True
    request = fleet.say(
        "alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1"), task("t2")], "check": False}
    )
    assert fleet.answer_to("alice~1", request) is None
    assert fleet.assigned("d1") == []
    fleet.release_batches()
    answer = fleet.answer_to("alice~1", request)
    assert answer is not None
    assert answer.payload == {"action": "submit_tasks", "accepted": 2, "duplicates": [], "rejected": []}
    assert fleet.assigned("d1") == ["t1", "t2"]
    assert fleet.store.live["d1"]["t1"]["metadata"]["client"] == "alice"


def test_assignments_carry_the_record_as_it_is_stored_and_the_fence(fleet: World) -> None:
    fleet.submit("alice~1", "t1", payload={"n": 7}, priority=3, timeout_s=2.5, max_attempts=2, note="mine")
    message = fleet.peers["d1"].told[-1]
    assert message.payload["fence"] == fleet.store.fence
    assert message.payload["tasks"] == [fleet.store.live["d1"]["t1"]]
    record = message.payload["tasks"][0]
    assert record["payload"] == {"n": 7}
    assert record["metadata"] == {
        "client": "alice",
        "priority": 3,
        "timeout_s": 2.5,
        "max_attempts": 2,
        "note": "mine",
    }


@pytest.mark.parametrize("name", ["attempt", "graph", "decided", "retried"])
def test_a_submission_cannot_set_what_the_fleet_notes_of_a_task(fleet: World, name: str) -> None:
    metadata: Any = {name: {"until": 9e9}}
    fleet.submit("alice~1", "t1", **metadata)
    assert name not in fleet.store.live["d1"]["t1"]["metadata"]


def test_a_result_reaches_its_submitter_once(fleet: World) -> None:
    fleet.client("bob~1")
    fleet.submit("alice~1", "t1", payload={"n": 1})
    fleet.finish("d1", "t1")
    assert fleet.got("alice~1")["t1"]["result"] == {"n": 1}
    assert fleet.got("bob~1") == {}


def test_many_results_of_one_wake_up_come_in_one_message(fleet: World) -> None:
    ids = [f"t{n}" for n in range(300)]
    fleet.submit("alice~1", *ids)
    fleet.finish("d1", *ids)
    messages = [told for told in fleet.peers["alice~1"].told if told.action == "task_results"]
    assert len(messages) == 1
    assert set(fleet.got("alice~1")) == set(ids)


def test_large_results_are_split_over_messages(make_world: Callable[..., World]) -> None:
    world = make_world(message_bytes=4_000)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    ids = [f"t{n}" for n in range(20)]
    world.submit("alice~1", *ids, payload={"text": "x" * 500})
    world.finish("d1", *ids)
    assert set(world.got("alice~1")) == set(ids)
    assert len([told for told in world.peers["alice~1"].told if told.action == "task_results"]) >= 4
    assert len([told for told in world.peers["d1"].told if told.action == "assign_tasks"]) >= 4


BAD_TASKS: list[tuple[Any, str, str]] = [
    ("no object", "INVALID_TASK", "a task must be a JSON object"),
    ({"task_type": "noop"}, "INVALID_TASK", "task_id must be"),
    ({"task_id": "has space", "task_type": "noop"}, "INVALID_TASK", "task_id must be"),
    ({"task_id": "t", "task_type": ""}, "INVALID_TASK", "task_type must be"),
    ({"task_id": "t", "task_type": 5}, "INVALID_TASK", "task_type must be"),
    ({"task_id": "t", "payload": {}, "metadata": {}, "x": 1}, "INVALID_TASK", "task_type must be"),
    ({"task_id": "t", "task_type": "noop", "payload": [1]}, "INVALID_TASK", "payload must be a JSON object, not list"),
    ({"task_id": "t", "task_type": "noop", "payloads": {}}, "INVALID_TASK", "unknown member 'payloads'"),
    ({"task_id": "t", "task_type": "noop", "metadata": []}, "INVALID_TASK", "metadata must be a JSON object"),
    (task("t", priority=True), "INVALID_TASK", "metadata.priority must be"),
    (task("t", priority=1_001), "INVALID_TASK", "metadata.priority must be"),
    (task("t", timeout_s=0), "INVALID_TASK", "metadata.timeout_s must be"),
    (task("t", timeout_s="1"), "INVALID_TASK", "metadata.timeout_s must be"),
    (task("t", max_attempts=0), "INVALID_TASK", "metadata.max_attempts must be"),
    (task("t", distributor="no/such"), "INVALID_TASK", "metadata.distributor must be"),
    (task("t", labels={"gpu": 1}), "INVALID_TASK", "metadata.labels must be"),
    (task("t", note="x" * 9_000), "INVALID_TASK", "the limit is 8192"),
    (task("t", payload={"x": "y" * 300_000}), "PAYLOAD_TOO_LARGE", "the limit is 262144"),
]


@pytest.mark.parametrize(("bad", "code", "text"), BAD_TASKS)
def test_a_bad_task_is_rejected_by_itself(fleet: World, bad: Any, code: str, text: str) -> None:
    answer = fleet.ask("alice~1", "submit_tasks", tasks=[task("good"), bad, task("fine")], check=False)
    assert answer["accepted"] == 2
    (rejected,) = answer["rejected"]
    assert rejected["code"] == code
    assert text in rejected["message"]
    assert fleet.assigned("d1") == ["good", "fine"]


def test_what_the_fleet_sets_itself_is_not_taken_from_a_submission(fleet: World) -> None:
    fleet.submit("alice~1", "t1", client="bob", attempt=9, worker="w", priority=1)
    assert fleet.store.live["d1"]["t1"]["metadata"] == {"client": "alice", "priority": 1}


@pytest.mark.parametrize(("trace", "kept"), [("00-" + "a" * 61, True), ("00-" + "a" * 62, False)])
def test_the_trace_of_a_message_goes_to_its_tasks_if_they_could_name_it_themselves(
    fleet: World, trace: str, kept: bool
) -> None:
    payload = {"action": "submit_tasks", "tasks": [task("t1"), task("t2")]}
    message = Message(MessageType.REQUEST, "alice~1", COORDINATOR, payload, Metadata("alice~1", traceparent=trace))
    fleet.event(Received("alice~1", Role.CLIENT, message))
    assert fleet.assigned("d1") == ["t1", "t2"], "what is wrong with it is no fault of the tasks"
    for record in fleet.store.live["d1"].values():
        assert record["metadata"].get("traceparent") == (trace if kept else None)


def test_an_unknown_type_is_rejected_naming_the_known_ones(fleet: World) -> None:
    answer = fleet.submit("alice~1", "t1", task_type="nope")
    assert answer["rejected"] == [
        {
            "task_id": "t1",
            "code": "UNKNOWN_TASK_TYPE",
            "message": "no worker of this fleet handles 'nope'; workers have now: noop",
        }
    ]
    assert "t1" not in fleet.core.desk.ledger.live


def test_a_type_is_held_while_no_worker_ever_offered_any(world: World) -> None:
    world.client("alice~1")
    assert world.submit("alice~1", "t1", task_type="whatever")["accepted"] == 1
    assert world.store.where("t1") == ["inbox"]


def test_a_known_type_whose_workers_are_away_is_held_also_after_a_restart(make_world: Callable[..., World]) -> None:
    first = make_world()
    first.own()
    first.distributor("d1", "noop compute")
    second = make_world(first.store)
    second.own()
    second.client("alice~1")
    assert second.submit("alice~1", "t1", task_type="compute")["accepted"] == 1
    [refused] = second.submit("alice~1", "t2", task_type="nope")["rejected"]
    assert refused["code"] == "UNKNOWN_TASK_TYPE"
    assert refused["message"].endswith("workers have now: nothing; without a worker now: compute, noop")


def test_a_type_beyond_those_that_are_remembered_is_taken_while_a_worker_offers_it(world: World) -> None:
    world.client("alice~1")
    world.distributor("d1", " ".join(f"known-{n}" for n in range(MAX_KNOWN_TYPES)))
    world.distributor("d2", "late")
    assert world.submit("alice~1", "t1", "t2", task_type="late")["accepted"] == 2
    assert world.assigned("d2") == ["t1", "t2"]
    world.gone("d2")
    [refused] = world.submit("alice~1", "t3", task_type="late")["rejected"]
    assert refused["code"] == "UNKNOWN_TASK_TYPE"


def test_the_single_form_of_the_specification_is_a_submission_of_one(fleet: World) -> None:
    single = {"task_id": "t1", "task_type": "noop", "payload": {"n": 1}, "status": "pending", "retry_count": 0}
    answer = fleet.ask("alice~1", "assign_task", task=single)
    assert answer["action"] == "assign_task"
    assert answer["accepted"] == 1
    assert fleet.assigned("d1") == ["t1"]


def test_an_unfinished_id_is_a_duplicate_whose_result_comes_to_both(fleet: World) -> None:
    fleet.client("alice~2")
    fleet.submit("alice~1", "t1")
    assert fleet.submit("alice~2", "t1")["duplicates"] == ["t1"]
    assert fleet.submit("alice~1", "t1")["duplicates"] == ["t1"]
    fleet.finish("d1", "t1")
    assert set(fleet.got("alice~1")) == set(fleet.got("alice~2")) == {"t1"}
    assert fleet.assigned("d1") == ["t1"]


def test_an_id_twice_in_one_message_is_one_task(fleet: World) -> None:
    answer = fleet.submit("alice~1", "t1", "t1")
    assert (answer["accepted"], answer["duplicates"]) == (1, ["t1"])


def test_a_duplicate_is_answered_only_when_the_task_is_durable(fleet: World) -> None:
    fleet.batches_held = True
    fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")], "check": False})
    again = fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")], "check": False})
    assert fleet.answer_to("alice~1", again) is None
    fleet.release_batches()
    answer = fleet.answer_to("alice~1", again)
    assert answer is not None
    assert answer.payload["duplicates"] == ["t1"]


def test_another_clients_id_cannot_be_taken_or_watched(fleet: World) -> None:
    fleet.client("mallory~1")
    fleet.submit("alice~1", "t1")
    assert fleet.submit("mallory~1", "t1")["rejected"][0]["code"] == "FORBIDDEN"
    fleet.finish("d1", "t1")
    assert fleet.got("mallory~1") == {}
    assert fleet.submit("mallory~1", "t1", check=True)["rejected"][0]["code"] == "FORBIDDEN"


@pytest.mark.parametrize("remembered", [True, False])
def test_check_finds_a_finished_id_and_sends_its_result(fleet: World, remembered: bool) -> None:
    fleet.submit("alice~1", "t1", payload={"n": 4})
    fleet.finish("d1", "t1")
    if not remembered:
        fleet.core.desk.recent.forget("t1")
    fleet.peers["alice~1"].told.clear()
    answer = fleet.submit("alice~1", "t1", "t2", check=True)
    assert (answer["accepted"], answer["duplicates"]) == (1, ["t1"])
    assert fleet.got("alice~1")["t1"]["result"] == {"n": 4}
    assert fleet.assigned("d1") == ["t1", "t2"]


def test_the_same_check_twice_at_a_time_accepts_once(fleet: World) -> None:
    fleet.queries_held = True
    requests = [
        fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")], "check": True})
        for _ in range(2)
    ]
    fleet.release_queries()
    answers = [fleet.answer_to("alice~1", request) for request in requests]
    assert [answer.payload["accepted"] for answer in answers if answer is not None] == [1, 0]
    assert fleet.assigned("d1") == ["t1"]


def test_a_check_that_cannot_be_made_is_refused_and_nothing_is_taken(fleet: World) -> None:
    fleet.query_error = "connection"
    answer = fleet.submit("alice~1", "t1", check=True)
    assert answer["code"] == "BUSY"
    assert answer["retry_after_s"] > 0
    assert not fleet.core.desk.ledger.live


def test_a_check_that_is_never_answered_ends_after_a_while(fleet: World) -> None:
    fleet.queries_held = True
    request = fleet.say(
        "alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")], "check": True}
    )
    fleet.advance(fleet.core.config.question_timeout_s + 0.1)
    answer = fleet.answer_to("alice~1", request)
    assert answer is not None
    assert answer.payload["code"] == "BUSY"
    fleet.release_queries()  # the late answer changes nothing
    assert not fleet.core.desk.ledger.live


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"max_live_tasks": 3}, "unfinished tasks"),
        ({"max_live_bytes": 100}, "MiB, the limit is"),
        ({"max_live_tasks": 5, "client_share": 1.0}, "alice has its share of the room with 2 unfinished tasks"),
    ],
)
def test_beyond_a_bound_nothing_is_taken(make_world: Callable[..., World], limits: dict[str, Any], text: str) -> None:
    world = make_world(**limits)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    assert world.submit("alice~1", "t1", "t2")["accepted"] == 2
    answer = world.submit("alice~1", "t3", "t4")
    assert answer["code"] == "BUSY"
    assert text in answer["message"]
    assert answer["retry_after_s"] > 0
    assert set(world.core.desk.ledger.live) == {"t1", "t2"}
    world.finish("d1", "t1", "t2")
    assert world.submit("alice~1", "t3", "t4")["accepted"] == 2


def test_what_waits_for_a_slow_store_is_bounded(make_world: Callable[..., World]) -> None:
    world = make_world(max_staged_tasks=3)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.batches_held = True
    world.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1"), task("t2")]})
    assert world.submit("alice~1", "t3", "t4")["code"] == "BUSY"
    world.release_batches()
    assert world.submit("alice~1", "t3", "t4")["accepted"] == 2


def test_too_large_a_batch_is_refused_whole(fleet: World) -> None:
    answer = fleet.submit("alice~1", *(f"t{n}" for n in range(fleet.core.config.max_batch + 1)))
    assert answer["code"] == "PAYLOAD_TOO_LARGE"


def test_without_a_store_submissions_are_refused_and_earlier_ones_kept(fleet: World) -> None:
    fleet.batches_held = True
    early = fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")]})
    fleet.store_goes()
    refused = fleet.submit("alice~1", "t2")
    assert (refused["code"], "connection" in refused["message"]) == ("BUSY", True)
    fleet.store_comes()
    assert fleet.answer_to("alice~1", early) is not None
    assert fleet.submit("alice~1", "t2")["accepted"] == 1


def test_without_a_store_and_a_spool_the_refusal_and_the_status_name_both_reasons(fleet: World) -> None:
    fleet.event(StoreChanged(True, "", spool_off="c2 may take over"))
    assert fleet.ask("alice~1", "fleet_status")["store"]["spool_off"] == "c2 may take over"
    fleet.event(StoreChanged(False, "connection", spool_off="c2 may take over"))
    refused = fleet.submit("alice~1", "t2")
    assert refused["message"] == (
        "the store is not available (connection), and nothing is taken into the spool: c2 may take over"
    )


def test_a_standby_refuses_naming_why(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.client("alice~1")
    assert world.submit("alice~1", "t1")["code"] == "NOT_LEADER"
    world.store_goes()
    assert world.submit("alice~1", "t1")["code"] == "UNAVAILABLE"
    assert world.core.ready()[0] is False


def test_an_unknown_action_is_answered(fleet: World) -> None:
    assert fleet.ask("alice~1", "no_such_thing")["code"] == "UNKNOWN_ACTION"
    assert fleet.ask("d1", "no_such_thing")["code"] == "UNKNOWN_ACTION"


@pytest.mark.parametrize("payload", [{}, {"tasks": None}, {"tasks": {"a": 1}}, {"tasks": "t"}])
def test_a_submission_without_a_list_is_refused(fleet: World, payload: dict[str, Any]) -> None:
    assert fleet.ask("alice~1", "submit_tasks", **payload)["code"] == "INVALID_TASK"


def test_clients_are_told_batches_that_the_limits_can_ever_hold(make_world: Callable[..., World]) -> None:
    """A batch is taken whole or refused as BUSY; one larger than the limit would be refused for ever."""
    world = make_world(max_live_tasks=100)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    most = world.core.welcome("alice~1", world.now)["max_batch"]
    assert 1 <= most <= 50
    world.submit("alice~1", *(f"t{n}" for n in range(60)))
    assert world.submit("alice~1", *(f"u{n}" for n in range(most)))["accepted"] == most
