"""What clients and operators may ask and order besides submitting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.fakes import task
from tests.unit.coordinator.harness import World


def cancelled_by(world: World, name: str) -> list[list[str]]:
    return [told.payload["task_ids"] for told in world.peers[name].told if told.action == "cancel_tasks"]


# ---------------------------------------------------------------- cancel


def test_cancelling_a_held_task_ends_it_at_once(fleet: World) -> None:
    fleet.submit("alice~1", "t1", distributor="d9")
    answer = fleet.ask("alice~1", "cancel_tasks", task_ids=["t1"])
    assert answer["cancelled"] == ["t1"]
    result = fleet.got("alice~1")["t1"]
    assert (result["status"], result["metadata"]["error_kind"]) == ("abandoned", "cancelled")
    assert "alice~1" in result["error"]
    assert fleet.store.where("t1") == []
    assert fleet.store.results[""]["t1"]["payload"] == {}
    fleet.distributor("d9")
    assert fleet.assigned("d9") == []


def test_cancelling_a_task_that_its_distributor_was_not_told_of_asks_it_all_the_same(
    make_world: Callable[..., World],
) -> None:
    world = make_world(assign_window=1)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", "t1", "t2")
    assert world.ask("alice~1", "cancel_tasks", task_ids=["t2"])["requested"] == ["t2"]
    assert cancelled_by(world, "d1") == [["t2"]]
    assert "t2" not in world.store.recorded, "d1 may have read it in the store, and have ended it as well"
    world.say("d1", MessageType.EVENT, {"action": "task_unknown", "task_ids": ["t2"]})
    assert set(world.store.live["d1"]) == {"t1"}
    assert world.store.results["d1"]["t2"]["status"] == "abandoned"
    world.finish("d1", "t1")
    assert world.assigned("d1") == ["t1"]


def test_cancelling_an_assigned_task_asks_its_distributor(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    assert fleet.ask("alice~1", "cancel_tasks", task_ids=["t1"])["requested"] == ["t1"]
    assert cancelled_by(fleet, "d1") == [["t1"]]
    fleet.finish("d1", "t1", status="abandoned")
    assert fleet.got("alice~1")["t1"]["status"] == "abandoned"


def test_the_next_coordinator_knows_what_was_to_be_cancelled(fleet: World, make_world: Callable[..., World]) -> None:
    """The cancel was acknowledged, and forgotten with the coordinator."""
    fleet.submit("alice~1", "t1", "t2", "t3")
    fleet.gone("d1")
    assert fleet.ask("alice~1", "cancel_tasks", task_ids=["t1", "t2"])["requested"] == ["t1", "t2"]
    fleet.finish("d1", "t1", tell=False)
    second = make_world(fleet.store)
    second.own()
    second.distributor("d1")
    assert cancelled_by(second, "d1") == [["t2"]]


def test_a_cancel_is_of_one_life_of_a_task(fleet: World, make_world: Callable[..., World]) -> None:
    fleet.operator()
    fleet.submit("alice~1", "t1")
    fleet.ask("alice~1", "cancel_tasks", task_ids=["t1"])
    fleet.finish("d1", "t1", status="abandoned")
    assert fleet.ask("root~1", "retry_tasks", task_ids=["t1"])["retried"] == ["t1"]
    second = make_world(fleet.store)
    second.own()
    second.distributor("d1")
    assert cancelled_by(second, "d1") == []


def test_what_is_kept_of_cancelled_tasks_goes_with_them(fleet: World) -> None:
    fleet.submit("alice~1", *(f"t{n}" for n in range(5)))
    fleet.ask("alice~1", "cancel_tasks", task_ids=[f"t{n}" for n in range(5)])
    assert len(orjson.loads(fleet.store.headers["d1"]["cancels"])) == 5
    fleet.finish("d1", "t0", "t1", "t2", status="abandoned")
    fleet.supervise()
    assert orjson.loads(fleet.store.headers["d1"]["cancels"]).keys() == {"t3", "t4"}
    fleet.finish("d1", "t3", "t4", status="abandoned")
    fleet.supervise()
    assert fleet.store.headers["d1"]["cancels"] == "{}"


def test_a_cancellation_never_overtakes_its_assignment(fleet: World) -> None:
    fleet.batches_held = True
    fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")]})
    fleet.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t1"]})
    assert cancelled_by(fleet, "d1") == []
    fleet.release_batches()
    sent = [told.action for told in fleet.peers["d1"].told]
    assert sent.index("assign_tasks") < sent.index("cancel_tasks")


def test_cancelling_in_the_same_wake_up_as_submitting_leaves_a_result(fleet: World) -> None:
    fleet.batches_held = True
    fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t0")]})  # now in flight
    fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")]})
    request = fleet.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t1"]})
    fleet.release_batches()
    answer = fleet.answer_to("alice~1", request)
    assert answer is not None
    assert answer.payload["cancelled"] == ["t1"]
    assert fleet.got("alice~1")["t1"]["status"] == "abandoned"
    assert fleet.store.where("t1") == []
    assert fleet.assigned("d1") == ["t0"]


def test_cancelling_a_task_of_an_absent_distributor_waits_for_its_return(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.gone("d1")
    assert fleet.ask("alice~1", "cancel_tasks", task_ids=["t1"])["requested"] == ["t1"]
    fleet.distributor("d1", restarted=True)
    assert cancelled_by(fleet, "d1") == [["t1"]]


def test_a_task_that_its_distributor_does_not_know_is_ended_here(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.finish("d1", "t2", tell=False)
    fleet.ask("alice~1", "cancel_tasks", task_ids=["t1", "t2"])
    fleet.say("d1", MessageType.EVENT, {"action": "task_unknown", "task_ids": ["t1", "t2", 5, "never"]})
    got = fleet.got("alice~1")
    assert (got["t1"]["status"], got["t2"]["status"]) == ("abandoned", "completed")
    assert fleet.store.recorded == {"t1": 1, "t2": 1}


def test_cancelling_what_has_ended_or_is_not_there_says_so(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.finish("d1", "t1", "t2")
    fleet.core.desk.recent.forget("t2")
    answer = fleet.ask("alice~1", "cancel_tasks", task_ids=["t1", "t2", "t3"])
    assert (answer["terminal"], answer["unknown"]) == (["t1", "t2"], ["t3"])


def test_only_the_owner_and_operators_cancel(fleet: World) -> None:
    fleet.client("mallory~1")
    fleet.submit("alice~1", "t1")
    assert fleet.ask("mallory~1", "cancel_tasks", task_ids=["t1"])["unknown"] == ["t1"]
    assert cancelled_by(fleet, "d1") == []
    assert fleet.ask(fleet.operator(), "cancel_tasks", task_ids=["t1"])["requested"] == ["t1"]
    assert fleet.store.events("cancelled")[-1][3] == {"by": "root~1"}


def test_a_cancelled_task_that_could_not_be_delivered_is_never_sent(fleet: World) -> None:
    fleet.busy.add("d1")
    fleet.batches_held = True
    fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")]})
    fleet.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t1"]})
    fleet.release_batches()
    fleet.busy.clear()
    fleet.advance(1.0)
    assert fleet.assigned("d1") == []
    assert cancelled_by(fleet, "d1") == [["t1"]]
    fleet.say("d1", MessageType.EVENT, {"action": "task_unknown", "task_ids": ["t1"]})
    assert fleet.got("alice~1")["t1"]["status"] == "abandoned"


# ---------------------------------------------------------------- retry


def failed(world: World, task_id: str = "t1") -> None:
    world.submit("alice~1", task_id, payload={"n": 1}, priority=2)
    world.finish("d1", task_id, status="failed")


def test_an_operator_sends_a_failed_task_around_again(fleet: World) -> None:
    failed(fleet)
    old = fleet.store.results["d1"]["t1"]
    root = fleet.operator()
    assert fleet.ask(root, "retry_tasks", task_ids=["t1"])["retried"] == ["t1"]
    record = fleet.store.live["d1"]["t1"]
    assert record["payload"] == {"n": 1}
    assert record["status"] == "pending"
    assert record["metadata"]["attempt"] == 1
    assert record["metadata"]["client"] == "alice"
    assert record["metadata"]["priority"] == 2
    fleet.report("d1", [old])  # a late copy of the result before
    assert fleet.got(root) == {}
    fleet.finish("d1", "t1")
    assert fleet.got(root)["t1"]["metadata"]["attempt"] == 2


def test_a_retried_task_survives_a_restart_without_taking_its_old_result(
    fleet: World, make_world: Callable[..., World]
) -> None:
    failed(fleet)
    fleet.ask(fleet.operator(), "retry_tasks", task_ids=["t1"])
    second = make_world(fleet.store)
    second.own()
    second.distributor("d1")
    assert "t1" in second.core.desk.ledger.live
    second.finish("d1", "t1")
    assert not second.core.desk.ledger.live


def test_a_retry_waits_until_the_newest_result_is_in_the_store(fleet: World) -> None:
    """The distributor had it in its spool. The retry began anew from the result before, so its record looked like that
    of the life that had just ended: the distributor did not run it, and took it out when it handed in."""
    failed(fleet)
    root = fleet.operator()
    assert fleet.ask(root, "retry_tasks", task_ids=["t1"])["retried"] == ["t1"]
    spooled = fleet.result("d1", "t1", "failed")
    fleet.store.recorded["t1"] += 1  # it is durable all the same
    fleet.report("d1", [spooled])
    assert fleet.ask(root, "retry_tasks", task_ids=["t1"])["refused"] == [["t1", "its result is not in the store yet"]]
    fleet.store.record("d1", "t1", spooled)
    del fleet.store.live["d1"]["t1"]
    assert fleet.ask(root, "retry_tasks", task_ids=["t1"])["retried"] == ["t1"]
    assert fleet.store.live["d1"]["t1"]["metadata"]["retried"] == 2


def test_retrying_what_cannot_be_retried_says_why(fleet: World) -> None:
    failed(fleet)
    fleet.submit("alice~1", "live", "done")
    fleet.finish("d1", "done")
    answer = fleet.ask(fleet.operator(), "retry_tasks", task_ids=["live", "done", "nobody"])
    assert dict(answer["refused"]) == {
        "live": "it has not ended",
        "done": "it is completed",
        "nobody": "unknown: never accepted, its result has expired, or the store lost it",
    }
    assert fleet.ask("alice~1", "retry_tasks", task_ids=["t1"])["code"] == "FORBIDDEN"


# ---------------------------------------------------------------- questions


def test_get_shows_the_distributors_view_of_a_running_task(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.store.live["d1"]["t1"]["status"] = "in_progress"
    assert fleet.ask("alice~1", "get_task", task_id="t1")["task"]["status"] == "in_progress"
    fleet.query_error = "connection"
    assert fleet.ask("alice~1", "get_task", task_id="t1")["task"]["status"] == "pending"


@pytest.mark.parametrize("remembered", [True, False])
def test_get_finds_held_and_ended_tasks(fleet: World, remembered: bool) -> None:
    fleet.submit("alice~1", "held", distributor="d9")
    fleet.submit("alice~1", "t1")
    fleet.finish("d1", "t1")
    if not remembered:
        fleet.core.desk.recent.forget("t1")
    assert fleet.ask("alice~1", "get_task", task_id="held")["task"]["status"] == "pending"
    assert fleet.ask("alice~1", "get_task", task_id="t1")["task"]["status"] == "completed"
    assert fleet.ask("alice~1", "get_task", task_id="none")["task"] is None
    fleet.client("mallory~1")
    assert fleet.ask("mallory~1", "get_task", task_id="t1")["task"] is None
    assert fleet.ask("mallory~1", "get_task", task_id="held")["task"] is None
    assert fleet.ask("alice~1", "get_task", task_id=7)["code"] == "INVALID_TASK"


def test_questions_during_an_outage_are_refused_as_unavailable(fleet: World) -> None:
    fleet.query_error = "connection"
    assert fleet.ask("alice~1", "get_task", task_id="old")["code"] == "UNAVAILABLE"
    assert fleet.ask("alice~1", "watch_tasks", task_ids=["old"])["code"] == "UNAVAILABLE"
    assert fleet.ask("alice~1", "cancel_tasks", task_ids=["old"])["code"] == "UNAVAILABLE"
    assert fleet.ask(fleet.operator(), "history")["code"] == "UNAVAILABLE"
    assert fleet.ask(fleet.operator(), "retry_tasks", task_ids=["old"])["code"] == "UNAVAILABLE"


def test_pending_questions_are_bounded(make_world: Callable[..., World]) -> None:
    world = make_world(max_pending_questions=2)
    world.own()
    world.client("alice~1")
    world.queries_held = True
    for _ in range(2):
        world.say("alice~1", MessageType.REQUEST, {"action": "get_task", "task_id": "old"})
    assert world.ask("alice~1", "get_task", task_id="old")["code"] == "BUSY"
    assert world.ask("alice~1", "watch_tasks", task_ids=["old"])["code"] == "BUSY"
    assert world.ask("alice~1", "cancel_tasks", task_ids=["old"])["code"] == "BUSY"
    assert world.submit("alice~1", "t1", check=True)["code"] == "BUSY"
    world.release_queries()


def test_watching_many_large_results_takes_several_messages(make_world: Callable[..., World]) -> None:
    world = make_world(message_bytes=5_000)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    ids = [f"t{n}" for n in range(20)]
    world.submit("alice~1", *ids, payload={"text": "x" * 600})
    world.gone("alice~1")
    world.finish("d1", *ids)
    world.client("alice~2")
    answer = world.ask("alice~2", "watch_tasks", task_ids=ids)
    assert 0 < len(answer["results"]) < 20
    assert {record["task_id"] for record in answer["results"]} | set(world.got("alice~2")) == set(ids)


@pytest.mark.parametrize("task_ids", [None, "t1", [1], [["t1"]]])
def test_ids_must_be_a_list_of_texts(fleet: World, task_ids: Any) -> None:
    for action in ("watch_tasks", "cancel_tasks"):
        assert fleet.ask("alice~1", action, task_ids=task_ids)["code"] == "INVALID_TASK"


def test_list_shows_live_tasks_without_payload(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2", "t3", payload={"n": 1})
    fleet.store.live["d1"]["t2"]["status"] = "in_progress"
    fleet.client("bob~1")
    fleet.submit("bob~1", "b1")
    answer = fleet.ask("alice~1", "list_tasks", limit=2)
    assert [row["task_id"] for row in answer["tasks"]] == ["t1", "t2"]
    assert answer["total"] == 3
    assert "payload" not in answer["tasks"][0]
    running = fleet.ask("alice~1", "list_tasks", status="in_progress")
    assert [row["task_id"] for row in running["tasks"]] == ["t2"]
    everything = fleet.ask(fleet.operator(), "list_tasks")
    assert everything["total"] == 4
    assert fleet.ask("alice~1", "list_tasks", task_type="other")["tasks"] == []


def test_history_is_for_operators_and_for_ones_own_tasks(fleet: World) -> None:
    fleet.submit("alice~1", "t1", distributor="d9")
    fleet.ask("alice~1", "cancel_tasks", task_ids=["t1"])
    names = [event[2] for event in fleet.ask(fleet.operator(), "history", limit=50)["events"]]
    assert {"cancelled", "held", "registered", "distributor_up"} <= set(names)
    mine = fleet.ask("alice~1", "history", task_id="t1")["events"]
    assert [event[2] for event in mine] == ["cancelled", "held"]
    fleet.client("mallory~1")
    assert fleet.ask("mallory~1", "history")["code"] == "FORBIDDEN"
    assert fleet.ask("mallory~1", "history", task_id="t1")["code"] == "UNKNOWN_TASK"


def test_status_of_the_fleet(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.beat("d1", pending=1, in_progress=1, slots=4, version=3)
    status = fleet.ask("alice~1", "fleet_status")
    assert status["coordinator"]["leading"] is True
    (site,) = status["distributors"]
    assert (site["id"], site["up"], site["pending"], site["in_progress"], site["version"]) == ("d1", True, 1, 1, 3)
    assert site["task_types"] == ["noop"]
    assert status["tasks"]["pending"] == 1
    assert status["store"]["available"] is True


# ---------------------------------------------------------------- drain


def test_draining_agents_is_for_operators(fleet: World) -> None:
    assert fleet.ask("alice~1", "drain_agent", agent_id="d1")["code"] == "FORBIDDEN"
    root = fleet.operator()
    assert fleet.ask(root, "drain_agent", agent_id="d1-w1")["draining"] is True
    assert fleet.peers["d1"].told[-1].payload == {"action": "drain", "agent_id": "d1-w1"}
    assert fleet.ask(root, "drain_agent", agent_id="nobody")["draining"] is False
    assert fleet.ask(root, "drain_agent", agent_id="coordinator-1")["draining"] is True
    assert fleet.exit is not None
    assert fleet.exit.status == 0


# ---------------------------------------------------------------- in-process API


def test_assigning_in_process_answers_when_durable(fleet: World) -> None:
    fleet.batches_held = True
    fleet.call(1, "assign_task_to_distributor", task=task("t1"), distributor_id="d1")
    assert fleet.answers == {}
    fleet.release_batches()
    assert fleet.answers == {1: True}
    assert fleet.assigned("d1") == ["t1"]
    fleet.call(2, "assign_task_to_distributor", task=task("t1"), distributor_id="d1")
    assert fleet.answers[2] is True
    assert fleet.assigned("d1") == ["t1"]


def test_assigning_in_process_is_refused_with_a_reason(fleet: World) -> None:
    calls: list[dict[str, Any]] = [
        {"task": task("t1", task_type="nope"), "distributor_id": "d1"},
        {"task": task("t1"), "distributor_id": "no/such"},
        {"task": "t1", "distributor_id": "d1"},
        {"task": {**task("t1"), "status": "completed"}, "distributor_id": "d1"},
        {"task": task("t1", distributor=None, note=object()), "distributor_id": "d1"},
    ]
    for number, args in enumerate(calls):
        fleet.call(number, "assign_task_to_distributor", **args)
    assert set(fleet.answers.values()) == {False}
    reasons = [line.fields["reason"] for line in fleet.logs if line.event == "assignment_refused"]
    assert len(reasons) == len(calls)
    assert all(reasons)


def test_assigning_in_process_makes_an_unknown_distributor_known(fleet: World) -> None:
    fleet.call(1, "assign_task_to_distributor", task=task("t1"), distributor_id="d7")
    assert fleet.answers == {1: True}
    assert fleet.store.where("t1") == ["d7"]


def test_registering_in_process_is_true_only_for_new_ones(fleet: World) -> None:
    fleet.call(1, "register_distributor", distributor_id="d7")
    fleet.call(2, "register_distributor", distributor_id="d7")
    fleet.call(3, "register_distributor", distributor_id="d1")
    fleet.call(4, "register_distributor", distributor_id="no/such")
    assert fleet.answers == {1: True, 2: False, 3: False, 4: False}
    assert "d7" in fleet.store.registered
    fleet.call(5, "assign_task_to_distributor", task=task("t1"), distributor_id="d7")
    assert fleet.store.where("t1") == ["d7"]


def test_other_local_calls(fleet: World) -> None:
    fleet.call(1, "status")
    fleet.call(2, "no_such_call")
    assert fleet.answers[1]["coordinator"]["id"] == "coordinator-1"
    assert fleet.answers[2] is None


# ---------------------------------------------------------------- records that cannot be read


@pytest.mark.parametrize("request_", ["get_task", "history", "explain", "resume_task"])
def test_a_request_about_a_task_whose_record_cannot_be_read_is_refused_by_its_name(fleet: World, request_: str) -> None:
    fleet.store.unreadable.add("t1")
    more = {"value": 1} if request_ == "resume_task" else {}
    found = fleet.ask("alice~1", request_, task_id="t1", **more)
    assert found["code"] == "UNREADABLE"
    assert "task t1 " in found["message"]
    assert "retry_after_s" not in found, "asking again does not help"


def test_what_ended_unreadably_does_not_run_once_more(fleet: World) -> None:
    fleet.store.unreadable.add("t1")
    found = fleet.submit("alice~1", "t1", "t2", check=True)
    assert (found["accepted"], [(each["task_id"], each["code"]) for each in found["rejected"]]) == (
        1,
        [("t1", "UNREADABLE")],
    )
    assert fleet.assigned("d1") == ["t2"]
    found = fleet.ask(fleet.operator(), "retry_tasks", task_ids=["t1", "t2"])
    why = "the record of task t1 in the store cannot be read"
    assert [list(each) for each in found["refused"]] == [["t1", why], ["t2", "it has not ended"]]


def test_lists_show_what_memory_has_where_the_stored_record_cannot_be_read(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.store.live["d1"]["t1"] = ["no record"]  # type: ignore[assignment]
    found = fleet.ask("alice~1", "list_tasks")
    assert {each["task_id"] for each in orjson.loads(orjson.dumps(found["tasks"]))} == {"t1", "t2"}
    assert fleet.ask("alice~1", "get_task", task_id="t1")["task"]["task_id"] == "t1"
