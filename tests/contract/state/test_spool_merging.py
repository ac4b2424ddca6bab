"""What an owner took on its disk meets what is in the shared state by then: merged, over every backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.errors import Fenced, StateLost, StoreUnavailable
from a2a_zmq.interfaces import INBOX, Section, SectionWrite
from daemons.runtime.breaker import Circuit
from daemons.runtime.spool import SqliteSpool
from daemons.runtime.spool_rows import SpoolBroken
from tests.contract.state.spooling_rig import INBOX_SECTION, MINE, OTHER, PLACED, Rig, record, result

Build = Callable[..., SectionWrite]


async def test_a_restarted_owner_hands_in_what_it_took_before(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    leases = backend.leases()
    first = Rig(backend, spool_path)
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
    second = Rig(backend, spool_path)
    await second.own(leases)
    loaded = await second.store.load(MINE)
    assert loaded.tasks == {"old": record(), "new": record(2)}
    assert loaded.header == {"status": "busy"}
    assert second.loaded.ended == {"done", "gone"}, "so that it looks for their results if it is told of them again"
    assert set(await second.store.results("d1", ["done", "gone", "old", "new"])) == {"done", "gone"}
    assert second.store.rows == 0
    await second.store.close()


async def test_a_record_that_comes_after_the_result_that_was_merged_is_not_loaded(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    leases = backend.leases()
    first = Rig(backend, spool_path)
    held = await first.own(leases)
    first.switch.fault = "connection"
    await first.store.apply(make_write(fence=held.fence, results={"t1": result(), "again": result()}))
    await first.spool.close()
    second = Rig(backend, spool_path)
    held = await leases.acquire(MINE, "a|host|1|1|boot", 60_000, steal_from="a|host|1|1|boot")
    await second.spool.look()
    assert await second.store.merge(MINE, held, lambda: leases.renew(MINE, held, 60_000)) is not None
    # The write of a coordinator that timed out, and had been on its way ever since.
    late = {"t1": record(), "t2": record(), "again": record(1, retried=1, floor=1)}
    await backend.store().apply(make_write(section=PLACED, put_tasks=late))
    assert set((await second.store.load(MINE)).tasks) == {"t2", "again"}
    await second.store.close()


async def test_an_owner_that_was_replaced_never_overwrites_what_the_other_did(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    leases, other = backend.leases(), backend.store()
    rig = Rig(backend, spool_path)
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
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    """A cancelled task had ended in the spool at its second attempt, and with the owner that took over at its first.
    (One that an operator sent around again since ends once more.)"""
    leases = backend.leases()
    rig = Rig(backend, spool_path)
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


async def test_a_wiped_redis_gets_what_the_spool_holds(backend: Any, make_write: Build, spool_path: Path) -> None:
    leases = backend.leases()
    rig = Rig(backend, spool_path)
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
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    """The spool had the result of the former life, too, which took the record out again."""
    leases = backend.leases()
    rig = Rig(backend, spool_path)
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
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    """Found by simulation: it loaded the sections of registered distributors only, and told clients that it did not
    know their tasks, which stood in the others."""
    leases = backend.leases()
    first = Rig(backend, spool_path)
    held = await first.own(leases, INBOX_SECTION)
    await first.store.register_distributor("d1")
    await first.store.load(PLACED)
    first.switch.fault = "connection"
    await first.store.apply(make_write(section=PLACED, fence=held.fence, put_tasks={"t1": record()}))
    await first.spool.close()
    await backend.wipe()
    second = Rig(backend, spool_path)
    await second.own(leases, INBOX_SECTION)
    assert await second.store.distributors() == ["d1"]
    assert (await second.store.load(PLACED)).tasks == {"t1": record()}
    await second.store.close()


async def test_a_task_on_its_way_out_of_the_inbox_is_in_one_place(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    leases = backend.leases()
    first = Rig(backend, spool_path)
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
    second = Rig(backend, spool_path)
    await second.own(leases, INBOX_SECTION)
    assert set((await second.store.load(INBOX_SECTION)).tasks) == {"stays"}
    assert set((await second.store.load(PLACED)).tasks) == {"moved"}
    assert set(await second.store.results(INBOX, ["cancelled"])) == {"cancelled"}
    await second.store.close()


async def test_what_was_taken_away_from_a_distributor_does_not_come_back_from_its_disk(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    leases, coordinator = backend.leases(), backend.store()
    rig = Rig(backend, spool_path)
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


async def test_who_follows_another_process_of_this_host_merges_what_that_one_kept_since(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    """A standby looks at the spool when it starts; what it takes over is what is there when it takes over."""
    leases = backend.leases()
    acts, stands_by = Rig(backend, spool_path), Rig(backend, spool_path)
    await stands_by.spool.look()
    held = await acts.own(leases)
    await acts.store.apply(make_write(fence=held.fence, put_tasks={"t1": record(1, created_at="c")}))
    acts.switch.fault = "connection"
    kept = make_write(fence=held.fence, drop_tasks=["t1"], results={"t1": result(1)})
    await acts.store.apply(kept)
    await acts.spool.close()  # it is killed

    held = await leases.acquire(MINE, "b|host|2|2|boot", 60_000, steal_from="a|host|1|1|boot")
    assert await stands_by.merge(MINE, held) == {"writes": 1, "tasks": 0, "results": 1, "dropped": 0}
    assert stands_by.loaded.tasks == {}
    assert await stands_by.store.results("d1", ["t1"]) == {"t1": result(1)}
    assert stands_by.store.rows == 0
    await stands_by.store.close()


async def test_a_process_that_was_replaced_keeps_nothing_more_in_the_spool_of_both(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    """It is alive, cut off from Redis, and takes itself for the owner: nobody would hand that in."""
    leases = backend.leases()
    cut_off, follows = Rig(backend, spool_path), Rig(backend, spool_path)
    held = await cut_off.own(leases)
    await cut_off.store.apply(make_write(fence=held.fence, put_tasks={"t1": record(1, created_at="c")}))
    cut_off.switch.fault = "connection"
    await cut_off.store.apply(make_write(fence=held.fence, put_tasks={"t2": record(1, created_at="c")}))

    again = await leases.acquire(MINE, "b|host|2|2|boot", 60_000, steal_from="a|host|1|1|boot")
    await follows.merge(MINE, again)
    assert follows.loaded.tasks == {"t1": record(1, created_at="c"), "t2": record(1, created_at="c")}
    follows.switch.fault = "connection"
    await follows.store.apply(make_write(fence=again.fence, drop_tasks=["t1"], results={"t1": result(2)}))
    with pytest.raises(StoreUnavailable, match="another process"):
        await cut_off.store.apply(make_write(fence=held.fence, drop_tasks=["t1"], results={"t1": result(1)}))
    await follows.back(again.fence)
    assert await follows.store.results("d1", ["t1"]) == {"t1": result(2)}

    # It owns the section again later: what it remembers of the file is of no account.
    cut_off.switch.fault = ""
    last = await leases.acquire(MINE, "a|host|1|1|boot", 60_000, steal_from="b|host|2|2|boot")
    assert await cut_off.merge(MINE, last) is None
    assert cut_off.loaded.tasks.keys() == {"t2"}
    await cut_off.store.close()
    await follows.store.close()


async def test_what_another_process_kept_is_never_handed_in_as_it_is(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    """A process that was replaced before there was a spool begins one; its rows wait for whoever takes over next."""
    leases = backend.leases()
    replaced, owner = Rig(backend, spool_path), Rig(backend, spool_path)
    held = await replaced.own(leases)
    await replaced.store.apply(make_write(fence=held.fence, put_tasks={"t1": record(1, created_at="c")}))
    again = await leases.acquire(MINE, "b|host|2|2|boot", 60_000, steal_from="a|host|1|1|boot")
    await owner.merge(MINE, again)
    replaced.switch.fault = "connection"
    await replaced.store.apply(make_write(fence=held.fence, drop_tasks=["t1"], results={"t1": result(1)}))

    await owner.store.apply(make_write(fence=again.fence, drop_tasks=["t1"], results={"t1": result(2)}))
    owner.switch.fault = "connection"
    await owner.store.apply(make_write(fence=again.fence, put_tasks={"t2": record(1)}))
    assert owner.store.rows == 2
    await owner.back(again.fence)
    assert owner.store.breaker.state is Circuit.CLOSED
    assert await owner.store.results("d1", ["t1"]) == {"t1": result(2)}
    assert await owner.store.tasks("d1", ["t1", "t2"]) == {"t2": record(1)}
    assert owner.store.rows == 1, "it waits until it is merged"

    third = Rig(backend, spool_path)
    last = await leases.acquire(MINE, "c|host|3|3|boot", 60_000, steal_from="b|host|2|2|boot")
    assert await third.merge(MINE, last) == {"writes": 1, "tasks": 0, "results": 0, "dropped": 1}
    assert await third.store.results("d1", ["t1"]) == {"t1": result(2)}
    replaced.switch.fault = ""
    for rig in (replaced, owner, third):
        await rig.store.close()


async def test_a_spool_that_is_damaged_while_it_is_used_is_no_empty_one(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    rig = Rig(backend, spool_path, limit=1 << 26)
    held = await rig.own(backend.leases())
    rig.switch.fault = "connection"
    for number in range(200):
        await rig.store.apply(make_write(fence=held.fence, results={f"t{number}": b'{"pad": "%s"}' % (b"x" * 30_000)}))
    for part in (spool_path, spool_path.with_name(spool_path.name + "-wal")):
        data = bytearray(part.read_bytes())
        for at in range(4096, len(data), 4096):
            data[at : at + 512] = b"\xff" * 512
        with part.open("r+b") as file:
            file.write(data[: part.stat().st_size])
    with pytest.raises(SpoolBroken):
        await rig.back(held.fence)
    assert rig.store.breaker.state is not Circuit.CLOSED
    await rig.store.close()

    said: list[Path] = []
    fresh = SqliteSpool(spool_path, 1 << 26, on_damage=said.append)
    await fresh.look()
    assert (fresh.rows, [path.exists() for path in said]) == (0, [True])
    await fresh.close()


async def test_what_cannot_be_read_in_the_store_is_older_than_anything(
    backend: Any, make_write: Build, spool_path: Path
) -> None:
    """It ended the owner at each start, and what stood on its disk was never handed in."""
    leases = backend.leases()
    first = Rig(backend, spool_path)
    held = await first.own(leases)
    broken = b"{broken"
    names = ("finished", "goes_on", "waits", "ended_unreadably")
    await first.store.apply(make_write(fence=held.fence, put_tasks=dict.fromkeys(names, record(1))))
    first.switch.fault = "connection"
    await first.store.apply(
        make_write(
            fence=held.fence,
            put_tasks={"goes_on": record(2), "waits": record(0), "ended_unreadably": record(2)},
            results={"finished": result(), "both": result(2)},
            drop_tasks=["finished"],
        )
    )
    await first.spool.close()
    other = backend.store()
    await other.apply(
        make_write(
            fence=held.fence,
            put_tasks=dict.fromkeys(("finished", "goes_on", "waits"), broken),
            results={"ended_unreadably": broken, "both": b'["no record"]'},
        )
    )
    second = Rig(backend, spool_path)
    await second.own(leases)
    assert second.store.rows == 0
    live = (await second.store.load(MINE)).tasks
    assert live == {"goes_on": record(2), "waits": record(0), "ended_unreadably": record(2)}
    found = await second.store.results("d1", ["finished", "both"])
    assert found == {"finished": result(), "both": result(2)}
    await second.store.close()
