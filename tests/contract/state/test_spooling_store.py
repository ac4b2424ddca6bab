"""A store that rides out outages, over every backend: what it took is in the shared state afterwards, once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq.errors import Fenced, StateLost, StoreUnavailable
from a2a_zmq.interfaces import INBOX, Held, Mark, Section, SectionWrite
from daemons.runtime.breaker import Circuit
from daemons.runtime.spool import SqliteSpool
from daemons.runtime.spooling import SpoolingStore

MINE = Section("d1", "distributor")
PLACED = Section("d1", "coordinator")
OTHER = Section("d2", "coordinator")
INBOX_SECTION = Section(INBOX, "coordinator")
Build = Callable[..., SectionWrite]
_numbers = itertools.count()


class Switched:
    """A store whose server can be out of reach, or refuse writes; what it applied is noted."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.fault = ""
        self.only_writes = False
        self.lose_reply = False
        self.applied: list[str] = []

    def rebase(self, section: Section) -> None:
        self.inner.rebase(section)

    def advance(self, section: Section, version: int) -> None:
        self.inner.advance(section, version)

    def results_mark(self, section: Section) -> Mark:
        mark: Mark = self.inner.results_mark(section)
        return mark

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            if self.fault and (name == "apply" or not self.only_writes):
                raise StoreUnavailable(self.fault, "switched off")
            value = await getattr(self.inner, name)(*args)
            if name == "apply":
                self.applied.append(args[0].mutation_id)
                if self.lose_reply:
                    self.fault = "timeout"
                    raise StoreUnavailable("timeout", "the reply was lost")
            return value

        return call


class Rig:
    """One process's store: the switch, the spool file, and the store over both."""

    def __init__(
        self, backend: Any, path: Path, *, enabled: bool = True, limit: int = 1 << 20, rests: bool = False
    ) -> None:
        self.switch = Switched(backend.store())
        self.spool = SqliteSpool(path, limit)
        self.store = SpoolingStore(
            self.switch,
            self.spool,
            off=lambda: "" if enabled else "another may take over",
            new_id=lambda: f"fresh{next(_numbers)}",
            rng=lambda: 0.5,
            rests=rests,
        )

    async def own(self, leases: Any, section: Section = MINE) -> Held:
        """Become the owner, as a daemon does it: lease, merge, load."""
        held = await leases.acquire(section, "a|host|1|1|boot", 60_000, steal_from="a|host|1|1|boot")
        assert held is not None
        await self.spool.look()
        await self.merge(section, held)
        return held  # type: ignore[no-any-return]

    async def merge(self, section: Section, held: Held) -> dict[str, int] | None:
        async def renew() -> bool:
            """The lease is long."""
            return True

        counts = await self.store.merge(section, held, renew)
        self.store.rebase(section)
        self.loaded = await self.store.load(section)
        return counts

    async def back(self, fence: int) -> None:
        self.switch.fault, self.switch.lose_reply = "", False
        await self.store.answered(lambda: fence)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "a.db"


def opened(path: Path) -> bool:
    return path.exists()


def record(attempt: int = 0, *, created_at: str = "", **metadata: Any) -> bytes:
    members = {"created_at": created_at} if created_at else {}
    return orjson.dumps({"status": "pending", **members, "metadata": {"attempt": attempt, **metadata}})


def result(attempt: int = 1, **metadata: Any) -> bytes:
    return orjson.dumps({"status": "completed", "metadata": {"attempt": attempt, **metadata}})


async def test_without_an_outage_nothing_goes_to_the_disk(backend: Any, make_write: Build, path: Path) -> None:
    rig = Rig(backend, path)
    assert [await rig.store.apply(make_write(put_tasks={"t1": record()})) for _ in range(3)] == [1, 2, 3]
    assert (await rig.store.load(MINE)).version == 3
    assert not opened(path)
    await rig.store.close()


async def test_writes_of_an_outage_are_durable_at_once_and_in_redis_afterwards(
    backend: Any, make_write: Build, path: Path
) -> None:
    rig = Rig(backend, path)
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


async def test_a_write_whose_reply_was_lost_is_not_applied_again(backend: Any, make_write: Build, path: Path) -> None:
    rig = Rig(backend, path)
    await rig.store.apply(make_write())
    rig.switch.lose_reply = True
    doubtful = make_write(results={"t1": result()}, history=[b'["","","once",{}]'])
    assert await rig.store.apply(doubtful) == 2
    assert await rig.store.apply(make_write(history=[b'["","","later",{}]'])) == 3
    await rig.back(1)
    assert (await rig.store.load(MINE)).version == 3
    assert sorted(event for event in await rig.store.history("d1", 10)) == [b'["","","later",{}]', b'["","","once",{}]']
    await rig.store.close()


