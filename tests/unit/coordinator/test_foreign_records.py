"""Records and reports of somebody else: what cannot be worked with ends no coordinator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.interfaces import INBOX
from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.fakes import Json, Store
from tests.unit.coordinator.harness import World

CREATED = "2025-11-28T10:00:00.000000Z"
ODD: list[Json] = [
    {"labels": "gpu"},
    {"labels": {"gpu": 1}},
    {"priority": "5"},
    {"priority": 1.5},
    {"priority": [1]},
    {"distributor": 7},
    {"distributor": ["d1"]},
    {"client": ["alice"]},
]


def record(task_id: str, **metadata: Any) -> Json:
    told = {"client": "alice", **metadata}
    return {
        "task_id": task_id,
        "task_type": "noop",
        "status": "pending",
        "created_at": CREATED,
        "metadata": told,
        "payload": {},
    }


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("place", [INBOX, "d1"])
def test_a_record_that_nobody_can_place_is_left_where_it_is(
    make_world: Callable[..., World], place: str, odd: Json
) -> None:
    store = Store()
    store.register("d1")
    store.live[place] = {"bad": record("bad", **odd), "good": record("good", labels=None, priority=3)}
    world = make_world(store)
    world.own()
    world.client("alice~1")
    world.distributor("d1")
    world.supervise()
    assert [line.fields["task_id"] for line in world.logs if line.event == "unreadable_record"] == ["bad"]
    assert store.where("bad") == [place or "inbox"]
    assert list(world.core.desk.ledger.live) == ["good"]
    del store.live[place]["bad"]


def test_a_record_without_its_task_s_id_is_not_shown(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    waits = [{"task_id": "t2", "attempt": 1, "interrupts": [{"id": "q", "value": 1}]}]
    fleet.say("d1", MessageType.EVENT, {"action": "task_waiting", "tasks": waits})
    del fleet.store.live["d1"]["t1"]["task_id"]
    assert fleet.ask("alice~1", "get_task", task_id="t1")["task"]["task_id"] == "t1"


@pytest.mark.parametrize("odd", [{"payload": "text"}, {"error": ["no"]}, {"started_at": {}}], ids=str)
def test_a_record_that_is_no_task_of_the_specification_is_not_in_its_document(
    make_world: Callable[..., World], odd: Json
) -> None:
    store = Store()
    store.live[INBOX] = {"odd": record("odd") | odd, "good": record("good")}
    world = make_world(store)
    world.own()
    assert [each.task_id for each in world.core.local_state(world.now).local_tasks] == ["good"]


# ---------------------------------------------------------------- reports


@pytest.mark.parametrize("metadata", ["text", ["a", "list"], 5], ids=str)
@pytest.mark.parametrize("status", ["completed", "failed", "abandoned"])
def test_a_result_whose_metadata_is_no_object_is_not_wanted(fleet: World, status: str, metadata: Any) -> None:
    fleet.submit("alice~1", "t1", "t2")
    odd = {**fleet.result("d1", "t1", status), "metadata": metadata}
    fleet.finish("d1", "t2", tell=False)
    fleet.report("d1", [odd, fleet.store.results["d1"]["t2"]])
    assert fleet.got("alice~1").keys() == {"t2"}
    assert fleet.core.desk.late == 1
    fleet.finish("d1", "t1")
    assert fleet.got("alice~1").keys() == {"t1", "t2"}


@pytest.mark.parametrize("rows", [[["t1"]], [[]], ["t1"], [["t1", ["resumed"]]], {"t1": "resumed"}, None], ids=str)
def test_a_verdict_that_cannot_be_read_is_none(fleet: World, rows: Any) -> None:
    fleet.submit("alice~1", "t1")
    waits = [{"task_id": "t1", "attempt": 1, "interrupts": [{"id": "q", "value": 1}]}]
    fleet.say("d1", MessageType.EVENT, {"action": "task_waiting", "tasks": waits})
    request = fleet.say("alice~1", MessageType.REQUEST, {"action": "resume_task", "task_id": "t1", "value": "yes"})
    tag = next(told.payload["tag"] for told in fleet.peers["d1"].told if told.action == "resume_tasks")
    fleet.say("d1", MessageType.RESPONSE, {"action": "resume_tasks", "tag": tag, "tasks": rows})
    answer = fleet.answer_to("alice~1", request)
    assert answer is not None
    assert answer.payload["code"] == "UNAVAILABLE"
    assert fleet.core.desk.ledger.waits["t1"].open


@pytest.mark.parametrize("said", [5, "text", {"a": 1}, [5]], ids=str)
def test_reasons_that_cannot_be_read_are_not_given(fleet: World, said: Any) -> None:
    fleet.submit("alice~1", "t1")
    request = fleet.say("alice~1", MessageType.REQUEST, {"action": "explain", "task_id": "t1"})
    tag = next(told.payload["tag"] for told in fleet.peers["d1"].told if told.action == "explain")
    fleet.say("d1", MessageType.RESPONSE, {"action": "explain", "tag": tag, "phase": "queued", "why": said})
    answer = fleet.answer_to("alice~1", request)
    assert answer is not None
    assert answer.payload["why"] == []


def test_times_that_nobody_can_have_taken_are_not_told_of(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.finish("d1", "t1")
    fleet.store.results["d1"]["t1"]["metadata"]["held_s"] = 1e300
    fleet.operator()
    fleet.core.desk.recent.forget("t1")
    hops = fleet.ask("root~1", "explain", task_id="t1")["hops"]
    assert [name for name, _, _ in hops] == ["accepted", "started", "ended"]
