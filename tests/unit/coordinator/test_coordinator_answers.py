"""Answers that are late, large or early: every request is answered, and nobody is told what is not durable."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from a2a_zmq.protocol.message import MessageType
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
