"""Audits of the whole state: every kind of damage is found, mended by an ordinary write, and gone afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.clock import iso
from a2a_zmq.protocol.message import MessageType, Role
from tests.unit.coordinator.fakes import task
from tests.unit.coordinator.harness import World


def answer_audits(world: World, unknown: dict[str, set[str]], silent: tuple[str, ...] = ()) -> None:
    """Distributors have what is live in their sections, except ``unknown``."""
    for name, peer in world.peers.items():
        asked = [told for told in peer.told if told.action == "audit" and told.type is MessageType.REQUEST]
        peer.told = [told for told in peer.told if told not in asked]
        for told in asked if peer.up and name not in silent else ():
            answer: dict[str, Any] = {"action": "audit", "number": told.payload["number"]}
            if not told.payload.get("whole"):
                lacks = unknown.get(name, set())
                has = world.store.live[name].keys() - lacks
                answer["unknown"] = [task_id for task_id in told.payload["task_ids"] if task_id not in has]
            world.say(name, MessageType.RESPONSE, answer)


def audit(
    world: World, *, repair: bool = False, unknown: dict[str, set[str]] | None = None, silent: tuple[str, ...] = ()
) -> dict[str, Any]:
    world.operator()
    request = world.say("root~1", MessageType.REQUEST, {"action": "audit", "repair": repair})
    for _ in range(100):
        answer = world.answer_to("root~1", request)
        if answer is not None:
            assert answer.type is MessageType.RESPONSE, answer
            return answer.payload
        answer_audits(world, unknown or {}, silent)
        world.advance(0.2)
    raise AssertionError("the audit never ends")


def kinds(answer: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(row["kind"], row["task_id"], row["section"]) for row in answer["findings"]]


def stranger(task_id: str) -> dict[str, Any]:
    """A live record that this coordinator did not write."""
    return {**task(task_id), "status": "pending", "created_at": iso(0.0), "metadata": {"client": "alice"}}


def told_again(world: World, task_id: str) -> int:
    return world.assigned("d1").count(task_id)


def test_a_fleet_that_works_is_consistent(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.submit("alice~1", "held", distributor="d9")
    fleet.finish("d1", "t2")
    answer = audit(fleet)
    assert (answer["checked"], answer["total"], answer["unchecked"]) == (2, 0, [])


def test_only_operators_audit(fleet: World) -> None:
    assert fleet.ask("alice~1", "audit", repair=True)["code"] == "FORBIDDEN"


def test_a_lost_record_is_put_back_and_its_task_ends(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    del fleet.store.live["d1"]["t1"]
    assert kinds(audit(fleet, unknown={"d1": {"t1"}})) == [("lost_record", "t1", "d1")]
    assert fleet.store.where("t1") == []
    answer = audit(fleet, repair=True, unknown={"d1": {"t1"}})
    assert (answer["total"], answer["repaired"]) == (1, 1)
    assert fleet.store.where("t1") == ["d1"]
    assert told_again(fleet, "t1") == 2
    assert [event[3]["kind"] for event in fleet.store.events("state_repaired")] == ["lost_record"]
    fleet.finish("d1", "t1", "t2")
    assert set(fleet.got("alice~1")) == {"t1", "t2"}
    assert audit(fleet)["total"] == 0


def test_a_lost_record_of_the_inbox_is_put_back(fleet: World) -> None:
    fleet.submit("alice~1", "held", distributor="d9")
    del fleet.store.live[""]["held"]
    assert kinds(audit(fleet, repair=True)) == [("lost_record", "held", "inbox")]
    assert fleet.store.where("held") == ["inbox"]
    fleet.distributor("d9")
    fleet.finish("d9", "held")
    assert set(fleet.got("alice~1")) == {"held"}


def test_a_copy_elsewhere_is_dropped(fleet: World) -> None:
    fleet.distributor("d2", types="other")
    fleet.submit("alice~1", "t1")
    for place in ("", "d2"):
        fleet.store.live[place]["t1"] = fleet.store.live["d1"]["t1"]
    answer = audit(fleet, repair=True, unknown={"d2": {"t1"}})
    assert sorted(kinds(answer)) == [("two_places", "t1", "d2"), ("two_places", "t1", "inbox")]
    assert fleet.store.where("t1") == ["d1"]
    assert audit(fleet)["total"] == 0


def test_a_copy_that_may_run_is_only_reported(fleet: World) -> None:
    fleet.distributor("d2", types="other")
    fleet.submit("alice~1", "t1")
    fleet.store.live["d2"]["t1"] = fleet.store.live["d1"]["t1"]
    for silent in ((), ("d2",)):  # it says that it has it, or says nothing
        answer = audit(fleet, repair=True, silent=silent)
        assert (answer["total"], answer["repaired"]) == (1, 0)
        assert fleet.store.where("t1") == ["d1", "d2"]
    del fleet.store.live["d2"]["t1"]


def test_a_live_record_of_an_ended_task_is_dropped(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    record = fleet.store.live["d1"]["t1"]
    fleet.finish("d1", "t1")
    fleet.store.live["d1"]["t1"] = record
    assert kinds(audit(fleet, repair=True, unknown={"d1": {"t1"}})) == [("ended_and_live", "t1", "d1")]
    assert fleet.store.where("t1") == []


def test_a_task_that_waits_again_because_the_store_was_rolled_back_gets_its_result_recorded(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    record = fleet.store.live["d1"]["t1"]
    fleet.finish("d1", "t1")
    del fleet.store.results["d1"]["t1"]
    fleet.store.live["d1"]["t1"] = {**record, "status": "waiting", "metadata": {**record["metadata"], "asked": 1}}
    answer = audit(fleet, repair=True)
    assert [(row["kind"], row["repair"], row["repaired"]) for row in answer["findings"]] == [
        ("ended_and_live", "end", True)
    ]
    told = [each.payload["results"] for each in fleet.peers["d1"].told if each.action == "end_waiting"]
    assert [(each["task_id"], each["status"]) for each in told[0]] == [("t1", "completed")]


def test_a_result_that_nobody_told_us_ends_the_task(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.finish("d1", "t1", tell=False)
    assert kinds(audit(fleet, repair=True)) == [("ended_unheard", "t1", "d1")]
    assert set(fleet.got("alice~1")) == {"t1"}


def test_an_assignment_that_its_distributor_does_not_know_is_sent_again(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    assert kinds(audit(fleet, repair=True, unknown={"d1": {"t1"}})) == [("assigned_unknown", "t1", "d1")]
    assert (told_again(fleet, "t1"), told_again(fleet, "t2")) == (2, 1)
    assert fleet.store.live["d1"]["t1"]["metadata"]["restored"] == 1  # it may believe that this has ended
    assert audit(fleet)["total"] == 0


@pytest.mark.parametrize("known", [True, False], ids=["its distributor has it", "nobody has it"])
def test_a_task_that_we_do_not_know_is_adopted(fleet: World, known: bool) -> None:
    fleet.store.live["d1"]["stranger"] = stranger("stranger")
    answer = audit(fleet, repair=True, unknown={} if known else {"d1": {"stranger"}})
    assert kinds(answer) == [("unknown_task", "stranger", "d1")]
    assert told_again(fleet, "stranger") == (0 if known else 1)
    fleet.finish("d1", "stranger")
    assert audit(fleet)["total"] == 0


def test_a_task_that_nobody_can_place_is_told_of_and_not_adopted(fleet: World) -> None:
    fleet.store.live["d1"]["stranger"] = stranger("stranger") | {"metadata": {"client": "alice", "labels": "gpu"}}
    answer = audit(fleet, repair=True)
    assert kinds(answer) == [("unreadable_record", "stranger", "d1")]
    assert answer["repaired"] == 0
    del fleet.store.live["d1"]["stranger"]


def test_a_record_that_cannot_be_read_is_written_anew_where_we_know_the_task(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.store.live["d1"] |= {"t1": {"junk": 1}, "garbage": {"junk": 1}}
    answer = audit(fleet, repair=True)
    assert sorted(kinds(answer)) == [("unreadable_record", "garbage", "d1"), ("unreadable_record", "t1", "d1")]
    assert (answer["total"], answer["repaired"]) == (2, 1)
    assert fleet.store.live["d1"]["t1"]["task_id"] == "t1"
    del fleet.store.live["d1"]["garbage"]


def test_a_section_without_registration_is_entered_and_its_tasks_taken_in(fleet: World) -> None:
    fleet.store.live["d7"] = {"left": stranger("left")}
    assert kinds(audit(fleet, repair=True)) == [("unregistered", "", "d7")]
    assert fleet.store.registered == ["d1", "d7"]
    assert audit(fleet)["checked"] == 1
    fleet.distributor("d7")
    fleet.finish("d7", "left")
    assert audit(fleet)["total"] == 0


def test_counts_that_do_not_add_up_are_counted_again(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.core.desk.ledger.distributors["d1"].sent -= 1
    answer = audit(fleet, repair=True)
    assert [row["kind"] for row in answer["findings"]] == ["counts"]
    assert audit(fleet)["total"] == 0


def test_a_retried_task_with_its_old_result_is_not_wrong(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.finish("d1", "t1", status="failed")
    fleet.operator()
    fleet.ask("root~1", "retry_tasks", task_ids=["t1"])
    assert audit(fleet)["total"] == 0


# ---------------------------------------------------------------- trouble on the way


def test_a_store_that_goes_away_ends_the_audit_with_a_refusal(fleet: World) -> None:
    fleet.operator()
    fleet.query_error = "gone"
    assert fleet.ask("root~1", "audit")["code"] == "UNAVAILABLE"
    fleet.query_error = None
    assert audit(fleet)["total"] == 0


def test_a_reload_ends_the_audit_with_a_refusal(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.operator()
    request = fleet.say("root~1", MessageType.REQUEST, {"action": "audit"})
    fleet.own()
    fleet.advance(4.0)
    answer = fleet.answer_to("root~1", request)
    assert answer is not None
    assert answer.payload["code"] == "UNAVAILABLE"


def test_one_audit_at_a_time(fleet: World) -> None:
    fleet.operator()
    fleet.client("other~1", Role.OPERATOR)
    fleet.say("root~1", MessageType.REQUEST, {"action": "audit"})
    assert fleet.ask("other~1", "audit")["code"] == "BUSY"


def test_a_distributor_that_does_not_answer_is_named(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    answer = audit(fleet, silent=("d1",))
    assert (answer["total"], answer["unchecked"]) == (0, ["d1's memory: it did not answer in time"])


def test_without_being_asked_the_tasks_are_looked_at_now_and_then(make_world: Callable[..., World]) -> None:
    world = make_world(audit_interval_s=30.0)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", "t1")
    record = world.store.live["d1"].pop("t1")
    for _ in range(200):
        world.advance(0.2)
        answer_audits(world, {"d1": {"t1"}})
    assert world.store.where("t1") == ["d1"]
    assert world.store.live["d1"]["t1"]["payload"] == record["payload"]
    assert [line.event for line in world.logs if line.level == "warning"] == ["state_audited"]
