"""Processes that want the same section, their Redis with its faults, and virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from a2a_zmq.interfaces import Held, Loaded, Section, StateStore
from a2a_zmq.state.memory import MemoryLeases, MemoryRedis, MemoryStore
from daemons.runtime.contract import OwnershipGained, OwnershipLost
from daemons.runtime.engine import Engine
from daemons.runtime.outage import OutageKeeper
from daemons.runtime.ownership import Ownership
from daemons.runtime.procs import ProcessIdentity
from daemons.runtime.shell import Shell
from daemons.runtime.spooling import SpoolingStore
from daemons.runtime.stores import load_own
from tests.simulation.disk import Disk
from tests.simulation.virtual import VirtualLoop, run_virtual
from tests.unit.runtime.fakes import SECTION, Counts, ScriptedCore

T = TypeVar("T")
TTL_MS = 5000
SAFE_S = 3.3


class Owner:
    """One process that wants the section: scripted core, engine, shell, lease keeping, its own client of Redis."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.core, self.meter = ScriptedCore(), Counts()
        self.engine = Engine(self.core, [], self.meter, owns_state=True)
        self.store: StateStore = MemoryStore(world.redis, name)
        if world.spooling:
            ids = itertools.count()
            disk = world.disks.setdefault(name, Disk(random.Random(name)))
            disk.begin()
            self.store = SpoolingStore(
                self.store,
                disk,
                off=lambda: world.spool_off,
                new_id=lambda: f"{name}-{world.processes}-{next(ids)}",
                rng=lambda: 0.5,
            )
        self.shell = Shell(self.engine, store=self.store, meter=self.meter, clock=world.loop.now)
        world.processes += 1
        self.identity = ProcessIdentity("host", world.processes, 1)
        self.load: Callable[[Held], Awaitable[dict[Section, Loaded]]] = lambda held: load_own(self.store, SECTION)
        self.ownership = self.shell.ownership = Ownership(
            self.engine,
            MemoryLeases(world.redis, name),
            SECTION,
            agent_id="d1",
            boot_id=f"boot-{name}",
            identity=self.identity,
            ttl_ms=TTL_MS,
            load=self._load,
            clock=world.loop.now,
            rng=lambda: 0.5,
            meter=self.meter,
            turned=self.shell.wake,
            is_dead=lambda owner, _: int(owner.split("|")[2]) in world.dead,
            outage=self._outage(),
        )
        self.running = world.loop.create_task(self.shell.run())

    def _outage(self) -> OutageKeeper | None:
        if not isinstance(self.store, SpoolingStore):
            return None
        return OutageKeeper(self.store, self.shell, self.meter, self.world.loop.time)

    async def _load(self, held: Held) -> dict[Section, Loaded]:
        return await self.load(held)

    def kill(self) -> None:
        """As by SIGKILL."""
        self.shell.abandon()
        self.running.cancel()
        self.world.dead.add(self.identity.pid)

    def write(self, *task_ids: str) -> None:
        self.core.stage(*task_ids)
        self.shell.wake()

    @property
    def fences(self) -> list[int]:
        return [event.fence for event in self.core.of(OwnershipGained)]

    @property
    def lost(self) -> list[str]:
        return [event.reason for event in self.core.of(OwnershipLost)]


class World:
    """Redis, the processes, and virtual time."""

    def __init__(self, loop: VirtualLoop, *, spooling: bool = False) -> None:
        """
        Args:
            spooling: processes have a local spool; one of the same name finds it again.
        """
        self.spooling = spooling
        self.spool_off = ""
        self.disks: dict[str, Disk] = {}
        self.loop = loop
        self.redis = MemoryRedis(loop.now)
        self.dead: set[int] = set()
        self.processes = 0
        self.owners: list[Owner] = []

    def start(self, name: str) -> Owner:
        self.owners.append(Owner(self, name))
        return self.owners[-1]

    async def owner(self, name: str = "a") -> Owner:
        """A process that owns the section."""
        owner = self.start(name)
        await self.until(lambda: owner.fences, f"{name} owns the section")
        return owner

    async def until(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> float:
        """Wait for it; returns the seconds that it took."""
        began = self.loop.time()
        while not condition():
            assert self.loop.time() < began + timeout_s, f"not within {timeout_s:g} s: {what}"
            await asyncio.sleep(0.01)
        return self.loop.time() - began

    async def stored(self) -> dict[str, bytes]:
        return (await MemoryStore(self.redis, "reader").load(SECTION)).tasks

    async def lease(self) -> tuple[str, int] | None:
        holder = await MemoryLeases(self.redis, "reader").holder(SECTION)
        return None if holder is None else (holder[0].rpartition("|")[2], holder[1])


def play(story: Callable[[World], Awaitable[T]], *, spooling: bool = False) -> T:
    """Run a story on virtual time; in it no process may end by an error."""

    async def main(loop: VirtualLoop) -> T:
        world = World(loop, spooling=spooling)
        told = await story(world)
        for owner in world.owners:
            assert not owner.running.done() or owner.running.cancelled() or owner.running.exception() is None
        return told

    return run_virtual(main)
