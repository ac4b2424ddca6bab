"""A TCP relay on the way of a link: it can cut it, let nothing through in one or both directions, or lose replies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Self

CHUNK: Final = 1 << 16
_EXEC: Final = b"\r\nEXEC\r\n"

# What becomes of a chunk from a client that carries an EXEC.
PASS = "pass"  # noqa: S105 - it is forwarded, and so are the replies
REPLY_LOST = "reply_lost"  # it is forwarded, then the client's connection is cut
REQUEST_LOST = "request_lost"  # the connection is cut instead
CUT = "cut"  # half of it is forwarded, then both connections are cut
LATE = "late"  # the client's connection is cut, and 20 ms later it is forwarded


class Relay:
    """Listens on a free port and connects every client to the target, in the event loop that started it.

    Attributes:
        target: (host, port); may be set until the first connection comes.
        plan: called for each chunk to the target that carries a Redis EXEC; says what becomes of it.
        opened: connections so far.
    """

    def __init__(self, target: tuple[str, int] = ("", 0), host: str = "127.0.0.1") -> None:
        self.target = target
        self.host = host
        self.plan: Callable[[], str] = lambda: PASS
        self.opened = 0
        self.port = 0
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._there = asyncio.Event()
        self._back = asyncio.Event()

    async def start(self) -> Self:
        self.let()
        self._listener = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def let(self, *, there: bool = True, back: bool = True) -> None:
        """Which directions pass: to the target, and back. What comes on the others piles up, as in a broken network."""
        for open_, gate in ((there, self._there), (back, self._back)):
            if open_:
                gate.set()
            else:
                gate.clear()

    def cut(self) -> None:
        """Break all connections that there are; new ones are served."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._connect(reader, writer)
        writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._there.wait()
        up_reader, up_writer = await asyncio.open_connection(*self.target)
        self.opened += 1
        back = asyncio.create_task(self._pump_back(up_reader, writer))
        there = asyncio.create_task(self._pump_there(reader, writer, up_writer, back))
        try:
            await asyncio.wait((back, there), return_when=asyncio.FIRST_COMPLETED)
            if back.cancelled():  # by a plan, which has something left to do
                await there
        finally:
            back.cancel()
            there.cancel()
            await asyncio.gather(back, there, return_exceptions=True)
            # What a client sent before it left still reaches the target; a connection that was cut ends at once.
            up_writer.close()

    async def _pump_there(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> None:
        while chunk := await reader.read(CHUNK):
            await self._there.wait()
            action = self.plan() if _EXEC in chunk else PASS
            if action == PASS:
                up_writer.write(chunk)
                await up_writer.drain()
                continue
            if action != REQUEST_LOST:
                back.cancel()
                if action == LATE:
                    writer.transport.abort()
                    await asyncio.sleep(0.02)
                up_writer.write(chunk[: len(chunk) // 2] if action == CUT else chunk)
                await up_writer.drain()
            return

    async def _pump_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            await self._back.wait()
            writer.write(chunk)
            await writer.drain()
