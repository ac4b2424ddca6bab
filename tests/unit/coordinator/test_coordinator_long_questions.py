"""Questions too long to be kept in memory: whoever comes to wait is told them, be it a moment later."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.fakes import Json
from tests.unit.coordinator.harness import World

SHORT = [{"id": "i3", "value": "and then?"}]


def long(task_id: str) -> list[Json]:
    return [{"id": task_id, "value": "x" * 5_000}]


def asks(world: World, task_id: str, attempt: int, questions: list[Json]) -> None:
    """Its distributor stores that the task waits, and tells."""
    record = world.store.live["d1"][task_id]
    record["status"] = "waiting"
    record["metadata"] |= {"attempt": attempt, "interrupts": questions}
    item = {"task_id": task_id, "attempt": attempt, "interrupts": questions}
    world.say("d1", MessageType.EVENT, {"action": "task_waiting", "tasks": [item], "version": 1})


def told(world: World, name: str) -> list[tuple[str, int, list[Json]]]:
    """(task id, attempt, questions) of all that a client was told of waiting."""
    events = [each for each in world.peers[name].told if each.action == "task_waiting"]
    return [(item["task_id"], item["attempt"], item["interrupts"]) for each in events for item in each.payload["tasks"]]


@pytest.fixture
def waiting(fleet: World) -> World:
    """A world in which alice's task ``a`` at d1 waits, and nobody can read what it asks."""
    fleet.operator()
    fleet.client("alice~2")
    fleet.submit("alice~1", "a")
    asks(fleet, "a", 1, long("a"))
    fleet.query_error = "connection"
    for name in ("root~1", "alice~2"):
        fleet.ask(name, "watch_tasks", task_ids=["a"])
        assert told(fleet, name) == []
    return fleet


def test_what_could_not_be_read_is_told_once_when_the_store_answers(waiting: World) -> None:
    waiting.advance(1.0)
    assert told(waiting, "root~1") == []
    waiting.query_error = None
    for _ in range(2):
        waiting.advance(1.0)
        assert told(waiting, "root~1") == told(waiting, "alice~2") == [("a", 1, long("a"))]


def test_nothing_is_read_again_while_the_store_is_away(waiting: World) -> None:
    waiting.store_goes()
    for _ in range(3):
        waiting.advance(1.0)
    assert [query for query in waiting.queries if query.op == "tasks"] == []
    waiting.query_error = None
    waiting.store_comes()
    waiting.advance(1.0)
    assert told(waiting, "root~1") == [("a", 1, long("a"))]


def test_more_than_may_be_read_at_a_time_are_told_one_after_the_other(make_world: Callable[..., World]) -> None:
    world = make_world(max_pending_questions=4)
    world.own()
    world.distributor()
    world.client()
    world.operator()
    ids = [f"t{n}" for n in range(9)]
    world.submit("alice~1", *ids)
    for task_id in ids:
        asks(world, task_id, 1, long(task_id))
    world.ask("root~1", "watch_tasks", task_ids=ids)
    assert [task_id for task_id, _, _ in told(world, "root~1")] == ids[:4]
    for _ in range(3):
        world.advance(1.0)
    assert [task_id for task_id, _, _ in told(world, "root~1")] == ids


def test_who_heard_of_it_otherwise_or_left_is_not_told_late(waiting: World) -> None:
    waiting.gone("alice~2")
    asks(waiting, "a", 2, SHORT)
    waiting.query_error = None
    waiting.advance(1.0)
    assert told(waiting, "root~1") == [("a", 2, SHORT)]
    assert told(waiting, "alice~2") == []
    assert waiting.core.desk.untold == {}


def test_how_many_are_told_later_is_bounded(make_world: Callable[..., World]) -> None:
    world = make_world(max_watched=2)
    world.own()
    world.distributor()
    world.client()
    world.submit("alice~1", "a", "b", "c")
    for task_id in ("a", "b", "c"):
        asks(world, task_id, 1, long(task_id))
    world.gone("alice~1")
    world.client("alice~2")
    world.query_error = "connection"
    world.ask("alice~2", "watch_tasks", task_ids=["a", "b", "c"])
    assert len(world.core.desk.untold) == 2
