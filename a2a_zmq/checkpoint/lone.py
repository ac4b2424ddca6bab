"""One connection to a single server, one call after the other.

A step of a graph waits for its checkpoint, so what surrounds a command counts: redis-py's coroutines, timers and
streams take three times the processor time of the exchange itself, so it goes over a
:class:`~a2a_zmq.state.link.Link` instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.state.link import Link
from a2a_zmq.state.wire import to_state_error

# Pauses before a call that got no reply is made again, as every call of a saver may be.
_PAUSES_S: Final = (0.05, 0.2)
# Reasons for which no reply came. Others are a server's own word.
_NO_REPLY: Final = ("connection", "timeout")


class LoneClient:
    """What a saver needs of a client. Opens nothing until it is first used."""

    def __init__(self, config: RedisConfig, timeout_s: float) -> None:
        """
        Args:
            timeout_s: for each attempt of a call, and for connecting.
        """
        limits = {"socket_timeout_s": timeout_s, "connect_timeout_s": timeout_s}
        self._link = Link(config.model_copy(update=limits), "")

    async def execute_command(self, *words: Any) -> Any:
        """
        Returns:
            the reply, with bytes for texts.

        Raises:
            NoScriptError: the server does not know the script.
            StateError: typed form of any other error.
        """
        reply = await self._exchange(words)
        if isinstance(reply, Exception):
            if str(reply).startswith("NOSCRIPT"):
                raise NoScriptError(str(reply))
            raise to_state_error(reply) from reply
        return reply

    async def _exchange(self, words: Sequence[Any]) -> Any:
        for pause_s in _PAUSES_S:
            try:
                return (await self._link.exchange([tuple(words)]))[0]
            except StoreUnavailable as error:
                if error.reason not in _NO_REPLY:
                    raise
            await asyncio.sleep(pause_s)
        return (await self._link.exchange([tuple(words)]))[0]

    async def aclose(self) -> None:
        await self._link.close()
