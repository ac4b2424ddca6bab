"""One ZeroMQ socket on an asyncio event loop, drained in bulk.

A socket's descriptor does not say "readable"; it says "something happened inside since you last looked", once. A send
looks too, and may swallow what it said. So whoever sends calls :meth:`Pump.kick`, and the drain is run once more.
``zmq.asyncio`` is not used: it costs a future a message, six times what draining in bulk does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

# Upper bounds of one wake-up, so that timers and other sockets of the loop get their turn: about a millisecond of work.
MAX_BATCH = 512
MAX_BATCH_BYTES = 8 << 20


class Pump:
    """Calls ``drain`` whenever the socket may have something.

    Args:
        drain: takes what is there, within its bounds, and returns True if there may be more.
    """

    __slots__ = ("_drain", "_fd", "_loop", "_socket", "_soon", "closed")

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: zmq.Socket[bytes], drain: Callable[[], bool]) -> None:
        self._loop = loop
        self._socket = socket
        self._drain = drain
        self._soon: asyncio.Handle | None = None
        self._fd = int(socket.getsockopt(zmq.FD))
        self.closed = False
        loop.add_reader(self._fd, self._run)
        self.kick()  # what came before we listened

    def kick(self) -> None:
        """Look again soon; any number of calls before it make one look."""
        if self._soon is None and not self.closed:
            self._soon = self._loop.call_soon(self._run_soon)

    def _run_soon(self) -> None:
        self._soon = None
        self._run()

    def _run(self) -> None:
        if self.closed:
            return
        more = True
        try:
            more = self._drain()
        except zmq.ContextTerminated:
            self.close()
            raise
        finally:
            # Also after an error in a callback: the descriptor will not tell us of what is still there.
            if more:
                self.kick()

    def close(self) -> None:
        """Stop looking; call it before the socket is closed. Idempotent."""
        if not self.closed:
            self.closed = True
            self._loop.remove_reader(self._fd)
            if self._soon is not None:
                self._soon.cancel()
                self._soon = None
