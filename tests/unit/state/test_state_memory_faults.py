"""Faults that a simulation injects into the in-memory shared state."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from a2a_zmq.clock import Now
from a2a_zmq.errors import Fenced, StateLost, StoreUnavailable
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.memory import MemoryLeases, MemoryRedis, MemoryStore

SECTION = Section("d1", "distributor")
T = TypeVar("T")


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that never waits, stepped by hand as a simulator does."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("the coroutine waited")


class World:
    def __init__(self) -> None:
        self.seconds = 100.0
        self.redis = MemoryRedis(lambda: Now(self.seconds, 1.7e9 + self.seconds))
        self.count = 0

    def write(self, **members: Any) -> SectionWrite:
        self.count += 1
        return SectionWrite(**{"section": SECTION, "fence": 1, "mutation_id": f"m{self.count}", **members})


@pytest.fixture
def world() -> World:
    return World()


def test_a_client_can_be_cut_off_alone(world: World) -> None:
    one, two = MemoryStore(world.redis, "one"), MemoryStore(world.redis, "two")
    world.redis.take_away("one")
    with pytest.raises(StoreUnavailable, match="connection"):
        done(one.apply(world.write()))
    assert done(two.apply(world.write())) == 1
    world.redis.give_back("one")
    assert done(one.apply(world.write())) == 2


def test_redis_can_be_away_for_all(world: World) -> None:
    world.redis.take_away(reason="loading")
    for call in (
        MemoryStore(world.redis, "one").load(SECTION),
        MemoryLeases(world.redis, "two").acquire(SECTION, "two", 1000),
        MemoryStore(world.redis, "three").ping(),
    ):
        with pytest.raises(StoreUnavailable, match="loading"):
            done(call)


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_reply_costs_nothing_if_the_write_is_repeated(world: World, applied: bool) -> None:
    store = MemoryStore(world.redis, "one")
    world.redis.lose_replies("one", 2, applied=applied)
    write = world.write(put_tasks={"t": b"{}"}, history=[b'["",  "t", "accepted", {}]'])
    outcomes: list[int] = []
    while not outcomes or outcomes[-1] != 1:
        try:
            outcomes.append(done(store.apply(write)))
        except StoreUnavailable:
            outcomes.append(0)
    assert outcomes == ([0, 1] if applied else [0, 0, 1])
    assert world.redis.log == [("one", write.mutation_id, 1)]
    assert len(done(store.history("d1", 10))) == 1


def test_a_lease_taken_with_a_lost_reply_is_ours_at_the_next_try(world: World) -> None:
    leases = MemoryLeases(world.redis, "one")
    world.redis.lose_replies("one", applied=True)
    with pytest.raises(StoreUnavailable):
        done(leases.acquire(SECTION, "one", 1000))
    held = done(leases.acquire(SECTION, "one", 1000))
    assert held is not None
    assert held.fence == 1


def test_going_back_to_a_copy_is_a_loss_to_who_wrote_since(world: World) -> None:
    writer, reader = MemoryStore(world.redis, "one"), MemoryStore(world.redis, "two")
    done(writer.apply(world.write()))
    copy = world.redis.copy()
    done(writer.apply(world.write(put_tasks={"t": b"{}"})))
    world.redis.restore(copy)
    with pytest.raises(StateLost):
        done(writer.apply(world.write()))
    assert done(reader.load(SECTION)).version == 1


def test_result_buckets_end_with_the_simulations_time(world: World) -> None:
    store = MemoryStore(world.redis, "one")
    done(store.apply(world.write(results={"t": b"{}"})))
    world.seconds += 3600
    assert done(store.results("d1", ["t"])) == {"t": b"{}"}
    world.seconds += 200
    assert done(store.results("d1", ["t"])) == {}


def test_notifications_reach_the_simulator(world: World) -> None:
    seen: list[tuple[str, str, int]] = []
    world.redis.on_hint(seen.append)
    store = MemoryStore(world.redis, "one")
    done(store.apply(world.write()))
    with pytest.raises(Fenced):
        done(store.apply(world.write(fence=0)))
    world.redis.wipe()
    assert seen == [("d1", "distributor", 1), ("", "", 0)]
