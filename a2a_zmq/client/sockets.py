"""What the client's connection needs of a transport: a socket, what the socket reports, and what makes both."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from a2a_zmq.protocol.ports import Port

Frames = list[tuple[bytes, list[bytes], str]]


class Socket(Protocol):
    """A transport socket, as the connection uses it."""

    def send(self, route: bytes, frame: bytes) -> str:
        """``ok``, ``full`` (try again) or ``unroutable``."""

    def reconnect(self) -> None:
        """Drop the connection and make another; the end of the former is not told."""

    def close(self) -> None: ...


class Link(NamedTuple):
    port: Port
    socket: Socket


class Callbacks(Protocol):
    """What a socket reports to."""

    def on_frames(self, batch: Frames) -> None: ...

    def on_connected(self) -> None: ...

    def on_disconnected(self, route: bytes = b"") -> None: ...

    def on_failed(self, reason: str) -> None: ...

    def on_writable(self) -> None: ...


class Opener(Protocol):
    """Makes links; called on the connection's loop."""

    def open(self, address: str, callbacks: Callbacks) -> Link: ...

    def close(self) -> None: ...
