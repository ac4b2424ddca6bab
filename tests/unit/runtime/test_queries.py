"""The reads that cores ask for."""

from __future__ import annotations

import asyncio

import pytest

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.memory import MemoryRedis, MemoryStore
from daemons.runtime.contract import Query
from daemons.runtime.queries import answer_query
from tests.unit.runtime.fakes import at


def ask(store: MemoryStore, op: str, **args: object) -> object:
    return asyncio.run(answer_query(store, Query("tag", op, args)))


def line(second: int, task_id: str) -> bytes:
    return b'["2025-11-28T10:00:%02d.000000Z","%b","noted",{}]' % (second, task_id.encode())


def record(task_id: str, status: str) -> bytes:
    return b'{"task_id":"%b","task_type":"noop","status":"%b"}' % (task_id.encode(), status.encode())


@pytest.fixture
def redis() -> MemoryRedis:
    return MemoryRedis(lambda: at(0.0))


@pytest.fixture
def store(redis: MemoryRedis) -> MemoryStore:
    """Two distributors: ``d1`` has t1 live, r1 ended, ``d2`` has t2 and r2; their history alternates."""
    store = MemoryStore(redis)

    async def fill() -> None:
        for number in (1, 2):
            name = f"d{number}"
            write = SectionWrite(Section(name, "distributor"), 1, f"m{number}")
            write.put_tasks = {f"t{number}": record(f"t{number}", "pending")}
            write.results = {f"r{number}": record(f"r{number}", "completed")}
            write.history = [line(second, f"t{number}") for second in (number, number + 2, number + 4)]
            await store.register_distributor(name)
            await store.apply(write)

    asyncio.run(fill())
    return store


def test_live_tasks_and_results_of_several_distributors_are_merged(store: MemoryStore) -> None:
    ids = {"distributor_ids": ["d1", "d2", "unknown"], "task_ids": ["t1", "t2", "r1", "r2", "none"]}
    assert ask(store, "tasks", **ids) == {each: record(each, "pending") for each in ("t1", "t2")}
    assert ask(store, "results", **ids) == {each: record(each, "completed") for each in ("r1", "r2")}
    assert ask(store, "results", distributor_ids=[], task_ids=["r1"]) == {}


def test_a_section_is_loaded(store: MemoryStore) -> None:
    loaded = asyncio.run(answer_query(store, Query("tag", "load", {"section": Section("d1", "distributor")})))
    assert loaded.version == 1
    assert loaded.tasks == {"t1": record("t1", "pending")}


def test_the_newest_events_of_all_distributors_come_first(store: MemoryStore) -> None:
    both = ["d1", "d2"]
    newest = [line(6, "t2"), line(5, "t1"), line(4, "t2"), line(3, "t1")]
    assert ask(store, "history", distributor_ids=both, limit=4) == newest
    assert ask(store, "history", distributor_ids=both, limit=2, task_id="t1") == [line(5, "t1"), line(3, "t1")]
    assert ask(store, "history", distributor_ids=both, limit=0) == []


def test_registering_gives_the_coordinators_section(store: MemoryStore) -> None:
    loaded = asyncio.run(answer_query(store, Query("tag", "register", {"distributor_id": "d3"})))
    assert (loaded.version, loaded.tasks) == (0, {})
    assert asyncio.run(store.distributors()) == ["d1", "d2", "d3"]
    assert asyncio.run(answer_query(store, Query("tag", "register", {"distributor_id": "d1"}))).tasks


def test_the_document_is_put_together(store: MemoryStore) -> None:
    document = asyncio.run(answer_query(store, Query("tag", "document", {"distributor_id": "d1"})))
    assert document.distributor_version == "v1"
    assert {each.task_id for each in document.tasks} == {"t1", "r1"}
    assert ask(store, "document", distributor_id="unknown") is None


def test_a_store_that_is_away_raises(redis: MemoryRedis, store: MemoryStore) -> None:
    redis.take_away()
    queries: dict[str, dict[str, object]] = {
        "tasks": {"distributor_ids": ["d1", "d2"], "task_ids": ["t1"]},
        "load": {"section": Section("d1", "distributor")},
        "history": {"distributor_ids": ["d1"], "limit": 1},
        "register": {"distributor_id": "d9"},
        "document": {"distributor_id": "d1"},
    }
    for op, args in queries.items():
        with pytest.raises(StoreUnavailable):
            ask(store, op, **args)


def test_an_unknown_query_is_a_bug_of_ours(store: MemoryStore) -> None:
    with pytest.raises(ValueError, match="unknown query 'drop'"):
        ask(store, "drop")


@pytest.mark.parametrize("order", [["d1", "d2"], ["d2", "d1"]])
def test_of_a_task_that_failed_at_one_distributor_and_completed_at_another_the_later_result_counts(
    store: MemoryStore, order: list[str]
) -> None:
    failed = b'{"task_id":"r","status":"failed","completed_at":"2025-11-28T10:00:00Z","metadata":{"attempt":3}}'
    completed = b'{"task_id":"r","status":"completed","completed_at":"2025-11-28T10:05:00Z","metadata":{"attempt":4}}'

    async def end(name: str, result: bytes) -> None:
        write = SectionWrite(Section(name, "distributor"), 1, f"end {name}")
        write.results = {"r": result}
        await store.apply(write)

    asyncio.run(end("d1", failed))
    asyncio.run(end("d2", completed))
    assert ask(store, "results", distributor_ids=order, task_ids=["r"]) == {"r": completed}
