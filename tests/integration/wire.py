"""Somebody on the way: a TCP relay that reads ZMTP frames and may change, repeat, drop or keep them."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from typing import Self

GREETING_BYTES = 64
_LONG, _COMMAND = 2, 4

# Gets the body of each message frame; returns the frames that go on instead.
Tap = Callable[[bytes], list[bytes]]


def pass_on(body: bytes) -> list[bytes]:
    return [body]


class _Stream:
    """One direction of a connection, cut into ZMTP frames."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, tap: Callable[[bytes], list[bytes]], *, plain: bool
    ) -> None:
        self.source = source
        self.sink = sink
        self._tap = tap
        self._buffer = b""
        self._greeting = sys.maxsize if plain else GREETING_BYTES

    def feed(self, data: bytes) -> bytes:
        """What goes on."""
        # The greeting goes on as it comes: each side waits for a part of the other's.
        out, data = data[: self._greeting], data[self._greeting :]
        self._greeting -= len(out)
        self._buffer += data
        while (frame := self._frame()) is not None:
            flags, raw, body = frame
            if flags & _COMMAND:
                out += raw
                continue
            for changed in self._tap(body):
                out += encode(flags & 1, changed)
        return out

    def _frame(self) -> tuple[int, bytes, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        head = 9 if buffer[0] & _LONG else 2
        if len(buffer) < head:
            return None
        size = int.from_bytes(buffer[1:head], "big")
        if len(buffer) < head + size:
            return None
        self._buffer = buffer[head + size :]
        return buffer[0], buffer[: head + size], buffer[head : head + size]


def encode(flags: int, body: bytes) -> bytes:
    """A ZMTP frame."""
    if len(body) > 255:
        return bytes((flags | _LONG,)) + len(body).to_bytes(8, "big") + body
    return bytes((flags, len(body))) + body


class Relay:
    """Listens on a free port of 127.0.0.1 and connects every client to the target; one thread.

    Attributes:
        tap: sees (and may change) the message frames from clients to the target.
        back: the same for the other direction.
        opened: connections so far.

    Args:
        plain: bytes of another protocol than ZeroMQ's go on as they come.
    """

    def __init__(self, target: str, *, plain: bool = False) -> None:
        host, port = target.removeprefix("tcp://").rsplit(":", 1)
        self._target = (host, int(port))
        self._plain = plain
        self.tap: Tap = pass_on
        self.back: Tap = pass_on
        self.opened = 0
        self._selector = selectors.DefaultSelector()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._wake, self._woken = socket.socketpair()
        self._cut = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._closing = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self._server.getsockname()[1]}"

    def cut(self) -> None:
        """Break all connections that there are; new ones are served."""
        self._cut.set()
        self._wake.send(b".")

    def pause(self) -> None:
        """Let nothing through, in either direction, and accept nobody; connections stay open (a broken network)."""
        self._flowing.clear()
        self._wake.send(b".")

    def resume(self) -> None:
        """Let everything through that has piled up."""
        self._flowing.set()

    def close(self) -> None:
        self._closing = True
        self._flowing.set()
        self._wake.send(b".")
        self._thread.join(5)
        for one in (self._server, self._wake, self._woken):
            one.close()
        self._selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                self._flowing.wait()
                if key.fileobj is self._server:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(64)
                else:
                    self._move(key.data)
            if self._cut.is_set():
                self._cut.clear()
                self._end_all()
        self._end_all()

    def _accept(self) -> None:
        client, _ = self._server.accept()
        try:
            target = socket.create_connection(self._target, 2)
        except OSError:
            client.close()
            return
        self.opened += 1
        target.settimeout(None)
        self._pairs.append((client, target))
        there = _Stream(client, target, self._there, plain=self._plain)
        back = _Stream(target, client, self._back, plain=self._plain)
        self._selector.register(client, selectors.EVENT_READ, there)
        self._selector.register(target, selectors.EVENT_READ, back)

    def _there(self, body: bytes) -> list[bytes]:
        return self.tap(body)  # which may be replaced at any time

    def _back(self, body: bytes) -> list[bytes]:
        return self.back(body)

    def _move(self, stream: _Stream) -> None:
        try:
            data = stream.source.recv(65536)
            if data:
                stream.sink.sendall(stream.feed(data))
        except OSError:
            data = b""
        if not data:
            self._end([pair for pair in self._pairs if stream.source in pair])

    def _end_all(self) -> None:
        self._end(list(self._pairs))

    def _end(self, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
        for pair in pairs:
            self._pairs.remove(pair)
            for one in pair:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(one)
                one.close()
