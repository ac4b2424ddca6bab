"""A spoke's socket: one hub at a time.

It knows nothing of messages. What it adds to a bare DEALER: frames in bulk, the connection's beginning (authenticated,
not merely connected) and end as callbacks, no queue while there is no connection, and attempts that go on where libzmq
gives up: it never reconnects a spoke whose key was refused, although the hub may learn of the key any second.

Every connection is a new socket inside (libzmq itself only repeats attempts that reach nobody), so nothing of an old
connection can arrive in a new one, and replaced keys are used at the next attempt.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from a2a_zmq.errors import ConfigError
from a2a_zmq.security.curve import CurvePair
from a2a_zmq.transport.context import (
    MAX_FRAMES,
    Batch,
    OnFrames,
    SendResult,
    SocketOptions,
    SocketStats,
    TransportContext,
    address_error,
    checked_address,
)
from a2a_zmq.transport.monitor import HANDSHAKE_FAILURES, SPOKE_EVENTS, Monitor
from a2a_zmq.transport.pump import MAX_BATCH, MAX_BATCH_BYTES, Pump

ROUTE: Final = b""
# A connection that held so long is tried again almost at once when it breaks; one that did not, with growing delays.
STABLE_S: Final = 2.0

# A hub's public keys, newest first, or where to get them at each attempt (a key ring may be reloaded meanwhile).
ServerKeys = bytes | Sequence[bytes] | Callable[[], Sequence[bytes]]
OwnKeys = CurvePair | Callable[[], CurvePair]


class DealerSocket:
    """A DEALER on the running event loop.

    Attributes:
        own_key: our public key of the last attempt, or of the connection; empty without CURVE.

    Args:
        on_frames: everything that came in at a wake-up, in order.
        on_connected: the handshake succeeded: frames can be sent.
        on_disconnected: the connection ended (the argument is ``b""``, for the form's sake); another attempt follows.
        on_failed: an attempt failed: ``auth`` (the hub refused our key), ``protocol``, ``handshake`` (it hung up: also
            what a wrong server key looks like), ``silent`` (connected, and no answer), ``unreachable``. It is tried
            again at the same address unless the callback calls :meth:`connect`.
        on_writable: the hub's queue was full and has room again.
        curve: our key pair, or where to get it at each attempt; None for addresses that no other host can reach.
    """

    def __init__(
        self,
        context: TransportContext,
        *,
        on_frames: OnFrames,
        on_connected: Callable[[], None],
        on_disconnected: Callable[[bytes], None],
        on_failed: Callable[[str], None] | None = None,
        on_writable: Callable[[], None] | None = None,
        curve: OwnKeys | None = None,
        options: SocketOptions | None = None,
    ) -> None:
        self.stats = SocketStats()
        self._curve = curve
        self.address = ""
        self.own_key = b""
        self._context = context
        self._loop = context.loop
        self._on_frames = on_frames
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_failed = on_failed
        self._on_writable = on_writable
        self._options = options or SocketOptions()
        self._server_keys: ServerKeys | None = None
        self._link: _Link | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._failures = 0
        self._key_index = 0
        self._tried_key = self._good_key = b""
        self._closed = False

    @property
    def connected(self) -> bool:
        """True between on_connected and on_disconnected."""
        return self._link is not None and self._link.connected

    def connect(self, address: str, server_keys: ServerKeys | None = None) -> None:
        """Talk to this hub from now on, and to no other; the end of an earlier connection is not told.

        Args:
            server_keys: the hub's CURVE public keys, tried in turn: it uses the one that was its newest when it
                started. Needed if we have a key pair.

        Raises:
            ConfigError: the address is not valid, or not allowed without CURVE.
            zmq.ZMQError: there are no descriptors left.
        """
        if self._closed:
            raise ConfigError(f"{address}: the socket is closed")
        if (server_keys is None) != (self._curve is None):
            raise ConfigError(f"{address}: CURVE needs our key pair and the hub's public key")
        self.address, self._server_keys = checked_address(address, encrypted=self._curve is not None), server_keys
        self._failures = self._key_index = 0
        self._context.opened(self)
        self._open()

    def reconnect(self) -> None:
        """Drop the connection, if there is one, and connect to the same hub again at once."""
        if self.address and not self._closed:
            self._drop()
            self._reopen()

    def send(self, route: bytes, frame: bytes) -> SendResult:
        """Hand a frame to the hub's queue; never blocks.

        Args:
            route: always ``b""``; the argument makes both kinds of sockets alike.

        Returns:
            ``full``: nothing was sent, on_writable will come; ``unroutable``: there is no connection.
        """
        link = self._link
        if link is None or not link.connected:
            return "unroutable"
        return "ok" if link.send(frame) else "full"

    def close(self) -> None:
        """Close at once; what was not sent yet is lost (it is resent by the link layer). Idempotent."""
        self._closed = True
        self._context.closed(self)
        self._drop()

    # ------------------------------------------------------------ the connection

    def _drop(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._link is not None:
            self._link.close()
            self._link = None

    def _open(self) -> None:
        self._drop()
        server_key = self._server_key()
        socket = self._context.socket(zmq.DEALER, self._options, self.address)
        try:
            socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for a connection that is not there
            if self._curve is not None:
                own = self._curve() if callable(self._curve) else self._curve
                self.own_key = own.public
                socket.curve_publickey, socket.curve_secretkey = own
                socket.curve_serverkey = server_key
            self._link = _Link(self, socket)
        except BaseException:
            socket.close(0)
            raise
        try:
            socket.connect(self.address)
        except zmq.ZMQError as error:
            self._drop()
            raise address_error(self.address, error) from None

    def _server_key(self) -> bytes | None:
        given = self._server_keys
        if given is None or isinstance(given, bytes):
            return given
        keys = given() if callable(given) else given
        if not keys:
            raise ConfigError(f"{self.address}: no CURVE key of this hub is known")
        if self._good_key in keys:  # a hub keeps the key that it started with
            keys = [self._good_key, *(key for key in keys if key != self._good_key)]
        self._tried_key = keys[self._key_index % len(keys)]
        return self._tried_key

    def _reopen(self) -> None:
        self._retry = None
        try:
            self._open()
        except (ConfigError, zmq.ZMQError, OSError) as error:
            # For the moment: a hub without keys, a host name that is unknown, or no descriptors that are left.
            self._loop.call_exception_handler({"message": f"reconnect failed, will be repeated: {error}"})
            self._reopen_later()

    def _reopen_later(self) -> None:
        options = self._options
        self._failures = min(self._failures + 1, 16)
        delay_ms = min(options.reconnect_min_ms * 2.0 ** (self._failures - 1), options.reconnect_max_ms)
        self._retry = self._loop.call_later(delay_ms / 1000 * random.uniform(0.75, 1.25), self._reopen)

    def _handle(self, link: _Link, events: list[tuple[int, int]]) -> None:
        for event, _ in events:
            if self._link is not link:  # a callback connected elsewhere, or closed
                return
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                link.begin(self._loop.time())
                self._key_index, self._good_key = 0, self._tried_key
                self._on_connected()
            elif event == zmq.EVENT_CONNECT_RETRIED:
                link.tried_at = self._loop.time()
                if self._on_failed is not None:
                    self._on_failed("unreachable")
            elif event == zmq.EVENT_DISCONNECTED and link.connected:
                self._ended(link)
            else:
                # libzmq would hammer on at its shortest interval, or (refused key) never try again: our own pace.
                reason = HANDSHAKE_FAILURES.get(event, "handshake")
                if reason == "handshake" and self._loop.time() - link.tried_at >= self._options.handshake_ms / 1000:
                    reason = "silent"
                self._drop()
                self.stats.count_refused(reason)
                self._key_index += 1
                self._reopen_later()
                if self._on_failed is not None:
                    self._on_failed(reason)

    def _ended(self, link: _Link) -> None:
        try:
            link.drain_all()
        finally:
            if self._link is link:
                self._after(link)

    def _after(self, link: _Link) -> None:
        lasted_s = self._loop.time() - link.connected_at
        self._drop()
        if lasted_s >= STABLE_S:
            self._failures = 0
            self._retry = self._loop.call_later(random.uniform(0, self._options.reconnect_min_ms / 2000), self._reopen)
        else:
            self._reopen_later()
        self._on_disconnected(ROUTE)

    def _receive(self, batch: Batch) -> None:
        self._on_frames(batch)

    def _writable(self) -> None:
        if self._on_writable is not None:
            self._on_writable()


class _Link:
    """One ZeroMQ socket of the dealer; replaced as a whole."""

    def __init__(self, owner: DealerSocket, socket: zmq.Socket[bytes]) -> None:
        self.connected = False
        self.connected_at = 0.0
        self.tried_at = owner._loop.time()
        self._owner = owner
        self._socket = socket
        self._full = False
        context = owner._context
        self._monitor = Monitor(
            context.zmq, context.loop, socket, name=context.new_name(), events=SPOKE_EVENTS, on_events=self._events
        )
        try:
            self._pump = Pump(context.loop, socket, self._drain)
        except BaseException:
            self._monitor.close()
            raise

    def _events(self, events: list[tuple[int, int]]) -> None:
        self._owner._handle(self, events)

    def begin(self, now: float) -> None:
        self._socket.getsockopt(zmq.EVENTS)  # makes the socket notice the new connection before the first send
        self.connected, self.connected_at = True, now

    def drain_all(self) -> None:
        """Deliver what a connection that is over still brought: no more than its queue held."""
        while not self._pump.closed and self._drain():
            pass

    def send(self, frame: bytes) -> bool:
        socket = self._socket
        try:
            try:
                socket.send(frame, zmq.DONTWAIT)
            except zmq.Again:
                # libzmq looks at its I/O thread's reports about once a millisecond; asking for EVENTS makes it now.
                socket.getsockopt(zmq.EVENTS)
                socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            self._full = True
            self._pump.kick()
            return False
        self._pump.kick()
        return True

    def _drain(self) -> bool:
        recv = self._socket.recv
        batch: Batch = []
        drained, size = False, 0
        try:
            for _ in range(MAX_BATCH):
                frame = recv(zmq.DONTWAIT, copy=False)
                body = frame.bytes
                size += len(body)
                batch.append((ROUTE, [body, *self._rest()] if frame.more else [body], ""))
                if size > MAX_BATCH_BYTES:
                    break
        except zmq.Again:
            drained = True
        if batch:
            self._owner._receive(batch)
        if self._full and not self._pump.closed and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            self._full = False
            self._owner._writable()
        return not drained and not self._pump.closed

    def _rest(self) -> list[bytes]:
        """The message's further frames: a few for the owner to refuse, the others only taken off the socket."""
        frames: list[bytes] = []
        more = True
        while more:
            frame = self._socket.recv(zmq.DONTWAIT, copy=False)
            if len(frames) < MAX_FRAMES - 1:
                frames.append(frame.bytes)
            more = frame.more
        return frames

    def close(self) -> None:
        if not self._pump.closed:
            self._pump.close()
            self._monitor.close()
            self._socket.close(0)
        self.connected = False
