"""How long a connection waits for its replies, on virtual time; and what it makes of an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import pytest

from a2a_zmq.state.wire import Wire
from tests.simulation.virtual import VirtualLoop, run_virtual

T = TypeVar("T")
LIMIT_S = 0.5


class _Transport:
    """Takes what is written, and does nothing with it."""

    def write(self, data: bytes) -> None: ...

    def abort(self) -> None: ...

    def get_extra_info(self, name: str) -> None: ...


class Line:
    """An open connection, and one exchange on it whose reply comes as the test says."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.wire = Wire()
        self.wire.connection_made(cast(Any, _Transport()))
        self.asked: asyncio.Task[list[Any]] = loop.create_task(self.wire.exchange(b"ask", 1, LIMIT_S))

    async def come(self, data: bytes, piece: int, every_s: float) -> None:
        """The server's bytes, a piece at a time, for as long as somebody waits for them."""
        for start in range(0, len(data), piece):
            await asyncio.sleep(every_s)
            if self.asked.done():
                return
            self.wire.data_received(data[start : start + piece])

    async def late_at(self) -> float:
        """When the exchange is given up."""
        with pytest.raises(TimeoutError):
            await self.asked
        return self.loop.time()


def play(story: Callable[[Line], Awaitable[T]]) -> T:
    async def main(loop: VirtualLoop) -> T:
        line = Line(loop)
        await asyncio.sleep(0)
        return await story(line)

    return run_virtual(main)


def bulk(size: int) -> bytes:
    return b"$%d\r\n%s\r\n" % (size, b"x" * size)


def test_a_large_reply_that_keeps_coming_is_not_late() -> None:
    """A section of many megabytes could never be loaded over a link that takes longer than one time limit for it."""

    async def story(line: Line) -> None:
        began = line.loop.time()
        await line.come(bulk(20_000_000), 200_000, 0.05)
        assert [len(reply) for reply in await line.asked] == [20_000_000]
        assert line.loop.time() - began > 8 * LIMIT_S

    play(story)


def test_a_reply_that_stops_is_late() -> None:
    async def story(line: Line) -> None:
        await line.come(bulk(20_000_000)[:10_000_000], 200_000, 0.05)
        stopped = line.loop.time()
        assert await line.late_at() - stopped == pytest.approx(LIMIT_S, abs=0.01)

    play(story)


def test_a_reply_that_trickles_in_is_late() -> None:
    async def story(line: Line) -> None:
        began = line.loop.time()
        trickle = line.loop.create_task(line.come(bulk(100_000), 1, 0.8 * LIMIT_S))
        assert await line.late_at() - began == pytest.approx(LIMIT_S, abs=0.01)
        await trickle

    play(story)


def test_a_small_reply_has_no_more_than_the_limit() -> None:
    """Whoever renews a lease or writes counts on that."""

    async def story(line: Line) -> None:
        began = line.loop.time()
        await line.come(bulk(1_000)[:-1], 100, 0.01)
        assert await line.late_at() - began == pytest.approx(LIMIT_S, abs=0.01)

    play(story)
