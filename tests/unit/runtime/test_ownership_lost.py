"""An owner that is fenced, or whose state is lost; and the lease on request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from a2a_zmq.interfaces import Held, Loaded, Section, SectionWrite
from a2a_zmq.state.memory import MemoryLeases
from daemons.runtime.contract import OwnershipGained
from daemons.runtime.spooling import SpoolingStore
from tests.unit.runtime.fakes import SECTION
from tests.unit.runtime.owners import SAFE_S, TTL_MS, Owner, World, play

# ---------------------------------------------------------------- fenced, state lost


def test_a_fenced_write_ends_the_ownership_and_the_section_is_taken_with_a_higher_fence() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        await MemoryLeases(world.redis, "x").acquire(SECTION, "x|h|9|9|x", TTL_MS, steal_from=owner.ownership._owner)
        world.dead.add(9)
        owner.write("t1")
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        assert owner.lost == ["fence 1 is behind 2"]
        assert owner.fences == [1, 3]
        assert owner.meter.counts["shared_state_conflicts_total"] == 1

    play(story)


@pytest.mark.parametrize("how", ["wiped", "went back"])
def test_lost_state_is_told_and_gets_a_new_epoch(how: str) -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        owner.write("t1")
        await asyncio.sleep(0.05)
        copy = world.redis.copy()
        owner.write("t2")
        await asyncio.sleep(0.05)
        epoch = owner.core.of(OwnershipGained)[0].epoch
        if how == "wiped":
            world.redis.wipe()
        else:
            world.redis.restore(copy)
        owner.write("t3")
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        event = owner.core.of(OwnershipGained)[-1]
        assert event.state_lost
        assert event.epoch != epoch
        assert event.fence > 1
        assert owner.lost == [], "the memory of the core is the best copy there is"
        assert list(event.loaded[SECTION].tasks) == ([] if how == "wiped" else ["t1"])
        owner.write("t1", "t2", "t3")
        await asyncio.sleep(0.05)
        assert sorted(await world.stored()) == ["t1", "t2", "t3"]
        owner.write("t4")
        await asyncio.sleep(0.05)
        assert len(owner.fences) == 2, "the loss is told once"
        assert owner.meter.counts["state_losses_total"] == 1

    play(story)


async def wiped_in_an_outage(world: World, seconds: float) -> Owner:
    """An owner that wrote before and during an outage; Redis is back, and empty."""
    owner = await world.owner("a")
    owner.write("t0")
    await asyncio.sleep(0.05)
    world.redis.take_away()
    owner.write("t1")
    await asyncio.sleep(seconds)
    world.redis.wipe()
    world.redis.give_back()
    return owner


def test_a_redis_wiped_during_an_outage_is_noticed_by_the_batch_that_waited() -> None:
    async def story(world: World) -> None:
        owner = await wiped_in_an_outage(world, 8.0)
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        assert owner.core.of(OwnershipGained)[-1].state_lost

    play(story)


def test_what_is_staged_while_a_spool_is_merged_after_a_loss_does_not_end_the_ownership() -> None:
    """It was written with the fence of before, refused, and the process left as if another one had taken over."""

    async def story(world: World) -> None:
        owner = await wiped_in_an_outage(world, 1.0)
        load, merged = owner.load, asyncio.Event()

        async def slowly(held: Held) -> dict[Section, Loaded]:
            merged.set()
            await asyncio.sleep(0.1)
            return await load(held)

        owner.load = slowly
        await merged.wait()
        owner.write("t2")
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        assert owner.lost == []
        assert owner.core.of(OwnershipGained)[-1].state_lost
        owner.write("t2")
        await asyncio.sleep(0.05)
        assert {"t1", "t2"} <= set(await world.stored())

    play(story, spooling=True)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_state_that_is_lost_again_while_a_spool_is_merged_is_noticed(when: str) -> None:
    """The spool went on into the empty store without a lease, and its first write brought the fence back by which the
    loss would have shown: the next to take the lease would have taken what it found for the whole truth."""

    async def story(world: World) -> None:
        owner = await wiped_in_an_outage(world, 1.0)
        assert isinstance(owner.store, SpoolingStore)
        inner, wiped, unleased = owner.store._inner, 0.0, []
        wanted = "load" if when == "before" else "tasks"
        look, apply = getattr(inner, wanted), inner.apply

        async def wiping(*args: Any) -> Any:
            nonlocal wiped
            if not wiped:
                wiped = world.loop.time()
                world.redis.wipe()
            return await look(*args)

        async def watched(write: SectionWrite) -> int:
            if await world.lease() is None:
                unleased.append(write)
            return await apply(write)

        setattr(inner, wanted, wiping)
        inner.apply = watched  # type: ignore[method-assign]
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        assert wiped
        assert unleased == []
        assert owner.lost == []
        event = owner.core.of(OwnershipGained)[-1]
        assert event.state_lost
        assert "t1" in event.loaded[SECTION].tasks, "from the spool"

    play(story, spooling=True)


def test_a_write_that_meets_our_own_new_fence_after_a_wipe_does_not_end_the_ownership() -> None:
    """The only coordinator took itself for replaced, and left with all that the store had just lost."""

    async def story(world: World) -> None:
        owner = await world.owner("a")
        owner.write("t1")
        await asyncio.sleep(0.05)
        apply = owner.store.apply

        async def slow(write: SectionWrite) -> int:
            fence = write.fence
            await raised.wait()
            return await apply(SectionWrite(SECTION, fence, write.mutation_id, put_tasks=write.put_tasks))

        acquire, raised = owner.ownership._leases.acquire, asyncio.Event()

        async def slow_reply(*args: Any, **more: Any) -> Held | None:
            held = await acquire(*args, **more)
            raised.set()
            await asyncio.sleep(0.05)
            return held

        owner.ownership._leases.acquire = slow_reply  # type: ignore[method-assign]
        owner.store.apply = slow  # type: ignore[method-assign]
        owner.write("t2")
        await asyncio.sleep(0.01)
        world.redis.wipe()
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        owner.store.apply = apply  # type: ignore[method-assign]
        assert owner.lost == []
        assert owner.core.of(OwnershipGained)[-1].state_lost
        owner.write("t1", "t2")
        await asyncio.sleep(0.05)
        assert sorted(await world.stored()) == ["t1", "t2"]

    play(story)


def test_a_late_refusal_of_a_void_batch_does_not_end_the_next_ownership() -> None:
    """A write that hung through a change of owners ended the ownership that was regained meanwhile."""

    async def story(world: World) -> None:
        owner = await world.owner("a")
        gate = asyncio.Event()
        apply = owner.store.apply

        async def slow(write: object) -> int:
            await gate.wait()
            return await apply(write)  # type: ignore[arg-type]

        owner.store.apply = slow  # type: ignore[method-assign]
        owner.write("t1")
        await asyncio.sleep(0.05)
        owner.engine.ownership_lost("a test")
        owner.ownership.lost()
        await MemoryLeases(world.redis, "x").acquire(SECTION, "x|h|9|9|x", TTL_MS, steal_from=owner.ownership._owner)
        world.dead.add(9)
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        owner.store.apply = apply  # type: ignore[method-assign]
        gate.set()
        await asyncio.sleep(1.0)
        assert owner.lost == ["a test"]
        assert len(owner.fences) == 2

    play(story)


# ---------------------------------------------------------------- on request


def test_renewing_on_request_moves_the_lease() -> None:
    async def story(world: World) -> None:
        owner = world.start("a")
        assert not await owner.ownership.renew_now()
        await world.until(lambda: owner.fences, "owner")
        await asyncio.sleep(1.0)
        assert await owner.ownership.renew_now()
        assert owner.engine.safe_until == pytest.approx(world.loop.time() + SAFE_S)
        world.redis.take_away()
        assert not await owner.ownership.renew_now()
        assert owner.meter.counts["lease_renewal_failures_total"] >= 1

    play(story)


def test_a_leaving_owner_gives_the_lease_up() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        owner.shell.exit_status.set_result(0)
        assert await owner.running == 0
        assert await world.lease() is None
        assert (await world.owner("b")).fences == [2]

    play(story)


# ---------------------------------------------------------------- lost state and another owner


def test_the_lease_of_a_dead_predecessor_in_an_older_copy_is_a_relic() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        first.write("t1")
        await asyncio.sleep(0.05)
        copy = world.redis.copy()
        first.kill()
        second = await world.owner("b")
        second.write("t2")
        await asyncio.sleep(0.05)
        world.redis.restore(copy)
        await world.until(lambda: len(second.fences) == 2, "owns it again")
        assert second.lost == []
        assert second.core.of(OwnershipGained)[-1].state_lost
        assert second.fences == [2, 3]

    play(story)


def test_whoever_was_faster_after_a_wipe_ends_our_ownership_but_not_our_memory() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        for _ in range(3):  # so that its fence is higher than a newcomer's
            await first.ownership.release()
            first.ownership.lost(state_lost=True)
            await asyncio.sleep(0.5)
        assert first.fences[-1] > 2
        world.redis.wipe()
        second = await world.owner("b")
        await world.until(lambda: not first.engine.owner, "the first has stopped")
        await asyncio.sleep(1.0)
        assert first.lost == ["the lease is held by d1"], "told once"
        second.kill()
        await world.until(lambda: first.engine.owner, "the first owns it again")
        await asyncio.sleep(0.05)
        assert first.core.of(OwnershipGained)[-1].state_lost

    play(story)


def test_a_later_owner_knows_better_than_what_we_remember_from_before_a_loss() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        first.write("t1")
        await asyncio.sleep(0.05)
        leases = MemoryLeases(world.redis, "x")
        held = await leases.acquire(SECTION, "d1|h|9|9|x", TTL_MS, steal_from=first.ownership._owner)
        assert held is not None
        first.ownership.lost(state_lost=True)
        await world.until(lambda: first.lost, "the first has stopped")
        await leases.release(SECTION, held)
        await world.until(lambda: len(first.fences) == 2, "owns it again")
        assert not first.core.of(OwnershipGained)[-1].state_lost

    play(story)
