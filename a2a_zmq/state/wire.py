"""One connection to Redis or Valkey: bytes out, replies in.

A protocol on the event loop and hiredis' parser, nothing between: a client library's way of a command (a coroutine, a
timer and a stream for each reply) costs more than the exchange itself, and it may send a command twice. What a
connection needs once (TLS, credentials, database, name) is done in :func:`open_wire`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import ConfigError, StateError, StoreUnavailable

Command = tuple[Any, ...]

# A reply that comes at this rate on the whole is not late, however large it is; one that trickles in is.
_BYTES_PER_S: Final = 1_000_000

# First word of an error reply → reason of StoreUnavailable.
_REASONS: Final = {
    "LOADING": "loading",
    "BUSY": "timeout",  # a script holds the server
    "READONLY": "readonly",
    "MASTERDOWN": "readonly",
    "NOREPLICAS": "readonly",
    "OOM": "oom",
    "MISCONF": "misconf",
    "NOAUTH": "noauth",
    "WRONGPASS": "noauth",
    "NOPERM": "noauth",
    "DENIED": "noauth",  # protected mode
    "CLUSTERDOWN": "connection",
}
# First words of errors by which the command is wrong, or a key: asking again does not mend them. What no server of ours
# says (a cluster's MOVED, the words of proxies whose server is away) is about the way to it, and may pass.
_OURS: Final = frozenset(("", "ERR", "WRONGTYPE", "NOSCRIPT", "CROSSSLOT", "EXECABORT"))
# Errors without a word of their own, by how their text begins.
_TEXT_REASONS: Final = (
    ("ERR max number of clients", "connection"),
    ("ERR invalid password", "noauth"),
    ("ERR AUTH ", "noauth"),  # a password was given and none is set
    ("ERR Client sent AUTH", "noauth"),
)


def to_state_error(error: BaseException) -> StateError:
    """The typed form of an error reply, or of what ended a connection."""
    text = str(error)
    if isinstance(error, TimeoutError):
        return StoreUnavailable("timeout", text or "no answer in time")
    if isinstance(error, hiredis.ProtocolError):
        return StoreUnavailable("connection", f"what answers there does not speak Redis' protocol ({text})")
    if isinstance(error, OSError):
        return StoreUnavailable("connection", text or type(error).__name__)
    word, _, rest = text.partition(" ")
    if word == "EXECABORT":  # EXEC itself was refused, and says why behind this phrase
        word = rest.partition("because of: ")[2].partition(" ")[0]
    reason = _REASONS.get(word) or next((name for start, name in _TEXT_REASONS if text.startswith(start)), None)
    if reason is None:
        # redis-py has taken the first word off its errors' texts.
        if word in _OURS or not isinstance(error, hiredis.ReplyError):
            return StateError(f"Redis refused: {text}")
        reason = "connection"
    return StoreUnavailable(reason, text, fatal=reason == "noauth")


def first_error(replies: Sequence[Any]) -> Exception | None:
    """The first error among replies; the cause of an aborted transaction stands before the EXECABORT."""
    return next((reply for reply in replies if isinstance(reply, Exception)), None)


class Wire(asyncio.Protocol):
    """An open connection; made by :func:`open_wire`.

    Attributes:
        connected: False once it has ended, however that came; it is not opened again.
        on_push: gets every reply that no exchange waits for (messages of a subscription). Where it is None such a reply
            is an error, because nobody could tell any more whose replies follow.
        on_lost: called when the connection has ended.
    """

    def __init__(self) -> None:
        self.connected = False
        self.on_push: Callable[[Any], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiting: asyncio.Future[list[Any]] | None = None
        # Of the exchange that is under way: when it began, when bytes came last, and how many.
        self._limit_s = self._began = self._heard = 0.0
        self._came = 0
        self._timer: asyncio.TimerHandle
        self._ended: Exception | None = None

    async def exchange(self, packed: bytes, count: int, limit_s: float) -> list[Any]:
        """Send commands and wait for a reply to each. If that is cut short, the connection is of no use any more.

        Args:
            limit_s: how long to wait for the replies, besides what their own size needs: a section of many megabytes
                takes seconds to come over a link on which nothing is wrong. Replies to writes are small, so this is
                all the time that they get.

        Returns:
            the replies; an error reply is an exception object among them.

        Raises:
            TimeoutError: nothing came for ``limit_s``, or what came was slower than :data:`_BYTES_PER_S`.
            OSError, hiredis.ProtocolError: the connection ended.
        """
        if self._transport is None or not self.connected:
            raise self._ended or ConnectionError("the connection is closed")
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting, self._wanted = waiting, count
        self._limit_s, self._came = limit_s, 0
        self._began = self._heard = loop.time()
        self._timer = loop.call_later(limit_s, self._late)
        try:
            self._transport.write(packed)
            return await waiting
        finally:
            self._timer.cancel()

    def send(self, packed: bytes) -> None:
        """Send commands whose replies are pushed. Does nothing on a closed connection."""
        if self._transport is not None and self.connected:
            self._transport.write(packed)

    def _late(self) -> None:
        """The time is up, unless the replies are on their way."""
        waiting = self._waiting
        if waiting is None or waiting.done():
            return
        loop = asyncio.get_running_loop()
        until = min(self._heard, self._began + self._came / _BYTES_PER_S) + self._limit_s
        if loop.time() < until:
            self._timer = loop.call_at(until, self._late)
        else:
            waiting.set_exception(TimeoutError())

    def close(self) -> None:
        """End the connection at once. Idempotent."""
        self.connected = False
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------ the event loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.connected = True
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        reader, replies = self._reader, self._replies
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if self._waiting is not None:
                    replies.append(reply)
                    if len(replies) == self._wanted:
                        self._answer()
                elif self.on_push is not None:
                    self.on_push(reply)
                else:
                    raise hiredis.ProtocolError("a reply that nobody asked for")
        except hiredis.ProtocolError as error:
            self._end(error)
            return
        if self._waiting is not None:
            self._heard = asyncio.get_running_loop().time()
            self._came += len(data)

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, None
        replies, self._replies = self._replies, []
        if waiting is not None and not waiting.done():
            waiting.set_result(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionResetError("the connection was closed by the server"))

    def _end(self, error: Exception) -> None:
        self._ended = self._ended or error
        self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        if self.on_lost is not None:
            self.on_lost()


def pack(commands: Sequence[Command]) -> bytes:
    """Commands as they go over the wire."""
    return b"".join([hiredis.pack_command(command) for command in commands])


async def open_wire(config: RedisConfig, name: str) -> Wire:
    """Connect and log in.

    Args:
        name: shown by ``CLIENT LIST``; "" for none.

    Raises:
        StateError: typed; StoreUnavailable where the server cannot be reached or does not let us in.
    """
    loop = asyncio.get_running_loop()
    wire = Wire()
    try:
        async with asyncio.timeout(config.connect_timeout_s):
            await loop.create_connection(lambda: wire, config.host, config.port, ssl=config.tls_context())
            commands = _greeting(config, name)
            replies = await wire.exchange(pack(commands), len(commands), config.connect_timeout_s) if commands else []
    except (OSError, hiredis.ProtocolError) as error:  # a refused certificate and a timeout are such, too
        wire.close()
        raise to_state_error(error) from error
    except ConfigError as error:  # a file that was there at the start; it may come back
        raise StoreUnavailable("connection", str(error)) from error
    except BaseException:
        wire.close()
        raise
    error_reply = first_error(replies)
    if error_reply is not None:
        wire.close()
        raise to_state_error(error_reply) from error_reply
    return wire


def _greeting(config: RedisConfig, name: str) -> list[Command]:
    commands: list[Command] = []
    if config.password is not None:
        login = (config.username,) if config.username else ()
        commands.append(("AUTH", *login, config.password.get_secret_value()))
    if config.db:
        commands.append(("SELECT", config.db))
    if name:
        commands.append(("CLIENT", "SETNAME", name))
    return commands
