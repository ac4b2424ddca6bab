"""Tasks that an operator sends around again: where they go, and how a further life of theirs ends."""

from __future__ import annotations

from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.harness import World


def retry(world: World, *task_ids: str) -> None:
    assert world.ask(world.operator(), "retry_tasks", task_ids=list(task_ids))["retried"] == list(task_ids)


# ---------------------------------------------------------------- where they go


def test_a_retried_task_goes_wherever_it_can_run(fleet: World) -> None:
    """Where it had failed was taken for its client's wish."""
    fleet.submit("alice~1", "t1", "t2", pinned=True)  # a submission cannot say that
    fleet.finish("d1", "t1", status="failed")
    fleet.ask("alice~1", "cancel_tasks", task_ids=["t2"])
    fleet.say("d1", MessageType.EVENT, {"action": "task_unknown", "task_ids": ["t2"]})
    assert fleet.store.results["d1"]["t2"]["metadata"]["distributor"] == "d1"
    fleet.distributor("d2")
    fleet.gone("d1")
    retry(fleet, "t1", "t2")
    assert [fleet.store.where(task_id) for task_id in ("t1", "t2")] == [["d2"], ["d2"]]
    assert "distributor" not in fleet.store.live["d2"]["t1"]["metadata"]


def test_a_task_for_one_distributor_stays_so_however_often_it_is_retried(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2", distributor="d1")
    fleet.distributor("d2")
    for _ in range(2):
        fleet.finish("d1", "t1", status="failed")
        fleet.ask("alice~1", "cancel_tasks", task_ids=["t2"])
        fleet.say("d1", MessageType.EVENT, {"action": "task_unknown", "task_ids": ["t2"]})
        retry(fleet, "t1", "t2")
        assert [fleet.store.where(task_id) for task_id in ("t1", "t2")] == [["d1"], ["d1"]]
    assert "pinned" not in fleet.store.live["d1"]["t1"]["metadata"], "it is the result's"


def test_a_result_of_an_older_release_does_not_tell_a_wish(fleet: World) -> None:
    fleet.submit("alice~1", "t1", distributor="d1")
    fleet.finish("d1", "t1", status="failed")
    for kept in (fleet.store.results, fleet.store.letters):
        kept["d1"]["t1"]["metadata"].pop("pinned", None)
    fleet.distributor("d2")
    fleet.gone("d1")
    retry(fleet, "t1")
    assert fleet.store.where("t1") == ["d2"]
