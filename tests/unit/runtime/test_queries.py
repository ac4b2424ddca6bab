"""The reads that cores ask for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.memory import MemoryRedis, MemoryStore
from daemons.runtime.contract import Query
from daemons.runtime.queries import Answers, answer_query
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


# ---------------------------------------------------------------- what cannot be read


BROKEN = [
    b'{"task_id":"r1","sta',
    b"[]",
    b'{"task_id":"r1","status":"failed","metadata":[]}',
    b'{"task_id":"r1","status":{}}',
    b'{"task_id":7}',
    b'{"status":"failed"}',
]
BOTH = ["d1", "d2"]


async def damage(store: MemoryStore, name: str, task_id: str, broken: bytes, *, letter: bool = False) -> None:
    write = SectionWrite(Section(name, "distributor"), 1, f"damage {name}")
    write.results = {task_id: broken}
    write.letters = [task_id] if letter else []
    await store.apply(write)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_result_that_cannot_be_read_is_left_out_and_named(store: MemoryStore, broken: bytes) -> None:
    asyncio.run(damage(store, "d1", "r1", broken, letter=True))
    told: list[tuple[str, dict[str, Any]]] = []
    answers = Answers(SimpleNamespace(error=lambda event, **fields: told.append((event, fields))))
    query = Query("tag", "results", {"distributor_ids": BOTH, "task_ids": ["r1", "r2"], "letters": True})
    for _ in range(2):
        answer = asyncio.run(answers.answer(store, query, None))
        assert answer.value == {"r2": record("r2", "completed")}
        assert answer.unreadable == {"r1"}
    assert told == [("unreadable_records", {"tasks": ["r1"]})], "once"


def test_another_copy_that_can_be_read_counts(store: MemoryStore) -> None:
    asyncio.run(damage(store, "d2", "r1", b"{broken"))
    ids = {"distributor_ids": BOTH, "task_ids": ["r1"]}
    assert ask(store, "results", **ids) == {"r1": record("r1", "completed")}


@pytest.mark.parametrize("dead", [False, True])
def test_lists_of_ended_tasks_leave_out_what_cannot_be_read(store: MemoryStore, dead: bool) -> None:
    for number, broken in enumerate(BROKEN):
        asyncio.run(damage(store, f"d{number + 3}", "r1", broken, letter=True))
    asyncio.run(damage(store, "d2", "r9", record("r9", "failed"), letter=True))
    names = [f"d{number}" for number in range(1, 9)]
    args = {"distributor_ids": names, "wanted": lambda _: True, "limit": 9, "dead": dead}
    records, _ = asyncio.run(answer_query(store, Query("tag", "ended", args)))
    wanted = [record("r9", "failed")] if dead else [record("r9", "failed"), *_ended_records()]
    assert sorted(records) == sorted(wanted)


def _ended_records() -> list[bytes]:
    return [record(name, "completed") for name in ("r1", "r2")]


@pytest.mark.parametrize("broken", BROKEN)
def test_explain_names_where_a_record_cannot_be_read(store: MemoryStore, broken: bytes) -> None:
    asyncio.run(damage(store, "d1", "r1", broken))
    args = {"distributor_ids": ["d1", "d2", ""], "task_id": "r1", "limit": 5, "owners": []}
    found = asyncio.run(answer_query(store, Query("tag", "explain", args)))
    assert (found["results"], found["ended"], found["unreadable"]) == ({}, None, ["results of d1"])


def test_what_nobody_foresaw_is_an_error_of_that_query_and_told_once(store: MemoryStore) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    answers = Answers(SimpleNamespace(exception=lambda event, **fields: told.append((event, fields))))

    async def lease(_distributor_id: str) -> None:
        raise ValueError("invalid literal for int()")

    store.lease = lease  # type: ignore[method-assign,assignment]
    query = Query("tag", "explain", {"distributor_ids": BOTH, "task_id": "t1", "limit": 5, "owners": ["d1"]})
    for _ in range(2):
        answer = asyncio.run(answers.answer(store, query, None))
        assert answer.error == "task t1: what is stored cannot be read: ValueError: invalid literal for int()"
    assert told == [("query_failed", {"op": "explain", "task_id": "t1"})]


def test_a_store_that_is_away_is_told_to_the_shell(redis: MemoryRedis, store: MemoryStore) -> None:
    redis.take_away()
    query = Query("tag", "results", {"distributor_ids": BOTH, "task_ids": ["r1"]})
    with pytest.raises(StoreUnavailable):
        asyncio.run(Answers(None).answer(store, query, None))
