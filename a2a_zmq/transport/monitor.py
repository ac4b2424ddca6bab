"""Connection events of one socket, as libzmq's I/O thread reports them."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final

import zmq

from a2a_zmq.transport.pump import Pump

_EVENT: Final = struct.Struct("=Hi")

HANDSHAKE_FAILURES: Final = {
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "auth",  # the ZAP handler refused the key
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "protocol",  # no CURVE, or not with our key
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "handshake",  # silent, or gone before the end
}
HUB_EVENTS: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | sum(HANDSHAKE_FAILURES)
SPOKE_EVENTS: Final = (
    zmq.EVENT_CONNECT_RETRIED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | sum(HANDSHAKE_FAILURES)
)


class Monitor:
    """Receives a socket's events.

    Args:
        name: a fresh inproc address.
        events: mask of ``zmq.EVENT_*``.
        on_events: gets all that came in, as :meth:`take` returns it.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        socket: zmq.Socket[bytes],
        *,
        name: str,
        events: int,
        on_events: Callable[[list[tuple[int, int]]], None],
    ) -> None:
        self._watched = socket
        self._on_events = on_events
        socket.monitor(name, events)
        self._socket = context.socket(zmq.PAIR)
        try:
            self._socket.linger = 0
            # Without a bound: the I/O thread would block on a full pipe, and with it every connection. What piles up is
            # bounded by how fast connections can be made.
            self._socket.rcvhwm = 0
            self._socket.connect(name)
            self._pump = Pump(loop, self._socket, self._drain)
        except BaseException:
            self._socket.close(0)
            raise

    def take(self) -> list[tuple[int, int]]:
        """All events so far, as (event, value), oldest first; the value is a descriptor, an error or a status."""
        events = []
        recv = self._socket.recv
        try:
            while True:
                event = recv(zmq.DONTWAIT)
                recv(zmq.DONTWAIT)  # the endpoint
                events.append(_EVENT.unpack(event))
        except zmq.Again:
            return events

    def _drain(self) -> bool:
        events = self.take()
        if events:
            self._on_events(events)
        return False

    def close(self) -> None:
        """Call it before the watched socket is closed."""
        if not self._pump.closed:
            self._pump.close()
            self._watched.monitor(None, 0)
            self._socket.close(0)
