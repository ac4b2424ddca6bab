"""A state store that rides out an outage of Redis on the local spool.

*Closed circuit*: writes and reads go to Redis, and nothing else happens. *Open*: a write is durable when it stands in
the spool, with its mutation id and the version that its section is going to get (we are the section's only writer, and
the fence keeps it so); reads fail at once. *Half-open*: the lease is ours again, so the spool is handed in, oldest
first, while further writes still go behind its end; when it is empty the circuit closes.

Whoever takes the lease with something in the spool (a restart, lost state, another owner in between) does not replay
but merges it, see :mod:`daemons.runtime.merging`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import Held, Loaded, Mark, Section, SectionWrite, StateStore
from daemons.runtime.breaker import Breaker
from daemons.runtime.merging import (
    Group,
    Merger,
    drop_outlived,
    forget,
    groups_of,
    outlived_of,
    outlived_puts,
    read_own,
)
from daemons.runtime.reading import CheckedReads
from daemons.runtime.spool import ROW_OVERHEAD, Spool
from daemons.runtime.spool_rows import Kept, SpoolRefused

# Read and handed in at once: one transaction that Redis does not notice much.
CHUNK_BYTES: Final = 4 * 1024 * 1024
# With less left than this, further writes wait for the few milliseconds until it is handed in.
NEARLY_EMPTY_BYTES: Final = CHUNK_BYTES // 4
# What is handed in is removed from the disk so much at once (or an eighth of the spool): that costs a forced write.
FORGET_BYTES: Final = 32 * 1024 * 1024
# With more than this left to hand in, no new work is taken: it would come in as fast as the old goes out.
MUCH_BYTES: Final = 16 * 1024 * 1024
# No new work is taken above this part of the spool: the rest is for what was accepted before.
ROOM: Final = 0.75


class SpoolingStore(CheckedReads):
    """Implements :class:`a2a_zmq.interfaces.StateStore` over another one.

    Attributes:
        breaker: the circuit.
        refused: why the spool took nothing the last time, "" if it did.
        changed: called when the circuit, or whether the spool takes new work, has changed.
    """

    def __init__(
        self,
        inner: StateStore,
        spool: Spool,
        *,
        off: Callable[[], str],
        new_id: Callable[[], str],
        rng: Callable[[], float],
        rests: bool = False,
    ) -> None:
        """
        Args:
            rests: whether its owner is to take no new work while much is handed in.
            off: asked when the circuit opens: why nothing may be kept in the spool, because somebody else may take the
                section over while we cannot reach Redis, for example. Then writes wait, and the spool is only read for
                what an earlier process left there. "" where it is used.
            new_id: fresh mutation ids.
        """
        self.changed: Callable[[], None] = lambda: None
        self.breaker = Breaker(rng, self._moved)
        self._inner = inner
        self._spool = spool
        self.off = off
        self._spools: bool | None = None  # as decided when the circuit opened
        self._new_id = new_id
        self._rests = rests
        self._lock = asyncio.Lock()  # writes wait here while the last rows are handed in
        self._handing_in = asyncio.Lock()
        self._versions: dict[Section, int] = {}
        self._doubtful: set[str] = set()  # mutation ids that Redis may have carried out
        self._chunk: list[Kept] = []
        self._groups: list[Group] = []  # of the chunk; kept as they are until Redis has them
        # Where results were at our last write before the outage: a task whose record is in the spool ended later.
        self._marks: dict[Section, Mark] = {}
        self._after = 0  # rows up to this one are handed in
        self._handed_in = 0  # bytes of them that are still on the disk
        self._ended: set[str] = set()  # tasks whose results were merged, until the section is loaded
        self.refused = ""

    # ------------------------------------------------------------ what the shell wants to know

    @property
    def active(self) -> bool:
        """Whether writes go to the spool now."""
        return bool(self._spools)

    @property
    def room(self) -> bool:
        """Whether the spool takes new work."""
        return not self.refused and self._spool.size < ROOM * self._spool.limit and not self.resting

    @property
    def resting(self) -> bool:
        """Whether so much is being handed in that new work has to wait for it."""
        return self._rests and self._handing_in.locked() and self._left() > MUCH_BYTES

    def _left(self) -> int:
        """Bytes that are to be handed in."""
        return self._spool.size - self._handed_in

    @property
    def rows(self) -> int:
        """Writes in the spool."""
        return self._spool.rows

    @property
    def size(self) -> int:
        """Their bytes."""
        return self._spool.size

    @property
    def limit(self) -> int:
        """How many there may be."""
        return self._spool.limit

    def state(self) -> dict[str, Any]:
        """For ``/state``."""
        return {
            "circuit": self.breaker.state.name.lower(),
            "reason": self.breaker.reason,
            "spool": "off" if (off := self.off()) else "on",
            "spool_off": off,
            "spooled_writes": self._spool.rows,
            "spooled_bytes": self._spool.size,
            "spool_refuses": self.refused,
        }

    def _moved(self) -> None:
        if self.breaker.closed:
            self._spools = None
        elif self._spools is None:
            self._spools = not self.off()
        self.changed()

    # ------------------------------------------------------------ writing

    async def apply(self, write: SectionWrite) -> int:
        return (await self.apply_some([write]))[0]

    async def apply_some(self, writes: Sequence[SectionWrite]) -> list[int]:
        """Apply the first of these writes, or keep all of them in the spool by one forced write.

        Returns:
            their versions, as many as are durable now.

        Raises:
            StoreUnavailable: Redis is away, and the spool is off or refuses; nothing is durable.
        """
        async with self._lock:
            if not self.active:
                write = writes[0]
                try:
                    version = await self._inner.apply(write)
                except StoreUnavailable as error:
                    self._doubtful.add(write.mutation_id)
                    self.breaker.failed(error.reason)
                    if not self.active:
                        raise
                else:
                    self._doubtful.discard(write.mutation_id)
                    self._versions[write.section] = version
                    self.breaker.succeeded()
                    return [version]
            return await self._keep(writes)

    async def _keep(self, writes: Sequence[SectionWrite]) -> list[int]:
        versions = dict(self._versions)
        kept: list[Kept] = []
        for write in writes:
            if write.section not in versions:  # never read nor written by us: what it holds is unknown
                raise StoreUnavailable(self.breaker.reason or "connection", "and the section is not known here")
            versions[write.section] += 1
            kept.append(Kept(write, versions[write.section]))
        had_room = self.room
        try:
            await self._spool.append(kept)
        except SpoolRefused as error:
            self.refused = str(error)
            self.changed()
            raise StoreUnavailable("spool", str(error)) from error
        self.refused = ""
        self._versions = versions
        if self.room != had_room:
            self.changed()
        return [each.version for each in kept]

    def through(self) -> StateStore:
        """Redis itself, for a write that must not wait in the spool: what it relies on is there, too.

        Raises:
            StoreUnavailable: the circuit is open.
        """
        self._check()
        return self._inner

    # ------------------------------------------------------------ the circuit

    def failed(self, error: StoreUnavailable) -> None:
        """The keeper of the lease could not reach Redis."""
        self.breaker.failed(error.reason, certain=error.reason != "timeout")

    async def answered(self, fence: Callable[[], int]) -> None:
        """The lease is ours, and Redis answers: hand in what the spool holds, then close the circuit.

        Args:
            fence: ours now.

        Raises:
            StoreUnavailable: it went away again; what was handed in by then will not be handed in once more.
            Fenced, StateLost: the rest stays in the spool until it is merged.
        """
        if self.breaker.closed or self._handing_in.locked():
            return
        if not self.active and self._doubtful:
            return  # a write waits to be tried again: only its success shows that writes are taken
        self.breaker.answered()
        try:
            async with self._handing_in:
                self.changed()
                while self._left() > NEARLY_EMPTY_BYTES and await self._replay_chunk(fence):
                    self.changed()
                async with self._lock:
                    while await self._replay_chunk(fence):
                        pass
                    if self._spool.rows:
                        await self._spool.discard(own=True)
                    self._emptied()
        except StoreUnavailable as error:
            self.breaker.failed(error.reason)
            raise

    async def _replay_chunk(self, fence: Callable[[], int]) -> int:
        """Hand in the oldest rows; returns how many."""
        if not self._groups:
            self._chunk = await read_own(self._spool, self._after, CHUNK_BYTES)
            self._groups = groups_of(self._chunk, alone=self._doubtful)
        while self._groups:
            write = self._groups[0].write
            write.fence = fence()
            mark = self._inner.results_mark(write.section)
            first = self._marks.setdefault(write.section, mark)
            if self._groups[0].tried:
                mark = first
            else:
                for task_id in await outlived_puts(self._inner, write, first):
                    del write.put_tasks[task_id]
            self._groups[0].tried = True
            self._inner.advance(write.section, self._groups[0].version - 1)
            version = await self._inner.apply(write)
            version = await drop_outlived(self._inner, write, self._new_id, mark) or version
            self._versions[write.section] = max(version, self._versions.get(write.section, 0))
            self._doubtful.discard(write.mutation_id)
            self._groups.pop(0)
        count = len(self._chunk)
        if self._chunk:
            self._after = self._chunk[-1].seq
            self._handed_in += sum(kept.size + ROW_OVERHEAD for kept in self._chunk)
            self._chunk = []
            if self._handed_in >= min(FORGET_BYTES, self._spool.limit // 8):
                await forget(self._spool, self._after, own=True)
                self._handed_in = 0
        return count

    def _emptied(self) -> None:
        """Everything is with Redis."""
        self._after = self._handed_in = 0
        self.refused = ""
        self._doubtful.clear()
        self._marks.clear()
        self.breaker.succeeded()

    # ------------------------------------------------------------ taking over

    async def merge(self, section: Section, held: Held, renew: Callable[[], Awaitable[bool]]) -> dict[str, int] | None:
        """Hand in what is in the spool, as far as nobody else has overtaken it; before the new owner loads.

        Args:
            section: whose lease ``held`` is.
            renew: called before each write, for a long merge must not cost the lease; False if it is not ours any more.

        Returns:
            what was merged and what dropped; None if there was nothing.

        Raises:
            StateError: Redis could not be read or written, or the lease was lost; the rest stays in the spool.
        """
        async with self._handing_in, self._lock:
            self._groups, self._chunk = [], []
            merger = Merger(self._inner, self._spool, section, held, self._new_id)
            try:
                # Another process on this host, which we follow, may have kept something since we looked.
                await self._spool.take(held.fence)
                if self._spool.rows:
                    await merger.run(renew)
            except StoreUnavailable as error:
                self.breaker.failed(error.reason)
                raise
            except SpoolRefused as error:
                self.breaker.failed("spool")
                raise StoreUnavailable("spool", str(error)) from error
            finally:
                self._ended |= merger.ended
            self._emptied()
            return merger.counts if merger.counts["writes"] else None

    # ------------------------------------------------------------ reading

    def _check(self) -> None:
        """What Redis holds is not the state as long as a part of it is in the spool."""
        if self.active or (self._spool.rows and not self.breaker.closed):
            raise StoreUnavailable(self.breaker.reason or "connection", "the circuit is open")

    async def load(self, section: Section) -> Loaded:
        self._check()
        loaded = await self._inner.load(section)
        # The other role's record of a task that it told us of directly may reach Redis after our result.
        for task_id in await outlived_of(self._inner, section, loaded.tasks, self._ended):
            del loaded.tasks[task_id]
        loaded.ended, self._ended = self._ended, set()
        self._versions[section] = max(loaded.version, self._versions.get(section, 0))
        return loaded

    def rebase(self, section: Section) -> None:
        self._inner.rebase(section)

    def advance(self, section: Section, version: int) -> None:
        self._inner.advance(section, version)

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        await self._inner.close()
        await self._spool.close()
