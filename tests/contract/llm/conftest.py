"""Servers for the contract of the budgets, and what its tests share. Each test has a provider of its own name."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from a2a_zmq.llm import keys
from a2a_zmq.llm.budget import Budget, Connection
from a2a_zmq.llm.providers import Provider
from daemons.redis.embedded import EmbeddedRedis
from tests.openai_server import OpenAIServer, openai_server
from tests.servers import KINDS, Servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with Servers() as servers:
        yield servers


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, servers: Servers) -> str:
    return _url(servers.get(request.param))


@pytest.fixture
def one_url(servers: Servers) -> str:
    """For tests in which it does not matter which program it is."""
    return _url(servers.any())


def _url(server: EmbeddedRedis) -> str:
    return f"redis://127.0.0.1:{server.port}"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


class Fleet:
    """Processes that share one provider's budget."""

    def __init__(self, url: str, name: str, **bounds: Any) -> None:
        self.name = name
        self.redis: Any = redis.Redis.from_url(url, decode_responses=True)
        self._url = url
        self._provider = Provider(model="m", **bounds)
        self._connections: list[Connection] = []
        self._first = self.process()

    def process(self, lease_s: float = 15.0) -> Budget:
        connection = Connection(self._url, lease_s=lease_s)
        self._connections.append(connection)
        return Budget(self.name, self._provider, connection)

    def ask(self, call: str, tokens: int = 1, budget: Budget | None = None) -> str:
        """What is missing; "" if it was granted."""
        answer = (budget or self._first).ask(call, tokens).result(10)
        assert answer.granted == (answer.missing == "")
        assert answer.wait_s > 0 or answer.granted
        return answer.missing

    def settle(self, call: str, tokens: int = -1) -> None:
        """Done when the next call asks: they go in order."""
        self._first.settle(call, tokens)

    def pause(self, seconds: float) -> None:
        self._first.pause(seconds)

    def key(self, kind: str) -> str:
        return f"{{llm:{self.name}}}:{kind}"

    def time_passes(self, seconds: int) -> None:
        """What was counted was so much earlier."""
        window = self.key("window")
        self.ask_nothing()
        for field, value in dict(self.redis.hgetall(window)).items():
            kind, _, second = field.partition(" ")
            if second:
                self.redis.hdel(window, field)
                self.redis.hset(window, f"{kind} {int(second) - seconds}", value)

    def ask_nothing(self) -> None:
        """Returns when everything that was settled is."""
        for connection in self._connections:
            connection.thread.submit(lambda: None).result(10)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self.redis.delete(*keys.of_provider(self.name))
        self.redis.close()


@pytest.fixture
def provider() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def fleet(url: str, provider: str) -> Iterator[Callable[..., Fleet]]:
    """A function that makes one with these bounds."""
    made: list[Fleet] = []

    def make(**bounds: Any) -> Fleet:
        made.append(Fleet(url, provider, **bounds))
        return made[-1]

    yield make
    for each in made:
        each.close()
