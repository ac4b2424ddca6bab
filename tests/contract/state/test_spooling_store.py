"""A store that rides out outages, over every backend: what it took is in the shared state afterwards, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import Section, SectionWrite
from daemons.runtime.breaker import Circuit
from tests.contract.state.spooling_rig import MINE, OTHER, PLACED, Rig, opened, record, result

Build = Callable[..., SectionWrite]


async def test_without_an_outage_nothing_goes_to_the_disk(backend: Any, make_write: Build, spool_path: Path) -> None:
    rig = Rig(backend, spool_path)
    assert [await rig.store.apply(make_write(put_tasks={"t1": record()})) for _ in range(3)] == [1, 2, 3]
    assert (await rig.store.load(MINE)).version == 3
    assert not opened(spool_path)
    await rig.store.close()


async def test_writes_of_an_outage_are_durable_at_once_and_in_redis_afterwards(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    rig = Rig(backend, spool_path)
    await rig.store.apply(make_write(put_tasks={"t1": record()}))
    rig.switch.fault = "connection"
    assert await rig.store.apply(make_write(put_tasks={"t2": record(), "t3": record()})) == 2
    ended = make_write(results={"t1": result(), "t2": result()}, drop_tasks=["t1", "t2"], header={"status": "idle"})
    assert await rig.store.apply_some([ended, make_write(put_tasks={"t4": record(2)})]) == [3, 4]
    assert rig.store.breaker.state is Circuit.OPEN
    with pytest.raises(StoreUnavailable):
        await rig.store.load(MINE)
    await rig.back(1)
    loaded = await rig.store.load(MINE)
    assert (loaded.version, loaded.header) == (4, {"status": "idle"})
    assert loaded.tasks == {"t3": record(), "t4": record(2)}
    assert set(await rig.store.results("d1", ["t1", "t2", "t3"])) == {"t1", "t2"}
    assert (rig.store.rows, rig.store.breaker.closed) == (0, True)
    assert await rig.store.apply(make_write()) == 5
    await rig.store.close()


async def test_a_write_whose_reply_was_lost_is_not_applied_again(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    rig = Rig(backend, spool_path)
    await rig.store.apply(make_write())
    rig.switch.lose_reply = True
    doubtful = make_write(results={"t1": result()}, history=[b'["","","once",{}]'])
    assert await rig.store.apply(doubtful) == 2
    assert await rig.store.apply(make_write(history=[b'["","","later",{}]'])) == 3
    await rig.back(1)
    assert (await rig.store.load(MINE)).version == 3
    assert sorted(event for event in await rig.store.history("d1", 10)) == [b'["","","later",{}]', b'["","","once",{}]']
    await rig.store.close()


async def test_handing_in_goes_on_where_it_was_interrupted(backend: Any, make_write: Build, spool_path: Path) -> None:
    rig = Rig(backend, spool_path)
    for section in (PLACED, OTHER):
        await rig.store.apply(make_write(section=section))
    rig.switch.fault = "connection"
    for number in range(5):
        for section in (PLACED, OTHER):
            await rig.store.apply(make_write(section=section, put_tasks={f"t{number}": record()}))
    rig.switch.fault, rig.switch.lose_reply = "", True
    with pytest.raises(StoreUnavailable):
        await rig.store.answered(lambda: 1)
    assert rig.store.breaker.state is Circuit.OPEN
    assert await rig.store.apply(make_write(section=OTHER, put_tasks={"more": record()})) == 7
    await rig.back(1)
    for distributor, count in (("d1", 5), ("d2", 6)):
        loaded = await rig.store.load(Section(distributor, "coordinator"))
        assert (len(loaded.tasks), loaded.version) == (count, count + 1)
    assert len(set(rig.switch.applied)) == len(rig.switch.applied) - 1, "the doubtful one alone was asked twice"
    await rig.store.close()


async def test_a_task_that_ended_before_its_record_came_is_not_live_again(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    coordinator, distributor = Rig(backend, spool_path), backend.store()
    await coordinator.store.apply(make_write(section=PLACED))
    coordinator.switch.fault = "connection"
    again = record(1, retried=1, floor=1)
    await coordinator.store.apply(
        make_write(section=PLACED, put_tasks={"t1": record(), "t2": record(), "again": again})
    )
    # Told of them directly, the distributor records a result; the retried task has the one of its first life.
    await distributor.apply(make_write(section=MINE, results={"t1": result(), "again": result()}, drop_tasks=["t1"]))
    await coordinator.back(1)
    assert set((await coordinator.store.load(PLACED)).tasks) == {"t2", "again"}
    await coordinator.store.close()


async def test_records_that_are_handed_in_late_replace_no_newer_attempt(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    coordinator, distributor = Rig(backend, spool_path), backend.store()
    await coordinator.store.apply(make_write(section=PLACED))
    coordinator.switch.fault = "connection"
    first = {"t1": record(created_at="10:00"), "t2": record(created_at="10:00"), "reused": record(created_at="11:00")}
    await coordinator.store.apply(make_write(section=PLACED, put_tasks=first))
    # Told of them directly, the distributor stores further attempts, before or while the coordinator hands in.
    further = {"t1": record(3, created_at="10:00"), "reused": record(2, created_at="10:30")}
    await distributor.apply(make_write(section=MINE, put_tasks=further))
    await coordinator.back(1)
    loaded = await coordinator.store.load(PLACED)
    assert loaded.tasks == {"t1": further["t1"], "t2": first["t2"], "reused": first["reused"]}
    await coordinator.store.close()


@pytest.mark.parametrize("reason", ["oom", "misconf", "readonly", "loading", "noauth"])
async def test_a_redis_that_answers_and_refuses_writes_is_an_outage_too(
    backend: Any, make_write: Build, spool_path: Path, reason: str
) -> None:
    rig = Rig(backend, spool_path)
    await rig.store.apply(make_write())
    rig.switch.fault, rig.switch.only_writes = reason, True
    assert await rig.store.apply(make_write(put_tasks={"t1": record()})) == 2
    with pytest.raises(StoreUnavailable):
        await rig.store.answered(lambda: 1)
    assert (rig.store.breaker.state, rig.store.breaker.reason) == (Circuit.OPEN, reason)
    await rig.back(1)
    assert (await rig.store.load(MINE)).version == 2
    await rig.store.close()


async def test_a_full_spool_keeps_nothing_and_takes_again_after_the_outage(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    rig = Rig(backend, spool_path, limit=4_000)
    await rig.store.apply(make_write())
    rig.switch.fault = "connection"
    large = {"t1": b'"' + b"x" * 2_500 + b'"'}
    assert await rig.store.apply(make_write(put_tasks=large)) == 2
    with pytest.raises(StoreUnavailable, match="spool"):
        await rig.store.apply(make_write(put_tasks={"t2": large["t1"]}))
    assert not rig.store.room
    waiting = make_write(put_tasks={"t2": record()})
    assert await rig.store.apply(waiting) == 3
    await rig.back(1)
    assert rig.store.room
    assert set((await rig.store.load(MINE)).tasks) == {"t1", "t2"}
    await rig.store.close()


@pytest.mark.parametrize("rests", [True, False])
async def test_new_work_waits_while_much_is_handed_in(
    backend: Any, make_write: Build, spool_path: Path, rests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.runtime.spooling.MUCH_BYTES", 6000)
    monkeypatch.setattr("daemons.runtime.spooling.NEARLY_EMPTY_BYTES", 100)
    monkeypatch.setattr("daemons.runtime.spooling.CHUNK_BYTES", 2000)
    rig = Rig(backend, spool_path, rests=rests)
    await rig.store.apply(make_write(put_tasks={"t": record()}))
    rig.switch.fault = "connection"
    for number in range(10):
        await rig.store.apply(make_write(put_tasks={f"t{number}": record(pad="x" * 1000)}))
    assert rig.store.room
    told: list[bool] = []
    rig.store.changed = lambda: told.append(rig.store.room)
    await rig.back(1)
    assert rig.store.room
    assert (False in told) is rests
    assert not rests or told[told.index(False) :] == sorted(told[told.index(False) :])  # it rests once
    assert len((await rig.store.load(MINE)).tasks) == 11
    await rig.store.close()


async def test_switched_off_writes_wait(backend: Any, make_write: Build, spool_path: Path) -> None:
    rig = Rig(backend, spool_path, enabled=False)
    await rig.store.apply(make_write())
    rig.switch.fault = "connection"
    write = make_write(put_tasks={"t1": record()})
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await rig.store.apply(write)
    rig.switch.fault = ""
    await rig.store.answered(lambda: 1)
    assert not rig.store.breaker.closed, "a lease that can be renewed does not show that writes are taken"
    assert await rig.store.apply(write) == 2
    assert rig.store.breaker.closed
    assert not opened(spool_path)
    await rig.store.close()
