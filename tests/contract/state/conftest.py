"""Backends for the contract suite of the shared state: one in memory, one for each server program of this host.

Every test is a coroutine; it runs on a fresh uvloop loop, and what it opened is closed afterwards.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis

from a2a_zmq.clock import Now
from a2a_zmq.config import RedisConfig
from a2a_zmq.interfaces import Hints, LeaseStore, Section, SectionWrite, StateStore
from a2a_zmq.state.hints import RedisHints
from a2a_zmq.state.leases import RedisLeases
from a2a_zmq.state.memory import MemoryHints, MemoryLeases, MemoryRedis, MemoryStore
from a2a_zmq.state.redis_store import RedisStore
from a2a_zmq.state.section import RetentionPolicy
from daemons.cli.chaos.relay import Relay
from daemons.redis.embedded import EmbeddedRedis
from tests.servers import KINDS, Servers

TEST_S = 10.0


class Backend:
    """What a contract test may use."""

    kind = ""

    def store(self, policy: RetentionPolicy | None = None) -> StateStore:
        raise AssertionError(self.kind)

    def leases(self) -> LeaseStore:
        raise AssertionError(self.kind)

    def hints(self) -> Hints:
        raise AssertionError(self.kind)

    def mono(self) -> float:
        raise AssertionError(self.kind)

    async def pass_time(self, seconds: float) -> None:
        """Let leases expire."""

    async def wipe(self) -> None:
        """FLUSHALL."""

    async def copy(self) -> Any:
        """Everything that is stored, for :meth:`restore`."""

    async def restore(self, copy: Any) -> None:
        """Go back to a copy, as a fail-over to a stale replica does."""

    async def aclose(self) -> None:
        """Close what was opened."""


class MemoryBackend(Backend):
    kind = "memory"

    def __init__(self) -> None:
        self._seconds = 1000.0
        self.world = MemoryRedis(lambda: Now(self._seconds, 1.7e9 + self._seconds))

    def store(self, policy: RetentionPolicy | None = None) -> StateStore:
        return MemoryStore(self.world, policy=policy)

    def leases(self) -> LeaseStore:
        return MemoryLeases(self.world)

    def hints(self) -> Hints:
        return MemoryHints(self.world)

    def mono(self) -> float:
        return self._seconds

    async def pass_time(self, seconds: float) -> None:
        self._seconds += seconds

    async def wipe(self) -> None:
        self.world.wipe()

    async def copy(self) -> Any:
        return self.world.copy()

    async def restore(self, copy: Any) -> None:
        self.world.restore(copy)


class RedisBackend(Backend):
    def __init__(self, server: EmbeddedRedis) -> None:
        self.kind = server.server.kind
        self.server = server
        self._opened: list[RedisStore | RedisLeases] = []
        self.client: Redis = Redis(port=server.port)

    def store(
        self,
        policy: RetentionPolicy | None = None,
        config: RedisConfig | None = None,
        wall: Callable[[], float] = time.time,
    ) -> RedisStore:
        store = RedisStore(config or self.server.config, name="test", policy=policy, wall=wall)
        self._opened.append(store)
        return store

    def leases(self, config: RedisConfig | None = None) -> RedisLeases:
        leases = RedisLeases(config or self.server.config, name="test")
        self._opened.append(leases)
        return leases

    def hints(self, config: RedisConfig | None = None) -> Hints:
        return RedisHints(config or self.server.config, name="test")

    async def execute(self, *words: str) -> None:
        """An operator's command, over a connection of its own."""
        await self.client.execute_command(*words)  # type: ignore[no-untyped-call]

    def mono(self) -> float:
        return time.monotonic()

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds + 0.01)

    async def wipe(self) -> None:
        await self.client.flushall()

    async def copy(self) -> dict[bytes, bytes]:
        return {key: await self.client.dump(key) or b"" async for key in self.client.scan_iter()}

    async def restore(self, copy: dict[bytes, bytes]) -> None:
        await self.client.flushall()
        for key, value in copy.items():
            await self.client.restore(key, 0, value)

    async def aclose(self) -> None:
        for opened in self._opened:
            await opened.close()
        await self.client.aclose()  # a test leaves no connection behind: pytest turns the warning into an error


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.fixture(params=["memory", *KINDS])
def backend(request: pytest.FixtureRequest, servers: Servers) -> Backend:
    return MemoryBackend() if request.param == "memory" else RedisBackend(servers.get(request.param))


@pytest.fixture(params=KINDS)
def redis_backend(request: pytest.FixtureRequest, servers: Servers) -> RedisBackend:
    return RedisBackend(servers.get(request.param))


@pytest.fixture
def own_backend() -> Iterator[RedisBackend]:
    """A server that the test may freeze, fill and kill."""
    server = EmbeddedRedis(appendfsync="always").start()
    yield RedisBackend(server)
    server.stop()


@pytest.fixture
def make_relay() -> Callable[[int], Relay]:
    """A relay to a server's port; ``relay.plan`` says what becomes of its transactions."""
    return lambda port: Relay(("127.0.0.1", port))


@pytest.fixture
def make_write() -> Callable[..., SectionWrite]:
    """A write with a fresh mutation id; sections of distributor ``d1`` unless told otherwise."""
    numbers = itertools.count()

    def make(**members: Any) -> SectionWrite:
        members.setdefault("section", Section("d1", "distributor"))
        members.setdefault("fence", 1)
        members.setdefault("mutation_id", f"mutation{next(numbers)}")
        return SectionWrite(**members)

    return make


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    async def wait(predicate: Callable[[], Any], what: str, within_s: float = 5.0) -> None:
        deadline = time.monotonic() + within_s
        while True:
            outcome = predicate()
            if inspect.isawaitable(outcome):
                outcome = await outcome
            if outcome:
                return
            assert time.monotonic() < deadline, f"still not so after {within_s} s: {what}"
            await asyncio.sleep(0.01)

    return wait


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run coroutine tests; those that use a backend start with an empty one."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    backends = [value for value in pyfuncitem.funcargs.values() if isinstance(value, Backend)]

    async def run() -> None:
        try:
            for backend in backends:
                await backend.wipe()
            await function(**arguments)
        finally:
            for backend in backends:
                await backend.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run(), TEST_S))
    return True


@pytest.fixture
def spool_path(tmp_path: Path) -> Path:
    """Of a spool that does not exist yet, in a directory that does not either."""
    return tmp_path / "spool" / "a.db"
