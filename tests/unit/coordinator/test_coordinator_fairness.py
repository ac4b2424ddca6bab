"""A client that floods takes its share, of the room and of the turns, and leaves the others theirs."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.coordinator.harness import World


def test_clients_take_turns_behind_a_distributors_window(make_world: Callable[..., World]) -> None:
    world = make_world(assign_window=4)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.client("bob~1")
    world.submit("alice~1", *(f"a{n}" for n in range(40)))
    world.submit("bob~1", "b0", "b1", "b2")
    assert world.assigned("d1") == ["a0", "a1", "a2", "a3"]
    world.finish("d1", "a0", "a1", "a2", "a3")
    assert set(world.assigned("d1")[4:]) == {"a4", "a5", "b0", "b1"}
    world.finish("d1", "a4", "a5", "b0", "b1")
    assert set(world.assigned("d1")[8:]) == {"a6", "a7", "a8", "b2"}


def test_priority_goes_before_turns(make_world: Callable[..., World]) -> None:
    world = make_world(assign_window=1)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.client("bob~1")
    world.submit("alice~1", "a0", "a1")
    world.submit("bob~1", "b0")
    world.submit("alice~1", "urgent", priority=5)
    world.finish("d1", "a0")
    assert world.assigned("d1")[1:] == ["urgent"]


def test_a_flooding_client_leaves_room_for_others(make_world: Callable[..., World]) -> None:
    world = make_world(max_live_tasks=100)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.client("bob~1")
    taken = 0
    while (answer := world.submit("alice~1", f"a{taken}")).get("accepted"):
        taken += 1
    assert taken == 80
    assert answer["code"] == "BUSY"
    assert answer["retry_after_s"] > 0
    assert world.submit("bob~1", *(f"b{n}" for n in range(15)))["accepted"] == 15
    world.finish("d1", *(f"a{n}" for n in range(40)))
    assert world.submit("alice~1", "again")["accepted"] == 1


def test_few_large_tasks_count_by_their_bytes(make_world: Callable[..., World]) -> None:
    world = make_world(max_live_bytes=100_000)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.client("bob~1")
    taken = 0
    while (answer := world.submit("alice~1", f"a{taken}", payload={"pad": "x" * 5_000})).get("accepted"):
        taken += 1
    assert answer["code"] == "BUSY"
    assert 14 <= taken <= 17
    assert world.submit("bob~1", "b0")["accepted"] == 1
    world.finish("d1", *(f"a{n}" for n in range(taken)))
    assert world.submit("alice~1", "more", payload={"pad": "x" * 5_000})["accepted"] == 1
