"""What the Redis implementation makes of answers that no Redis gives, or only one that is set up for something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.hints import RESUBSCRIBED, RedisHints
from a2a_zmq.state.leases import RedisLeases
from a2a_zmq.state.link import Link
from a2a_zmq.state.redis_store import RedisStore
from a2a_zmq.state.wire import Command
from daemons.runtime import permissions

MakeWrite = Callable[..., SectionWrite]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SECTION = Section("d1", "distributor")
OWNER = "d1|host|1|2|boot"

# The error page of a load balancer; the alert of a server that was given TLS; a banner.
STRANGE = {
    "http": b"HTTP/1.0 503 Service Unavailable\r\n\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[RedisConfig]:
    """A server that does so with each connection."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    try:
        yield RedisConfig(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    finally:
        server.close()


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("name", ["", "named"])  # with a name there is a greeting
async def test_what_is_no_redis_is_unavailable(make_write: MakeWrite, what: str, name: str) -> None:
    """It ended coordinators and distributors, where Redis that is away does not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if what != "ssh":
            await reader.read(1)
        writer.write(STRANGE[what])
        await writer.drain()
        await reader.read()

    async with serving(serve) as config:
        store, leases = RedisStore(config, name=name), RedisLeases(config, name=name)
        for call in (
            store.apply(make_write()),
            store.load(SECTION),
            store.ping(),
            leases.acquire(SECTION, OWNER, 1000),
            permissions.missing(config, permissions.STATE),
        ):
            with pytest.raises(StoreUnavailable, match="does not speak Redis' protocol") as error:
                await call
            assert (error.value.reason, error.value.fatal) == ("connection", False)
        await store.close()
        await leases.close()


async def test_hints_come_when_redis_is_back_where_something_else_answered(redis_backend: Any) -> None:
    strange = [
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", b""),  # to the greeting
        (b"+OK\r\n", b"HTTP/1.0 503 Service Unavailable\r\n\r\n"),  # to what follows
        (b"+OK\r\n", b"-no upstream host\r\n"),
        (b"+OK\r\n", b"$-1\r\n"),
        (b"+OK\r\n", b"*0\r\n"),
    ]
    answered = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not strange:
            there = await asyncio.open_connection("127.0.0.1", redis_backend.server.port)
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
            return
        for answer in strange.pop(0):
            await reader.read(4096)
            writer.write(answer)
            answered.append(answer)
        await writer.drain()

    async with serving(serve) as config:
        hints = RedisHints(config, name="test", rng=lambda: 0.0).listen(["d1"])
        assert await anext(hints) == RESUBSCRIBED
        await hints.aclose()  # type: ignore[attr-defined]
    assert len(answered) == 10


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def test_a_write_counts_where_what_was_asked_behind_it_is_refused(
    redis_backend: Any, make_write: MakeWrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = Link.exchange
    refused: list[Command] = []

    async def exchanged(link: Link, commands: list[Command], *, only_on: int | None = None) -> list[Any]:
        replies = await exchange(link, commands, only_on=only_on)
        if commands[-1][0] == "HMGET" and commands[-3] == ("EXEC",) and not refused:
            refused.append(commands[-1])
            replies[-2:] = [hiredis.ReplyError("ERR as a proxy says when its server has gone")] * 2
        return replies

    monkeypatch.setattr(Link, "exchange", exchanged)
    store = redis_backend.store()
    assert await store.apply(make_write(put_tasks={"t1": b"{}"})) == 1
    assert refused
    assert await store.apply(make_write(put_tasks={"t2": b"{}"})) == 2
    assert (await store.load(SECTION)).tasks.keys() == {"t1", "t2"}
    assert store.stats.conflicts == store.stats.resolved == 0
