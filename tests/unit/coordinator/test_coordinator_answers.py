"""Answers that are late, large or early: every request is answered, and nobody is told what is not durable."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import orjson

from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.wire import MAX_FRAME_BYTES
from daemons.runtime.contract import QueryAnswer, Send, Undelivered
from tests.unit.coordinator.fakes import task
from tests.unit.coordinator.harness import World


def test_a_list_is_cut_before_it_is_too_large_for_a_message(fleet: World) -> None:
    ids = [f"t{n}" for n in range(150)]
    fleet.submit("alice~1", *ids, note="x" * 7_000)
    answer = fleet.ask("alice~1", "list_tasks", limit=1_000)
    assert answer["total"] == 150
    assert 10 < len(answer["tasks"]) < 150
    assert len(orjson.dumps(answer)) < 1 << 20


def test_an_answer_that_no_message_can_carry_is_refused_and_not_forgotten(fleet: World) -> None:
    request = fleet.say("alice~1", MessageType.REQUEST, {"action": "fleet_status"})
    sent = Send("alice~1", MessageType.RESPONSE, {"action": "fleet_status"}, reply_to=request)
    fleet.peers["alice~1"].told.clear()
    fleet.event(Undelivered(sent, "malformed"))
    answer = fleet.answer_to("alice~1", request)
    assert answer is not None
    assert (answer.type, answer.payload["code"]) == (MessageType.ERROR, "PAYLOAD_TOO_LARGE")


def test_what_was_cancelled_here_is_known_and_told_to_nobody_before_it_is_durable(
    make_world: Callable[..., World],
) -> None:
    """Found by simulation: submitted again while its cancellation waited for the store, the task lived twice."""
    world = make_world(recent_results=2)
    world.own()
    world.client("alice~1")
    world.submit("alice~1", "t1", "t2", "t3", distributor="d9")
    world.batches_held = True
    world.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t1", "t2", "t3"]})
    submission = {"action": "submit_tasks", "tasks": [task("t1", distributor="d9")], "check": True}
    watching, getting = {"action": "watch_tasks", "task_ids": ["t2"]}, {"action": "get_task", "task_id": "t3"}
    requests = [world.say("alice~1", MessageType.REQUEST, asked) for asked in (submission, watching, getting)]
    assert [world.answer_to("alice~1", request) for request in requests] == [None, None, None]
    world.release_batches()
    again, watch, got = [told.payload for request in requests if (told := world.answer_to("alice~1", request))]
    assert again["duplicates"] == ["t1"]
    assert watch["results"][0]["status"] == "abandoned"
    assert got["task"]["status"] == "abandoned"
    assert world.store.recorded == {"t1": 1, "t2": 1, "t3": 1}
    assert world.store.live[""] == {}


def test_a_task_that_lived_and_ended_while_its_id_was_looked_up_is_not_taken_again(fleet: World) -> None:
    fleet.queries_held = True
    asked = {"action": "submit_tasks", "tasks": [task("t1")], "check": True}
    fleet.say("alice~1", MessageType.REQUEST, asked)
    [query], fleet.queries = fleet.queries, []
    fleet.submit("alice~1", "t1")
    fleet.finish("d1", "t1")
    fleet.event(QueryAnswer(query.tag, {}))  # what the store had when it was asked
    assert fleet.store.recorded == {"t1": 1}
    assert fleet.store.where("t1") == []


def test_results_whose_report_a_distributor_had_to_drop_are_found_though_others_keep_coming(fleet: World) -> None:
    fleet.submit("alice~1", *(f"t{n}" for n in range(60)))
    fleet.beat("d1", pending=50, in_progress=10, dropped=0)
    fleet.finish("d1", "t0", tell=False)  # its report was dropped
    for n in range(1, 40):
        fleet.beat("d1", pending=0, in_progress=0, dropped=1)
        fleet.finish("d1", f"t{n}", version=n)
        fleet.advance(0.2)
    assert "t0" in fleet.got("alice~1")
    reads = [told for told in fleet.peers["d1"].told if told.action == "resync"]
    assert len(reads) == 1, "once is enough"


def test_a_cancellation_does_not_overtake_the_assignment_of_a_task_that_leaves_the_inbox(fleet: World) -> None:
    """Found by simulation: the distributor did not know it yet, the task was ended here, and ran there all the same."""
    fleet.gone("d1")
    fleet.submit("alice~1", "t1")
    assert fleet.store.where("t1") == ["inbox"]
    fleet.batches_held = True
    fleet.distributor("d1", restarted=True)  # the batch in flight moves t1 to it
    fleet.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t1"]})
    fleet.core.desk.ledger.distributors["d1"].needs_sync = True
    fleet.supervise()
    assert [told for told in fleet.peers["d1"].told if told.action == "cancel_tasks"] == []
    fleet.release_batches()
    actions = [told.action for told in fleet.peers["d1"].told]
    assert actions.index("assign_tasks") < actions.index("cancel_tasks")


def test_many_cancellations_for_an_absent_distributor_fit_into_messages(fleet: World) -> None:
    ids = [f"task-with-a-long-name-{'x' * 90}-{n}" for n in range(9_000)]
    for start in range(0, len(ids), 1_000):
        fleet.submit("alice~1", *ids[start : start + 1_000])
    fleet.gone("d1")
    for start in range(0, len(ids), 1_000):
        fleet.ask("alice~1", "cancel_tasks", task_ids=ids[start : start + 1_000])
    fleet.distributor("d1", restarted=True)
    orders = [told.payload for told in fleet.peers["d1"].told if told.action == "cancel_tasks"]
    assert sorted(task_id for order in orders for task_id in order["task_ids"]) == sorted(ids)
    assert all(len(orjson.dumps(order)) < 1 << 19 for order in orders)


def test_the_result_of_a_retried_task_counts_after_a_restart_in_the_middle_of_it(
    make_world: Callable[..., World],
) -> None:
    """The attempt that its stored record shows may be the present one, not the last one before the retry."""
    world = make_world()
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", "t1")
    world.finish("d1", "t1", status="failed")
    assert world.ask(world.operator(), "retry_tasks", task_ids=["t1"])["retried"] == ["t1"]
    old = world.store.results["d1"]["t1"]
    world.store.live["d1"]["t1"]["metadata"]["attempt"] = 2  # the distributor shows that it runs
    successor = make_world(world.store)
    successor.distributor("d1")
    successor.client("alice~1")
    successor.own()
    successor.ask("alice~1", "watch_tasks", task_ids=["t1"])
    successor.report("d1", [old])
    assert successor.got("alice~1") == {}
    result = successor.result("d1", "t1")
    result["metadata"]["attempt"] = 2
    successor.store.record("d1", "t1", result)
    del successor.store.live["d1"]["t1"]
    successor.report("d1", [result])
    assert successor.got("alice~1")["t1"]["status"] == "completed"


def test_results_that_are_kept_for_questions_cost_about_their_bytes(fleet: World) -> None:
    """Each took a buffer of 4 KiB for a record of some hundred bytes: 80 MB more than they are bounded by."""
    task_ids = [f"t{number}" for number in range(200)]
    fleet.submit("alice~1", *task_ids)
    results = [fleet.result("d1", task_id) for task_id in task_ids]
    fleet.finish("d1", *task_ids, tell=False)
    fleet.gone("alice~1")
    tracemalloc.start()
    try:
        fleet.report("d1", results)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < 5 * sum(len(orjson.dumps(result)) for result in results)
    fleet.client("alice~1")
    assert fleet.ask("alice~1", "get_task", task_id="t0")["task"]["status"] == "completed"


def test_a_stored_record_too_large_for_a_message_is_told_without_what_is_large(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    result = fleet.result("d1", "t1", status="failed")
    result["metadata"]["detail"] = {"exit_code": "x" * (MAX_FRAME_BYTES + 1)}
    fleet.store.record("d1", "t1", result)
    del fleet.store.live["d1"]["t1"]
    fleet.report("d1", [result])
    fleet.core.desk.recent.forget("t1")
    for found in (
        fleet.got("alice~1")["t1"],
        fleet.ask("alice~1", "watch_tasks", task_ids=["t1"])["results"][0],
        fleet.ask("alice~1", "get_task", task_id="t1")["task"],
    ):
        assert (found["status"], found["metadata"]["shortened"]) == ("failed", ["detail"])


def test_a_record_too_large_for_an_assignment_is_read_from_the_store_and_in_nobodys_way(
    make_world: Callable[..., World],
) -> None:
    world = make_world(max_payload_bytes=2 * MAX_FRAME_BYTES)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.peers["d1"].told.clear()
    world.submit("alice~1", "large", payload={"text": "x" * MAX_FRAME_BYTES})
    world.submit("alice~1", "t1")
    world.advance(1)
    told = world.peers["d1"].told
    assert [each.payload["tasks"][0]["task_id"] for each in told if each.action == "assign_tasks"] == ["t1"]
    assert [each.action for each in told].count("resync") == 1
    world.finish("d1", "large", status="failed")
    assert world.got("alice~1")["large"]["status"] == "failed"
