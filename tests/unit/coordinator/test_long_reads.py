"""Reads of the store that take long, or fail, while much else is asked."""

from __future__ import annotations

from collections.abc import Callable

from a2a_zmq.interfaces import INBOX
from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.fakes import Store, task
from tests.unit.coordinator.harness import World

LONG_S = 30  # a section of some 200,000 records, beside a busy loop, needs half of it


def asked(world: World, op: str) -> int:
    """Reads of this kind that the store has not answered: it is never told that nobody waits for them."""
    return sum(query.op == op for query in world.queries)


def resyncs(world: World) -> int:
    return sum(told.action == "resync" for told in world.peers["d1"].told)


def wait(world: World) -> None:
    for _ in range(LONG_S):
        world.advance(1.0)


def test_a_comparison_takes_as_long_as_the_section_is_large(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.gone("d1")
    fleet.finish("d1", "t1", tell=False)
    fleet.queries_held = True
    before = resyncs(fleet)
    fleet.distributor("d1", restarted=True)
    wait(fleet)
    assert asked(fleet, "load") == 1
    assert resyncs(fleet) == before + 1
    assert fleet.got("alice~1") == {}
    fleet.release_queries()
    assert set(fleet.got("alice~1")) == {"t1"}


def test_counts_that_differ_while_they_are_compared_begin_no_further_comparison(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.finish("d1", "t1", tell=False)
    fleet.queries_held = True
    for _ in range(LONG_S):
        fleet.beat("d1", pending=0, in_progress=1, slots=4, version=7)
        fleet.advance(1.0)
    assert asked(fleet, "load") == 1
    assert resyncs(fleet) == 1
    fleet.release_queries()
    assert set(fleet.got("alice~1")) == {"t1"}
    fleet.advance(1.0)
    assert resyncs(fleet) == 1, "what was missing is found"


def test_one_that_comes_back_during_a_comparison_is_compared_again(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.gone("d1")
    fleet.queries_held = True
    fleet.distributor("d1", restarted=True)
    (load,) = [query for query in fleet.queries if query.op == "load"]
    early = fleet.store.read(load)
    fleet.gone("d1")
    fleet.finish("d1", "t1", tell=False)  # written after that was read, and the message is lost with the process
    fleet.distributor("d1", restarted=True)
    late, fleet.store.read = fleet.store.read, lambda query: early if query is load else late(query)  # type: ignore[method-assign]
    fleet.release_queries()
    fleet.advance(1.0)
    assert set(fleet.got("alice~1")) == {"t1"}


def test_a_distributor_is_registered_however_much_it_has(world: World) -> None:
    world.client("alice~1")
    world.queries_held = True
    world.distributor("d1")
    wait(world)
    assert asked(world, "register") == 1
    world.release_queries()
    world.submit("alice~1", "t1")
    assert world.assigned("d1") == ["t1"]
    assert [line for line in world.logs if line.event == "not_registered"] == []


def test_a_section_is_seized_once_however_long_that_takes(fleet: World) -> None:
    fleet.store.take("d1")
    fleet.operator()
    fleet.submit("alice~1", "t1")
    fleet.distributor("d2")
    fleet.gone("d1")
    fleet.store.held.discard("d1")
    fence = fleet.store.fences["d1"]
    fleet.queries_held = True
    request = fleet.say("root~1", MessageType.REQUEST, {"action": "failover", "agent_id": "d1"})
    wait(fleet)
    assert asked(fleet, "seize") == 1
    fleet.release_queries()
    fleet.advance(1.0)
    answer = fleet.answer_to("root~1", request)
    assert answer is not None
    assert answer.payload["moving"] == 1
    assert fleet.assigned("d2") == ["t1"]
    assert fleet.store.fences["d1"] == fence + 2, "seized, and what was there taken away"


def test_other_reads_are_given_up_as_ever(fleet: World) -> None:
    fleet.queries_held = True
    request = fleet.say("alice~1", MessageType.REQUEST, {"action": "watch_tasks", "task_ids": ["gone"]})
    fleet.advance(fleet.core.config.question_timeout_s + 0.1)
    answer = fleet.answer_to("alice~1", request)
    assert answer is not None
    assert answer.payload["code"] == "UNAVAILABLE"
    fleet.release_queries()


def test_an_inbox_that_could_not_be_checked_is_checked_again_whatever_else_is_asked(
    make_world: Callable[..., World],
) -> None:
    store = Store()
    store.register("d1")
    store.live[INBOX]["t1"] = {**task("t1"), "status": "pending", "metadata": {"client": "alice"}}
    world = make_world(store)
    world.query_error = "connection"
    world.own()
    world.query_error = None
    world.client("alice~1")
    world.distributor("d1")
    world.queries_held = True
    world.say("alice~1", MessageType.REQUEST, {"action": "watch_tasks", "task_ids": ["other"]})
    for _ in range(3):
        world.advance(1.0)
    checks = [query for query in world.queries if query.args.get("task_ids") == ["t1"]]
    assert len(checks) == 1, "again, but not beside itself"
    world.release_queries()
    assert world.assigned("d1") == ["t1"]
