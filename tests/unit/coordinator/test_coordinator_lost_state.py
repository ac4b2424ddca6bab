"""A leader whose store went back to an older copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.harness import World


@pytest.fixture
def gone_back(make_world: Callable[..., World]) -> World:
    """Tasks that waited in the inbox until d1 came are there once more; and d2 has come, which has more room."""
    world = make_world()
    world.own()
    world.client("alice~1")
    world.submit("alice~1", "t1", "t2")
    before = {task_id: dict(record) for task_id, record in world.store.live[""].items()}
    world.distributor("d1")
    assert sorted(world.assigned("d1")) == ["t1", "t2"]
    world.store.live[""] = before
    world.store.live["d1"].clear()
    world.distributor("d2", slots=100)
    return world


def test_a_task_that_is_back_in_the_inbox_stays_with_the_distributor_that_runs_it(gone_back: World) -> None:
    """Found by simulation: another distributor got it, too, and each recorded a result."""
    gone_back.own(state_lost=True)
    assert gone_back.assigned("d2") == []
    assert [gone_back.store.where(each) for each in ("t1", "t2")] == [["d1"], ["d1"]]
    gone_back.finish("d1", "t1", "t2")
    assert set(gone_back.got("alice~1")) == {"t1", "t2"}


def test_a_task_that_is_back_in_the_inbox_is_never_nowhere(gone_back: World) -> None:
    """The leader may die after each of its writes."""
    gone_back.batches_held = True
    gone_back.own(state_lost=True)
    places = [gone_back.store.where("t1")]
    while places[-1] != ["d1"]:
        gone_back.apply()
        gone_back.turn()
        places.append(gone_back.store.where("t1"))
        assert places[-1] != []
    assert ["d1", "inbox"] in [sorted(each) for each in places]


def test_a_task_that_is_back_in_the_inbox_and_has_ended_runs_nowhere(gone_back: World) -> None:
    """Its distributor noticed first, and recorded the result again."""
    gone_back.store.live["d1"].update(gone_back.store.live[""])
    gone_back.store.record("d1", "t1", gone_back.result("d1", "t1"))
    gone_back.store.live["d1"].clear()
    gone_back.own(state_lost=True)
    assert set(gone_back.got("alice~1")) == {"t1"}
    assert [gone_back.store.where(each) for each in ("t1", "t2")] == [[], ["d1"]]
    assert gone_back.assigned("d2") == []


def test_a_task_that_is_back_in_the_inbox_leaves_it_when_its_distributor_stores_it(gone_back: World) -> None:
    gone_back.queries_held = True
    gone_back.own(state_lost=True)
    gone_back.store.live["d1"].update(gone_back.store.live[""])
    gone_back.release_queries()
    gone_back.advance(1.0)
    assert [gone_back.store.where(each) for each in ("t1", "t2")] == [["d1"], ["d1"]]


def test_a_task_that_is_back_in_the_inbox_can_be_cancelled_where_it_runs(gone_back: World) -> None:
    gone_back.queries_held = True
    gone_back.own(state_lost=True)
    gone_back.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t1"]})
    gone_back.release_queries()
    asked = [each.payload["task_ids"] for each in gone_back.peers["d1"].told if each.action == "cancel_tasks"]
    assert asked[-1] == ["t1"]
    gone_back.finish("d1", "t1", status="abandoned")
    gone_back.finish("d1", "t2")
    assert [gone_back.store.where(each) for each in ("t1", "t2")] == [[], []]
    assert set(gone_back.got("alice~1")) == {"t1", "t2"}


def test_our_copy_of_a_record_does_not_replace_what_its_distributor_puts_back(fleet: World) -> None:
    """Found by simulation: the attempts that its distributor had counted were lost, and counted anew when it died."""
    fleet.submit("alice~1", "t1", "t2")
    record = fleet.store.live["d1"]["t1"]
    later = {**record, "metadata": {**record["metadata"], "attempt": 2}}
    fleet.store.live["d1"].clear()
    fleet.batches_held = True
    fleet.own(state_lost=True)
    fleet.store.live["d1"]["t1"] = later
    fleet.release_batches()
    assert set(fleet.store.live["d1"]) == {"t1", "t2"}
    assert fleet.store.live["d1"]["t1"] == later


@pytest.mark.parametrize("lost_again", [True, False])
def test_a_task_that_is_put_back_stays_with_its_distributor_when_the_state_is_read_again_before_that(
    fleet: World, *, lost_again: bool
) -> None:
    """Found by simulation: it was placed anew, while its distributor was cut off and still had it."""
    fleet.submit("alice~1", "t1")
    fleet.store.live["d1"].clear()
    fleet.gone("d1")
    fleet.batches_held = True
    fleet.own(state_lost=True)
    fleet.distributor("d2", slots=100)
    fleet.own(state_lost=lost_again)
    fleet.release_batches()
    fleet.advance(1.0)
    assert fleet.store.where("t1") == ["d1"]
    assert fleet.assigned("d2") == []


def test_a_task_that_ended_in_an_outage_is_not_brought_back_when_the_store_is_wiped_right_after_it(
    fleet: World,
) -> None:
    """Found by chaos on a busy host: our spool put the live record, the distributor's the result; both were wiped
    before we had compared, and hundreds of tasks whose results clients had ran, and were recorded, again."""
    fleet.submit("alice~1", "t1")
    record = dict(fleet.store.live["d1"]["t1"])
    fleet.finish("d1", "t1")
    fleet.store.live["d1"]["t1"] = record
    fleet.own()
    fleet.store.live["d1"].clear()
    del fleet.store.results["d1"]["t1"]
    fleet.own(state_lost=True)
    fleet.advance(5.0)
    assert fleet.store.where("t1") == []
    assert "t1" not in fleet.core.desk.ledger.live
    assert fleet.assigned("d1") == ["t1"]


def test_a_task_that_another_leader_retried_lives_although_we_know_its_former_result(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    record = dict(fleet.store.live["d1"]["t1"])
    fleet.finish("d1", "t1", status="failed")
    fleet.store.live["d1"]["t1"] = {**record, "metadata": {**record["metadata"], "retried": 1, "floor": 1}}
    fleet.own()
    assert "t1" in fleet.core.desk.ledger.live
