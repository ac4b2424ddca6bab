"""How an agent becomes and stays the owner of its section, over a lease store with faults, on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog

from a2a_zmq.errors import Fenced, StateError, StoreUnavailable
from a2a_zmq.interfaces import Held, Loaded, Section, SectionWrite
from a2a_zmq.state.memory import MemoryLeases
from daemons.runtime.contract import BatchApplied, OwnershipGained, StandsBy, StoreChanged
from daemons.runtime.ownership import ASK_AGAIN_S
from daemons.runtime.stores import load_own
from tests.unit.runtime.fakes import SECTION
from tests.unit.runtime.owners import SAFE_S, TTL_MS, Owner, World, play

# ---------------------------------------------------------------- acquiring


def test_a_free_section_is_taken_loaded_and_written() -> None:
    async def story(world: World) -> None:
        owner = world.start("a")
        took_s = await world.until(lambda: owner.fences, "owner")
        assert took_s < 0.1
        assert owner.fences == [1]
        assert owner.core.of(OwnershipGained)[0].epoch == "epoch1"
        assert owner.engine.safe_until == pytest.approx(world.loop.time() - took_s + SAFE_S, abs=0.02)
        owner.write("t1")
        await asyncio.sleep(0.05)
        assert list(await world.stored()) == ["t1"]
        assert owner.meter.observed["lease_acquire_seconds"] == [pytest.approx(0.0, abs=0.1)]

    play(story)


def test_a_lease_that_somebody_else_holds_is_waited_for_and_named() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        second = world.start("b")
        await asyncio.sleep(10.0)
        assert not second.engine.owner
        assert second.fences == []
        assert second.ownership.waiting_for == "d1"
        assert second.core.of(StandsBy) == [StandsBy("d1")], "told once"
        assert second.meter.counts["lease_failures_total held"] == pytest.approx(10.0 / ASK_AGAIN_S, abs=2)
        assert first.fences == [1]
        await first.ownership.release()
        took_s = await world.until(lambda: second.fences, "the second owns it")
        assert took_s <= ASK_AGAIN_S + 0.05
        assert second.ownership.waiting_for == ""
        assert second.fences == [2]

    play(story)


def test_the_lease_of_a_process_that_is_proved_dead_is_taken_at_once() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        first.write("t1")
        await asyncio.sleep(0.05)
        first.kill()
        second = world.start("b")
        took_s = await world.until(lambda: second.fences, "the second owns it")
        assert took_s < 0.1
        assert second.fences == [2]
        assert list(second.core.of(OwnershipGained)[0].loaded[SECTION].tasks) == ["t1"]

    play(story)


def test_after_a_wipe_the_lease_is_left_to_the_holder_that_remembers_for_the_time_of_a_lease() -> None:
    async def story(world: World) -> None:
        first, second = await world.owner("a"), world.start("b")
        await asyncio.sleep(1.0)
        world.redis.wipe()
        await world.until(lambda: len(first.fences) == 2, "the first owns it again")
        await asyncio.sleep(TTL_MS / 1000 + 1)
        assert (first.lost, second.fences) == ([], [])
        world.redis.wipe()
        first.kill()
        took_s = await world.until(lambda: second.fences, "nobody came back, so the second owns it")
        assert TTL_MS / 1000 - 0.1 < took_s < TTL_MS / 1000 + 1
        assert second.fences[0] > first.fences[-1]

    play(story)


def test_the_lease_of_a_process_that_may_live_is_waited_for_until_it_expires() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        first.kill()
        world.dead.clear()  # another host's: nothing proves its death
        second = world.start("b")
        took_s = await world.until(lambda: second.fences, "the second owns it")
        assert TTL_MS / 1000 - 0.2 < took_s < TTL_MS / 1000 + ASK_AGAIN_S + 0.1

    play(story)


def test_an_acquisition_whose_reply_was_lost_is_found_to_be_ours() -> None:
    async def story(world: World) -> None:
        world.redis.lose_replies("a", applied=True)
        owner = await world.owner("a")
        assert owner.fences == [1]
        assert await world.lease() == ("boot-a", 1)

    play(story)


def test_a_redis_that_is_away_at_first_is_asked_until_it_is_there() -> None:
    async def story(world: World) -> None:
        world.redis.take_away(reason="loading")
        owner = world.start("a")
        await asyncio.sleep(3.0)
        assert not owner.engine.owner
        assert owner.core.of(StoreChanged) == [StoreChanged(available=False, reason="loading")]
        world.redis.give_back()
        assert await world.until(lambda: owner.fences, "owner") <= ASK_AGAIN_S + 0.05
        await asyncio.sleep(0.05)
        assert owner.core.of(StoreChanged)[-1].available

    play(story)


def test_one_that_is_not_let_in_any_more_waits_for_the_lease() -> None:
    """Wrong credentials end a daemon that starts, before any of this."""

    async def story(world: World) -> None:
        world.redis.take_away(reason="noauth")
        owner = world.start("a")
        await asyncio.sleep(60.0)
        assert owner.core.of(StoreChanged) == [StoreChanged(available=False, reason="noauth")]
        world.redis.give_back()
        assert await world.until(lambda: owner.fences, "owner") <= ASK_AGAIN_S + 0.05

    play(story)


def test_a_state_that_cannot_be_read_is_given_up_and_tried_again() -> None:
    async def story(world: World) -> None:
        owner = world.start("a")
        errors: list[Exception] = [StoreUnavailable("timeout"), Fenced(1, 2)]

        async def load(held: Held) -> dict[Section, Loaded]:
            if errors:
                raise errors.pop(0)
            return await load_own(owner.store, SECTION)

        owner.load = load
        await asyncio.sleep(ASK_AGAIN_S / 2)
        assert await world.lease() is None, "somebody else may try meanwhile"
        assert not owner.engine.owner
        await world.until(lambda: owner.fences, "owner")
        assert owner.fences == [3]

    play(story)


def test_why_a_section_cannot_be_read_is_known_until_it_is() -> None:
    """An owner tried for ever without a word."""

    async def story(world: World) -> None:
        owner = world.start("a")
        why: list[StateError | None] = [StateError("Redis refused: WRONGTYPE (HLEN tasks)")]

        async def load(held: Held) -> dict[Section, Loaded]:
            if why[0] is not None:
                raise why[0]
            return await load_own(owner.store, SECTION)

        owner.load = load
        await asyncio.sleep(2.0)
        assert owner.ownership.unreadable == "Redis refused: WRONGTYPE (HLEN tasks)"
        assert owner.meter.counts["lease_failures_total unreadable"] > 4
        why[0] = StoreUnavailable("timeout", "no answer in time")
        await asyncio.sleep(2.0)
        assert owner.ownership.unreadable == "timeout: no answer in time"
        world.redis.take_away()
        await asyncio.sleep(2.0)
        assert owner.ownership.unreadable == "", "the circuit says so"
        world.redis.give_back()
        await asyncio.sleep(2.0)
        assert owner.ownership.unreadable
        other = world.start("b")
        await world.until(lambda: other.fences, "the other one owns it")
        await asyncio.sleep(ASK_AGAIN_S * 2)
        assert owner.ownership.unreadable == "", "it is the other's to read"
        why[0] = None
        other.kill()
        await world.until(lambda: owner.fences, "owner")
        assert owner.ownership.unreadable == ""

    play(story)


def test_a_lease_that_cannot_be_read_is_told_of_and_asked_for_again() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        leases = owner.ownership._leases
        owner.ownership._leases = _Foreign()
        await asyncio.sleep(3.0)
        assert owner.ownership.unreadable == "lease:x holds a foreign text: 'y'"
        assert owner.core.of(StoreChanged)[-1] == StoreChanged(available=False, reason="refused")
        owner.ownership._leases = leases
        await world.until(lambda: not owner.ownership.unreadable, "it is renewed")
        await asyncio.sleep(0.05)
        assert owner.core.of(StoreChanged)[-1].available
        assert owner.fences == [1]

        other = world.start("b")
        other.ownership._leases = _Foreign()
        await asyncio.sleep(1.0)
        assert other.ownership.unreadable == "lease:x holds a foreign text: 'y'"
        assert other.meter.counts["lease_failures_total unreadable"] > 1

    play(story)


class _Foreign(MemoryLeases):
    """Somebody wrote into the key."""

    def __init__(self) -> None:
        """No world is behind them."""

    async def acquire(self, *args: Any, **kwargs: Any) -> Held | None:
        raise StateError("lease:x holds a foreign text: 'y'")

    async def renew(self, section: Section, held: Held, ttl_ms: int) -> bool:
        raise StateError("lease:x holds a foreign text: 'y'")


def test_a_section_that_takes_longer_to_read_than_a_lease_lasts_is_read_once() -> None:
    """A process that waited took the lease meanwhile, and then the first one from that one, for ever."""

    async def story(world: World) -> None:
        first = world.start("a")
        loads: list[float] = []

        async def load(held: Held) -> dict[Section, Loaded]:
            loads.append(world.loop.time())
            await asyncio.sleep(3 * TTL_MS / 1000)
            return await load_own(first.store, SECTION)

        first.load = load
        await asyncio.sleep(0.1)
        second = world.start("b")
        await world.until(lambda: first.fences, "the first owns it")
        assert await world.lease() == ("boot-a", 1)
        first.write("t1")
        await asyncio.sleep(0.05)
        assert list(await world.stored()) == ["t1"], "it may be relied on at once"
        await asyncio.sleep(2 * TTL_MS / 1000)
        assert (first.fences, second.fences, len(loads)) == ([1], [], 1)

    play(story)


# ---------------------------------------------------------------- keeping


def test_a_lease_is_renewed_for_as_long_as_it_is_wanted() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        for _ in range(600):
            await asyncio.sleep(0.1)
            assert world.loop.time() < owner.engine.safe_until
        assert await world.lease() == ("boot-a", 1)
        assert owner.fences == [1]

    play(story)


def test_a_short_outage_costs_nothing_but_failed_renewals() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        await asyncio.sleep(1.0)
        world.redis.take_away()
        await asyncio.sleep(2.0)
        assert owner.core.of(StoreChanged) == [StoreChanged(available=False, reason="connection")]
        assert owner.meter.counts["lease_renewal_failures_total"] > 0
        world.redis.give_back()
        await asyncio.sleep(0.5)
        assert owner.core.of(StoreChanged)[-1].available
        assert await world.lease() == ("boot-a", 1)
        assert (owner.fences, owner.lost) == ([1], [])

    play(story)


def test_after_an_outage_that_outlives_the_lease_it_is_taken_again_and_nothing_is_void() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        world.redis.take_away()
        owner.write("t1")
        await asyncio.sleep(SAFE_S + 0.1)
        assert owner.engine.owner, "accepted work goes on"
        owner.write("t2")
        await asyncio.sleep(10.0)
        world.redis.give_back()
        took_s = await world.until(lambda: len(world.redis.log) >= 2, "both batches are written")
        assert took_s < 1.0
        assert sorted(await world.stored()) == ["t1", "t2"]
        assert await world.lease() == ("boot-a", 2)
        assert (owner.fences, owner.lost) == ([1], [])
        assert owner.meter.gauges["store_up"] == 1

    play(story)


def test_during_a_long_outage_the_owner_is_not_busy() -> None:
    """A retry that was due after the self-fence made a turn a microsecond, for as long as Redis was away."""

    async def story(world: World) -> None:
        owner = await world.owner("a")
        world.redis.take_away()
        owner.write("t1")
        await asyncio.sleep(SAFE_S + 1.0)
        turns: list[float] = []
        owner.shell.on_beat = turns.append
        await asyncio.sleep(2.0)
        assert len(turns) <= 60

    play(story)


def test_nothing_is_written_after_the_lease_may_have_expired() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        world.redis.take_away()
        await asyncio.sleep(SAFE_S + 0.1)
        owner.write("t1")
        owner.ownership._leases = _Away(world.redis, "a")  # only the lease cannot be renewed
        world.redis.give_back()
        await asyncio.sleep(2.0)
        assert world.redis.log == []

    play(story)


class _Away(MemoryLeases):
    """Leases that cannot be renewed."""

    async def renew(self, section: Section, held: Held, ttl_ms: int) -> bool:
        raise StoreUnavailable("connection")


def test_a_write_that_is_refused_for_good_is_as_a_section_that_cannot_be_read() -> None:
    """Symptom: a foreign type in one key, the audit log's say, ended owner after owner with status 70, until their
    supervisor gave up."""

    async def story(world: World) -> None:
        owner = await world.owner()
        apply, foreign = owner.store.apply, StateError("WRONGTYPE of history")

        async def refuse(write: SectionWrite) -> int:
            raise foreign

        owner.store.apply = refuse  # type: ignore[method-assign]
        with structlog.testing.capture_logs() as lines:
            for _ in range(4):
                fences = len(owner.fences)
                owner.write("t1")
                await world.until(lambda: owner.ownership.unreadable, "it is refused")
                assert (owner.ownership.unreadable, owner.engine.owner) == (str(foreign), False)
                await asyncio.sleep(0.05)
                assert await world.lease() is None, "somebody else may try meanwhile"
                await world.until(lambda fences=fences: len(owner.fences) > fences, "it has read all again")  # type: ignore[misc]
        assert [line["why"] for line in lines if line["event"] == "write_refused"] == [str(foreign)], "told once"
        owner.store.apply = apply  # type: ignore[method-assign]
        owner.write("t1")
        await world.until(lambda: owner.core.of(BatchApplied), "it goes on")
        assert "t1" in await world.stored()
        assert (owner.ownership.unreadable, owner.lost) == ("", []), "its memory was kept all the time"

    play(story)


def test_another_owner_in_between_ends_the_ownership() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        first.write("t1")
        await asyncio.sleep(0.05)
        world.redis.take_away("a")
        first.write("t2")
        second = world.start("b")
        await world.until(lambda: second.fences, "the second owns it")
        second.write("t3")
        await asyncio.sleep(0.05)
        world.redis.give_back("a")
        await world.until(lambda: not first.engine.owner, "the first has stopped")
        await asyncio.sleep(5.0)
        assert first.lost == ["the lease is held by d1"]
        assert sorted(await world.stored()) == ["t1", "t3"], "t2 was never durable, so nobody was told that it is"
        assert await world.lease() == ("boot-b", 2)
        second.kill()
        await world.until(lambda: first.engine.owner, "the first owns it again")
        assert first.fences == [1, 3]
        assert sorted(first.core.of(OwnershipGained)[-1].loaded[SECTION].tasks) == ["t1", "t3"]

    play(story)


def test_an_owner_that_came_and_went_unseen_makes_us_read_again() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        world.redis.take_away("a")
        second = world.start("b")
        await world.until(lambda: second.fences, "the second owns it")
        second.write("t3")
        await asyncio.sleep(0.05)
        await second.ownership.release()
        second.kill()
        world.redis.give_back("a")
        await world.until(lambda: len(first.fences) == 2, "the first has loaded again")
        assert first.fences == [1, 3]
        assert list(first.core.of(OwnershipGained)[-1].loaded[SECTION].tasks) == ["t3"]

    play(story)


def test_a_lease_lost_while_redis_was_away_is_noticed_although_the_holder_keeps_it() -> None:
    """Only the moment after a renewal failed was looked at: a holder that came later was waited for as the owner."""

    async def story(world: World) -> None:
        first = await world.owner("a")
        renew = MemoryLeases.renew
        second: list[Owner] = []

        class Gap(MemoryLeases):
            async def renew(self, section: Section, held: Held, ttl_ms: int) -> bool:
                renewed = await renew(self, section, held, ttl_ms)
                if not renewed and not second:
                    second.append(world.start("b"))
                    await world.until(lambda: second[0].engine.owner, "the second owns it")
                return renewed

        first.ownership._leases = Gap(world.redis, "a")
        await MemoryLeases(world.redis, "x").release(SECTION, first.ownership.held or pytest.fail("not held"))
        await world.until(lambda: second and not first.engine.owner, "the first has stopped")
        assert first.lost == ["the lease is held by d1"]

    play(story)
