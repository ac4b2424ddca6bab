"""One Redis connection that carries whole exchanges: all commands out in one write, all replies back.

redis-py makes the connection (TLS, AUTH, SELECT, parsing); packing, timing and error handling are here, because its
command path costs a task and two timers a command, and because it may run a command twice after a lost
reply. An exchange that ends in any but the regular way closes the connection, so that no reply can be read
by somebody else later; nothing is ever sent again in here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import hiredis
from redis import exceptions
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StateError, StoreUnavailable

Command = tuple[Any, ...]

# A write that is as large as the link is slow must not look like a dead server: allow for 10 MB/s.
_BYTES_PER_S: Final = 10_000_000

# First word of an error reply → reason of StoreUnavailable. redis-py cuts the word off some and leaves it in others.
_REPLY_REASONS: Final = {
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
    "CLUSTERDOWN": "connection",
}
_CLASS_REASONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (exceptions.BusyLoadingError, "loading"),
    (exceptions.AuthenticationError, "noauth"),
    (exceptions.AuthorizationError, "noauth"),
    (exceptions.NoPermissionError, "noauth"),
    (exceptions.ReadOnlyError, "readonly"),
    (exceptions.MasterDownError, "readonly"),
    (exceptions.OutOfMemoryError, "oom"),
    (exceptions.TimeoutError, "timeout"),
    (exceptions.ConnectionError, "connection"),
    (TimeoutError, "timeout"),
    (OSError, "connection"),
)


def to_state_error(error: BaseException) -> StateError:
    """The typed form of anything that redis-py raises or a reply says."""
    text = str(error)
    status = getattr(error, "status_code", None) or text.partition(" ")[0]
    if status == "EXECABORT":  # EXEC itself was refused, and says why behind this phrase
        status = text.partition("because of: ")[2].partition(" ")[0]
    reason = _REPLY_REASONS.get(status)
    if reason is None:
        reason = next((name for kind, name in _CLASS_REASONS if isinstance(error, kind)), None)
    if reason is None:
        return StateError(f"Redis refused: {text}")
    return StoreUnavailable(reason, text or type(error).__name__, fatal=reason == "noauth")


def first_error(replies: Sequence[Any]) -> Exception | None:
    """The first error among replies; the cause of an aborted transaction stands before the EXECABORT."""
    return next((reply for reply in replies if isinstance(reply, Exception)), None)


def connection_options(config: RedisConfig, name: str) -> dict[str, Any]:
    """Keyword arguments for any redis-py client or connection, TLS aside from the class of the latter.

    No socket timeout: whoever exchanges sets one timer around the whole exchange.
    """
    options: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "db": config.db,
        "username": config.username,
        "password": config.password.get_secret_value() if config.password is not None else None,
        "socket_timeout": None,
        "socket_connect_timeout": config.connect_timeout_s,
        "socket_keepalive": True,
        "protocol": 2,
        "client_name": name or None,
    }
    if config.use_tls:
        options["ssl_ca_certs"] = str(config.ca_path) if config.ca_path is not None else None
        options["ssl_cert_reqs"] = "required"
        options["ssl_check_hostname"] = True
    return options


def make_connection(config: RedisConfig, name: str) -> Connection:
    """A redis-py connection that is not open yet; it never retries by itself."""
    kind = SSLConnection if config.use_tls else Connection
    return kind(retry=Retry(NoBackoff(), 0), **connection_options(config, name))


class Link:
    """Exchanges with one server over one connection, opened when first needed and again after an error."""

    def __init__(self, config: RedisConfig, name: str) -> None:
        """
        Args:
            config: where; its ``socket_timeout_s`` is the limit of an exchange besides what its size needs.
            name: shown by ``CLIENT LIST``.
        """
        self._connection = make_connection(config, name)
        self._connect_timeout_s = config.connect_timeout_s
        self._timeout_s = config.socket_timeout_s
        self._turn = asyncio.Lock()
        self._generation = 0

    @property
    def generation(self) -> int:
        """Number of the open connection, 0 if none is; a WATCH stands on one connection only."""
        return self._generation if self._connection.is_connected else 0

    async def connect(self) -> None:
        """Open the connection if it is not.

        Raises:
            StoreUnavailable: nothing was sent.
        """
        if self._connection.is_connected:
            return
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
                self._generation += 1
        except (exceptions.RedisError, OSError) as error:
            await self._drop()
            raise to_state_error(error) from error
        except BaseException:
            await self._drop()
            raise

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
            await self.connect()
            packed = b"".join([hiredis.pack_command(command) for command in commands])
            limit_s = self._timeout_s + len(packed) / _BYTES_PER_S
            try:
                async with asyncio.timeout(limit_s):
                    await self._connection.send_packed_command(packed, check_health=False)
                    return [await self._reply() for _ in commands]
            except (exceptions.RedisError, OSError) as error:
                await self._drop()
                raise to_state_error(error) from error
            except BaseException:
                await self._drop()
                raise

    async def ask(self, commands: Sequence[Command], *, again: bool = False) -> list[Any]:
        """As :meth:`exchange`, for commands of which none may fail.

        Args:
            again: the commands may run twice; if an open connection turns out to be cut (the server was restarted),
                ask once more over a new one.

        Raises:
            StateError: typed form of the first error reply.
        """
        reused = self._connection.is_connected
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

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except exceptions.ResponseError as error:
            return error

    async def close(self) -> None:
        async with self._turn:
            await self._drop()

    async def _drop(self) -> None:
        await self._connection.disconnect(nowait=True)
