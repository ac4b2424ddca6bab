"""An owner whose peers obeyed a higher fence than its own: the store has lost that owner, or it comes after us."""

from __future__ import annotations

import asyncio

from a2a_zmq.interfaces import SectionWrite
from a2a_zmq.state.memory import MemoryLeases
from daemons.runtime.contract import FenceMoved, Outranked, OwnershipGained
from tests.unit.runtime.fakes import SECTION
from tests.unit.runtime.owners import TTL_MS, Owner, World, play


def hears(owner: Owner, fence: int, epoch: str = "") -> None:
    """A peer says to have obeyed this fence."""
    epoch = epoch or owner.core.of(OwnershipGained)[-1].epoch
    owner.core.settling = [Outranked(fence, epoch, "w1")]
    owner.shell.wake()


def moved(owner: Owner) -> list[int]:
    return [event.fence for event in owner.core.of(FenceMoved)]


def test_its_fence_rises_above_the_one_that_peers_obeyed() -> None:
    """Found by simulation: the store went back, the next owner took a number that was used before, and its workers
    refused all that it sent."""

    async def story(world: World) -> None:
        owner = await world.owner("a")
        owner.write("t1")
        await asyncio.sleep(0.05)
        hears(owner, 5)
        await world.until(lambda: moved(owner), "its fence has risen")
        assert moved(owner) == [6]
        assert await world.lease() == ("boot-a", 6)
        assert owner.fences == [1], "nothing was lost that it wrote: nothing is read or merged"
        owner.write("t2")
        await asyncio.sleep(20.0)
        assert sorted(await world.stored()) == ["t1", "t2"]
        assert owner.lost == []
        assert moved(owner) == [6]
        hears(owner, 9)
        await world.until(lambda: moved(owner) == [6, 10], "and again")

    play(story)


def test_what_is_being_written_meanwhile_does_not_end_the_ownership() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        apply = owner.store.apply

        async def slow(write: SectionWrite) -> int:
            fence = write.fence
            await asyncio.sleep(0.05)
            return await apply(SectionWrite(SECTION, fence, write.mutation_id, put_tasks=write.put_tasks))

        owner.store.apply = slow  # type: ignore[method-assign]
        owner.write("t1")
        await asyncio.sleep(0.01)
        hears(owner, 5)
        await world.until(lambda: moved(owner), "its fence has risen")
        assert await world.stored() == {}
        await asyncio.sleep(0.5)
        assert sorted(await world.stored()) == ["t1"]
        assert owner.lost == []

    play(story)


def test_other_epochs_lower_fences_and_old_news_change_nothing() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        hears(owner, 5, epoch="another")
        await asyncio.sleep(0.5)
        hears(owner, 1)
        await asyncio.sleep(0.5)
        assert moved(owner) == []
        assert await world.lease() == ("boot-a", 1)
        world.redis.wipe()
        owner.write("t1")
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        hears(owner, 5, epoch=owner.core.of(OwnershipGained)[0].epoch)
        await asyncio.sleep(5.0)
        assert moved(owner) == []

    play(story)


def test_one_that_was_replaced_leaves_its_successor_alone() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        leases = MemoryLeases(world.redis, "x")
        held = await leases.acquire(SECTION, "d1|h|9|9|x", TTL_MS, steal_from=first.ownership._owner)
        assert held is not None
        hears(first, held.fence)
        await world.until(lambda: first.lost, "the first has stopped")
        assert await world.lease() == ("x", held.fence)
        assert await leases.renew(SECTION, held, TTL_MS)
        assert moved(first) == []

    play(story)


def test_what_a_successor_left_counts_more_than_our_memory() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        leases = MemoryLeases(world.redis, "x")
        held = await leases.acquire(SECTION, "d1|h|9|9|x", TTL_MS, steal_from=first.ownership._owner)
        assert held is not None
        await leases.release(SECTION, held)
        hears(first, held.fence)
        await world.until(lambda: len(first.fences) == 2, "owns it again")
        event = first.core.of(OwnershipGained)[-1]
        assert event.fence > held.fence
        assert not event.state_lost
        assert event.epoch == first.core.of(OwnershipGained)[0].epoch

    play(story)


def test_a_reply_that_is_lost_meanwhile_costs_no_ownership() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        acquire = owner.ownership._leases.acquire

        async def losing(*args: object, **how: object) -> object:
            world.redis.lose_replies("a", 5, applied=True)
            owner.ownership._leases.acquire = acquire  # type: ignore[method-assign]
            return await acquire(*args, **how)  # type: ignore[arg-type]

        owner.ownership._leases.acquire = losing  # type: ignore[method-assign, assignment]
        hears(owner, 5)
        await world.until(lambda: moved(owner) or len(owner.fences) == 2, "its fence has risen")
        assert (await world.lease() or ("", 0))[1] > 5
        owner.write("t1")
        await asyncio.sleep(1.0)
        assert sorted(await world.stored()) == ["t1"]
        assert owner.lost == []

    play(story)


def test_a_state_that_is_lost_meanwhile_is_noticed() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        first.shell.exit_status.set_result(0)
        await first.running
        copy = world.redis.copy()
        owner = await world.owner("b")
        owner.write("t1")
        await asyncio.sleep(0.05)
        acquire = owner.ownership._leases.acquire

        async def late(*args: object, **how: object) -> object:
            owner.ownership._leases.acquire = acquire  # type: ignore[method-assign]
            world.redis.restore(copy)
            return await acquire(*args, **how)  # type: ignore[arg-type]

        owner.ownership._leases.acquire = late  # type: ignore[method-assign, assignment]
        hears(owner, 5)
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        assert owner.core.of(OwnershipGained)[-1].state_lost
        assert owner.fences[-1] > 5
        assert owner.lost == []

    play(story)


def test_while_redis_is_away_what_comes_goes_to_the_spool_and_the_fence_rises_later() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        owner.write("t0")
        await asyncio.sleep(0.05)
        world.redis.take_away()
        owner.write("t1")
        await asyncio.sleep(0.5)
        hears(owner, 5)
        owner.write("t2")
        await asyncio.sleep(0.5)
        assert world.disks["a"].tasks() >= {"t1", "t2"}
        world.redis.give_back()
        await world.until(lambda: moved(owner), "its fence has risen")
        await asyncio.sleep(0.5)
        assert sorted(await world.stored()) == ["t0", "t1", "t2"]
        assert owner.lost == []
        assert owner.fences == [1]

    play(story, spooling=True)
