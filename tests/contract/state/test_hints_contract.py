"""What every implementation of hints promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from a2a_zmq.interfaces import INBOX, Section, SectionWrite

MakeWrite = Callable[..., SectionWrite]
Hint = tuple[str, str, int]
RESUBSCRIBED: Hint = ("", "", 0)


async def nth(hints: AsyncIterator[Hint], count: int) -> list[Hint]:
    async with asyncio.timeout(5):
        return [await anext(hints) for _ in range(count)]


async def test_the_first_hint_says_read_everything(backend: Any) -> None:
    hints = backend.hints().listen(["d1"])
    assert await nth(hints, 1) == [RESUBSCRIBED]
    await hints.aclose()


async def test_listening_to_nothing_is_an_error(backend: Any) -> None:
    with pytest.raises(ValueError, match="no distributor"):
        await anext(backend.hints().listen([]))


async def test_every_write_is_hinted_to_who_listens(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    hints = backend.hints().listen(["d1", INBOX])
    await nth(hints, 1)
    await store.apply(make_write())
    await store.apply(make_write(section=Section("d2", "distributor")))
    await store.apply(make_write(section=Section("d1", "coordinator")))
    await store.apply(make_write(section=Section(INBOX, "coordinator")))
    await store.apply(make_write())
    assert await nth(hints, 4) == [
        ("d1", "distributor", 1),
        ("d1", "coordinator", 1),
        (INBOX, "coordinator", 1),
        ("d1", "distributor", 2),
    ]
    await hints.aclose()


async def test_a_refused_write_is_not_hinted(backend: Any, make_write: MakeWrite) -> None:
    store = backend.store()
    hints = backend.hints().listen(["d1"])
    await nth(hints, 1)
    write = make_write()
    await store.apply(write)
    await store.apply(write)
    await store.apply(make_write())
    assert await nth(hints, 2) == [("d1", "distributor", 1), ("d1", "distributor", 2)]
    await hints.aclose()


async def test_what_is_no_hint_is_passed_over(redis_backend: Any, make_write: MakeWrite) -> None:
    hints = redis_backend.hints().listen(["d1"])
    await nth(hints, 1)
    for text in (b"", b"distributor", b"distributor:", b"distributor:x", b"somebody:4", b"\xff:1", "distributor:²"):
        await redis_backend.client.publish("events:{shared:distributor:d1}", text)
    await redis_backend.store().apply(make_write())
    assert await nth(hints, 1) == [("d1", "distributor", 1)]
    await hints.aclose()


async def test_a_restarted_server_is_subscribed_to_again(own_backend: Any, make_write: MakeWrite) -> None:
    hints = own_backend.hints().listen(["d1"])
    await nth(hints, 1)
    own_backend.server.kill()
    own_backend.server.start()
    assert await nth(hints, 1) == [RESUBSCRIBED]
    await own_backend.store().apply(make_write())
    assert await nth(hints, 1) == [("d1", "distributor", 1)]
    await hints.aclose()
