"""``fleet_status`` with ``load``: what workers do, for as long as somebody looks."""

from __future__ import annotations

from typing import Any

from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.harness import World

LOAD = {"id": "w1", "running": 2, "held": 3, "done": 40, "failed": 1, "run_s": 1.5, "stay_s": 2.0}


def asked(world: World, load: object = True) -> str:
    return world.say("alice~1", MessageType.REQUEST, {"action": "fleet_status", "load": load})


def tell(world: World, name: str, **told: Any) -> None:
    """The distributor answers what it was asked last."""
    question = [each for each in world.peers[name].told if each.action == "load"][-1]
    world.say(name, MessageType.RESPONSE, {"action": "load", "tag": question.payload["tag"], **told})


def answer(world: World, request_id: str) -> Any:
    told = world.answer_to("alice~1", request_id)
    return None if told is None else {site["id"]: site for site in told.payload["distributors"]}


def test_distributors_are_asked_and_their_answers_join_the_status(fleet: World) -> None:
    fleet.distributor("d2")
    fleet.workers("d1", "noop")
    (worker,) = fleet.core.desk.ledger.distributors["d1"].workers
    request_id = asked(fleet)
    tell(fleet, "d1", late=2, workers=[{**LOAD, "id": worker["id"]}, {**LOAD, "id": "new"}])
    assert answer(fleet, request_id) is None, "the other one is waited for"
    tell(fleet, "d2", late=0, workers=[])
    found = answer(fleet, request_id)
    assert found["d1"]["late"] == 2
    known, new = found["d1"]["workers"]
    assert (known["slots"], known["load"]["done"]) == (worker["slots"], 40)
    assert (new["id"], new["up"], new["load"]["held"]) == ("new", True, 3)
    assert [each["load"] for each in found["d2"]["workers"]] == [None]
    assert "load" not in worker, "what is known of it is not changed"


def test_nobody_is_asked_unless_it_is_wanted(fleet: World) -> None:
    for load in (False, "yes", None):
        assert answer(fleet, asked(fleet, load))["d1"]["id"] == "d1"
    assert "load" not in [told.action for told in fleet.peers["d1"].told]


def test_who_does_not_answer_is_left_out_in_time(fleet: World) -> None:
    fleet.distributor("d2")
    request_id = asked(fleet)
    tell(fleet, "d2", late=0, workers="?")
    fleet.advance(fleet.core.config.question_timeout_s + 0.1)
    found = answer(fleet, request_id)
    assert "late" not in found["d1"]
    assert found["d2"]["late"] == 0


def test_an_older_distributor_that_refuses_the_question_is_not_resynced_for_it(fleet: World) -> None:
    request_id = asked(fleet)
    fleet.say("d1", MessageType.ERROR, {"action": "load", "code": "UNKNOWN_ACTION", "message": "?"})
    fleet.advance(fleet.core.config.question_timeout_s + 0.1)
    assert answer(fleet, request_id)["d1"]["up"]
    assert "resync" not in [told.action for told in fleet.peers["d1"].told]


def test_distributors_that_are_away_are_not_waited_for(fleet: World) -> None:
    fleet.gone("d1")
    assert answer(fleet, asked(fleet))["d1"]["up"] is False
