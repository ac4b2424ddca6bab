"""Pub/sub notifications of the shared state, over a connection of their own.

A hint says that a section has a new version. Hints get lost whenever a connection breaks, so every (re)subscription
yields ``("", "", 0)`` first: read everything again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.state import keys
from a2a_zmq.state.link import connection_options, to_state_error

Hint = tuple[str, str, int]
RESUBSCRIBED: Final[Hint] = ("", "", 0)

_BACKOFF_S: Final = 0.1
_BACKOFF_MAX_S: Final = 2.0
# A connection that is cut without a word (a firewall, a frozen host) is found by asking after this much silence.
_SILENCE_S: Final = 5.0
_PONG_S: Final = 2.0


class RedisHints:
    """Implements :class:`a2a_zmq.interfaces.Hints`."""

    def __init__(self, config: RedisConfig, *, name: str = "", rng: Callable[[], float] = random.random) -> None:
        """
        Args:
            name: of the agent, shown by ``CLIENT LIST``.
            rng: uniform in [0, 1), for jitter.
        """
        self._config = config
        self._name = f"{name}:hints" if name else ""
        self._rng = rng

    async def listen(self, distributor_ids: list[str]) -> AsyncIterator[Hint]:
        """Hints of these distributors (``INBOX`` for the coordinator's own) for ever, across any number of reconnects.

        Raises:
            ValueError: there is nothing to listen to.
            StoreUnavailable: only if trying again cannot help (``fatal``).
        """
        if not distributor_ids:
            raise ValueError("no distributor to listen to")
        channels = {keys.events(distributor_id): distributor_id for distributor_id in distributor_ids}
        failures = 0
        while True:
            try:
                async for hint in self._subscribed(channels):
                    failures = 0
                    yield hint
            except (exceptions.RedisError, OSError) as error:
                known = to_state_error(error)
                if isinstance(known, StoreUnavailable) and known.fatal:
                    raise known from error
            # Full jitter, and never a busy loop: many agents come back after the same restart.
            ceiling_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** min(failures, 10))
            await asyncio.sleep(ceiling_s * (0.1 + 0.9 * self._rng()))
            failures += 1

    async def _subscribed(self, channels: dict[str, str]) -> AsyncIterator[Hint]:
        """One connection's life; ends by an error, or by returning if the server does not answer any more."""
        client = Redis(
            ssl=self._config.use_tls,
            retry=Retry(NoBackoff(), 0),
            **connection_options(self._config, self._name),
        )
        pubsub = client.pubsub()
        try:
            await pubsub.subscribe(*channels)
            confirmed, pinged = 0, False
            while True:
                limit_s = _PONG_S if pinged or confirmed < len(channels) else _SILENCE_S
                message = await pubsub.get_message(timeout=limit_s)
                if message is None:
                    if pinged or confirmed < len(channels):
                        return
                    await pubsub.ping()
                    pinged = True
                    continue
                pinged = False
                if message["type"] == "subscribe":
                    confirmed += 1
                    if confirmed == len(channels):
                        yield RESUBSCRIBED
                elif message["type"] == "message":
                    hint = _parse(message, channels)
                    if hint is not None:
                        yield hint
        finally:
            await _close(pubsub, client)


def _parse(message: dict[str, Any], channels: dict[str, str]) -> Hint | None:
    """The hint, or None for a text that is none: anybody with access to Redis may publish."""
    writer, _, version = message["data"].decode(errors="replace").partition(":")
    if writer not in (keys.COORDINATOR, keys.DISTRIBUTOR) or not version.isascii() or not version.isdigit():
        return None
    return channels[message["channel"].decode()], writer, int(version)


async def _close(pubsub: PubSub, client: Redis) -> None:
    await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    await client.aclose()
