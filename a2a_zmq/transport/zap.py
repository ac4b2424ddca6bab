"""The ZAP handler: decides for every CURVE handshake whether the key may connect, and under which name.

libzmq asks ``inproc://zeromq.zap.01``, once a connection. A context has one handler; sockets register their domain.
Without a handler libzmq would accept *any* key: :class:`~a2a_zmq.transport.router.RouterSocket` therefore enforces its
domain and tests itself with an unknown key. A decision is not revised: a key that is revoked later is stopped by the
owner, frame by frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils import z85

from a2a_zmq.errors import ConfigError
from a2a_zmq.transport.pump import Pump

ENDPOINT: Final = "inproc://zeromq.zap.01"
VERSION: Final = b"1.0"

# (domain, Z85 public key) → User-Id, or None to refuse.
Allow = Callable[[str, bytes], str | None]


class ZapHandler:
    """Answers the requests of one context, from the event loop."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], loop: asyncio.AbstractEventLoop) -> None:
        """
        Raises:
            ConfigError: the context has another handler.
        """
        self._loop = loop
        self._domains: dict[str, Allow] = {}
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        try:
            self._socket.bind(ENDPOINT)
        except zmq.ZMQError:
            self._socket.close()
            raise ConfigError("this ZeroMQ context has another ZAP handler") from None
        self._pump = Pump(loop, self._socket, self._drain)

    def register(self, domain: str, allow: Allow) -> None:
        """Decide for this domain, by its exact name.

        Raises:
            ConfigError: the domain is taken: two sockets of a context would accept each other's peers.
        """
        if not domain or domain in self._domains:
            raise ConfigError(f"ZAP domain {domain!r} is empty or in use")
        self._domains[domain] = allow

    def unregister(self, domain: str) -> None:
        self._domains.pop(domain, None)

    def _drain(self) -> bool:
        for _ in range(64):  # a decision takes microseconds
            try:
                request = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return False
            self._socket.send_multipart(self._answer(request), zmq.DONTWAIT)
        return True

    def _answer(self, request: list[bytes]) -> list[bytes]:
        if len(request) < 6 or request[0] != VERSION:
            return [VERSION, request[1] if len(request) > 1 else b"", b"500", b"bad request", b"", b""]
        request_id, domain, mechanism, credentials = request[1], request[2], request[5], request[6:]
        user_id: str | None = None
        if mechanism == b"CURVE" and len(credentials) == 1 and len(credentials[0]) == 32:
            allow = self._domains.get(domain.decode("utf-8", "replace"))
            if allow is not None:
                user_id = self._ask(allow, domain, credentials[0])
        if user_id is None:
            return [VERSION, request_id, b"400", b"unknown key", b"", b""]
        return [VERSION, request_id, b"200", b"OK", user_id.encode(), b""]

    def _ask(self, allow: Allow, domain: bytes, key: bytes) -> str | None:
        try:
            return allow(domain.decode(), z85.encode(key))
        except Exception as error:  # an error in the decision refuses the key and must not leave libzmq waiting
            self._loop.call_exception_handler({"message": "ZAP decision failed", "exception": error})
            return None

    def close(self) -> None:
        self._pump.close()
        self._socket.close(0)
