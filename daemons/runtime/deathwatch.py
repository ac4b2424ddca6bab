"""Knows within a fraction of a millisecond that a process of this host was killed.

The kernel gives the memory of a process that ends back first (7 to 40 ms for a daemon), and only then closes its
sockets and tells of its end. Before all that it looks after the *robust futexes* that the process holds: it marks them
(``FUTEX_OWNER_DIED``) and wakes one who waits. So every daemon holds one, its *life mark*, in a page of memory behind
a descriptor whose number its hubs are told; they map the page read-only and wait.

Nobody has to trust a mark. It is looked at through the descriptor, so that a file that is cut or swapped hurts nobody,
and "owner died" counts only if the kernel says as well that this very process is ending. Whatever is not as expected
ends the watch, and the death is noticed by the end of the connection, as on other systems.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from a2a_zmq.protocol.ports import WatchWanted
from daemons.runtime.procs import is_ending, is_gone

WAITERS: Final = 0x8000_0000
OWNER_DIED: Final = 0x4000_0000

MAX_WATCHES: Final = 64
# So often a watch looks whether it is still wanted.
LOOK_S: Final = 2.0
# What a process sent just before it died is on its way to our sockets yet, and counts.
SETTLE_S: Final = 0.0005
# The kernel wakes us once. Who is woken more often for nothing is being played with.
MAX_WAKES: Final = 16

_FUTEX_WAIT, _FUTEX_WAKE, _EVERYBODY = 0, 1, 0x7FFF_FFFF
_SYS_FUTEX: Final = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), 0)
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_SHARED = _ROBUST = 1

_own_fd = 0  # of the life mark; the mark itself stays mapped for as long as the process lives


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _c_library() -> ctypes.CDLL | None:
    """The C library; None on systems where futexes are not known to be as described above."""
    if sys.platform != "linux" or not _SYS_FUTEX or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.syscall.restype = ctypes.c_long
    return library


def _map(library: ctypes.CDLL, fd: int, access: int) -> int:
    """Address of the first page. By hand, since a mapping of Python's cannot be had read-only with its address."""
    address: int | None = library.mmap(None, mmap.PAGESIZE, access, mmap.MAP_SHARED, fd, 0)
    if address is None or address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "mmap")
    return address


# ---------------------------------------------------------------- the watched


def own_life_fd() -> int:
    """Descriptor of this process's life mark, 0 if it has none."""
    return _own_fd


def hold_life_mark() -> str:
    """Make this process's life mark and hold it until the process ends. Returns why that cannot be, else ""."""
    global _own_fd  # noqa: PLW0603  # there is one mark a process, and no way to lay it down
    if _own_fd:
        return ""
    if threading.get_native_id() != os.getpid():
        return "not the main thread: another one may end before the process does"
    fd = -1
    try:
        library = _c_library()
        if library is None:
            return f"not for {sys.platform} on {platform.machine()}"
        fd = os.memfd_create("a2a-life", os.MFD_CLOEXEC)
        os.ftruncate(fd, mmap.PAGESIZE)
        _lock(library, _map(library, fd, mmap.PROT_READ | mmap.PROT_WRITE))
    except (OSError, AttributeError) as error:
        if fd >= 0:
            os.close(fd)
        return f"{type(error).__name__}: {error}"
    _own_fd = fd
    return ""


def _lock(library: ctypes.CDLL, address: int) -> None:
    """Take a robust lock there that somebody seems to wait for, so that the kernel wakes who does without writing.

    Raises:
        OSError: the C library's locks are not as expected.
    """
    attributes = ctypes.create_string_buffer(64)
    place = ctypes.c_void_p(address)
    for failed in (
        library.pthread_mutexattr_init(attributes),
        library.pthread_mutexattr_setpshared(attributes, _SHARED),
        library.pthread_mutexattr_setrobust(attributes, _ROBUST),
        library.pthread_mutex_init(place, attributes),
        library.pthread_mutex_lock(place),
    ):
        if failed:
            raise OSError(failed, "robust lock")
    word = ctypes.c_uint32.from_address(address)
    if word.value != os.getpid():
        raise OSError(errno.ENOSYS, "the lock's first word is not its futex")
    word.value |= WAITERS


# ---------------------------------------------------------------- the watcher


