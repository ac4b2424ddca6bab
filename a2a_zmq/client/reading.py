"""Handing a stream's events to who reads them, for both clients."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

from a2a_zmq.client.base import REACH_CHECK_S, end_of
from a2a_zmq.client.connection import Connection
from a2a_zmq.client.streams import Stream
from a2a_zmq.client.thread import LoopThread
from a2a_zmq.errors import TaskTimeout
from a2a_zmq.streams import EventId, StreamEvent


class Patience:
    """How long somebody reads on."""

    def __init__(self, task_id: str, timeout: float | None) -> None:
        self._task_id = task_id
        self._timeout = timeout
        self._until = end_of(timeout)

    def left(self) -> float:
        """Seconds until something is to be looked at.

        Raises:
            TaskTimeout: it is over.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise TaskTimeout(self._task_id, self._timeout or 0.0)
        return min(left, REACH_CHECK_S)


async def read(
    connect: Callable[[], Connection],
    task_id: str,
    after: EventId,
    timeout: float | None,
    check_reach: Callable[[], None],
) -> AsyncIterator[StreamEvent]:
    """On the connection's own loop.

    Args:
        check_reach: raises if it makes no sense to go on waiting.
    """
    changed = asyncio.Event()
    patience = Patience(task_id, timeout)
    stream = Stream(task_id, after, changed.set)
    connection = connect()
    connection.stream(stream)
    try:
        while True:
            changed.clear()
            over = stream.over  # (looked at first: what comes with it is here by now)
            while stream.arrived:
                events, size = stream.arrived.popleft()
                for event in events:
                    yield event
                connection.took(stream, size)
            if over:
                break
            try:
                await asyncio.wait_for(changed.wait(), patience.left())
            except TimeoutError:
                check_reach()
        if stream.error is not None:
            raise stream.error.with_traceback(None)
    finally:
        connection.close_stream(stream)


def read_blocking(
    thread: LoopThread, task_id: str, after: EventId, timeout: float | None, check_reach: Callable[[], None]
) -> Iterator[StreamEvent]:
    """On another thread than the connection's."""
    changed = threading.Event()
    patience = Patience(task_id, timeout)
    stream = Stream(task_id, after, changed.set)
    thread.post(lambda: thread.connection.stream(stream))
    try:
        while True:
            changed.clear()
            over = stream.over
            while stream.arrived:
                events, size = stream.arrived.popleft()
                yield from events
                thread.post(partial(thread.connection.took, stream, size))
            if over:
                break
            if not changed.wait(patience.left()):
                thread.check()
                check_reach()
        if stream.error is not None:
            raise stream.error.with_traceback(None)
    finally:
        thread.close_stream(stream)
