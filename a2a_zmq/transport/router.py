"""A hub's socket: many peers, each a *route* that lives as long as its connection.

It knows nothing of messages. What it adds to a bare ROUTER: frames in bulk with the authenticated name of their
connection, the end of a connection told for its route within milliseconds, and a send that never blocks and never drops
silently.

How a disconnect gets its route: the monitor reports DISCONNECTED with a file descriptor, and every frame knows the
descriptor it came from (SRCFD). Descriptors are reused, and what we read first need not have happened first. But libzmq
writes "disconnected" before it frees the descriptor, so before a new route is noted all events are taken: what they say
of its descriptor belongs to earlier connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zmq

from a2a_zmq.errors import A2AError, ConfigError
from a2a_zmq.security.curve import CurvePair, new_pair
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
    scatter_routes,
)
from a2a_zmq.transport.dealer import DealerSocket
from a2a_zmq.transport.monitor import HANDSHAKE_FAILURES, HUB_EVENTS, Monitor
from a2a_zmq.transport.pump import MAX_BATCH, MAX_BATCH_BYTES, Pump
from a2a_zmq.transport.zap import Allow

# Frames that a dead peer had sent are delivered before its end is told. That they are all read is certain once the
# socket is empty; on one that never is, the end is told after so many batches (some 20 ms of nothing but receiving).
DYING_BATCHES: Final = 16
# The self-test makes one connection to ourselves; on a loaded machine it may take a while.
SELF_TEST_S: Final = 5.0


class SelfTestLate(A2AError):
    """The self-test had no answer in time: a machine that stood still or is overloaded; to be tried again."""


@dataclass(frozen=True, slots=True)
class CurveServer:
    """A hub's side of CURVE.

    Attributes:
        pair: the hub's key pair.
        domain: ZAP domain, unique in the process; the agent's name will do.
        allow: asked for every new connection: whose key is this? None refuses it.
    """

    pair: CurvePair
    domain: str
    allow: Allow


@dataclass(slots=True)
class _Peer:
    fd: int  # -1 if unknown
    user_id: str
    refused: bool


class RouterSocket:
    """A ROUTER on the running event loop.

    Args:
        on_frames: everything that came in at a wake-up, in order within a route.
        on_disconnected: a route's connection ended; nothing that is sent to it arrives any more.
        curve: None for addresses that no other host can reach.
    """

    def __init__(
        self,
        context: TransportContext,
        *,
        on_frames: OnFrames,
        on_disconnected: Callable[[bytes], None],
        curve: CurveServer | None = None,
        options: SocketOptions | None = None,
    ) -> None:
        self.stats = SocketStats()
        self.address = ""
        self._context = context
        self._loop = context.loop
        self._on_frames = on_frames
        self._on_disconnected = on_disconnected
        self._curve = curve
        self._options = options or SocketOptions()
        self._routes: dict[bytes, _Peer] = {}
        self._by_fd: dict[int, bytes] = {}
        self._open: set[int] = set()
        self._dying: dict[bytes, int] = {}  # route → batches it is still waited for
        self._own_probes = 0
        self._first_route = 0  # number of the first automatic route
        self._accepted = 0  # connections so far
        self._closed = False
        self._socket: zmq.Socket[bytes] | None = None

    # ------------------------------------------------------------ opening and closing

    def bind(self, address: str) -> str:
        """Listen; once for each socket.

        Returns:
            the address with the port that was chosen.

        Raises:
            ConfigError: the address is in use, not ours, or not allowed without CURVE.
        """
        if self._socket is not None or self._closed:
            raise ConfigError(f"{address}: the socket listens at {self.address or 'nothing, it is closed'}")
        checked_address(address, encrypted=self._curve is not None)
        scatter_routes()
        socket = self._context.socket(zmq.ROUTER, self._options, address)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an unknown or slow peer is an error, not a silent drop
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)  # nobody takes over somebody else's route
        if self._curve is not None:
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = self._curve.pair
            socket.zap_domain = self._curve.domain.encode()
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a handler: refuse instead of accept
        monitor = Monitor(
            self._context.zmq,
            self._loop,
            socket,
            name=self._context.new_name(),
            events=HUB_EVENTS,
            on_events=self._events,
        )
        try:
            if self._curve is not None:
                self._context.zap.register(self._curve.domain, self._curve.allow)
            try:
                self._first_route = self._learn_first_route(socket)
                socket.bind(address)
            except zmq.ZMQError as error:
                if self._curve is not None:
                    self._context.zap.unregister(self._curve.domain)
                raise address_error(address, error) from None
        except ConfigError:
            monitor.close()
            socket.close(0)
            raise
        self._socket, self._monitor = socket, monitor
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._pump = Pump(self._loop, socket, self._drain)
        self._context.opened(self)
        return self.address

    def _learn_first_route(self, socket: zmq.Socket[bytes]) -> int:
        """Automatic routes are numbered from where chance has it: a connection of our own shows where."""
        name = self._context.new_name()
        socket.bind(name)
        with self._context.zmq.socket(zmq.DEALER) as probe:
            probe.linger = 0
            probe.connect(name)
            probe.send(b"")
            route, _ = socket.recv_multipart()
        socket.unbind(name)
        return int.from_bytes(route[1:], "big")

    def _is_automatic(self, route: bytes) -> bool:
        """Whether ZeroMQ has given this route to one of our connections, and no peer has chosen it itself.

        A chosen one could be somebody's who just left. It may begin with NUL as automatic ones do, and then nothing
        else tells of it: the property that names it ends there.
        """
        number = (int.from_bytes(route[1:], "big") - self._first_route) % (1 << 32)
        return len(route) == 5 and route[0] == 0 and 1 <= number <= self._accepted

    async def self_test(self, timeout_s: float = SELF_TEST_S) -> None:
        """Connect to ourselves with a key that nobody knows, which must fail; to be run before the first real peer.

        Raises:
            ConfigError: the key was accepted.
            SelfTestLate: nothing answered in time.
        """
        if self._curve is None:
            return
        verdict: asyncio.Future[str] = self._loop.create_future()

        def failed(reason: str) -> None:
            if reason == "auth" and not verdict.done():
                verdict.set_result(reason)

        def connected() -> None:
            if not verdict.done():
                verdict.set_result("accepted")

        self._own_probes += 1
        probe = DealerSocket(
            self._context,
            on_frames=_ignore,
            on_connected=connected,
            on_disconnected=_ignore,
            on_failed=failed,
            curve=new_pair(),
        )
        try:
            probe.connect(_reachable(self.address), self._curve.pair.public)
            async with asyncio.timeout(timeout_s):
                if await verdict == "accepted":
                    raise ConfigError(f"{self.address}: self-test: an unknown CURVE key was let in")
        except TimeoutError:
            raise SelfTestLate(f"{self.address}: self-test: no answer within {timeout_s:g} s") from None
        finally:
            probe.close()

    def close(self) -> None:
        """Close at once; what the peers have not been sent yet is lost (it is resent by the link layer). Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._context.closed(self)
        if self._socket is not None:
            self._pump.close()
            self._monitor.close()
            self._socket.close(0)
            if self._curve is not None:
                self._context.zap.unregister(self._curve.domain)

    # ------------------------------------------------------------ sending

    def send(self, route: bytes, frame: bytes) -> SendResult:
        """Hand a frame to the peer's queue; never blocks.

        Returns:
            ``full``: the peer does not read fast enough, nothing was sent; ``unroutable``: the connection is gone.
        """
        socket = self._socket
        if socket is None or self._closed:
            return "unroutable"
        try:
            try:
                socket.send(route, zmq.SNDMORE | zmq.DONTWAIT)
            except zmq.Again:
                # libzmq looks at its I/O thread's reports about once a millisecond; asking for EVENTS makes it now.
                socket.getsockopt(zmq.EVENTS)
                socket.send(route, zmq.SNDMORE | zmq.DONTWAIT)
            socket.send(frame, zmq.DONTWAIT)
        except zmq.Again:
            self._pump.kick()
            return "full"
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._pump.kick()
            return "unroutable"
        self._pump.kick()
        return "ok"

    # ------------------------------------------------------------ receiving

    def _drain(self) -> bool:
        assert self._socket is not None
        recv, routes = self._socket.recv, self._routes
        batch: Batch = []
        drained, size = False, 0
        try:
            for _ in range(MAX_BATCH):
                route = recv(zmq.DONTWAIT)
                frame = recv(zmq.DONTWAIT, copy=False)
                peer = routes.get(route)
                if peer is None:
                    peer = self._register(route, frame)
                body = frame.bytes
                size += len(body)
                frames = [body, *self._rest()] if frame.more else [body]
                if not peer.refused:
                    batch.append((route, frames, peer.user_id))
                if size > MAX_BATCH_BYTES:
                    break
        except zmq.Again:
            drained = True
        if batch:
            self._on_frames(batch)
        if self._dying and not self._closed:
            self._tell_dying(drained=drained)
        return not drained and not self._closed

    def _rest(self) -> list[bytes]:
        """The message's further frames: a few for the owner to refuse, the others only taken off the socket."""
        assert self._socket is not None
        frames: list[bytes] = []
        more = True
        while more:
            frame = self._socket.recv(zmq.DONTWAIT, copy=False)
            if len(frames) < MAX_FRAMES - 1:
                frames.append(frame.bytes)
            more = frame.more
        return frames

    def _register(self, route: bytes, frame: zmq.Frame) -> _Peer:
        self._note(self._monitor.take())
        try:
            fd = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            fd = -1  # inproc
        refused = fd >= 0 and not self._is_automatic(route)
        if refused:
            self.stats.count_refused("routing_id")
        peer = self._routes[route] = _Peer(fd, _property(frame, "User-Id"), refused)
        if fd >= 0:
            earlier = self._by_fd.get(fd)
            if earlier is not None and earlier != route:
                self._dying[earlier] = DYING_BATCHES
            self._by_fd[fd] = route
            if fd not in self._open:  # ended already
                self._by_fd.pop(fd)
                self._dying[route] = DYING_BATCHES
        return peer

    # ------------------------------------------------------------ ends of connections

    def _events(self, events: list[tuple[int, int]]) -> None:
        self._note(events)
        if self._dying:
            self._pump.kick()

    def _note(self, events: list[tuple[int, int]]) -> None:
        for event, value in events:
            if event == zmq.EVENT_ACCEPTED:
                self._open.add(value)
                self._accepted += 1
            elif event == zmq.EVENT_DISCONNECTED:
                self._open.discard(value)
                route = self._by_fd.pop(value, None)
                if route is not None:
                    self._dying[route] = DYING_BATCHES
            else:
                reason = HANDSHAKE_FAILURES[event]
                if reason == "auth" and self._own_probes:
                    self._own_probes -= 1
                else:
                    self.stats.count_refused(reason)

    def _tell_dying(self, *, drained: bool) -> None:
        for route in self._dying:
            self._dying[route] -= 1
        for route in [route for route, left in self._dying.items() if drained or left <= 0]:
            del self._dying[route]
            peer = self._routes.pop(route, None)
            if peer is not None and not peer.refused and not self._closed:
                self._on_disconnected(route)


def _ignore(_: object) -> None:
    """The self-test's probe gets no frames and no connection."""


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


def _reachable(address: str) -> str:
    """Where a wildcard bind of our own can be reached."""
    return address.replace("tcp://0.0.0.0:", "tcp://127.0.0.1:").replace("tcp://[::]:", "tcp://[::1]:")
