"""The thread of a process pool: waits for descriptors, timers and what other threads post."""

from __future__ import annotations

import os
import selectors
import threading
from collections import deque
from collections.abc import Callable


class PoolThread:
    """Starts with the first post and ends with :meth:`close`.

    Attributes:
        selector: what the thread waits for; each key's data is called with the events.
    """

    def __init__(
        self,
        next_timer: Callable[[], float | None],
        turn: Callable[[], None],
        broken: Callable[[Exception], None],
        ended: Callable[[], None],
    ) -> None:
        """
        Args:
            next_timer: seconds until a turn is due without any input, None for never.
            turn: called after every wait.
            broken: something raised; the thread ends, and the next post starts another one.
            ended: called last.
        """
        self.selector = selectors.DefaultSelector()
        self._next_timer = next_timer
        self._turn = turn
        self._broken = broken
        self._ended = ended
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake_fd = -1
        self._woken = False
        self._closing = False
        self._thread: threading.Thread | None = None

    def post(self, action: Callable[[], None]) -> None:
        """Have it called by the thread; from any thread."""
        self._inbox.append(action)
        if self._thread is None:
            self._woken = False
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.selector.register(self._wake_fd, selectors.EVENT_READ, self._awake)
            self._thread = threading.Thread(target=self._loop, name="a2a-processes", daemon=True)
            self._thread.start()
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """End the thread, if there is one, and wait for that."""
        thread = self._thread
        if thread is not None:
            self._closing = True
            self.post(lambda: None)
            thread.join()
            self._closing = False

    def _loop(self) -> None:
        try:
            while not self._closing:
                for key, mask in self.selector.select(self._next_timer()):
                    key.data(mask)
                while self._inbox:
                    self._inbox.popleft()()
                self._turn()
        except Exception as error:
            self._broken(error)
        finally:
            self._ended()
            self.selector.unregister(self._wake_fd)
            os.close(self._wake_fd)
            self._thread = None

    def _awake(self, mask: int) -> None:
        os.eventfd_read(self._wake_fd)  # first: else a post in between raises the flag, and its signal is read away
        self._woken = False
