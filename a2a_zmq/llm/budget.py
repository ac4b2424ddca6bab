"""Budgets in Redis: calls to the scripts, from any thread, and places that are held as long as a call runs.

One thread of a process talks to Redis for all of its calls, in order: what a call has settled is there when the next
one asks, and a call that was cancelled while it asked takes back whatever it was given.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from a2a_zmq.checkpoint.failures import translated
from a2a_zmq.checkpoint.lua import Script
from a2a_zmq.errors import ConfigError, StateError
from a2a_zmq.llm import keys, scripts
from a2a_zmq.llm.providers import Provider
from a2a_zmq.llm.rules import Answer

# The place of a killed process is free so long after its last renewal.
LEASE_S: Final = 15.0
# A call that waits and has not asked again for so long is gone.
PATIENCE_S: Final = 5.0
TIMEOUT_S: Final = 2.0

log = logging.getLogger(__name__)


class Connection:
    """A process' way to the budgets; opened when it is first needed."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, lease_s: float = LEASE_S) -> None:
        """
        Args:
            options: further arguments of redis-py's connections.
        """
        self._url = url
        self._options = dict(options or {})
        self._lease_s = lease_s
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="a2a-llm")
        self._client: redis.Redis | None = None
        self._held: dict[str, str] = {}  # call → provider
        self._lock = threading.Lock()
        self._renewing = False

    @property
    def lease_ms(self) -> int:
        return round(self._lease_s * 1000)

    def hold(self, call: str, provider: str) -> None:
        """Renew the place of this call until it is let go."""
        with self._lock:
            self._held[call] = provider
            if not self._renewing:
                self._renewing = True
                threading.Thread(target=self._renew_forever, name="a2a-llm-places", daemon=True).start()

    def let_go(self, call: str) -> None:
        with self._lock:
            self._held.pop(call, None)

    def close(self) -> None:
        self.thread.shutdown()
        if self._client is not None:
            self._client.close()

    def _renew_forever(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._lease_s / 3)
            with self._lock:
                calls: dict[str, list[str]] = {}
                for call, provider in self._held.items():
                    calls.setdefault(provider, []).append(call)
                if not calls:
                    self._renewing = False
                    return
            for provider, held in calls.items():
                with suppress(StateError):  # the next renewal comes before the place is lost
                    self.thread.submit(self.run, provider, scripts.RENEW, self.lease_ms, *held).result()

    def run(self, provider: str, script: Script, *words: str | int) -> Any:
        """In our thread.

        Raises:
            StateError: Redis cannot be reached, or refuses.
        """
        try:
            if self._client is None:
                # A lost reply costs nothing: each script may be repeated.
                self._client = redis.Redis.from_url(
                    self._url,
                    socket_timeout=TIMEOUT_S,
                    socket_connect_timeout=TIMEOUT_S,
                    retry=Retry(NoBackoff(), 1),
                    **self._options,
                )
            names = keys.of_provider(provider)
            try:
                return self._client.evalsha(script.sha, len(names), *names, *words)
            except NoScriptError:
                return self._client.eval(script.text, len(names), *names, *words)
        except (RedisError, OSError) as error:
            raise translated(error) from error


class Budget:
    """The budget of one provider."""

    def __init__(self, name: str, provider: Provider, connection: Connection | None) -> None:
        """
        Args:
            connection: to Redis; a provider without budgets does without.

        Raises:
            ConfigError: it has a budget, and there is no Redis.
        """
        self.name = name
        self._connection = connection
        self.change(provider)

    def change(self, provider: Provider) -> None:
        """Other bounds from the next call on.

        Raises:
            ConfigError: it has a budget, and there is no Redis.
        """
        if self._connection is None and provider.bounded:
            raise ConfigError(f"llm_providers.{self.name}: its budget needs Redis, and none is configured here")
        self._provider = provider

    def ask(self, call: str, tokens: int) -> Future[Answer]:
        """May this call begin? Whoever is granted that settles it; so does whoever does not want to wait any more."""
        if self._connection is None:
            return _done(Answer(True, 0.0, ""))
        return self._connection.thread.submit(self._ask, self._connection, call, tokens)

    def _ask(self, connection: Connection, call: str, tokens: int) -> Answer:
        mine = self._provider
        bounds = (mine.requests_per_minute or 0, mine.tokens_per_minute or 0, mine.concurrency or 0)
        words = (call, tokens, *bounds, connection.lease_ms, round(PATIENCE_S * 1000))
        try:
            granted, wait_ms, missing = connection.run(self.name, scripts.ACQUIRE, *words)
        except StateError as error:
            if mine.bounded:
                raise
            log.warning("provider %s has no budget, so it is used although %s", self.name, error)
            return Answer(True, 0.0, "")
        return Answer(bool(granted), wait_ms / 1000, missing.decode())

    def begun(self, call: str) -> None:
        """It was granted, and runs."""
        if self._connection is not None:
            self._connection.hold(call, self.name)

    def settle(self, call: str, tokens: int) -> None:
        """It has ended, or waits no more.

        Args:
            tokens: that it used; -1 if nobody knows: then what it reserved counts.
        """
        if self._connection is not None:
            self._connection.let_go(call)
            # Nobody waits for it. If it fails, the place expires and what was reserved counts.
            self._connection.thread.submit(self._connection.run, self.name, scripts.SETTLE, call, tokens)

    def pause(self, seconds: float) -> None:
        """Nobody in the fleet begins a call for so long."""
        if self._connection is not None and seconds > 0:
            pause_ms = max(1, round(seconds * 1000))
            self._connection.thread.submit(self._connection.run, self.name, scripts.PAUSE, pause_ms)


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
