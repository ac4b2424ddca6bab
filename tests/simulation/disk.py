"""A simulated disk for local spools: what was forced survives the process, what was under way may or may not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from a2a_zmq.interfaces import SectionWrite
from daemons.runtime.spool_rows import Kept, SpoolRefused, decode, encode

LIMIT_BYTES = 1 << 20


async def always_awake() -> None:
    """The process is never frozen."""


@dataclass
class File:
    """What stands on a host's disk; two processes of an agent on that host share it.

    Attributes:
        fence: of whoever took the section over last, or kept something with a higher one.
        there: whether there is a file at all; one that is not there knows no fence.
    """

    kept: list[Kept] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)  # of each write that is kept, by its number
    seq: int = 0
    fence: int = 0
    there: bool = False


class Disk:
    """Implements :class:`daemons.runtime.spool.Spool`; one for each agent, and it outlives the agent's processes.

    Attributes:
        limit: bytes that it takes.
        full: it takes nothing more, and does not even let go of what it has.
        rows, size: as this process knows them, from when it looked last.
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
        self.rows = self.size = 0
        self.file = File()
        self._awake = awake
        self._told = kept
        self._rng = rng
        self._own: set[int] = set()

    def begin(self) -> None:
        """Another process begins, and looks at what is there."""
        self._own = set()
        self._see()

    def writes(self) -> list[SectionWrite]:
        """Those that wait here."""
        return [kept.write for kept in self.file.kept]

    def tasks(self) -> set[str]:
        """Those that could be brought back from here."""
        return {task_id for write in self.writes() for task_id in (*write.put_tasks, *write.results)}

    def _see(self) -> None:
        self.rows, self.size = len(self.file.kept), sum(self.file.sizes.values())

    async def _force(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0001, 0.003))
        await self._awake()

    async def take(self, fence: int) -> None:
        if self.file.there:
            await self._force()
            if not self.full:
                self.file.fence = fence
        self._see()

    async def append(self, kept: Sequence[Kept]) -> None:
        file = self.file
        copies = [decode(encode(each)) for each in kept]
        await self._force()
        if self.full or self.size + sum(len(encode(each)) for each in copies) > self.limit:
            raise SpoolRefused("simulated")
        fence = max(each.write.fence for each in copies)
        if file.there and fence < file.fence:
            raise SpoolRefused("another process has taken over")
        file.there, file.fence = True, fence
        for each in copies:
            file.seq += 1
            file.kept.append(replace(each, seq=file.seq))
            file.sizes[file.seq] = len(encode(each))
            self._own.add(file.seq)
            self._told(each.write)
        self.rows += len(copies)
        self.size += sum(len(encode(each)) for each in copies)
        await self._force()

    async def read(self, after: int, max_bytes: int, *, own: bool = False) -> list[Kept]:
        if not self.rows:
            return []
        await self._force()
        found = [each for each in self.file.kept if each.seq > after and (not own or each.seq in self._own)]
        return [decode(encode(each), each.seq) for each in found[: self._rng.randint(1, 10)]]

    async def remove(self, upto: int, *, own: bool = False) -> None:
        await self._force()
        if self.full:
            raise SpoolRefused("simulated")
        self._remove({each.seq for each in self.file.kept if each.seq <= upto and (not own or each.seq in self._own)})
        await self._force()

    def _remove(self, numbers: set[int]) -> None:
        file = self.file
        file.kept = [each for each in file.kept if each.seq not in numbers]
        file.sizes = {each.seq: file.sizes[each.seq] for each in file.kept}
        self._see()

    async def discard(self, *, own: bool = False) -> None:
        if not own or all(each.seq in self._own for each in self.file.kept):
            self._remove({each.seq for each in self.file.kept})
            self.file.there = False
        elif not self.full:
            self._remove(self._own)
        self._own = set()

    async def close(self) -> None:
        """The disk stays."""
