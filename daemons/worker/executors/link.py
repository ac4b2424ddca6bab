"""A child process's socket to its worker. Imported by child processes: nothing heavy at module level."""

from __future__ import annotations

import _thread
import errno
import os
import select

from daemons.worker.executors.frames import Unpacker, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

READ_BYTES = 256 * 1024
# A log line waits no longer for another frame than this: that one may be half written by the very same thread, which
# a finalizer or a signal handler that logs has interrupted.
LOG_WAIT_S = 0.1


def identity(fd: int) -> tuple[int, int]:
    """Which file this is.

    Raises:
        OSError: it is closed.
    """
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class Link:
    """Two threads read: one that waits for frames, and the main one, before it begins a run. Any thread writes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = identity(fd)
        self._unpacker = Unpacker()
        self._reading = _thread.allocate_lock()
        self._writing = _thread.allocate_lock()
        self._comes, self._has_come = select.poll(), select.poll()  # (each is for one thread at a time)
        self._comes.register(fd, select.POLLIN)
        self._has_come.register(fd, select.POLLIN)

    def wait(self) -> None:
        """Until something has come, or the worker is gone. For one thread at a time."""
        self._comes.poll()

    def take(self, taken: Callable[[list[Any], bytes], None]) -> bool:
        """Give out all that has come, in its order; False at the end of the stream.

        What the worker sent before this call is given out when it returns, whichever thread has read it.

        Raises:
            OSError: the worker is gone, or a handler has closed what was not its own.
            BadFrame: this is no stream of frames.
        """
        with self._reading:
            while self._has_come.poll(0):
                self._check()
                data = os.read(self._fd, READ_BYTES)
                if not data:
                    return False
                for head, body in self._unpacker.feed(data):
                    taken(head, body)
        return True

    def send(self, head: list[Any], body: bytes = b"") -> None:
        """Write a frame.

        Raises:
            OSError: the worker is gone, or a handler has closed what was not its own.
        """
        frame = pack(head, body)
        with self._writing:
            self._write(frame)

    def send_log(self, head: list[Any]) -> bool:
        """Write a frame that may be left out; False if it was.

        Raises:
            OSError: as above.
        """
        frame = pack(head)
        if not self._writing.acquire(timeout=LOG_WAIT_S):
            return False
        try:
            self._write(frame)
        finally:
            self._writing.release()
        return True

    def _write(self, frame: bytes) -> None:
        self._check()
        view = memoryview(frame)
        while view:
            view = view[os.write(self._fd, view) :]

    def _check(self) -> None:
        """The number may have come to be a file of a handler that closed ours."""
        if identity(self._fd) != self._identity:
            raise OSError(errno.EBADF, "its socket was closed, and its number is another file's")