async def test_handing_in_goes_on_where_it_was_interrupted(backend: Any, make_write: Build, path: Path) -> None:
    rig = Rig(backend, path)
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
    backend: Any, make_write: Build, path: Path
) -> None:
    coordinator, distributor = Rig(backend, path), backend.store()
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
    backend: Any, make_write: Build, path: Path
) -> None:
    coordinator, distributor = Rig(backend, path), backend.store()
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


@pytest.mark.parametrize("reason", ["oom", "misconf", "readonly", "loading"])
async def test_a_redis_that_answers_and_refuses_writes_is_an_outage_too(
    backend: Any, make_write: Build, path: Path, reason: str
) -> None:
    rig = Rig(backend, path)
    await rig.store.apply(make_write())
    rig.switch.fault, rig.switch.only_writes = reason, True
    assert await rig.store.apply(make_write(put_tasks={"t1": record()})) == 2
    with pytest.raises(StoreUnavailable):
        await rig.store.answered(lambda: 1)
    assert (rig.store.breaker.state, rig.store.breaker.reason) == (Circuit.OPEN, reason)
    await rig.back(1)
    assert (await rig.store.load(MINE)).version == 2
    await rig.store.close()


async def test_wrong_credentials_are_no_outage(backend: Any, make_write: Build, path: Path) -> None:
    rig = Rig(backend, path)

    async def refuse(_write: SectionWrite) -> int:
        raise StoreUnavailable("noauth", fatal=True)

    rig.switch.apply = refuse  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable) as caught:
        await rig.store.apply(make_write())
    assert caught.value.fatal
    assert rig.store.breaker.closed
    await rig.store.close()


async def test_a_full_spool_keeps_nothing_and_takes_again_after_the_outage(
    backend: Any, make_write: Build, path: Path
) -> None:
    rig = Rig(backend, path, limit=4_000)
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
    backend: Any, make_write: Build, path: Path, rests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemons.runtime.spooling.MUCH_BYTES", 6000)
    monkeypatch.setattr("daemons.runtime.spooling.NEARLY_EMPTY_BYTES", 100)
    monkeypatch.setattr("daemons.runtime.spooling.CHUNK_BYTES", 2000)
    rig = Rig(backend, path, rests=rests)
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


async def test_switched_off_writes_wait(backend: Any, make_write: Build, path: Path) -> None:
    rig = Rig(backend, path, enabled=False)
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
    assert not opened(path)
    await rig.store.close()


async def test_a_restarted_owner_hands_in_what_it_took_before(backend: Any, make_write: Build, path: Path) -> None:
    leases = backend.leases()
    first = Rig(backend, path)
    held = await first.own(leases)
    await first.store.apply(make_write(fence=held.fence, put_tasks={"old": record(), "done": record()}))
    first.switch.fault = "connection"
    for members in (
        {"put_tasks": {"new": record(1), "gone": record()}},
        {
            "put_tasks": {"new": record(2)},
            "results": {"done": result(), "gone": result()},
            "drop_tasks": ["done", "gone"],
        },
        {"header": {"status": "busy"}},
    ):
        await first.store.apply(make_write(fence=held.fence, **members))
    await first.spool.close()
    second = Rig(backend, path)
    await second.own(leases)
    loaded = await second.store.load(MINE)
    assert loaded.tasks == {"old": record(), "new": record(2)}
    assert loaded.header == {"status": "busy"}
    assert second.loaded.ended == {"done", "gone"}, "so that it looks for their results if it is told of them again"
    assert set(await second.store.results("d1", ["done", "gone", "old", "new"])) == {"done", "gone"}
    assert second.store.rows == 0
    await second.store.close()


async def test_a_record_that_comes_after_the_result_that_was_merged_is_not_loaded(
    backend: Any, make_write: Build, path: Path
) -> None:
    leases = backend.leases()
    first = Rig(backend, path)
    held = await first.own(leases)
    first.switch.fault = "connection"
    await first.store.apply(make_write(fence=held.fence, results={"t1": result(), "again": result()}))
    await first.spool.close()
    second = Rig(backend, path)
    held = await leases.acquire(MINE, "a|host|1|1|boot", 60_000, steal_from="a|host|1|1|boot")
    await second.spool.look()
    assert await second.store.merge(MINE, held, lambda: leases.renew(MINE, held, 60_000)) is not None
    # The write of a coordinator that timed out, and had been on its way ever since.
    late = {"t1": record(), "t2": record(), "again": record(1, retried=1, floor=1)}
    await backend.store().apply(make_write(section=PLACED, put_tasks=late))
    assert set((await second.store.load(MINE)).tasks) == {"t2", "again"}
    await second.store.close()


