"""Servers for the contract of the checkpoint saver, and what its tests share.

Every coroutine test runs on a fresh loop. Savers use a prefix of the test's own, so that tests share a server.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import ormsgpack
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata
from redis.asyncio import Redis

from a2a_zmq.checkpoint import AsyncRedisSaver, RedisSaver, Retention
from a2a_zmq.checkpoint import keys as names
from daemons.redis.embedded import EmbeddedRedis
from tests.servers import KINDS, Servers

TEST_S = 40.0


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, servers: Servers) -> EmbeddedRedis:
    return servers.get(request.param)


@pytest.fixture
def one_server(servers: Servers) -> EmbeddedRedis:
    """For tests in which it does not matter which program it is."""
    return servers.any()


@pytest.fixture
def url(one_server: EmbeddedRedis) -> str:
    return f"redis://127.0.0.1:{one_server.port}"


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def open_saver(url: str, prefix: str) -> Callable[..., Any]:
    """A function that opens one for ``async with``."""

    @asynccontextmanager
    async def opened(
        keep: int | None = 100, ttl_s: float | None = 60.0, address: str = url, **options: Any
    ) -> AsyncIterator[AsyncRedisSaver]:
        options = {"prefix": prefix, "retention": Retention(keep, ttl_s), **options}
        async with AsyncRedisSaver.from_url(address, **options) as saver:
            yield saver

    return opened


@pytest.fixture
def open_blocking(url: str, prefix: str) -> Callable[..., RedisSaver]:
    def opened(keep: int | None = 100, ttl_s: float | None = 60.0, **options: Any) -> RedisSaver:
        options = {"prefix": prefix, "retention": Retention(keep, ttl_s), **options}
        return RedisSaver.from_url(url, **options)

    return opened


class Thread:
    """A thread that a test writes by hand, as LangGraph's loop would."""

    def __init__(self, saver: Any, thread_id: str, **configurable: Any) -> None:
        self.saver = saver
        self.thread_id = thread_id
        self.extra = configurable
        self._numbers = itertools.count(1)

    def config(self, checkpoint_id: str | None = None, ns: str = "") -> RunnableConfig:
        found: dict[str, Any] = {"thread_id": self.thread_id, "checkpoint_ns": ns, **self.extra}
        if checkpoint_id is not None:
            found["checkpoint_id"] = checkpoint_id
        return {"configurable": found}

    def arguments(
        self,
        values: dict[str, Any] | None = None,
        *,
        parent: str | None = None,
        ns: str = "",
        changed: list[str] | None = None,
        versions: dict[str, Any] | None = None,
        checkpoint_id: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> tuple[RunnableConfig, Checkpoint, CheckpointMetadata, dict[str, Any]]:
        number = next(self._numbers)
        values = values if values is not None else {"n": number}
        versions = versions if versions is not None else dict.fromkeys(values, f"{number:010d}.0")
        checkpoint: Any = {
            "v": 4,
            "id": checkpoint_id or f"c{number}",
            "ts": "2026-01-01T00:00:00+00:00",
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {},
            "updated_channels": None,
        }
        new = {name: versions[name] for name in (changed if changed is not None else versions)}
        told: Any = {"source": "loop", "step": number, "parents": {}, **(metadata or {})}
        return self.config(parent, ns), checkpoint, told, new

    async def put(self, values: dict[str, Any] | None = None, **options: Any) -> str:
        stored = await self.saver.aput(*self.arguments(values, **options))
        return str(stored["configurable"]["checkpoint_id"])

    async def write(self, checkpoint_id: str, task: str, value: Any, *, ns: str = "", channel: str = "n") -> None:
        await self.saver.aput_writes(self.config(checkpoint_id, ns), [(channel, value)], task, f"~{task}")

    async def ids(self, ns: str | None = "", **options: Any) -> list[str]:
        config = self.config(ns=ns or "")
        if ns is None:
            del config["configurable"]["checkpoint_ns"]
        return [found.checkpoint["id"] async for found in self.saver.alist(config, **options)]


@pytest.fixture
def thread() -> Callable[..., Thread]:
    return Thread


@pytest.fixture
def audit(prefix: str, url: str) -> Callable[..., Any]:
    """Checks what scripts keep about a thread against what is stored; returns the number of its stored fields."""

    async def check(thread_id: str, client: Any = None) -> dict[str, int]:
        async with Redis.from_url(url) if client is None else _Lent(client) as redis:
            return await _audit(redis, prefix, thread_id)

    return check


class _Lent:
    def __init__(self, client: Any) -> None:
        self.client = client

    async def __aenter__(self) -> Any:
        return self.client

    async def __aexit__(self, *error: object) -> None: ...


async def _audit(redis: Any, prefix: str, thread_id: str) -> dict[str, int]:
    encoded = names.encode(thread_id)
    facts_key, checkpoints, blobs, writes, index, _, _, threads, sizes = names.of_thread(prefix, encoded)
    facts = await redis.hgetall(facts_key)
    stored = {key: await redis.hgetall(key) for key in (checkpoints, blobs, writes)}
    members = set(await redis.zrange(index, 0, -1))
    known = {name[2:]: ormsgpack.unpackb(value) for name, value in facts.items() if name.startswith(b"c\x00")}
    uses: dict[bytes, int] = {}
    wanted = set()
    for name, fact in known.items():
        ns, checkpoint_id = name.split(b"\x00")
        wanted.add(b"\x00".join((b"c", ns, b"%016x" % fact["seq"], checkpoint_id)))
        wanted.add(b"n\x00" + ns)
        if fact["run"]:
            wanted.add(b"\x00".join((b"r", fact["run"].encode(), ns, checkpoint_id)))
        for ref in fact["refs"] or []:
            uses[ref.encode()] = uses.get(ref.encode(), 0) + 1
    assert set(known) == set(stored[checkpoints])
    assert uses == {name[2:]: int(value) for name, value in facts.items() if name.startswith(b"b\x00")}
    assert set(uses) == set(stored[blobs])
    expected = {name[2:]: int(value) for name, value in facts.items() if name.startswith(b"e\x00")}
    for name, place in expected.items():
        ns, checkpoint_id = name.split(b"\x00")
        wanted.add(b"\x00".join((b"e", ns, b"%016x" % place, checkpoint_id)))
    for name in stored[writes]:
        wanted.add(b"w\x00" + name)
        owner = b"\x00".join(name.split(b"\x00")[:2])
        assert owner in known or owner in expected, f"a write of nothing: {name!r}"
    assert {member for member in members if member[:1] not in b"sd"} == wanted
    size = sum(len(name) + len(value) for each in stored.values() for name, value in each.items())
    assert int(facts.get(b"bytes", 0)) == size
    registered = await redis.hgetall(sizes)
    assert int(registered.get(encoded.encode(), 0)) == size
    assert int(registered.pop(b"", 0)) == sum(map(int, registered.values()))
    assert {name.decode() for name in registered} == {each.decode() for each in await redis.zrange(threads, 0, -1)}
    return {
        "checkpoints": len(known),
        "blobs": len(uses),
        "writes": len(stored[writes]),
        "expected": len(expected),
        "members": len(members),
    }


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """Waits until a coroutine function gives a value."""

    async def wait(function: Callable[[], Any], value: Any) -> None:
        deadline = time.monotonic() + 10.0
        while (found := await function()) != value:
            assert time.monotonic() < deadline, f"still {found!r}, not {value!r}"
            await asyncio.sleep(0.01)

    return wait


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(function).parameters}

    async def run() -> None:
        async with asyncio.timeout(TEST_S):
            await function(**arguments)

    asyncio.run(run())
    return True
