"""Finds the one of several addresses at which a spoke's peer is at home: where standbys have its name, only one of its
processes takes anybody in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import zmq

from a2a_zmq.errors import ConfigError
from a2a_zmq.protocol.session import Phase
from a2a_zmq.protocol.spoke import Spoke

# How often we look whether there is a session; costs nothing that could be measured.
LOOK_S: Final = 0.1
# An address has so long to bring a session about (and a session that broke, to come back) …
TRY_S: Final = 1.0
# … and so long after it said no: nothing listens there, or who does stands by.
REFUSED_S: Final = 0.15


class Rotation:
    """Goes to the next address while there is no session; begins at the first."""

    def __init__(
        self,
        spoke: Spoke,
        addresses: Sequence[str],
        *,
        connect: Callable[[str], None],
        left: Callable[[], None],
        clock: Callable[[], float],
        log: Callable[[str], None],
    ) -> None:
        """
        Args:
            connect: has the spoke's socket talk to this address from now on.
            left: tells spoke and shell that the connection ended, before another address is tried.
            clock: monotonic seconds.
            log: told why an address cannot be used.
        """
        self._spoke = spoke
        self._addresses = addresses
        self._connect = connect
        self._left = left
        self._clock = clock
        self._log = log
        self._index = 0
        self._failed = False
        self._since = clock()

    @property
    def address(self) -> str:
        """Where we are, or try to be."""
        return self._addresses[self._index]

    def failed(self) -> None:
        """An attempt to connect failed."""
        self._failed = True

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        now = self._clock()
        if self._spoke.phase is Phase.ACTIVE:
            self._since, self._failed = now, False
        elif now - self._since >= (REFUSED_S if self._failed or self._spoke.refused == "standby" else TRY_S):
            self._next(now)

    def _next(self, now: float) -> None:
        if self._spoke.phase is not Phase.IDLE:
            self._left()
        self._index = (self._index + 1) % len(self._addresses)
        self._since, self._failed = now, False
        self._spoke.refused = ""
        try:
            self._connect(self.address)
        except ConfigError as error:  # a host name that is unknown, for the moment
            self._failed = True
            self._log(str(error))
        except (zmq.ZMQError, OSError) as error:  # no descriptors are left, which the next address would need as well
            self._log(f"{self.address}: {error}")