class _Watch(threading.Thread):
    """Waits for the death of one process, in a thread that holds no lock of the interpreter meanwhile."""

    def __init__(self, wanted: WatchWanted, died: Callable[[_Watch], None], ended: Callable[[], None]) -> None:
        super().__init__(name=f"watch-{wanted.agent_id}", daemon=True)
        self.wanted = wanted
        self.stopped = False
        self._died = died
        self._ended = ended

    def run(self) -> None:
        wanted = self.wanted
        try:
            with contextlib.suppress(OSError):
                if self._saw_death() and is_ending(wanted.pid, wanted.start_time) and not self.stopped:
                    time.sleep(SETTLE_S)
                    self._died(self)
        finally:
            self._ended()

    def _saw_death(self) -> bool:
        library = _c_library()
        if library is None:
            return False
        fd = _open_mark(self.wanted)
        try:
            address = _map(library, fd, mmap.PROT_READ)
            try:
                return self._wait(library, fd, address)
            finally:
                library.munmap(address, mmap.PAGESIZE)
        finally:
            os.close(fd)

    def _wait(self, library: ctypes.CDLL, fd: int, address: int) -> bool:
        alive = WAITERS | self.wanted.pid
        place, timeout = ctypes.c_void_p(address), ctypes.byref(_Timespec(*divmod(int(LOOK_S * 1e9), 10**9)))

        def futex(operation: int, value: int) -> int:
            number, code, nothing = ctypes.c_long(_SYS_FUTEX), ctypes.c_long(operation), ctypes.c_void_p(0)
            wait: object = timeout if operation == _FUTEX_WAIT else nothing
            done = library.syscall(number, place, code, ctypes.c_long(value), wait, nothing, ctypes.c_long(0))
            return ctypes.get_errno() if done < 0 else 0

        wakes = 0
        while not self.stopped and wakes < MAX_WAKES:
            value = int.from_bytes(os.pread(fd, 4, 0), sys.byteorder)
            if value != alive:
                if value != WAITERS | OWNER_DIED:
                    return False
                futex(_FUTEX_WAKE, _EVERYBODY)  # the kernel wakes one; others may watch this process, too
                return True
            outcome = futex(_FUTEX_WAIT, alive)
            if outcome not in (0, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT):
                return False
            wakes += outcome in (0, errno.EAGAIN)
        return False


def _open_mark(wanted: WatchWanted) -> int:
    """Open the life mark of a process.

    Raises:
        OSError: what is there is not the mark of that process, or not ours to read.
    """
    # Opened as a mere name first: opening for reading what is no plain memory (a device, a pipe) may have effects.
    name = os.open(f"/proc/{wanted.pid}/fd/{wanted.life_fd}", os.O_PATH | os.O_CLOEXEC)
    try:
        if not str(Path(f"/proc/self/fd/{name}").readlink()).startswith("/memfd:"):
            raise OSError(errno.EINVAL, "not a life mark")
        fd = os.open(f"/proc/self/fd/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(name)
    # It runs now, with this start time, so it was this process whose descriptor was opened.
    if os.fstat(fd).st_size < mmap.PAGESIZE or is_gone(wanted.pid, wanted.start_time):
        os.close(fd)
        raise OSError(errno.EINVAL, "not the life mark of that process")
    return fd


class DeathWatch:
    """The processes that a daemon watches; all methods are for the thread of its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, died: Callable[[int, WatchWanted], None]) -> None:
        """
        Args:
            died: called on the loop with the port and what was wanted, once it is proved that the process is ending.
        """
        self._loop = loop
        self._told = died
        self._watches: dict[tuple[int, str], _Watch] = {}
        self._room = threading.BoundedSemaphore(MAX_WATCHES)  # a watch that was stopped takes its room until it ends

    def want(self, port: int, wanted: WatchWanted) -> None:
        """Watch this process of the agent and no other; with pid 0 none."""
        key = (port, wanted.agent_id)
        watch = self._watches.get(key)
        if watch is not None:
            if watch.wanted == wanted and watch.is_alive():
                return
            watch.stopped = True
            del self._watches[key]
        if wanted.pid <= 1 or not wanted.start_time or not self._room.acquire(blocking=False):
            return
        watch = _Watch(wanted, lambda watch: self._proved(key, watch), self._room.release)
        try:
            watch.start()
        except RuntimeError:  # no more threads
            self._room.release()
        else:
            self._watches[key] = watch

    def _proved(self, key: tuple[int, str], watch: _Watch) -> None:
        """(On the watch's thread.)"""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._tell, key, watch)

    def _tell(self, key: tuple[int, str], watch: _Watch) -> None:
        if self._watches.get(key) is watch:
            del self._watches[key]
            self._told(key[0], watch.wanted)

    def close(self) -> None:
        """Stop all watches; nothing is told any more."""
        for watch in self._watches.values():
            watch.stopped = True
        self._watches.clear()
