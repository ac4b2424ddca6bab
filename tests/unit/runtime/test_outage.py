"""What a process with a local spool does while Redis is away, and what becomes of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from a2a_zmq.errors import StoreUnavailable
from daemons.runtime.contract import BatchApplied, StoreChanged
from tests.unit.runtime.fakes import SECTION
from tests.unit.runtime.owners import SAFE_S, TTL_MS, Owner, World, play

BACK_S = 3.0  # within this, everything is handed in once Redis is back


async def written(world: World, owner: Owner, *task_ids: str) -> None:
    count = len(owner.core.of(BatchApplied))
    owner.write(*task_ids)
    await world.until(lambda: len(owner.core.of(BatchApplied)) > count, f"{task_ids} are durable", 2.0)


async def stored(world: World) -> set[str]:
    return set(world.redis.data("").hashes.get("tasks:{shared:distributor:d1}", {}))


async def handed_in(world: World, owner: Owner) -> None:
    await world.until(lambda: world.disks[owner.name].rows == 0, "handed in", BACK_S)


@contextmanager
def full_redis(world: World, owner: Owner) -> Iterator[list[float]]:
    """A Redis that is out of memory: it renews leases (yielded: when) and refuses to write; well again at the end."""
    ownership = owner.shell.ownership
    assert ownership is not None
    leases: Any = ownership._leases
    renew, renewals = leases.renew, list[float]()

    async def renewed(*args: Any) -> Any:
        renewals.append(world.loop.time())
        world.redis.give_back()
        answer = await renew(*args)
        world.redis.take_away(reason="oom")
        return answer

    world.redis.take_away(reason="oom")
    leases.renew = renewed
    yield renewals
    leases.renew = renew
    world.redis.give_back()


@pytest.mark.parametrize("away_s", [0.2, 2.0, 8.0, 60.0])
def test_an_outage_of_any_length_is_ridden_out_and_nobody_else_was_there(away_s: float) -> None:
    async def story(world: World) -> None:
        owner = await world.owner()
        await written(world, owner, "before")
        world.redis.take_away()
        await written(world, owner, "during")
        await asyncio.sleep(away_s)
        assert away_s < SAFE_S or world.loop.time() > owner.engine.safe_until
        await written(world, owner, "late")
        assert owner.core.of(StoreChanged) == [StoreChanged(available=True, reason="connection", spooling=True)]
        assert owner.meter.gauges["store_up"] == 0
        assert owner.meter.counts["store_errors_total connection"] >= 1
        assert owner.meter.gauges["spool_limit_bytes"] > 0
        world.redis.give_back()
        await handed_in(world, owner)
        await written(world, owner, "after")
        assert await stored(world) == {"before", "during", "late", "after"}
        assert owner.core.of(StoreChanged)[1:] == [StoreChanged(available=True)]
        assert (owner.meter.gauges["store_up"], owner.meter.gauges["store_circuit"]) == (1, 0)
        assert owner.fences in ([1], [1, 2]), "it goes on as the owner"
        assert owner.lost == []

    play(story, spooling=True)


def test_versions_go_on_as_they_were_promised() -> None:
    async def story(world: World) -> None:
        owner = await world.owner()
        world.redis.take_away()
        for number in range(30):
            await written(world, owner, f"t{number}")
        world.redis.give_back()
        await handed_in(world, owner)
        await written(world, owner, "after")
        versions = [event.versions[SECTION] for event in owner.core.of(BatchApplied)]
        assert versions == sorted(set(versions))
        assert (await owner.store.load(SECTION)).version == versions[-1]

    play(story, spooling=True)


def test_a_process_that_dies_meanwhile_is_followed_by_one_that_hands_in() -> None:
    async def story(world: World) -> None:
        first = await world.owner()
        await written(world, first, "before")
        world.redis.take_away()
        await written(world, first, "during")
        first.kill()
        second = world.start("a")
        await asyncio.sleep(2.0)
        world.redis.give_back()
        await world.until(lambda: second.fences, "the second owns the section", BACK_S)
        assert await stored(world) == {"before", "during"}
        assert world.disks["a"].rows == 0

    play(story, spooling=True)


def test_one_that_was_replaced_keeps_what_it_took_and_hands_it_in_when_it_owns_again() -> None:
    async def story(world: World) -> None:
        first = await world.owner("a")
        world.redis.take_away("a")  # cut off; Redis lives
        await written(world, first, "taken")
        await asyncio.sleep(TTL_MS / 1000)
        second = await world.owner("b")
        await written(world, second, "theirs")
        world.redis.give_back("a")
        await world.until(lambda: first.lost, "the first learns of it")
        await asyncio.sleep(1.0)
        assert await stored(world) == {"theirs"}
        assert world.disks["a"].rows > 0
        second.kill()
        await world.until(lambda: len(first.fences) > 1, "the first owns again", 10.0)
        assert await stored(world) == {"taken", "theirs"}
        assert world.disks["a"].rows == 0

    play(story, spooling=True)


def test_a_wiped_redis_gets_what_was_spooled() -> None:
    async def story(world: World) -> None:
        owner = await world.owner()
        await written(world, owner, "before")
        world.redis.take_away()
        await written(world, owner, "during")
        world.redis.wipe()
        world.redis.give_back()
        await world.until(lambda: len(owner.fences) > 1, "it merges", 10.0)
        assert "during" in await stored(world)
        assert world.disks["a"].rows == 0

    play(story, spooling=True)


def test_a_redis_that_is_only_full_is_an_outage_too() -> None:
    async def story(world: World) -> None:
        owner = await world.owner()
        world.redis.take_away(reason="oom")
        await written(world, owner, "during")
        world.redis.give_back()
        await handed_in(world, owner)
        assert await stored(world) == {"during"}

    play(story, spooling=True)


def test_a_full_disk_tells_the_core_and_keeps_the_batch() -> None:
    async def story(world: World) -> None:
        owner = await world.owner()
        world.redis.take_away()
        await written(world, owner, "during")
        world.disks["a"].full = True
        owner.write("waits")
        await world.until(lambda: not owner.core.of(StoreChanged)[-1].available, "the core knows")
        assert owner.core.of(StoreChanged)[-1].reason.startswith("spool")
        world.disks["a"].full = False
        await world.until(lambda: world.disks["a"].rows == 2, "it is kept after all", 2.0)
        await asyncio.sleep(0.1)
        assert owner.core.of(StoreChanged)[-1].available
        world.redis.give_back()
        await handed_in(world, owner)
        assert await stored(world) == {"during", "waits"}

    play(story, spooling=True)


@pytest.mark.parametrize("spooling", [True, False])
def test_a_redis_that_lets_us_in_no_more_is_an_outage(spooling: bool) -> None:
    """Somebody changes its password, or its rules: a fleet that ended by that stayed down when it was put right."""

    async def story(world: World) -> None:
        owner = await world.owner()
        await written(world, owner, "before")
        world.redis.take_away(reason="noauth")
        owner.write("during")
        await asyncio.sleep(60.0)
        assert not owner.running.done()
        assert owner.core.of(StoreChanged) == [StoreChanged(spooling, reason="noauth", spooling=spooling)]
        world.redis.give_back()
        await world.until(lambda: owner.core.of(StoreChanged)[1:] == [StoreChanged(available=True)], "it goes on")
        assert await stored(world) == {"before", "during"}

    play(story, spooling=spooling)


def test_the_log_has_each_reason_of_an_outage_once() -> None:
    """Symptom: two lines for each probe, three times a second, for as long as Redis was out of memory."""

    async def story(world: World) -> None:
        with structlog.testing.capture_logs() as lines:
            owner = await world.owner()
            for _ in range(2):
                world.redis.take_away()
                await written(world, owner, "during")
                await asyncio.sleep(2.0)
                with full_redis(world, owner):
                    await asyncio.sleep(20.0)
                await handed_in(world, owner)
        said = [(line["event"], line.get("reason")) for line in lines if line["event"].startswith("circuit")]
        once = [("circuit_open", "connection"), ("circuit_half_open", None), ("circuit_open", "oom")]
        assert said == [*once, ("circuit_half_open", None), ("circuit_closed", None)] * 2

    play(story, spooling=True)


def test_redis_is_asked_a_few_times_a_second_and_by_the_keeper_of_the_lease_alone() -> None:
    async def story(world: World) -> None:
        owner = await world.owner()
        world.redis.take_away()
        for number in range(100):
            await written(world, owner, f"t{number}")
            with pytest.raises(StoreUnavailable):
                await owner.store.versions("d1")
        asked = owner.meter.counts["lease_renewal_failures_total"]
        began = world.loop.time()
        await asyncio.sleep(20.0)
        asked = owner.meter.counts["lease_renewal_failures_total"] - asked
        assert 1 <= asked / (world.loop.time() - began) <= 5

    play(story, spooling=True)


def test_a_redis_that_lets_us_renew_and_refuses_what_we_write_is_asked_a_few_times_a_second_too() -> None:
    """Symptom: hundreds of renewals a second while Redis was out of memory. Each was answered, and each write that
    followed it refused, and told the keeper of the lease to look at once."""

    async def story(world: World) -> None:
        owner = await world.owner()
        with full_redis(world, owner) as renewals:
            await written(world, owner, "during")
            del renewals[:]
            await asyncio.sleep(20.0)
            assert 0.5 <= len(renewals) / 20.0 <= 5
        await handed_in(world, owner)

    play(story, spooling=True)


def test_one_that_may_not_spool_says_why_with_the_outage_and_when_the_reason_goes() -> None:
    async def story(world: World) -> None:
        world.spool_off = "c2 may take over"
        owner = await world.owner()
        assert owner.core.of(StoreChanged) == [StoreChanged(available=True, spool_off="c2 may take over")]
        world.redis.take_away()
        owner.write("during")
        await world.until(lambda: len(owner.core.of(StoreChanged)) > 1, "it is told")
        told = owner.core.of(StoreChanged)[-1]
        assert told == StoreChanged(available=False, reason="connection", spool_off="c2 may take over")
        world.spool_off = ""
        await world.until(lambda: owner.core.of(StoreChanged)[-1].spool_off == "", "it is told of the change")
        assert not owner.core.of(StoreChanged)[-1].available, "the outage goes on as it began"

    play(story, spooling=True)
