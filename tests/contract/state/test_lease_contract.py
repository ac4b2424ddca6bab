"""What every implementation of leases promises."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from a2a_zmq.errors import Fenced, StateError, StateLost
from a2a_zmq.interfaces import INBOX, Section, SectionWrite

MakeWrite = Callable[..., SectionWrite]
SECTION = Section("d1", "distributor")
INBOX_SECTION = Section(INBOX, "coordinator")
HEADER = "shared:distributor:d1"
ALICE = "alice|host|11|100|boot-a"
BOB = "bob|host|12|200|boot-b"


async def test_a_free_lease_is_taken_with_the_first_fence(backend: Any) -> None:
    before = backend.mono()
    held = await backend.leases().acquire(SECTION, ALICE, 10_000)
    after = backend.mono()
    assert held is not None
    assert (held.owner, held.fence) == (ALICE, 1)
    assert before + 6.6 <= held.safe_until <= after + 6.6
    owner, fence, remaining_ms = await backend.leases().holder(SECTION)
    assert (owner, fence) == (ALICE, 1)
    assert 9000 < remaining_ms <= 10_000


async def test_taking_the_lease_raises_the_sections_fence_but_not_its_version(backend: Any) -> None:
    await backend.leases().acquire(SECTION, ALICE, 10_000)
    loaded = await backend.store().load(SECTION)
    assert (loaded.version, loaded.fence, loaded.header) == (0, 1, {})
    assert loaded.epoch


async def test_a_held_lease_is_refused(backend: Any) -> None:
    await backend.leases().acquire(SECTION, ALICE, 10_000)
    assert await backend.leases().acquire(SECTION, BOB, 10_000) is None
    assert (await backend.store().load(SECTION)).fence == 1


async def test_leases_of_different_sections_are_apart(backend: Any) -> None:
    leases = backend.leases()
    assert await leases.acquire(SECTION, ALICE, 10_000) is not None
    assert await leases.acquire(Section("d2", "distributor"), BOB, 10_000) is not None
    assert await leases.acquire(INBOX_SECTION, BOB, 10_000) is not None


async def test_a_section_without_a_lease_of_its_own_is_an_error(backend: Any) -> None:
    with pytest.raises(ValueError, match="no lease"):
        await backend.leases().acquire(Section("d1", "coordinator"), ALICE, 10_000)


async def test_a_released_lease_is_free_and_the_next_fence_is_higher(backend: Any) -> None:
    leases = backend.leases()
    held = await leases.acquire(SECTION, ALICE, 10_000)
    assert await leases.release(SECTION, held) is True
    assert await leases.holder(SECTION) is None
    assert await leases.release(SECTION, held) is False
    taken = await leases.acquire(SECTION, BOB, 10_000)
    assert taken is not None
    assert taken.fence == 2


async def test_an_expired_lease_is_free_and_its_old_holder_knows(backend: Any, make_write: MakeWrite) -> None:
    leases, store = backend.leases(), backend.store()
    old = await leases.acquire(SECTION, ALICE, 100)
    await store.apply(make_write(fence=old.fence))
    await backend.pass_time(0.15)
    assert await leases.holder(SECTION) is None
    new = await leases.acquire(SECTION, BOB, 10_000)
    assert new is not None
    assert new.fence == old.fence + 1
    assert await leases.renew(SECTION, old, 10_000) is False
    assert await leases.release(SECTION, old) is False
    with pytest.raises(Fenced):
        await store.apply(make_write(fence=old.fence))
    assert (await leases.holder(SECTION))[0] == BOB


async def test_renewing_extends_the_lease(backend: Any) -> None:
    leases = backend.leases()
    held = await leases.acquire(SECTION, ALICE, 1000)
    safe_until = held.safe_until
    await backend.pass_time(0.05)
    assert await leases.renew(SECTION, held, 20_000) is True
    assert held.safe_until > safe_until + 10
    assert (await leases.holder(SECTION))[2] > 15_000


async def test_an_expired_lease_cannot_be_renewed(backend: Any) -> None:
    leases = backend.leases()
    held = await leases.acquire(SECTION, ALICE, 50)
    safe_until = held.safe_until
    await backend.pass_time(0.1)
    assert await leases.renew(SECTION, held, 10_000) is False
    assert held.safe_until == safe_until


async def test_a_dead_holders_lease_can_be_taken_by_its_exact_name(backend: Any) -> None:
    leases = backend.leases()
    dead = await leases.acquire(SECTION, ALICE, 60_000)
    assert await leases.acquire(SECTION, BOB, 10_000, steal_from="alice|host|11|100|another-boot") is None
    taken = await leases.acquire(SECTION, BOB, 10_000, steal_from=ALICE)
    assert taken is not None
    assert taken.fence == dead.fence + 1
    assert await leases.renew(SECTION, dead, 10_000) is False


async def test_acquiring_ones_own_lease_again_keeps_its_fence(backend: Any) -> None:
    held = await backend.leases().acquire(SECTION, ALICE, 1000)
    again = await backend.leases().acquire(SECTION, ALICE, 60_000)
    assert again is not None
    assert again.fence == held.fence
    assert (await backend.leases().holder(SECTION))[2] > 30_000
    assert (await backend.store().load(SECTION)).fence == held.fence


async def test_a_fence_known_from_elsewhere_is_surpassed(backend: Any) -> None:
    leases = backend.leases()
    held = await leases.acquire(SECTION, ALICE, 60_000, min_fence=41)
    assert held is not None
    assert held.fence == 42
    again = await leases.acquire(SECTION, ALICE, 60_000, min_fence=42)
    assert again is not None
    assert again.fence == 43
    assert (await backend.store().load(SECTION)).fence == 43


async def test_a_new_epoch_is_written_when_asked_for(backend: Any) -> None:
    leases, store = backend.leases(), backend.store()
    await leases.acquire(SECTION, ALICE, 60_000)
    epoch = (await store.load(SECTION)).epoch
    await leases.acquire(SECTION, ALICE, 60_000)
    assert (await store.load(SECTION)).epoch == epoch
    held = await leases.acquire(SECTION, ALICE, 60_000, new_epoch=True)
    assert held is not None
    assert held.fence == 2
    assert (await backend.store().load(SECTION)).epoch not in ("", epoch)


async def test_of_many_that_ask_one_gets_it(backend: Any) -> None:
    answers = await asyncio.gather(
        *(backend.leases().acquire(SECTION, f"agent-{i}|host|{i}|1|boot", 10_000) for i in range(8))
    )
    assert len([held for held in answers if held is not None]) == 1


async def test_fences_only_rise(backend: Any, make_write: MakeWrite) -> None:
    leases, store = backend.leases(), backend.store()
    fences = []
    for i in range(10):
        held = await leases.acquire(SECTION, f"agent|host|{i}|1|boot", 10_000)
        fences.append(held.fence)
        await store.apply(make_write(fence=held.fence))
        assert await leases.release(SECTION, held)
    assert fences == list(range(1, 11))


async def test_after_a_wipe_the_old_fence_is_no_longer_known_to_the_store(backend: Any) -> None:
    leases = backend.leases()
    held = await leases.acquire(SECTION, ALICE, 60_000, min_fence=6)
    await backend.wipe()
    assert await leases.renew(SECTION, held, 60_000) is False
    again = await leases.acquire(SECTION, ALICE, 60_000, min_fence=held.fence)
    assert again is not None
    assert again.fence == 8


async def test_a_lease_that_is_free_because_the_state_was_lost_is_left_alone(backend: Any) -> None:
    leases = backend.leases()
    held = await leases.acquire(SECTION, ALICE, 10_000)
    await leases.release(SECTION, held)
    with pytest.raises(StateLost):
        await leases.acquire(SECTION, BOB, 10_000, expect_fence=held.fence + 1)
    assert await leases.holder(SECTION) is None
    assert (await backend.store().load(SECTION)).fence == held.fence
    taken = await leases.acquire(SECTION, BOB, 10_000, expect_fence=held.fence)
    assert taken is not None
    assert taken.fence == held.fence + 1


@pytest.mark.parametrize("text", [b"foreign", b"\xff|x"])
async def test_a_foreign_text_is_an_error_that_names_the_key(redis_backend: Any, text: bytes) -> None:
    """It ended the owner each time it was started."""
    leases, store = redis_backend.leases(), redis_backend.store()
    key = "lease:{shared:distributor:d1}"
    await redis_backend.client.set(key, text, ex=60)
    for call in (leases.acquire(SECTION, ALICE, 10_000), leases.holder(SECTION), store.lease("d1")):
        with pytest.raises(StateError, match=re.escape(f"{key} holds a foreign text: ")):
            await call
    assert await redis_backend.client.get(key) == text, "whose it is we do not know"
    await redis_backend.client.delete(key)
    assert await leases.acquire(SECTION, ALICE, 10_000) is not None


@pytest.mark.parametrize(
    ("field", "text"), [("fence", b"seven"), ("version", b"\xff"), ("results", b"1 2"), ("history", b"-")]
)
async def test_a_foreign_text_in_a_header_is_an_error_that_names_the_field(
    redis_backend: Any, make_write: MakeWrite, field: str, text: bytes
) -> None:
    """It was a crash of whoever read it."""
    leases, store = redis_backend.leases(), redis_backend.store()
    await redis_backend.client.hset(HEADER, field, text)
    calls: list[Callable[[], Awaitable[Any]]] = [lambda: store.load(SECTION), lambda: store.apply(make_write())]
    if field == "fence":
        calls.append(lambda: leases.acquire(SECTION, ALICE, 10_000))
    if field == "version":
        calls.append(lambda: store.versions("d1"))
    for call in calls:
        with pytest.raises(StateError, match=re.escape(f'{HEADER} holds a foreign text in its field "{field}": ')):
            await call()
    assert await redis_backend.client.hget(HEADER, field) == text, "whose it is we do not know"
    await redis_backend.client.hdel(HEADER, field)
    assert await leases.acquire(SECTION, ALICE, 10_000) is not None


async def test_a_write_that_was_carried_out_counts_whatever_stands_in_the_header_afterwards(
    redis_backend: Any, make_write: MakeWrite
) -> None:
    store = redis_backend.store()
    assert await store.apply(make_write()) == 1
    await redis_backend.client.hset(HEADER, "results", b"foreign")
    with pytest.raises(StateError, match="foreign text"):
        await store.apply(make_write())
    await redis_backend.client.hdel(HEADER, "results")
    assert await store.apply(make_write()) == 2