async def test_an_owner_that_was_replaced_never_overwrites_what_the_other_did(
    backend: Any, make_write: Build, path: Path
) -> None:
    leases, other = backend.leases(), backend.store()
    rig = Rig(backend, path)
    held = await rig.own(leases)
    names = ("finished", "retried", "running", "mine")
    await rig.store.apply(make_write(fence=held.fence, put_tasks=dict.fromkeys(names, record(1))))
    rig.switch.fault = "connection"
    mine = {"results": {name: result(1) for name in names}, "drop_tasks": list(names), "header": {"status": "idle"}}
    await rig.store.apply(make_write(fence=held.fence, **mine))
    await rig.store.apply(make_write(fence=held.fence, put_tasks={"new": record(), "elsewhere": record(1)}))
    fence = held.fence + 1  # another process led meanwhile
    theirs = make_write(
        fence=fence, put_tasks={"retried": record(2), "elsewhere": record(3)}, header={"status": "busy"}
    )
    theirs.results, theirs.drop_tasks = {"finished": result(2)}, ["finished"]
    await other.apply(theirs)
    rig.switch.fault = ""
    with pytest.raises(Fenced):
        await rig.store.answered(lambda: held.fence)
    assert rig.store.rows == 2, "still there"
    again = await leases.acquire(MINE, "a|host|1|1|boot", 60_000, steal_from="a|host|1|1|boot", min_fence=fence)
    assert again is not None
    counts = await rig.merge(MINE, again)
    loaded = await rig.store.load(MINE)
    assert loaded.tasks == {"retried": record(2), "elsewhere": record(3), "new": record()}
    assert loaded.header["status"] == "busy"
    found = await rig.store.results("d1", list(names))
    assert found == {"finished": result(2), "running": result(1), "mine": result(1)}
    assert counts == {"writes": 2, "tasks": 1, "results": 2, "dropped": 3}
    await rig.store.close()


async def test_a_task_that_another_owner_ended_at_an_earlier_attempt_gets_no_second_result(
    backend: Any, make_write: Build, path: Path
) -> None:
    """A cancelled task had ended in the spool at its second attempt, and with the owner that took over at its first.
    (One that an operator sent around again since ends once more.)"""
    leases = backend.leases()
    rig = Rig(backend, path)
    held = await rig.own(leases)
    await rig.store.apply(make_write(fence=held.fence, put_tasks={"once": record(1)}))
    rig.switch.fault = "connection"
    mine = {"once": result(2), "again": result(2, retried=1)}
    await rig.store.apply(make_write(fence=held.fence, results=mine, drop_tasks=list(mine)))
    theirs = make_write(fence=held.fence + 1, results=dict.fromkeys(mine, result(1)), drop_tasks=list(mine))
    await backend.store().apply(theirs)
    rig.switch.fault = ""
    again = await leases.acquire(
        MINE, "a|host|1|1|boot", 60_000, steal_from="a|host|1|1|boot", min_fence=held.fence + 1
    )
    counts = await rig.merge(MINE, again)
    assert await rig.store.results("d1", list(mine)) == {"once": result(1), "again": result(2, retried=1)}
    assert counts == {"writes": 1, "tasks": 0, "results": 1, "dropped": 1}
    await rig.store.close()


async def test_a_wiped_redis_gets_what_the_spool_holds(backend: Any, make_write: Build, path: Path) -> None:
    leases = backend.leases()
    rig = Rig(backend, path)
    held = await rig.own(leases)
    await rig.store.apply(make_write(fence=held.fence, put_tasks={"t1": record()}))
    rig.switch.fault = "connection"
    await rig.store.apply(make_write(fence=held.fence, results={"t1": result()}, drop_tasks=["t1"]))
    await backend.wipe()
    rig.switch.fault = ""
    with pytest.raises(StateLost):
        await rig.store.answered(lambda: held.fence)
    again = await leases.acquire(MINE, "a|host|1|1|boot", 60_000, min_fence=held.fence, new_epoch=True)
    assert again is not None
    await rig.merge(MINE, again)
    assert await rig.store.results("d1", ["t1"]) == {"t1": result()}
    await rig.store.close()


