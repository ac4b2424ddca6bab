"""``explain``: why a task is where it is, for whoever may know, also while others do not answer."""

from __future__ import annotations

from typing import Any

from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.harness import World


def asked(world: World, name: str, task_id: str) -> str:
    return world.say(name, MessageType.REQUEST, {"action": "explain", "task_id": task_id})


def view(world: World, distributor: str, **more: Any) -> None:
    """The distributor answers what it was asked last."""
    question = [told for told in world.peers[distributor].told if told.action == "explain"][-1]
    answer = {"action": "explain", "tag": question.payload["tag"], "id": distributor, "why": [], **more}
    world.say(distributor, MessageType.RESPONSE, answer)


def answer(world: World, name: str, request_id: str) -> Any:
    told = world.answer_to(name, request_id)
    return None if told is None else told.payload


def test_store_distributor_and_memory_make_one_answer(fleet: World) -> None:
    fleet.submit("alice~1", "t1", payload={"secret": 1})
    request_id = asked(fleet, "alice~1", "t1")
    assert answer(fleet, "alice~1", request_id) is None, "the distributor is asked first"
    view(fleet, "d1", phase="queued", attempt=1, fence=4, why=["all its workers are full"])
    found = answer(fleet, "alice~1", request_id)
    assert found["task"]["task_id"] == "t1"
    assert "payload" not in found["task"]
    assert found["state"] == "sent"
    assert found["coordinator"]["durable"] is True
    assert found["coordinator"]["lease"] == {"owner": "c|h|1|2|b", "fence": 1, "remaining_s": 2.0}
    assert found["coordinator"]["waits_for_result"] == "alice~1"
    assert (found["distributor"]["phase"], found["distributor"]["fence"]) == ("queued", 4)
    assert found["places"] == {"tasks": ["d1"], "results": [], "letters": []}
    assert found["why"] == ["all its workers are full"]
    assert found["hops"][0][0] == "accepted"


def test_a_distributor_that_does_not_answer_is_left_out(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    request_id = asked(fleet, "alice~1", "t1")
    fleet.advance(fleet.core.config.question_timeout_s + 0.1)
    found = answer(fleet, "alice~1", request_id)
    assert found["distributor"]["answered"] is False
    assert "did not say in time" in found["why"][0]


def test_an_older_distributor_that_refuses_the_question_is_not_resynced_for_it(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    asked(fleet, "alice~1", "t1")
    fleet.say("d1", MessageType.ERROR, {"action": "explain", "code": "UNKNOWN_ACTION", "message": "?"})
    fleet.advance(2.0)
    assert "resync" not in [told.action for told in fleet.peers["d1"].told]


def test_a_store_that_is_away_leaves_what_others_know(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.query_error = "connection refused"
    request_id = asked(fleet, "alice~1", "t1")
    view(fleet, "d1", phase="running", attempt=1, worker="w1")
    found = answer(fleet, "alice~1", request_id)
    assert found["distributor"]["worker"] == "w1"
    assert any("connection refused" in text for text in found["why"])
    assert fleet.ask("alice~1", "explain", task_id="unknown")["code"] == "UNAVAILABLE"


def test_why_nothing_can_be_placed(fleet: World) -> None:
    fleet.submit("alice~1", "labels", labels={"gpu": "1"})
    fleet.submit("alice~1", "pinned", distributor="d9")
    assert fleet.ask("alice~1", "explain", task_id="labels")["why"] == ["no worker that handles 'noop' has gpu=1"]
    (text,) = fleet.ask("alice~1", "explain", task_id="pinned")["why"]
    assert "no such distributor is registered (there are: d1)" in text
    fleet.submit("alice~1", "t1")
    fleet.gone("d1")
    (text,) = fleet.ask("alice~1", "explain", task_id="t1")["why"]
    assert "d1, which has not been connected for" in text
    fleet.submit("alice~1", "t2")
    assert fleet.ask("alice~1", "explain", task_id="t2")["why"] == ["no distributor is connected (known: d1)"]


def test_an_ended_task_is_explained_from_its_record(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.finish("d1", "t1", status="failed")
    found = fleet.ask("alice~1", "explain", task_id="t1")
    assert found["state"] == "ended"
    assert found["distributor"] == {"id": "d1"}
    assert [each["kind"] for each in found["attempts"]] == ["raised"]
    assert [hop[0] for hop in found["hops"]][-1] == "ended"
    assert found["places"] == {"tasks": [], "results": ["d1"], "letters": ["d1"]}


def test_others_tasks_are_unknown(fleet: World) -> None:
    fleet.client("mallory~1")
    fleet.submit("alice~1", "t1")
    assert fleet.ask("mallory~1", "explain", task_id="t1")["task"] is None
    fleet.finish("d1", "t1")
    assert fleet.ask("mallory~1", "explain", task_id="t1")["task"] is None
    assert fleet.ask("alice~1", "explain", task_id="never")["task"] is None
    assert fleet.ask("alice~1", "explain", task_id=3)["code"] == "INVALID_TASK"


def test_a_record_in_two_places_is_said(fleet: World) -> None:
    fleet.submit("alice~1", "t1", distributor="d9")
    fleet.store.live["d1"]["t1"] = dict(fleet.store.live[""]["t1"])
    found = fleet.ask("alice~1", "explain", task_id="t1")
    assert set(found["places"]["tasks"]) == {"d1", "inbox"}
    assert "in two places" in found["why"][-1]
    del fleet.store.live["d1"]["t1"]
