"""What every implementation of the shared state promises about lost state and about takeovers, which are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from a2a_zmq.errors import Fenced, StateLost
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.takeover import take_section

MakeWrite = Callable[..., SectionWrite]
DISTRIBUTOR = Section("d1", "distributor")
COORDINATOR = Section("d1", "coordinator")


def record(task_id: str) -> bytes:
    return orjson.dumps({"task_id": task_id, "task_type": "noop", "status": "pending"})


async def test_a_wiped_redis_is_recognised_by_who_wrote_to_it(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    for _ in range(3):
        await store.apply(make_write(put_tasks={"t1": record("t1")}))
    await backend.wipe()
    with pytest.raises(StateLost) as lost:
        await store.apply(make_write(put_tasks={"t2": record("t2")}))
    assert (lost.value.known_version, lost.value.found_version) == (3, 0)
    with pytest.raises(StateLost):
        await store.load(DISTRIBUTOR)
    assert (await backend.store().load(DISTRIBUTOR)).version == 0


async def test_after_a_loss_the_version_goes_on_above_what_was_seen(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    for _ in range(3):
        await store.apply(make_write())
    epoch = (await store.load(DISTRIBUTOR)).epoch
    await backend.wipe()
    with pytest.raises(StateLost):
        await store.apply(make_write())
    store.rebase(DISTRIBUTOR)
    assert (await store.load(DISTRIBUTOR)).version == 0
    write = make_write(fence=2)
    assert await store.apply(write) == 4
    assert await store.apply(write) == 4
    assert await store.apply(make_write(fence=2)) == 5
    assert (await store.load(DISTRIBUTOR)).epoch not in ("", epoch)


async def test_an_older_copy_is_recognised(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write())
    copy = await backend.copy()
    await store.apply(make_write(put_tasks={"t1": record("t1")}))
    await backend.restore(copy)
    with pytest.raises(StateLost):
        await store.apply(make_write())


async def test_a_takeover_is_no_loss(backend: Any, make_write: MakeWrite) -> None:
    old, new = backend.store(), backend.store()
    await old.apply(make_write(fence=1))
    await new.apply(make_write(fence=2))
    loaded = await old.load(DISTRIBUTOR)
    assert (loaded.version, loaded.fence) == (2, 2)
    assert await old.apply(make_write(fence=3)) == 3


async def test_taking_a_section_over_shuts_the_old_writer_out_before_it_is_read(
    backend: Any, make_write: MakeWrite
) -> None:
    old, new = backend.store(), backend.store()
    await old.apply(make_write(section=COORDINATOR, fence=1, put_tasks={"t1": record("t1")}))
    loaded = await take_section(new, COORDINATOR, 2, "takeover-1")
    assert (loaded.version, loaded.fence, set(loaded.tasks)) == (2, 2, {"t1"})
    with pytest.raises(Fenced):
        await old.apply(make_write(section=COORDINATOR, fence=1))
    again = await take_section(new, COORDINATOR, 2, "takeover-2")
    assert again == loaded
    with pytest.raises(Fenced):
        await take_section(old, COORDINATOR, 1, "takeover-3")


async def test_a_load_beside_writes_takes_none_of_them_for_a_loss(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write())
    for _ in range(100):
        await asyncio.gather(store.load(DISTRIBUTOR), store.apply(make_write()), store.load(DISTRIBUTOR))
    assert (await store.load(DISTRIBUTOR)).version == 101
