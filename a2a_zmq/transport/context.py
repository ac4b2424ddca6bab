"""What the sockets of one event loop share: the ZeroMQ context, the ZAP handler, options and address checks."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import zmq

from a2a_zmq.config import MAX_MESSAGE_BYTES, check_address, is_local
from a2a_zmq.errors import ConfigError
from a2a_zmq.transport.zap import ZapHandler

Batch = list[tuple[bytes, list[bytes], str]]  # (route, frames, user id)
OnFrames = Callable[[Batch], None]
SendResult = Literal["ok", "full", "unroutable"]

# libzmq compares MAXMSGSIZE with the encrypted command: name, nonce, MAC and flags more than the frame (33 bytes).
CURVE_OVERHEAD_BYTES: Final = 64
# A message has one frame. Of a longer one so many are shown to the owner, who refuses it; the rest is thrown away.
MAX_FRAMES: Final = 4


class Closable(Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """Options of every socket, with the protocol's values; milliseconds and bytes.

    Attributes:
        high_water_mark: frames queued for (or from) one peer before it is "full".
        handshake_ms: a connection that has not authenticated by then is closed: silent clients cannot fill the
            descriptor table.
        heartbeat_ms, heartbeat_timeout_ms: ZMTP's own pings, answered by the I/O thread: they find dead hosts and cut
            cables, not hung programs.
        reconnect_min_ms, reconnect_max_ms: libzmq adds jitter of its own. The pause is added to the time to recover
            from a partition (2 s): the longest one, with its jitter and an attempt that is lost, has to be less.
        connect_timeout_ms: then the next attempt.
        backlog: connections waiting to be accepted.
    """

    max_message_bytes: int = MAX_MESSAGE_BYTES
    high_water_mark: int = 256
    handshake_ms: int = 2000
    heartbeat_ms: int = 200
    heartbeat_timeout_ms: int = 600
    reconnect_min_ms: int = 100
    reconnect_max_ms: int = 800
    connect_timeout_ms: int = 1000
    backlog: int = 1024


@dataclass(slots=True)
class SocketStats:
    """Counters for metrics; ``refused`` counts by reason: ``auth``, ``protocol``, ``handshake``, ``routing_id``."""

    refused: dict[str, int] = field(default_factory=dict)

    def count_refused(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1


class _Context(zmq.Context[zmq.Socket[bytes]]):
    """Closes its sockets when it is collected without having been closed.

    pyzmq's own knows them by weak references, which the collector has cleared by then, and would wait for ever.
    """

    _made: list[zmq.Socket[bytes]]

    def __init__(self, io_threads: int) -> None:
        self._made = []  # first: it is collected, too, if what follows fails
        super().__init__(io_threads)

    def socket(self, *args: Any, **kwargs: Any) -> zmq.Socket[bytes]:
        made = super().socket(*args, **kwargs)
        self._made = [*(each for each in self._made if not each.closed), made]
        return made

    def __del__(self) -> None:
        for each in self._made:
            each.close(linger=0)
        super().__del__()


class TransportContext:
    """Owner of a ZeroMQ context. Make it in the process and event loop that use it: it survives no fork.

    Args:
        io_threads: one carries some gigabits a second, so one is enough for a daemon.
    """

    def __init__(self, *, io_threads: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        self.zmq: zmq.Context[zmq.Socket[bytes]] = _Context(io_threads)
        self._pid = os.getpid()
        self._zap: ZapHandler | None = None
        self._names = 0
        # Whoever has a descriptor on the loop: closing ZeroMQ's sockets under it makes uvloop abort the process.
        self._open: dict[Closable, None] = {}

    @property
    def zap(self) -> ZapHandler:
        """The context's only ZAP handler."""
        if self._zap is None:
            self._zap = ZapHandler(self.zmq, self.loop)
        return self._zap

    def socket(self, kind: int, options: SocketOptions, address: str) -> zmq.Socket[bytes]:
        """A socket with our options set, not connected to anything yet."""
        if os.getpid() != self._pid:
            raise ConfigError("a ZeroMQ context was carried over a fork; make it in the process that uses it")
        socket = self.zmq.socket(kind)
        for name, value in (
            (zmq.LINGER, 0),  # delivery is acknowledged above us; the default would hang the exit
            (zmq.SNDHWM, options.high_water_mark),
            (zmq.RCVHWM, options.high_water_mark),
            (zmq.MAXMSGSIZE, options.max_message_bytes + CURVE_OVERHEAD_BYTES),
            (zmq.HANDSHAKE_IVL, options.handshake_ms),
            (zmq.HEARTBEAT_IVL, options.heartbeat_ms),
            (zmq.HEARTBEAT_TIMEOUT, options.heartbeat_timeout_ms),
            (zmq.RECONNECT_IVL, options.reconnect_min_ms),
            (zmq.RECONNECT_IVL_MAX, options.reconnect_max_ms),
            (zmq.CONNECT_TIMEOUT, options.connect_timeout_ms),
            (zmq.BACKLOG, options.backlog),
            (zmq.TCP_KEEPALIVE, 1),
            (zmq.IPV6, int("[" in address)),
        ):
            socket.setsockopt(name, value)
        return socket

    def new_name(self) -> str:
        """A fresh inproc name."""
        self._names += 1
        return f"inproc://a2a-zmq.{self._names}"

    def opened(self, socket: Closable) -> None:
        self._open[socket] = None

    def closed(self, socket: Closable) -> None:
        self._open.pop(socket, None)

    def close(self) -> None:
        """Close whatever is still open, at once. Idempotent."""
        for socket in list(self._open):
            socket.close()
        if self._zap is not None:
            self._zap.close()
            self._zap = None
        if os.getpid() == self._pid:
            self.zmq.destroy(linger=0)


def scatter_routes() -> None:
    """Make the automatic routes of the next ROUTER begin somewhere that nobody can guess.

    libzmq numbers them from a random number of the C library's, and seeds that nowhere: without this they are the same
    in every process, and a peer that chooses the next one as its own makes libzmq abort the process.
    """
    ctypes.CDLL(None).srand(int.from_bytes(os.urandom(4), "little"))


def checked_address(address: str, *, encrypted: bool) -> str:
    """The address, if a socket may use it.

    Raises:
        ConfigError: it is no address, other hosts could reach it and there is no CURVE, or its ``ipc`` directory is
            open to other users (the socket file itself always is).
    """
    try:
        check_address(address)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not encrypted and not is_local(address):
        raise ConfigError(f"{address}: other hosts could reach it, so it needs CURVE keys")
    if address.startswith("ipc://") and not address.startswith("ipc://@"):
        directory = Path(address.removeprefix("ipc://")).parent
        try:
            mode = directory.stat().st_mode
        except OSError as error:
            raise ConfigError(f"{address}: {directory}: {error.strerror}") from None
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(f"{address}: {directory} is open to other users; chmod 0700 {directory}")
    return address


def address_error(address: str, error: zmq.ZMQError) -> ConfigError:
    """What a failed bind or connect means to whoever set the address."""
    meaning = {
        errno.EADDRINUSE: "is in use by another process",
        errno.EADDRNOTAVAIL: "is not an address of this host",
        errno.ENODEV: "names no interface of this host",
        errno.EACCES: "is not permitted to this user",
        errno.EINVAL: "is not a valid address, or its host name is unknown",
        errno.ENAMETOOLONG: "has a path that is too long for a socket (107 bytes)",
    }.get(error.errno or 0, f"cannot be used: {error}")
    return ConfigError(f"{address} {meaning}")
