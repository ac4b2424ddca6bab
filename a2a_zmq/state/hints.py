"""Pub/sub notifications of the shared state, over a connection of their own.

A hint says that a section has a new version. Hints get lost whenever a connection breaks, so every (re)subscription
yields ``("", "", 0)`` first: read everything again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StateError
from a2a_zmq.state import keys
from a2a_zmq.state.wire import open_wire, pack, to_state_error

Hint = tuple[str, str, int]
RESUBSCRIBED: Final[Hint] = ("", "", 0)

_BACKOFF_S: Final = 0.1
_BACKOFF_MAX_S: Final = 2.0
# A connection that is cut without a word (a firewall, a frozen host) is found by asking after this much silence.
_SILENCE_S: Final = 5.0
_PONG_S: Final = 2.0
# Every write publishes a hint, thousands a second under load: they are handed out together, this often at most.
_GATHER_S: Final = 0.02
# Hints that wait to be handed out. Older ones are dropped: what is said of a section last says it all.
_WAITING_MAX: Final = 4096


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
        """
        if not distributor_ids:
            raise ValueError("no distributor to listen to")
        channels = {keys.events(distributor_id).encode(): distributor_id for distributor_id in distributor_ids}
        failures = 0
        while True:
            with contextlib.suppress(StateError):  # hints may be missed, so whatever refuses them ends nothing
                async for hint in self._subscribed(channels):
                    failures = 0
                    yield hint
            # Full jitter, and never a busy loop: many agents come back after the same restart.
            ceiling_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2 ** min(failures, 10))
            await asyncio.sleep(ceiling_s * (0.1 + 0.9 * self._rng()))
            failures += 1

    async def _subscribed(self, channels: dict[bytes, str]) -> AsyncIterator[Hint]:
        """One connection's life; ends by an error, or by returning if it was lost or is silent."""
        wire = await open_wire(self._config, self._name)
        waiting: deque[Any] = deque(maxlen=_WAITING_MAX)
        came = asyncio.Event()

        def push(reply: Any) -> None:
            waiting.append(reply)
            came.set()

        wire.on_push, wire.on_lost = push, came.set
        try:
            wire.send(pack([("SUBSCRIBE", *channels)]))
            confirmed, asked = 0, True
            while wire.connected:
                if not await _within(came, _PONG_S if asked else _SILENCE_S):
                    if asked:
                        return
                    wire.send(pack([("PING",)]))
                    asked = True
                    continue
                asked = False
                while waiting:
                    reply = waiting.popleft()
                    if isinstance(reply, Exception):
                        raise to_state_error(reply)
                    if not isinstance(reply, list) or not reply:
                        return  # no message of a subscription: what answers there is something else
                    if reply[0] == b"subscribe":
                        confirmed += 1
                        if confirmed == len(channels):
                            yield RESUBSCRIBED
                    elif reply[0] == b"message" and (hint := _parse(reply, channels)) is not None:
                        yield hint
                await asyncio.sleep(_GATHER_S)
        finally:
            wire.close()


async def _within(event: asyncio.Event, limit_s: float) -> bool:
    """Wait for the event and clear it; False if it did not come in time."""
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


def _parse(message: Any, channels: dict[bytes, str]) -> Hint | None:
    """The hint, or None for a text that is none: anybody with access to Redis may publish."""
    _, channel, text = message
    writer, _, version = text.decode(errors="replace").partition(":")
    if writer not in (keys.COORDINATOR, keys.DISTRIBUTOR) or not version.isascii() or not version.isdigit():
        return None
    return channels[channel], writer, int(version)
