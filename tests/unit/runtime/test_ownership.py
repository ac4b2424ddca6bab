"""How an agent becomes and stays the owner of its section, over a lease store with faults, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from a2a_zmq.errors import Fenced, StoreUnavailable
from a2a_zmq.interfaces import Held, Loaded, Section
from a2a_zmq.state.memory import MemoryLeases, MemoryRedis, MemoryStore
from daemons.runtime.contract import OwnershipGained, OwnershipLost, StoreChanged
from daemons.runtime.engine import Engine
from daemons.runtime.ownership import ASK_AGAIN_S, Ownership
from daemons.runtime.procs import ProcessIdentity
from daemons.runtime.shell import Shell
from daemons.runtime.stores import load_own
from tests.simulation.virtual import VirtualLoop, run_virtual
from tests.unit.runtime.fakes import SECTION, Counts, ScriptedCore

T = TypeVar("T")
TTL_MS = 5000
SAFE_S = 3.3


class Owner:
    """One process that wants the section: scripted core, engine, shell, lease keeping, its own client of Redis."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.core, self.meter = ScriptedCore(), Counts()
        self.engine = Engine(self.core, [], self.meter, owns_state=True)
        self.store = MemoryStore(world.redis, name)
        self.shell = Shell(self.engine, store=self.store, meter=self.meter, clock=world.loop.now)
        world.processes += 1
        self.identity = ProcessIdentity("host", world.processes, 1)
        self.load: Callable[[Held], Awaitable[dict[Section, Loaded]]] = lambda held: load_own(self.store, SECTION)
        self.ownership = self.shell.ownership = Ownership(
            self.engine,
            MemoryLeases(world.redis, name),
            SECTION,
            agent_id="d1",
            boot_id=f"boot-{name}",
            identity=self.identity,
            ttl_ms=TTL_MS,
            load=self._load,
            clock=world.loop.now,
            rng=lambda: 0.5,
            meter=self.meter,
            turned=self.shell.wake,
            is_dead=lambda owner, _: int(owner.split("|")[2]) in world.dead,
        )
        self.running = world.loop.create_task(self.shell.run())

    async def _load(self, held: Held) -> dict[Section, Loaded]:
        return await self.load(held)

    def kill(self) -> None:
        """As by SIGKILL."""
        self.shell.abandon()
        self.running.cancel()
        self.world.dead.add(self.identity.pid)

    def write(self, *task_ids: str) -> None:
        self.core.stage(*task_ids)
        self.shell.wake()

    @property
    def fences(self) -> list[int]:
        return [event.fence for event in self.core.of(OwnershipGained)]

    @property
    def lost(self) -> list[str]:
        return [event.reason for event in self.core.of(OwnershipLost)]


class World:
    """Redis, the processes, and virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.redis = MemoryRedis(loop.now)
        self.dead: set[int] = set()
        self.processes = 0
        self.owners: list[Owner] = []

    def start(self, name: str) -> Owner:
        self.owners.append(Owner(self, name))
        return self.owners[-1]

    async def owner(self, name: str = "a") -> Owner:
        """A process that owns the section."""
        owner = self.start(name)
        await self.until(lambda: owner.fences, f"{name} owns the section")
        return owner

    async def until(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> float:
        """Wait for it; returns the seconds that it took."""
        began = self.loop.time()
        while not condition():
            assert self.loop.time() < began + timeout_s, f"not within {timeout_s:g} s: {what}"
            await asyncio.sleep(0.01)
        return self.loop.time() - began

    async def stored(self) -> dict[str, bytes]:
        return (await MemoryStore(self.redis, "reader").load(SECTION)).tasks

    async def lease(self) -> tuple[str, int] | None:
        holder = await MemoryLeases(self.redis, "reader").holder(SECTION)
        return None if holder is None else (holder[0].rpartition("|")[2], holder[1])


def play(story: Callable[[World], Awaitable[T]]) -> T:
    """Run a story on virtual time; in it no process may end by an error."""

    async def main(loop: VirtualLoop) -> T:
        world = World(loop)
        told = await story(world)
        for owner in world.owners:
            assert not owner.running.done() or owner.running.cancelled() or owner.running.exception() is None
        return told

    return run_virtual(main)


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


def test_wrong_credentials_end_the_daemon() -> None:
    async def story(world: World) -> None:
        world.redis.take_away(reason="noauth")
        owner = world.start("a")
        with pytest.raises(StoreUnavailable, match="noauth") as caught:
            await owner.running
        assert caught.value.fatal
        world.owners.clear()

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
        owner.ownership._leases = _Away()  # only the lease cannot be renewed
        world.redis.give_back()
        await asyncio.sleep(2.0)
        assert world.redis.log == []

    play(story)


class _Away(MemoryLeases):
    """Leases that cannot be reached."""

    def __init__(self) -> None:
        """No world is behind them."""

    async def renew(self, section: Section, held: Held, ttl_ms: int) -> bool:
        raise StoreUnavailable("connection")


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
        assert len(owner.lost) == 1
        assert list(event.loaded[SECTION].tasks) == ([] if how == "wiped" else ["t1"])
        owner.write("t1", "t2", "t3")
        await asyncio.sleep(0.05)
        assert sorted(await world.stored()) == ["t1", "t2", "t3"]
        owner.write("t4")
        await asyncio.sleep(0.05)
        assert len(owner.fences) == 2, "the loss is told once"

    play(story)


def test_a_redis_wiped_during_an_outage_is_noticed_by_the_batch_that_waited() -> None:
    async def story(world: World) -> None:
        owner = await world.owner("a")
        owner.write("t0")
        await asyncio.sleep(0.05)
        world.redis.take_away()
        owner.write("t1")
        await asyncio.sleep(8.0)
        world.redis.wipe()
        world.redis.give_back()
        await world.until(lambda: len(owner.fences) == 2, "owns it again")
        assert owner.core.of(OwnershipGained)[-1].state_lost

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
