"""A shell between a scripted core and a plain socket, with a store in memory, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from a2a_zmq.clock import Now
from a2a_zmq.state.memory import MemoryRedis, MemoryStore
from daemons.runtime.contract import (
    Effect,
    StartRun,
    StopRun,
)
from daemons.runtime.engine import Engine
from daemons.runtime.shell import Shell
from tests.simulation.virtual import VirtualLoop, run_virtual
from tests.unit.runtime.fakes import Counts, PlainPort, PlainSocket, ScriptedCore, gained, tell

T = TypeVar("T")


class Looks:
    """A supervision graph that only notes when it runs."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.effects: list[Effect] = []

    async def run(self, core: Any, now: Callable[[], Now]) -> list[Effect]:
        self.at.append(now().mono)
        effects, self.effects = self.effects, []
        return effects


class Runs:
    """Executors that only note what they are asked."""

    def __init__(self) -> None:
        self.asked: list[StartRun | StopRun] = []

    def start(self, run: StartRun) -> None:
        self.asked.append(run)

    def stop(self, run: StopRun) -> None:
        self.asked.append(run)


class Stand:
    """A shell between a scripted core and a plain socket, with a store in memory, on virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.core, self.port, self.socket = ScriptedCore(), PlainPort(), PlainSocket()
        self.meter, self.looks, self.runs = Counts(), Looks(), Runs()
        self.redis = MemoryRedis(loop.now)
        self.store = MemoryStore(self.redis, "d1")
        self.engine = Engine(self.core, [self.port], self.meter, owns_state=True)
        self.gone: dict[int, bool] = {}
        self.shell = Shell(
            self.engine,
            store=self.store,
            meter=self.meter,
            supervisor=self.looks,
            clock=loop.now,
            wait_gone=self._wait_gone,
        )
        self.shell.attach(self.socket)
        self.shell.runner = self.runs
        self.frames = self.shell.on_frames(0)
        self.running = loop.create_task(self.shell.run())

    async def _wait_gone(self, pid: int, start_time: int) -> bool:
        await asyncio.sleep(0.01)
        return self.gone[pid]

    async def own(self) -> None:
        self.engine.ownership_gained(gained(1))
        self.shell.wake()
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that waits for no timer."""
        await asyncio.sleep(0.0001)

    def send(self, to: str, *texts: str) -> None:
        """The core sends these in the next turn."""
        self.core.settling += [tell(to, text) for text in texts]
        self.shell.wake()

    def came(self, route: bytes, *frames: bytes) -> None:
        self.frames([(route, [frame], "") for frame in frames])

    @property
    def sent(self) -> list[bytes]:
        return [frame for _, frame in self.socket.sent]


def play(story: Callable[[Stand], Awaitable[T]]) -> T:
    """Run a story on virtual time; peer ``w`` is up and the section owned."""

    async def main(loop: VirtualLoop) -> T:
        stand = Stand(loop)
        stand.port.up("w")
        await stand.own()
        return await story(stand)

    return run_virtual(main)
