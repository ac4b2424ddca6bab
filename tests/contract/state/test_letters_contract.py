"""What every implementation of the shared state promises about dead letters and lists of ended tasks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson

from a2a_zmq.interfaces import INBOX, Section, SectionWrite
from a2a_zmq.state.section import RetentionPolicy

MakeWrite = Callable[..., SectionWrite]
COORDINATOR = Section("d1", "coordinator")
UNREADABLE = {
    "cut": b'{"task_id":"cut","status":"fai',
    "list": b"[1, 2]",
    "metadata": b'{"task_id":"metadata","metadata":["a"],"completed_at":"2026"}',
    "status": b'{"task_id":"status","status":["failed"]}',
    "id": b'{"task_id":["id"],"status":"failed"}',
}


def ended(task_id: str, second: int, status: str = "failed", **members: Any) -> bytes:
    times = {"completed_at": f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}.000000Z"}
    return orjson.dumps({"task_id": task_id, "task_type": "noop", "status": status, **times, **members})


def ids_of(records: list[bytes]) -> list[str]:
    return [orjson.loads(record)["task_id"] for record in records]


def everything(_record: dict[str, Any]) -> bool:
    return True


async def test_letters_are_listed_newest_first_and_found_by_id(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    for second in range(120):
        task_id = f"t{second}"
        await store.apply(make_write(results={task_id: ended(task_id, second)}, letters=[task_id]))
    await store.apply(make_write(results={"well": ended("well", 200, "completed")}))
    assert await store.count_letters("d1") == 120
    assert ids_of(await store.newest_letters("d1", everything, 3)) == ["t119", "t118", "t117"]
    assert len(await store.newest_letters("d1", everything, 1000)) == 120
    one = await store.newest_letters("d1", lambda record: record["task_id"] == "t0", 1)
    assert ids_of(one) == ["t0"]
    assert await store.letters("d1", ["t5", "well", "unknown"]) == {"t5": ended("t5", 5)}
    assert await store.count_letters("d2") == 0
    assert await store.newest_letters("d2", everything, 10) == []


async def test_a_letter_is_dropped_by_either_writer_and_may_come_again(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write(results={"t1": ended("t1", 1), "t2": ended("t2", 2)}, letters=["t1", "t2"]))
    await store.apply(make_write(section=COORDINATOR, drop_letters=["t1", "unknown"]))
    assert ids_of(await store.newest_letters("d1", everything, 10)) == ["t2"]
    await store.apply(make_write(results={"t1": ended("t1", 3)}, letters=["t1"]))
    assert ids_of(await store.newest_letters("d1", everything, 10)) == ["t1", "t2"]
    await store.apply(make_write(drop_letters=["t1", "t2"]))
    assert await store.count_letters("d1") == 0


async def test_letters_are_bounded_in_number_and_bytes(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(letters=5, letter_bytes=5_000))
    for second in range(20):
        task_id = f"t{second:02d}"
        await store.apply(make_write(results={task_id: ended(task_id, second)}, letters=[task_id]))
    assert ids_of(await store.newest_letters("d1", everything, 100)) == ["t19", "t18", "t17", "t16", "t15"]
    for second in range(20, 24):
        task_id = f"t{second:02d}"
        large = ended(task_id, second, payload={"text": "x" * 2_000})
        await store.apply(make_write(results={task_id: large}, letters=[task_id]))
    assert ids_of(await store.newest_letters("d1", everything, 100)) == ["t23", "t22"]
    assert await store.results("d1", ["t00"]) == {"t00": ended("t00", 0)}, "its result is still there"


async def test_letters_outlive_results_that_are_pushed_out(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(bucket_results=1, buckets=2))
    await store.apply(make_write(results={"bad": ended("bad", 0)}, letters=["bad"]))
    for second in range(5):
        await store.apply(make_write(results={f"t{second}": ended(f"t{second}", second, "completed")}))
    assert await store.results("d1", ["bad"]) == {}
    assert await store.letters("d1", ["bad"]) == {"bad": ended("bad", 0)}


async def test_letters_end_some_day(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(letter_ttl_s=0.2))
    await store.apply(make_write(results={"t1": ended("t1", 1)}, letters=["t1"]))
    await backend.pass_time(0.3)
    await store.apply(make_write(results={"t2": ended("t2", 2)}, letters=["t2"]))
    assert ids_of(await store.newest_letters("d1", everything, 10)) == ["t2"]


async def test_ended_tasks_are_listed_newest_first_over_all_buckets(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(bucket_results=50, buckets=8))
    for start in range(0, 200, 20):
        results = {f"t{i:03d}": ended(f"t{i:03d}", i, "completed") for i in range(start, start + 20)}
        await store.apply(make_write(results=results))
    await store.apply(make_write(section=COORDINATOR, results={"c": ended("c", 198, "abandoned")}))
    assert ids_of(await store.newest_results("d1", everything, 3)) == ["t199", "t198", "c"]
    completed = await store.newest_results("d1", lambda record: record["status"] == "completed", 150)
    assert ids_of(completed) == [f"t{i:03d}" for i in range(199, 49, -1)]
    abandoned = await store.newest_results("d1", lambda record: record["status"] == "abandoned", 10)
    assert ids_of(abandoned) == ["c"]


async def test_the_lease_of_an_owner_can_be_looked_at(backend: Any) -> None:
    store = backend.store()
    assert await store.lease("d1") is None
    held = await backend.leases().acquire(Section("d1", "distributor"), "d1|host|1|2|boot", 10_000)
    owner, fence, remaining_ms = await store.lease("d1")
    assert (owner, fence) == ("d1|host|1|2|boot", held.fence)
    assert 0 < remaining_ms <= 10_000
    assert await store.lease(INBOX) is None


async def test_a_writer_whose_clock_is_far_ahead_does_away_with_no_letters(
    redis_backend: Any, make_write: MakeWrite
) -> None:
    await redis_backend.store().apply(make_write(results={"t1": ended("t1", 1)}, letters=["t1"]))
    ahead = redis_backend.store(wall=lambda: time.time() + 30 * 86_400)
    await ahead.apply(make_write(results={"t2": ended("t2", 2)}, letters=["t2"]))
    await redis_backend.store().apply(make_write(results={"t3": ended("t3", 3)}, letters=["t3"]))
    assert ids_of(await ahead.newest_letters("d1", everything, 10)) == ["t3", "t2", "t1"]


async def test_lists_leave_out_what_cannot_be_read(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    for name, broken in UNREADABLE.items():
        await store.apply(make_write(results={name: broken}, letters=[name]))
    await store.apply(make_write(results={"t1": ended("t1", 1)}, letters=["t1"]))
    assert ids_of(await store.newest_letters("d1", everything, 10)) == ["t1"]
    assert ids_of(await store.newest_results("d1", everything, 10)) == ["t1"]
    assert await store.count_letters("d1") == 1 + len(UNREADABLE)
