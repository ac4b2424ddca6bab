"""A simulated disk for local spools: what was forced survives the process, what was under way may or may not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from a2a_zmq.interfaces import SectionWrite
from daemons.runtime.spool_rows import Kept, SpoolRefused, decode, encode

LIMIT_BYTES = 1 << 20


async def always_awake() -> None:
    """The process is never frozen."""


class Disk:
    """Implements :class:`daemons.runtime.spool.Spool`; one for each agent, and it outlives the agent's processes.

    Attributes:
        limit: bytes that it takes.
        full: it takes nothing more, and does not even let go of what it has.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        awake: Callable[[], Awaitable[None]] = always_awake,
        kept: Callable[[SectionWrite], None] = lambda write: None,
        limit: int = LIMIT_BYTES,
    ) -> None:
        """
        Args:
            awake: returns when the agent's process is not frozen.
            kept: told of every write that was forced.
        """
        self.limit = limit
        self.full = False
        self._awake = awake
        self._told = kept
        self._rng = rng
        self._kept: list[Kept] = []
        self._sizes: dict[int, int] = {}  # of each write that is kept, by its number
        self._seq = 0

    @property
    def rows(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        return sum(self._sizes.values())

    def writes(self) -> list[SectionWrite]:
        """Those that wait here."""
        return [kept.write for kept in self._kept]

    def tasks(self) -> set[str]:
        """Those that could be brought back from here."""
        return {task_id for kept in self._kept for task_id in (*kept.write.put_tasks, *kept.write.results)}

    async def _force(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0001, 0.003))
        await self._awake()

    async def append(self, kept: Sequence[Kept]) -> None:
        copies = [decode(encode(each)) for each in kept]
        await self._force()
        if self.full or self.size + sum(len(encode(each)) for each in copies) > self.limit:
            raise SpoolRefused("simulated")
        for each in copies:
            self._seq += 1
            self._kept.append(replace(each, seq=self._seq))
            self._sizes[self._seq] = len(encode(each))
            self._told(each.write)
        await self._force()

    async def take(self, fence: int) -> None:
        """Nobody else has it: here each process has a disk of its own."""

    async def read(self, after: int, max_bytes: int, *, own: bool = False) -> list[Kept]:
        await self._force()
        found = [each for each in self._kept if each.seq > after]
        return [decode(encode(each), each.seq) for each in found[: self._rng.randint(1, 10)]]

    async def remove(self, upto: int, *, own: bool = False) -> None:
        await self._force()
        if self.full:
            raise SpoolRefused("simulated")
        self._kept = [each for each in self._kept if each.seq > upto]
        self._sizes = {each.seq: self._sizes[each.seq] for each in self._kept}
        await self._force()

    async def discard(self, *, own: bool = False) -> None:
        self._kept = []
        self._sizes = {}

    async def close(self) -> None:
        """The disk stays."""
