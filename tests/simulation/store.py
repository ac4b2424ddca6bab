"""The simulated shared state: every call takes time, waits while its process is frozen, and may arrive late; every
write that is applied is shown to the witness."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from a2a_zmq.errors import StateError, StoreUnavailable
from a2a_zmq.interfaces import Held, Mark, Section, SectionWrite
from a2a_zmq.state import keys
from a2a_zmq.state.memory import MemoryLeases, MemoryStore
from a2a_zmq.state.memory_world import MemoryData, MemoryRedis
from a2a_zmq.state.section import Plan, judge
from tests.simulation.witness import Witness

# A client waits so long for a reply; what it has sent may still be carried out afterwards.
REPLY_TIMEOUT_S = 0.5


class Process(Protocol):
    """Whose calls they are."""

    place: str
    pid: int
    late_s: float
    freezes_at_write: int  # how often

    def freeze(self) -> None:
        """Stop it."""

    async def awake(self) -> None:
        """Return when the process is not frozen."""


class WatchedStore(MemoryStore):
    """A store whose applied writes are judged."""

    def __init__(self, world: MemoryRedis, client: str, witness: Witness) -> None:
        super().__init__(world, client)
        self._witness = witness

    def _carry_out(self, data: MemoryData, write: SectionWrite, plan: Plan) -> None:
        found = data.headers.get(keys.header(write.section), {})
        self._witness.applied(write, plan.version, int(found.get("fence", 0)))
        super()._carry_out(data, write, plan)


class WatchedLeases(MemoryLeases):
    """A lease store whose grants are noted."""

    def __init__(self, world: MemoryRedis, client: str, witness: Witness, gained: Callable[[str], None]) -> None:
        super().__init__(world, client)
        self._witness = witness
        self._gained = gained

    async def acquire(self, section: Section, owner: str, ttl_ms: int, **how: Any) -> Held | None:
        held = await super().acquire(section, owner, ttl_ms, **how)
        if held is not None:
            self._witness.granted(section, held.fence)
            self._gained(owner)
        return held


class Wire:
    """A store or lease store at the other end of a connection."""

    def __init__(self, inner: Any, process: Process, world: MemoryRedis, rng: random.Random, witness: Witness) -> None:
        self._inner = inner
        self._process = process
        self._client = process.place
        self._world = world
        self._rng = rng
        self._witness = witness

    def rebase(self, section: Section) -> None:
        self._inner.rebase(section)

    def advance(self, section: Section, version: int) -> None:
        self._inner.advance(section, version)

    def results_mark(self, section: Section) -> Mark:
        mark: Mark = self._inner.results_mark(section)
        return mark

    async def close(self) -> None:
        """The world goes on."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._inner, name)
        writes = name == "apply"

        async def call(*args: Any, **kwargs: Any) -> Any:
            if writes:
                self._witness.decided(args[0], self._process.pid)
                while self._process.freezes_at_write:
                    self._process.freezes_at_write -= 1
                    self._process.freeze()
            await self._pause()
            if writes and self._process.late_s:
                self._send_late(args[0], self._process.late_s)
                await asyncio.sleep(REPLY_TIMEOUT_S)
                await self._process.awake()
                raise StoreUnavailable("timeout", "simulated: still on its way")
            try:
                return await method(*args, **kwargs)
            finally:
                await self._pause()

        setattr(self, name, call)
        return call

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0001, 0.001))
        await self._process.awake()

    def _send_late(self, write: SectionWrite, delay_s: float) -> None:
        """The transaction arrives when nobody waits for it any more, perhaps not even its process lives. It watches the
        header that its sender saw, so it does nothing if that was changed meanwhile. And it was sent only if that
        header allowed it.

        Raises:
            Fenced, StateLost: it did not.
        """
        world = self._world
        seen = world.snapshot(world.data(self._client), write.section)
        judge(write, seen, self._inner._known.get(write.section))
        again = dataclasses.replace(write)

        def arrive() -> None:
            with contextlib.suppress(StateError, StopIteration):
                if world.snapshot(world.data(""), write.section) == seen:
                    # A store of its own: the sender does not learn of it.
                    WatchedStore(world, "", self._witness).apply(again).send(None)

        asyncio.get_running_loop().call_later(delay_s, arrive)
