"""A thread that runs an event loop with one connection, for callers on other threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from a2a_zmq.client.connection import Connection
from a2a_zmq.client.streams import Stream
from a2a_zmq.errors import FleetUnavailable

# How long stopping waits for the thread: the good-bye and closing the socket take a few milliseconds.
STOP_TIMEOUT_S = 5.0


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop where that is installed; it halves the loop's own cost."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class LoopThread:
    """Starts the thread; returns when the connection is made (not when it has a session).

    Work crosses the boundary in batches: what is posted while the thread is awake is taken with one wake-up.

    Args:
        make: builds the connection, on the thread.

    Raises:
        whatever ``make`` raises.
    """

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._pid = os.getpid()
        self._inbox: deque[Callable[[], None]] = deque()
        self._signalled = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._started = threading.Event()
        self._loop = new_event_loop()
        self._stop_wanted: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="a2a-fleet-client", daemon=True)
        self.connection: Connection
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join(STOP_TIMEOUT_S)
            raise self._failure

    def check(self) -> None:
        """Raise unless the thread is there to serve the caller.

        Raises:
            FleetUnavailable: closed, failed, or made in the parent before a fork.
        """
        if os.getpid() != self._pid:
            raise FleetUnavailable("this client was made before a fork; make a new one in the child process")
        if self._stopping:
            raise FleetUnavailable("the client is closed")
        if self._failure is not None:
            raise FleetUnavailable(f"the client's thread failed: {self._failure!r}") from self._failure

    def post(self, work: Callable[[], None]) -> None:
        """Run on the loop's thread, soon, in the order of posting."""
        self.check()
        self._inbox.append(work)
        if not self._signalled:
            self._signalled = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop was closed since we looked
                self.check()
                raise

    def forget(self, sink: object) -> None:
        """Nobody reads this sink any more; does nothing where the thread is gone."""
        with contextlib.suppress(FleetUnavailable):
            self.post(lambda: self.connection.core.forget(sink))

    def close_stream(self, stream: Stream) -> None:
        """The same for a task's stream."""
        with contextlib.suppress(FleetUnavailable):
            self.post(lambda: self.connection.close_stream(stream))

    def _drain(self) -> None:
        # Lowered before the inbox is emptied: what is posted from here on wakes us again, or is taken now.
        self._signalled = False
        inbox = self._inbox
        while inbox:
            inbox.popleft()()

    def stop(self) -> None:
        """Close the connection and end the thread. Safe to call twice, and in a forked child (does nothing there)."""
        if self._stopping or os.getpid() != self._pid:
            return
        self._stopping = True
        if self._stop_wanted is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop_wanted.set)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT_S)

    # ------------------------------------------------------------ on the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._failed)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # reported to whoever uses the client
            self._failure = self._failure or error
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        self._stop_wanted = asyncio.Event()
        self.connection = self._make()
        self._started.set()
        try:
            await self._stop_wanted.wait()
            self._drain()
        finally:
            await self.connection.close()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: that is a bug, and nobody shall wait for ever because of it.

        What is told without an exception (a reconnect that failed and will be repeated) ends nothing.
        """
        error = context.get("exception")
        if not isinstance(error, BaseException):
            loop.default_exception_handler(context)
            return
        self._failure = error
        if self._stop_wanted is not None:
            self._stop_wanted.set()
