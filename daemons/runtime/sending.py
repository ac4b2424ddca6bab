"""Hands frames to the sockets, in order, whatever a socket answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

# A frame that the socket would not take (high-water mark) is tried again this soon, before later frames of its route.
FULL_RETRY_S = 0.005


class Socket(Protocol):
    """A transport socket, as the shell uses it."""

    def send(self, route: bytes, frame: bytes) -> str:
        """``ok``, ``full`` (nothing was sent) or ``unroutable`` (the route's connection is gone)."""

    def close(self) -> None: ...


class Sender:
    """A session's numbers have no gaps, so a frame that its route has no room for keeps all later ones of it waiting.

    What may wait is bounded by the window and the few unreliable messages of each link.
    """

    def __init__(self, undeliverable: Callable[[int, bytes, bytes, str], None]) -> None:
        """
        Args:
            undeliverable: told of each frame (port, route, frame, reason) that found its route ``full`` for the first
                time, or ``unroutable``.
        """
        self.sockets: list[Socket] = []
        self._undeliverable = undeliverable
        self._waiting: dict[tuple[int, bytes], deque[bytes]] = {}

    @property
    def waiting(self) -> bool:
        """True if there are frames to try again."""
        return bool(self._waiting)

    def send(self, port: int, route: bytes, frame: bytes) -> None:
        waiting = self._waiting.get((port, route))
        if waiting is not None:
            waiting.append(frame)
            return
        outcome = self.sockets[port].send(route, frame)
        if outcome == "ok":
            return
        if outcome == "full":
            self._waiting[(port, route)] = deque((frame,))
        self._undeliverable(port, route, frame, outcome)

    def retry(self) -> None:
        """Try what waits, as far as each route has room."""
        for key in list(self._waiting):
            port, route = key
            waiting = self._waiting[key]
            while waiting:
                outcome = self.sockets[port].send(route, waiting[0])
                if outcome == "full":
                    break
                frame = waiting.popleft()
                if outcome != "ok":
                    waiting.clear()
                    self._undeliverable(port, route, frame, outcome)
            if not waiting:
                del self._waiting[key]

    def forget(self, port: int, route: bytes) -> None:
        """The route's connection ended: what waited for it belongs to a session that is over."""
        self._waiting.pop((port, route), None)

    def close(self) -> None:
        """Close the sockets."""
        for socket in self.sockets:
            socket.close()
