"""What every implementation of the shared state promises about writes and reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from a2a_zmq.clock import iso
from a2a_zmq.errors import Fenced
from a2a_zmq.interfaces import INBOX, Section, SectionWrite
from a2a_zmq.models import AgentStatus, TaskStatus
from a2a_zmq.state.section import RetentionPolicy

MakeWrite = Callable[..., SectionWrite]
DISTRIBUTOR = Section("d1", "distributor")
COORDINATOR = Section("d1", "coordinator")
INBOX_SECTION = Section(INBOX, "coordinator")


def record(task_id: str, status: str = "pending", **members: Any) -> bytes:
    return orjson.dumps(
        {"task_id": task_id, "task_type": "noop", "status": status, "created_at": iso(1.7e9), **members}
    )


def event(task_id: str, name: str) -> bytes:
    return orjson.dumps([iso(1.7e9), task_id, name, {}])


async def test_a_section_that_was_never_written_is_empty(backend: Any) -> None:
    loaded = await backend.store().load(DISTRIBUTOR)
    assert (loaded.version, loaded.fence, loaded.epoch, loaded.header, loaded.tasks) == (0, 0, "", {}, {})


async def test_a_write_is_read_back_whole(backend: Any, make_write: MakeWrite) -> None:
    header = {"status": "busy", "assigned_workers": '["worker-1"]'}
    write = make_write(fence=3, header=header, put_tasks={"t1": record("t1"), "t2": record("t2")})
    assert await backend.store().apply(write) == 1
    loaded = await backend.store().load(DISTRIBUTOR)
    assert (loaded.version, loaded.fence, loaded.header) == (1, 3, header)
    assert loaded.tasks == {"t1": record("t1"), "t2": record("t2")}
    assert loaded.epoch


async def test_the_epoch_stays_for_the_life_of_the_section(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write())
    epoch = (await store.load(DISTRIBUTOR)).epoch
    await store.apply(make_write(fence=2))
    assert (await store.load(DISTRIBUTOR)).epoch == epoch


async def test_versions_count_the_writes_of_each_section(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    for _ in range(3):
        await store.apply(make_write())
    assert await store.apply(make_write(section=COORDINATOR)) == 1
    assert await store.versions("d1") == (1, 3)
    assert await store.versions("d2") == (0, 0)


async def test_the_inbox_is_apart_from_every_distributor(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write(section=INBOX_SECTION, put_tasks={"t1": record("t1")}))
    assert await store.tasks(INBOX, ["t1"]) == {"t1": record("t1")}
    assert await store.tasks("d1", ["t1"]) == {}
    assert await store.versions(INBOX) == (1, 0)


@pytest.mark.parametrize("section", [Section(INBOX, "distributor"), Section("d1", "worker")])
async def test_a_section_that_cannot_be_is_an_error(backend: Any, make_write: MakeWrite, section: Section) -> None:
    with pytest.raises(ValueError, match=r"inbox|writer"):
        await backend.store().apply(make_write(section=section))


async def test_the_stores_own_header_members_cannot_be_set(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    with pytest.raises(ValueError, match="fence"):
        await store.apply(make_write(header={"fence": "99"}))
    assert await store.versions("d1") == (0, 0)


async def test_a_mutation_is_applied_once(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    write = make_write(put_tasks={"t1": record("t1")}, history=[event("t1", "accepted")])
    assert await store.apply(write) == 1
    assert await store.apply(write) == 1
    assert await backend.store().apply(write) == 1
    assert len(await store.history("d1", 10)) == 1


async def test_a_repeated_mutation_names_the_version_it_made(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    writes = [make_write() for _ in range(5)]
    for write in writes:
        await store.apply(write)
    assert [await store.apply(write) for write in writes] == [1, 2, 3, 4, 5]
    assert await store.versions("d1") == (0, 5)


async def test_a_lower_fence_is_refused_and_changes_nothing(backend: Any, make_write: MakeWrite) -> None:
    await backend.store().apply(make_write(fence=5, put_tasks={"t1": record("t1")}))
    late = make_write(fence=4, put_tasks={"t2": record("t2")}, drop_tasks=["t1"], history=[event("t2", "accepted")])
    with pytest.raises(Fenced) as refused:
        await backend.store().apply(late)
    assert (refused.value.ours, refused.value.recorded) == (4, 5)
    loaded = await backend.store().load(DISTRIBUTOR)
    assert (loaded.version, set(loaded.tasks)) == (1, {"t1"})
    assert await backend.store().history("d1", 10) == []


async def test_a_write_that_counted_before_a_takeover_is_not_reported_as_fenced(
    backend: Any, make_write: MakeWrite
) -> None:
    write = make_write(fence=1)
    await backend.store().apply(write)
    await backend.store().apply(make_write(fence=2))
    assert await backend.store().apply(write) == 1


async def test_an_empty_write_with_a_new_fence_shuts_the_old_owner_out(backend: Any, make_write: MakeWrite) -> None:
    old, new = backend.store(), backend.store()
    await old.apply(make_write(fence=1))
    await new.apply(make_write(fence=2))
    with pytest.raises(Fenced):
        await old.apply(make_write(fence=1))


async def test_two_writers_of_one_section_lose_nothing(backend: Any, make_write: MakeWrite) -> None:
    async def writer(name: str) -> list[int]:
        store = backend.store()
        return [
            await store.apply(make_write(put_tasks={f"{name}{i}": b"{}"}, history=[event(f"{name}{i}", "accepted")]))
            for i in range(25)
        ]

    versions = [version for made in await asyncio.gather(writer("a"), writer("b")) for version in made]
    assert sorted(versions) == list(range(1, 51))
    loaded = await backend.store().load(DISTRIBUTOR)
    assert len(loaded.tasks) == 50
    assert len(await backend.store().history("d1", 100)) == 50


async def test_concurrent_writes_of_one_store_are_put_in_order(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    versions = await asyncio.gather(*(store.apply(make_write()) for _ in range(20)))
    assert sorted(versions) == list(range(1, 21))


async def test_a_result_replaces_the_live_task(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write(put_tasks={"t1": record("t1"), "t2": record("t2")}))
    await store.apply(make_write(drop_tasks=["t1"], results={"t1": record("t1", "completed")}))
    assert await store.tasks("d1", ["t1", "t2", "t3"]) == {"t2": record("t2")}
    assert await store.results("d1", ["t1", "t2", "t3"]) == {"t1": record("t1", "completed")}


async def test_results_of_both_writers_are_found(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write(results={"t1": b"1"}))
    await store.apply(make_write(section=COORDINATOR, results={"t2": b"2"}))
    await store.apply(make_write(section=INBOX_SECTION, results={"t3": b"3"}))
    assert await store.results("d1", ["t1", "t2", "t3"]) == {"t1": b"1", "t2": b"2"}
    assert await store.results(INBOX, ["t3"]) == {"t3": b"3"}


async def test_the_newest_result_of_a_task_counts(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(bucket_results=1, buckets=5))
    for value in (b"1", b"2", b"3"):
        await store.apply(make_write(results={"t1": value}))
    assert await store.results("d1", ["t1"]) == {"t1": b"3"}


async def test_results_are_bounded_and_the_oldest_go_first(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(bucket_results=10, buckets=3))
    ids = [f"t{i}" for i in range(100)]
    for start in range(0, 100, 5):
        await store.apply(make_write(results=dict.fromkeys(ids[start : start + 5], b"r")))
    kept = await store.results("d1", ids)
    assert sorted(kept) == sorted(ids[70:])


async def test_results_are_bounded_in_bytes(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(bucket_bytes=1000, buckets=2))
    ids = [f"t{i}" for i in range(20)]
    for task_id in ids:
        await store.apply(make_write(results={task_id: b"x" * 500}))
    assert sorted(await store.results("d1", ids)) == sorted(ids[-4:])


async def test_what_was_recorded_since_a_mark_is_found_whatever_else_there_is(
    backend: Any, make_write: MakeWrite
) -> None:
    policy = RetentionPolicy(bucket_results=2)
    coordinator, distributor = backend.store(policy=policy), backend.store(policy=policy)
    assert coordinator.results_mark(COORDINATOR) == (), "all results are newer than a write that was never made"
    for number in range(6):
        await distributor.apply(make_write(results={f"old{number}": record(f"old{number}", "completed")}))
    await coordinator.apply(make_write(section=COORDINATOR))
    mark = coordinator.results_mark(COORDINATOR)
    ids = ["old0", *(f"new{number}" for number in range(5)), "mine"]
    assert await coordinator.results("d1", ids, mark) == {}
    for number in range(5):
        await distributor.apply(make_write(results={f"new{number}": record(f"new{number}", "completed")}))
    await coordinator.apply(make_write(section=COORDINATOR, results={"mine": record("mine", "failed")}))
    assert set(await coordinator.results("d1", ids, mark)) == set(ids) - {"old0"}
    assert await coordinator.results("d1", ids, coordinator.results_mark(COORDINATOR)) == {}
    assert set(await coordinator.results("d1", ids)) == set(ids)


async def test_many_results_are_looked_up_at_once(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(bucket_results=100))
    ids = [f"t{i}" for i in range(1500)]
    for start in range(0, 1500, 100):
        await store.apply(make_write(results={task_id: task_id.encode() for task_id in ids[start : start + 100]}))
    found = await store.results("d1", [*ids, "unknown"])
    assert found == {task_id: task_id.encode() for task_id in ids}
    assert await store.results("d1", []) == {}


async def test_history_is_newest_first_and_by_task(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write(history=[event("t1", "accepted"), event("t2", "accepted")]))
    await store.apply(make_write(section=COORDINATOR, history=[event("t1", "assigned")]))
    await store.apply(make_write(history=[event("t2", "completed"), event("t1", "completed")]))
    names = [(e[1], e[2]) for e in map(orjson.loads, await store.history("d1", 10))]
    assert names == [
        ("t1", "completed"),
        ("t2", "completed"),
        ("t1", "assigned"),
        ("t2", "accepted"),
        ("t1", "accepted"),
    ]
    assert len(await store.history("d1", 2)) == 2
    assert await store.history("d1", 0) == []
    of_one = [orjson.loads(e)[2] for e in await store.history("d1", 10, "t1")]
    assert of_one == ["completed", "assigned", "accepted"]
    assert await store.history("d1", 10, "t") == []


async def test_history_is_bounded_in_bytes(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store(RetentionPolicy(history_entries=1_000_000, history_bytes=100_000))
    for i in range(400):
        await store.apply(make_write(history=[event(f"t{i}", "x" * 2000)]))
    kept = await store.history("d1", 1000)
    assert orjson.loads(kept[0])[1] == "t399"
    assert sum(map(len, kept)) < 200_000


async def test_a_long_history_is_searched_to_its_end(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    for i in range(300):
        await store.apply(make_write(history=[event(f"t{i}", "accepted")]))
    assert [orjson.loads(e)[1] for e in await store.history("d1", 5, "t0")] == ["t0"]
    assert [orjson.loads(e)[1] for e in await store.history("d1", 250)] == [f"t{i}" for i in range(299, 49, -1)]


async def test_many_live_tasks_are_loaded_whole(backend: Any, make_write: MakeWrite) -> None:
    tasks = {f"t{i}": b'{"n":%d}' % i for i in range(5000)}
    await backend.store().apply(make_write(put_tasks=tasks))
    assert (await backend.store().load(DISTRIBUTOR)).tasks == tasks
    assert await backend.store().tasks("d1", list(tasks)) == tasks


async def test_the_registry_knows_each_distributor_once(backend: Any) -> None:
    store = backend.store()
    assert await store.distributors() == []
    assert await store.register_distributor("d2") is True
    assert await store.register_distributor("d1") is True
    assert await store.register_distributor("d2") is False
    assert await store.distributors() == ["d1", "d2"]


async def test_the_document_has_the_specifications_form(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    held = await backend.leases().acquire(DISTRIBUTOR, "d1|host|17|99|boot", 60_000)
    assert held is not None
    assigned = {"t1": record("t1", payload={"operation": "sum"}), "t2": record("t2")}
    await store.apply(make_write(section=COORDINATOR, put_tasks=assigned))
    header = {"status": "busy", "assigned_workers": '["worker-1","worker-2"]'}
    ended = record("t1", "completed", result={"sum": 6}, completed_at=iso(1.7e9 + 5), metadata={"attempt": 1})
    await store.apply(make_write(fence=held.fence, header=header, drop_tasks=["t1"], results={"t1": ended}))
    document = await store.document("d1")
    assert document is not None
    assert (document.coordinator_version, document.distributor_version) == ("v1", "v1")
    assert (document.status, document.assigned_workers) == (AgentStatus.BUSY, ["worker-1", "worker-2"])
    assert [(task.task_id, task.status) for task in document.tasks] == [
        ("t1", TaskStatus.COMPLETED),
        ("t2", TaskStatus.PENDING),
    ]
    assert document.tasks[0].result == {"sum": 6}
    assert document.tasks[0].updated_at == document.tasks[0].completed_at
    assert document.lease is not None
    assert document.lease.owner == "d1"
    assert 50 < (document.lease.expires_at - document.lease.acquired_at).total_seconds() <= 61
    again = type(document).model_validate_json(document.model_dump_json())
    assert again == document


async def test_the_documents_status_is_that_of_the_moment(backend: Any, make_write: MakeWrite) -> None:
    """Not what the distributor wrote last: it may have ended since, or be gone."""

    async def status() -> Any:
        return (await backend.store().document("d1")).status

    leases = backend.leases()
    held = await leases.acquire(DISTRIBUTOR, "d1|host|17|99|boot", 60_000)
    store = backend.store()
    await store.apply(make_write(fence=held.fence, header={"status": "busy"}))
    assert await status() == AgentStatus.IDLE
    await store.apply(make_write(section=COORDINATOR, put_tasks={"t1": record("t1")}))
    assert await status() == AgentStatus.BUSY
    await store.apply(make_write(fence=held.fence, header={"status": "recovering"}))
    assert await status() == AgentStatus.RECOVERING
    await leases.release(DISTRIBUTOR, held)
    assert await status() == AgentStatus.ERROR


async def test_an_unknown_distributor_has_no_document(backend: Any) -> None:
    store = backend.store()
    assert await store.document("d1") is None
    await store.register_distributor("d1")
    document = await store.document("d1")
    assert document is not None
    assert (document.coordinator_version, document.tasks, document.lease) == ("v0", [], None)


async def test_a_store_answers_ping_and_works_after_close(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.ping()
    await store.apply(make_write())
    await store.close()
    assert await store.apply(make_write()) == 2


async def test_pages_have_every_task_that_stays(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    stay = {f"t{number}": record(f"t{number}") for number in range(1_300)}
    await store.apply(make_write(put_tasks=stay))
    found: dict[str, bytes] = {}
    cursor, pages = "", 0
    while pages == 0 or cursor:
        cursor, page = await store.page("d1", cursor)
        found |= page
        pages += 1
        await store.apply(make_write(put_tasks={f"n{pages}": record(f"n{pages}")}))
    assert stay.items() <= found.items()
    assert pages > 1
    assert await store.page("unknown", "") == ("", {})


async def test_a_survey_names_every_key_with_its_end(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.register_distributor("d1")
    await backend.leases().acquire(DISTRIBUTOR, "d1|host|1|2|boot", 5_000)
    write = make_write(put_tasks={"t1": record("t1"), "t2": record("t2")}, results={"r1": record("r1", "completed")})
    await store.apply(write)
    survey = await store.survey()
    facts = {fact.key: fact for fact in survey.keys}
    assert survey.whole
    assert {name: fact.type for name, fact in facts.items()} == {
        "shared:distributor:d1": "hash",
        "distributors:{shared:coordinator}": "hash",
        "lease:{shared:distributor:d1}": "string",
        "tasks:{shared:distributor:d1}": "hash",
        "results:{shared:distributor:d1}:1": "hash",
    }
    assert facts["tasks:{shared:distributor:d1}"][2:] == (-1, "", 2)
    lease = facts["lease:{shared:distributor:d1}"]
    assert lease.lease == "d1|host|1|2|boot|1"
    assert 0 < lease.ttl_ms <= 5_000
    assert facts["results:{shared:distributor:d1}:1"].ttl_ms > 0


async def test_an_entry_that_cannot_be_read_hides_no_other(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    await store.apply(make_write(put_tasks={"t1": record("t1"), "t2": b"{broken"}, history=[event("t1", "accepted")]))
    await store.apply(make_write(history=[b"{broken"]))
    await store.apply(make_write(history=[b"7", b"[]", b'["","",[],1]', event("t2", "accepted")]))
    assert [orjson.loads(each)[1] for each in await store.history("d1", 10)] == ["t2", "t1"]
    document = await store.document("d1")
    assert [task.task_id for task in document.tasks] == ["t1"]