async def test_what_an_operator_sent_around_again_in_an_outage_lives_when_the_spool_is_merged(
    backend: Any, make_write: Build, path: Path
) -> None:
    """The spool had the result of the former life, too, which took the record out again."""
    leases = backend.leases()
    rig = Rig(backend, path)
    held = await rig.own(leases)
    names = ("ours", "theirs", "older")
    await rig.store.apply(make_write(fence=held.fence, put_tasks=dict.fromkeys(names, record(1, created_at="then"))))
    rig.switch.fault = "connection"
    ended = {"results": {name: result(1) for name in ("ours", "theirs")}, "drop_tasks": ["ours", "theirs"]}
    await rig.store.apply(make_write(fence=held.fence, **ended))
    again = record(1, created_at="then", retried=1, floor=1)
    await rig.store.apply(make_write(fence=held.fence, put_tasks={"ours": again, "older": again}))
    await backend.store().apply(make_write(section=PLACED, put_tasks={"theirs": again}))  # by the coordinator
    rig.switch.fault = ""
    taken = await leases.acquire(MINE, "a|host|1|1|boot", 60_000, steal_from="a|host|1|1|boot")
    await rig.merge(MINE, taken)
    assert (await rig.store.load(MINE)).tasks == dict.fromkeys(names, again)
    await rig.store.close()


async def test_a_leader_finds_what_it_merged_for_a_distributor_that_the_lost_registry_lacks(
    backend: Any, make_write: Build, path: Path
) -> None:
    """Found by simulation: it loaded the sections of registered distributors only, and told clients that it did not
    know their tasks, which stood in the others."""
    leases = backend.leases()
    first = Rig(backend, path)
    held = await first.own(leases, INBOX_SECTION)
    await first.store.register_distributor("d1")
    await first.store.load(PLACED)
    first.switch.fault = "connection"
    await first.store.apply(make_write(section=PLACED, fence=held.fence, put_tasks={"t1": record()}))
    await first.spool.close()
    await backend.wipe()
    second = Rig(backend, path)
    await second.own(leases, INBOX_SECTION)
    assert await second.store.distributors() == ["d1"]
    assert (await second.store.load(PLACED)).tasks == {"t1": record()}
    await second.store.close()


async def test_a_task_on_its_way_out_of_the_inbox_is_in_one_place(backend: Any, make_write: Build, path: Path) -> None:
    leases = backend.leases()
    first = Rig(backend, path)
    held = await first.own(leases, INBOX_SECTION)
    for distributor in ("d1", "d2"):
        await first.store.register_distributor(distributor)
        await first.store.apply(make_write(section=Section(distributor, "coordinator"), fence=held.fence))
    tasks = dict.fromkeys(("moved", "stays", "cancelled"), record())
    await first.store.apply(make_write(section=INBOX_SECTION, fence=held.fence, put_tasks=tasks))
    first.switch.fault = "connection"
    place = make_write(section=PLACED, fence=held.fence, put_tasks={"moved": record()})
    let_go = make_write(section=INBOX_SECTION, fence=held.fence, drop_tasks=["moved", "cancelled"])
    let_go.results = {"cancelled": result(0)}
    await first.store.apply_some([place, let_go])
    await first.spool.close()
    second = Rig(backend, path)
    await second.own(leases, INBOX_SECTION)
    assert set((await second.store.load(INBOX_SECTION)).tasks) == {"stays"}
    assert set((await second.store.load(PLACED)).tasks) == {"moved"}
    assert set(await second.store.results(INBOX, ["cancelled"])) == {"cancelled"}
    await second.store.close()


async def test_what_was_taken_away_from_a_distributor_does_not_come_back_from_its_disk(
    backend: Any, make_write: Build, path: Path
) -> None:
    leases, coordinator = backend.leases(), backend.store()
    rig = Rig(backend, path)
    held = await rig.own(leases)
    await coordinator.register_distributor("d2")
    rig.switch.fault = "connection"
    names = ("waits", "lives", "ended", "arriving", "mine")
    await rig.store.apply(make_write(fence=held.fence, results={name: result(3) for name in names}))
    await rig.store.apply(make_write(fence=held.fence, put_tasks={"begun": record(2)}))
    # Meanwhile they went elsewhere: they wait in the inbox, live at another distributor, or have ended there.
    moved = {"waits": record(1_000), "arriving": record()}
    await coordinator.apply(make_write(section=INBOX_SECTION, put_tasks=moved))
    await coordinator.apply(make_write(section=OTHER, put_tasks={"lives": record(1_000), "begun": record(1_000)}))
    await coordinator.apply(make_write(section=OTHER, results={"ended": result(1_001)}))
    await leases.release(MINE, held)
    between = await leases.acquire(MINE, "coordinator|host|1|1|boot", 60_000)
    await leases.release(MINE, between)
    rig.switch.fault = ""
    again = await leases.acquire(MINE, "a|host|1|1|boot", 60_000)
    await rig.merge(MINE, again)
    assert set(await rig.store.results("d1", list(names))) == {"arriving", "mine"}
    assert (await rig.store.load(MINE)).tasks == {}
    await rig.store.close()
