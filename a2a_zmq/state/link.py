"""Exchanges with Redis over one connection that is opened when it is needed: all commands out, all replies back.

An exchange that ends in any but the regular way closes the connection, so that no reply can be read by somebody else
later; nothing is ever sent again in here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import hiredis

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.state.wire import Command, Wire, first_error, open_wire, pack, to_state_error

# A write that is as large as the link is slow must not look like a dead server: allow for 10 MB/s.
_BYTES_PER_S: Final = 10_000_000


# Errors about a key that do not say which.
_KEYLESS: Final = ("NOPERM", "WRONGTYPE")


def named(error: Exception, command: Command) -> str:
    """An error with its command's name and first key: Redis itself does not say which key may not be used, or has a
    foreign type."""
    key = command[3:4] if command[0] == "EVAL" else command[1:2]
    parts = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in (command[0], *key)]
    return f"{error} ({' '.join(parts)})"


class Link:
    """Exchanges with one server over one connection, opened when first needed and again after an error."""

    def __init__(self, config: RedisConfig, name: str) -> None:
        """
        Args:
            config: where; its ``socket_timeout_s`` limits an exchange, besides what its size needs there and back.
            name: shown by ``CLIENT LIST``.
        """
        self._config = config
        self._name = name
        self._wire: Wire | None = None
        self._timeout_s = config.socket_timeout_s
        self._turn = asyncio.Lock()
        self._generation = 0

    @property
    def _connected(self) -> bool:
        return self._wire is not None and self._wire.connected

    @property
    def generation(self) -> int:
        """Number of the open connection, 0 if none is; a WATCH stands on one connection only."""
        return self._generation if self._connected else 0

    async def exchange(self, commands: Sequence[Command], *, only_on: int | None = None) -> list[Any]:
        """Send all commands at once and read a reply for each; one exchange at a time.

        Args:
            only_on: generation of the connection on which they make sense (a transaction after its WATCH).

        Returns:
            the replies in order; an error reply is returned as an exception object, not raised.

        Raises:
            StoreUnavailable: no or not all replies came; whether the commands were carried out is unknown.
        """
        async with self._turn:
            if only_on is not None and only_on != self.generation:
                raise StoreUnavailable("connection", "the connection broke between WATCH and EXEC")
            wire = self._wire
            if wire is None or not wire.connected:
                wire = self._wire = await open_wire(self._config, self._name)
                self._generation += 1
            packed = pack(commands)
            try:
                replies = await wire.exchange(packed, len(commands), self._timeout_s + len(packed) / _BYTES_PER_S)
            except (OSError, hiredis.ProtocolError) as error:
                wire.close()
                raise to_state_error(error) from error
            except BaseException:
                wire.close()
                raise
            if any(isinstance(reply, Exception) and str(reply).startswith("READONLY") for reply in replies):
                wire.close()  # a replica now: the name may lead to the new primary already
            for index, reply in enumerate(replies):
                if isinstance(reply, Exception) and str(reply).startswith(_KEYLESS):
                    replies[index] = type(reply)(named(reply, commands[index]))
            return replies

    async def ask(self, commands: Sequence[Command], *, again: bool = False) -> list[Any]:
        """As :meth:`exchange`, for commands of which none may fail.

        Args:
            again: the commands may run twice; if an open connection turns out to be cut (the server was restarted),
                ask once more over a new one.

        Raises:
            StateError: typed form of the first error reply.
        """
        reused = self._connected
        try:
            replies = await self.exchange(commands)
        except StoreUnavailable as error:
            if not (again and reused and error.reason == "connection"):
                raise
            replies = await self.exchange(commands)
        error_reply = first_error(replies)
        if error_reply is not None:
            raise to_state_error(error_reply) from error_reply
        return replies

    async def close(self) -> None:
        async with self._turn:
            if self._wire is not None:
                self._wire.close()
                self._wire = None
