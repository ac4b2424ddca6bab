"""Taking tasks away from a distributor that is gone: only from one that is gone, and that stayed so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from a2a_zmq.clock import Now
from a2a_zmq.errors import Fenced, StoreUnavailable
from a2a_zmq.interfaces import Section, SectionWrite
from daemons.runtime.contract import NoMeter
from daemons.runtime.ownership import Ownership
from daemons.runtime.procs import ProcessIdentity
from daemons.runtime.seizing import evict, seize

HERE = Section("d1", "distributor")
OWNER = "d1|host|7|1|boot"
Build = Callable[..., SectionWrite]


class Leader:
    """A coordinator, as far as it takes the leases of others."""

    def __init__(self, backend: Any) -> None:
        self.dead: set[str] = set()
        self.late_s = 0.0
        self.store = backend.store()
        self.leases = backend.leases()
        self.ownership = Ownership(
            cast("Any", None),
            self.leases,
            Section("", "coordinator"),
            agent_id="c",
            boot_id="boot",
            identity=ProcessIdentity("host", 1, 1),
            ttl_ms=5_000,
            load=cast("Any", None),
            clock=lambda: Now(backend.mono() + self.late_s, 0.0),
            rng=lambda: 0.5,
            meter=NoMeter(),
            turned=lambda: None,
            is_dead=lambda owner, _: owner in self.dead,
        )

    async def seize(self) -> tuple[int | None, list[str]]:
        fence, tasks = await seize(self.store, self.ownership, distributor_id="d1")
        return fence, sorted(tasks)

    async def evict(self, fence: int, *task_ids: str) -> int | None:
        name = f"evict {fence} {task_ids} {self.late_s}"
        return await evict(
            self.store, self.ownership, distributor_id="d1", fence=fence, task_ids=list(task_ids), mutation_id=name
        )

    async def left(self) -> list[str]:
        return sorted(await self.store.tasks("d1", ["t1", "t2"]))


async def led(backend: Any, make_write: Build) -> Leader:
    """The leader of a distributor that has two tasks, and holds its lease."""
    leader = Leader(backend)
    held = await backend.leases().acquire(HERE, OWNER, 60_000)
    assert held.fence == 1
    await backend.store().apply(make_write(section=HERE, fence=1, put_tasks={"t1": b"{}", "t2": b"{}"}))
    return leader


async def test_one_that_holds_its_lease_keeps_its_tasks(backend: Any, make_write: Build) -> None:
    leader = await led(backend, make_write)
    assert await leader.seize() == (None, ["t1", "t2"])
    assert await leader.evict(1, "t1") is None
    assert await leader.left() == ["t1", "t2"]


async def test_one_that_is_provably_dead_is_shut_out_and_emptied(backend: Any, make_write: Build) -> None:
    leader = await led(backend, make_write)
    leader.dead.add(OWNER)
    fence, tasks = await leader.seize()
    assert (fence, tasks) == (2, ["t1", "t2"])
    with pytest.raises(Fenced):  # a process that was taken for dead and had this on its way
        await backend.store().apply(make_write(section=HERE, fence=1, results={"t1": b"{}"}))
    assert await leader.evict(2, "t1") == 3
    assert await leader.evict(3, "t2") == 4
    assert await leader.left() == []
    assert await leader.leases.holder(HERE) is None, "it may come back at once"


async def test_one_that_was_back_in_between_keeps_its_tasks(backend: Any, make_write: Build) -> None:
    leader = await led(backend, make_write)
    leader.dead.add(OWNER)
    fence, _ = await leader.seize()
    held = await backend.leases().acquire(HERE, "d1|host|8|1|boot", 60_000)
    await backend.leases().release(HERE, held)  # and has gone again
    assert fence is not None
    assert await leader.evict(fence, "t1") is None
    assert await leader.left() == ["t1", "t2"]


async def test_nothing_is_taken_under_a_lease_that_may_have_ended(backend: Any, make_write: Build) -> None:
    leader = await led(backend, make_write)
    leader.dead.add(OWNER)
    fence, _ = await leader.seize()
    assert fence is not None
    leader.late_s = 60.0
    with pytest.raises(StoreUnavailable):
        await leader.evict(fence, "t1")
    assert await leader.left() == ["t1", "t2"]
