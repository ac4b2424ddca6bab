"""A TCP relay on the way of a link: it can cut it, let nothing through in one or both directions, or lose replies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Self, cast

_EXEC: Final = b"\r\nEXEC\r\n"
LATE_S: Final = 0.02
STOP_S: Final = 2.0

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
        there, back: whether that direction passes.
        stopped: nothing is served any more.
    """

    def __init__(self, target: tuple[str, int] = ("", 0), host: str = "127.0.0.1") -> None:
        self.target = target
        self.host = host
        self.plan: Callable[[], str] = lambda: PASS
        self.opened = 0
        self.port = 0
        self.there = self.back = True
        self.links: dict[_Link, None] = {}  # those of which anything is left
        self._listener: asyncio.Server | None = None
        self._idle = asyncio.Event()
        self.stopped = False

    async def start(self) -> Self:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Link(self, loop).client, self.host, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """End everything; waits until the sockets are closed, but not for a target that cannot be reached."""
        self.stopped = True
        if self._listener is not None:
            self._listener.close()
        for link in list(self.links):
            link.abort()
        if self.links:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), STOP_S)

    def let(self, *, there: bool = True, back: bool = True) -> None:
        """Which directions pass: to the target, and back. What comes on the others piles up, as in a broken network."""
        self.there, self.back = there, back
        for link in list(self.links):
            link.look()

    def cut(self) -> None:
        """Break all connections that there are; new ones are served."""
        for link in list(self.links):
            link.cut()

    def gone(self, link: _Link) -> None:
        self.links.pop(link, None)
        if not self.links:
            self._idle.set()


class _End(asyncio.Protocol):
    """A socket of a link. A chunk is handed on in the callback that brings it: what a relay costs is part of
    every time that is measured."""

    def __init__(self, link: _Link, received: Callable[[bytes], None]) -> None:
        self._received = received
        self.transport: asyncio.Transport | None = None
        self.full = False  # what is written to it piles up
        self._link = link
        self._reads = True
        self._held: list[bytes] = []  # came although we do not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._link.made(self)

    def data_received(self, data: bytes) -> None:
        if self._reads:
            self._received(data)
        elif self.transport is not None:
            # uvloop begins to read behind connection_made(), whatever was said in it.
            self._held.append(data)
            self.transport.pause_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None
        self._link.end()
        self._link.settle()

    def pause_writing(self) -> None:
        self.full = True
        self._link.look()

    def resume_writing(self) -> None:
        self.full = False
        self._link.look()

    def write(self, chunk: bytes) -> None:
        if self.transport is not None:
            self.transport.write(chunk)

    def read(self, wanted: bool) -> None:
        """Go on reading, or leave what comes to the kernel."""
        if self.transport is None or wanted == self._reads:
            return
        self._reads = wanted
        if not wanted:
            self.transport.pause_reading()
            return
        self.transport.resume_reading()
        held, self._held = self._held, []
        for chunk in held:
            self._received(chunk)


class _Link:
    """A client's connection and ours to the target."""

    def __init__(self, relay: Relay, loop: asyncio.AbstractEventLoop) -> None:
        self._relay = relay
        self._loop = loop
        self._opening: asyncio.Task[object] | None = None
        self._ended = False
        self._late = False  # something is to be forwarded in a moment
        self._lossy = False  # no reply passes any more, and nothing but what was begun goes to the target
        self.client = _End(self, self._to_target)
        self.target = _End(self, self._to_client)

    def made(self, end: _End) -> None:
        if end is self.client:
            self._relay.links[self] = None
            if self._relay.stopped:
                self.end()
        elif self._ended and end.transport is not None:
            end.transport.abort()
        else:
            self._relay.opened += 1
        self.look()

    def look(self) -> None:
        """Read what may pass, and open the way if that may be."""
        if self._ended:
            return
        up = self.target.transport is not None
        self.client.read(up and self._relay.there and not self.target.full and not self._lossy)
        self.target.read(self._relay.back and not self.client.full)
        if not up and self._relay.there and self._opening is None:
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        # Never cancelled: uvloop does not tell of the end of a connection whose making was.
        try:
            await self._loop.create_connection(lambda: self.target, *self._relay.target)
        except OSError:
            self.end()
        finally:
            self._loop.call_soon(self.settle)

    def cut(self) -> None:
        """As a broken network: what was to be forwarded late is lost."""
        self._late = False
        self.end()

    def abort(self) -> None:
        """Both connections end at once, with what is on the way."""
        self.cut()
        if self.target.transport is not None:
            self.target.transport.abort()

    def end(self) -> None:
        """The client's connection ends at once; what it sent before still reaches the target."""
        if self._ended:
            return
        self._ended = True
        if self.client.transport is not None:
            self.client.transport.abort()
        if self.target.transport is not None and not self._late:
            self.target.transport.close()

    def settle(self) -> None:
        """Nothing is left of an ended link when both connections are closed."""
        opening = self._opening is not None and not self._opening.done()
        if self._ended and not (opening or self._late or self.client.transport or self.target.transport):
            self._relay.gone(self)

    def _to_client(self, chunk: bytes) -> None:
        if not self._lossy:
            self.client.write(chunk)

    def _to_target(self, chunk: bytes) -> None:
        if self._ended or self._lossy:
            return
        action = self._relay.plan() if _EXEC in chunk else PASS
        if action == PASS:
            self.target.write(chunk)
        elif action == REQUEST_LOST:
            self.end()
        else:
            self._lose(chunk[: len(chunk) // 2] if action == CUT else chunk, LATE_S if action == LATE else 0.0)

    def _lose(self, chunk: bytes, after_s: float) -> None:
        """Forward this, now or later, and cut the client's connection; it does not get another byte."""
        self._lossy = self._late = True
        self.look()

        def forward() -> None:
            if self._late and self.target.transport is not None:
                self.target.write(chunk)
                self.target.transport.close()
            self._late = False
            self.settle()

        if after_s:
            self._loop.call_later(after_s, forward)
        else:
            forward()
        self.end()
