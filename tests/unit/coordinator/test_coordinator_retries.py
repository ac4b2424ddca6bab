"""Tasks that an operator sends around again: where they go, and how a further life of theirs ends."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from a2a_zmq.clock import Now, iso
from a2a_zmq.encoding import kept_json
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.tasks import attempt_of, ends
from daemons.coordinator.lives import cancelled_record, moved_record, revived_record
from daemons.coordinator.records import Needs, entry_of
from daemons.runtime.merging import outlived
from tests.unit.coordinator.fakes import task
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


# ---------------------------------------------------------------- how they end


def cancelled_on_its_way(world: World) -> None:
    """Retried into the inbox; cancelled as it leaves that, with a batch in flight. The client was told, then the
    process dies: the inbox still has the task, and the store the result."""
    world.submit("alice~1", "t1")
    world.finish("d1", "t1", status="failed")
    world.workers("d1", "other")
    retry(world, "t1")
    assert world.store.where("t1") == ["inbox"]
    world.batches_held = True
    world.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t2", "other")]})
    world.workers("d1", "noop other")
    request = world.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t1"]})
    world.apply()
    world.turn()
    world.apply()
    answer = world.answer_to("alice~1", request)
    assert answer is not None
    assert answer.payload["cancelled"] == ["t1"]
    assert world.store.where("t1") == ["inbox"]


def test_a_retried_task_that_was_cancelled_stays_so(fleet: World, make_world: Callable[..., World]) -> None:
    """Its cancellation looked like the result that it had before."""
    cancelled_on_its_way(fleet)
    second = make_world(fleet.store)
    second.own()
    second.distributor("d1", "noop other")
    second.advance(1.0)
    assert second.assigned("d1") == []
    assert second.store.where("t1") == []
    assert second.store.recorded["t1"] == 2, "it failed, and was cancelled"


def test_a_cancellation_counts_one_attempt_that_nobody_began(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.finish("d1", "t1", status="failed")
    fleet.workers("d1", "other")
    retry(fleet, "t1")
    fleet.ask("alice~1", "cancel_tasks", task_ids=["t1"])
    result = fleet.store.results[""]["t1"]
    assert (result["metadata"]["attempt"], result["retry_count"]) == (2, 0)
    assert "worker" not in result["metadata"], "so no try is shown"
    told = fleet.ask("alice~1", "explain", task_id="t1")["attempts"]
    assert [(each["attempt"], each["worker"], each["kind"]) for each in told] == [
        (1, "d1-w1", "raised"),
        (2, "", "cancelled"),
    ]
    retry(fleet, "t1")
    fleet.workers("d1", "noop")
    fleet.finish("d1", "t1")
    assert fleet.store.results["d1"]["t1"]["metadata"]["attempt"] == 3


@pytest.mark.parametrize("began", [0, 1, 1_000])
def test_a_cancellation_ends_the_life_that_it_is_of(began: int) -> None:
    """Also where it comes from the spool, long after the store last heard of the task."""
    now = Now(1.0, 1_764_325_800.0)
    before = {
        "task_id": "t1", "task_type": "noop", "status": "failed", "created_at": iso(now.wall), "payload": {},
        "metadata": {"attempt": began, "client": "alice", "distributor": "d1"},
    }  # fmt: skip
    live = revived_record(before, now)
    found = entry_of(live, Needs(), 0.0)
    assert found is not None
    result = cancelled_record(found[0], "alice~1", now)
    assert attempt_of(result) == began + 1
    assert ends(result, orjson.loads(live))
    assert not ends(before, orjson.loads(live))
    assert outlived(live, kept_json(result))


def test_a_cancellation_of_a_task_that_went_on_elsewhere_has_its_attempt() -> None:
    now = Now(1.0, 1_764_325_800.0)
    before = {"task_id": "t1", "task_type": "noop", "status": "failed", "metadata": {"attempt": 3}}
    found = entry_of(moved_record(orjson.loads(revived_record(before, now)), "d1", now), Needs(), 0.0)
    assert found is not None
    assert attempt_of(cancelled_record(found[0], "alice~1", now)) == 1_000


@pytest.mark.parametrize(("kind", "kept"), [("raised", True), ("checkpoint_gone", False)])
def test_a_retried_graph_takes_its_answers_along_unless_its_checkpoints_are_gone(kind: str, *, kept: bool) -> None:
    last = {"error_kind": kind, "graph": "abc", "resume": {"q": 1}, "resumed": 1, "attempt": 3}
    result = {"task_id": "t1", "task_type": "graph:x", "status": "failed", "metadata": last}
    metadata = orjson.loads(revived_record(result, Now(1.0, 1.0)))["metadata"]
    assert ({"graph", "resume", "resumed"} <= metadata.keys()) is kept
    assert not metadata.keys() & {"graph", "resume", "resumed"} or kept


def test_a_task_that_was_cancelled_for_an_absent_distributor_gets_a_number_that_this_one_cannot_have_given() -> None:
    """Found by simulation: its first attempt had begun there, unheard, and began elsewhere under the same number."""
    metadata: dict[str, object] = {"error_kind": "cancelled", "distributor": "d1"}
    result = {"task_id": "t1", "task_type": "noop", "status": "abandoned", "metadata": metadata}
    revived = orjson.loads(revived_record(result, Now(1.0, 1.0)))["metadata"]
    assert (revived["attempt"], revived["floor"]) == (1000, 0)
    metadata["pinned"] = True
    assert orjson.loads(revived_record(result, Now(1.0, 1.0)))["metadata"]["attempt"] == 0
