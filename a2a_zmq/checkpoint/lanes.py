"""The order of writes to one thread, in an event loop.

LangGraph hands over pending writes and goes on: nothing awaits them before the next checkpoint is stored, even with
``durability="sync"`` (langgraph#8039, #8234). So each thread has a lane, in which everything that it writes goes to
Redis in the order of the calls, one batch after the other. What comes while a batch is under way goes with the next
one; a checkpoint usually finds its step's writes still waiting, and goes with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from a2a_zmq.checkpoint.calls import Write

_BATCH_MAX: Final = 64
_BATCH_BYTES: Final = 4 * 1024 * 1024
# Turns of the loop that pending writes wait for the checkpoint that follows them: one round trip for both.
_LINGER_TURNS: Final = 2
_FAILED_MAX: Final = 1000


@dataclass(slots=True)
class _Entry:
    write: Write
    is_checkpoint: bool
    reply: asyncio.Future[Any]


@dataclass(slots=True)
class _Lane:
    waiting: list[_Entry] = field(default_factory=list)
    worker: asyncio.Task[None] | None = None

    def next_batch(self) -> list[_Entry]:
        count, size = 0, 0
        for entry in self.waiting[:_BATCH_MAX]:
            size += entry.write.size
            if count and size > _BATCH_BYTES:
                break
            count += 1
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        return batch


class Lanes:
    """All lanes of a saver; those that are empty are removed.

    Attributes:
        loop: the one that they run in, once they were used.
    """

    def __init__(self, send: Callable[[Sequence[Write]], Awaitable[Sequence[Any]]]) -> None:
        self._send = send
        self._lanes: dict[str, _Lane] = {}
        self._failed: dict[str, Exception] = {}
        self.loop: asyncio.AbstractEventLoop | None = None

    def submit(self, write: Write, *, is_checkpoint: bool) -> asyncio.Future[Any]:
        """Take a write into its place at once; the future gets its reply. Needs no await to be carried out."""
        loop = self.loop = asyncio.get_running_loop()
        lane = self._lanes.setdefault(write.thread_id, _Lane())
        entry = _Entry(write, is_checkpoint, loop.create_future())
        lane.waiting.append(entry)
        if lane.worker is None:
            lane.worker = loop.create_task(self._work(write.thread_id, lane))
        return entry.reply

    async def settle(self, thread_id: str) -> None:
        """Wait for everything that was handed over. Who calls this starts from what is stored, so failures are past."""
        self.loop = asyncio.get_running_loop()
        while (lane := self._lanes.get(thread_id)) is not None and lane.worker is not None:
            await asyncio.wait([lane.worker])
        self._failed.pop(thread_id, None)

    async def settle_all(self) -> None:
        for thread_id in list(self._lanes):
            await self.settle(thread_id)

    async def _work(self, thread_id: str, lane: _Lane) -> None:
        try:
            while lane.waiting:
                for _ in range(_LINGER_TURNS):
                    if any(entry.is_checkpoint for entry in lane.waiting):
                        break
                    await asyncio.sleep(0)
                await self._carry_out(thread_id, self._without_doomed(thread_id, lane.next_batch()))
        finally:
            for entry in lane.waiting:  # the loop ends
                entry.reply.cancel()
            del self._lanes[thread_id]

    def _without_doomed(self, thread_id: str, batch: list[_Entry]) -> list[_Entry]:
        """A checkpoint must not be stored if writes that led to it could not be."""
        if thread_id not in self._failed or not any(entry.is_checkpoint for entry in batch):
            return batch
        error = self._failed.pop(thread_id)
        for entry in batch:
            if entry.is_checkpoint and not entry.reply.done():
                entry.reply.set_exception(error)
        return [entry for entry in batch if not entry.is_checkpoint]

    async def _carry_out(self, thread_id: str, batch: list[_Entry]) -> None:
        if not batch:
            return
        try:
            replies = await self._send([entry.write for entry in batch])
        except Exception as error:
            if not all(entry.is_checkpoint for entry in batch):
                self._note(thread_id, error)
            for entry in batch:
                if not entry.reply.done():
                    entry.reply.set_exception(error)
        else:
            for entry, reply in zip(batch, replies, strict=True):
                if not entry.reply.done():
                    entry.reply.set_result(reply)
        finally:
            for entry in batch:  # the loop ends
                entry.reply.cancel()

    def _note(self, thread_id: str, error: Exception) -> None:
        self._failed[thread_id] = error
        if len(self._failed) > _FAILED_MAX:
            del self._failed[next(iter(self._failed))]
