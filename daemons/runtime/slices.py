"""Asks the kernel for short time slices: a daemon computes for a fraction of a millisecond and waits again.

Linux gives the processor first to the thread whose slice ends first by its reckoning, and from 6.12 on a thread may say
how long a slice it needs. With a short one it is run as soon as it wakes, also where processes that compute (a worker's
children, a killed process whose memory is given back, an import) hold all processors; its share of the processor stays
the same. Nothing else gives that to a process without privileges. Older kernels take the wish and do not heed it.

Threads and child processes inherit the wish. Where one is there to compute, it takes that back; threads of handlers
keep it, for they take turns with the daemon's own (Python's interpreter lock).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Any, Final

SHORT_NS: Final = 100_000  # the shortest that the kernel grants
_USUAL: Final = 0

_SCHED_OTHER, _SCHED_BATCH, _RESET_ON_FORK = 0, 3, 1
_SYS_SET, _SYS_GET = {"x86_64": (314, 315), "aarch64": (274, 275)}.get(platform.machine(), (0, 0))
# struct sched_attr (sched_setattr(2)): size, policy, flags, nice, priority, runtime, deadline, period.
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")


def short_slices(*, inherited: bool = True) -> str:
    """Returns why that cannot be, else "".

    Args:
        inherited: for this thread and all that it starts; else what it starts has the usual slices.
    """
    return _ask(SHORT_NS, 0 if inherited else _RESET_ON_FORK)


def usual_slices() -> None:
    """Take that back, for this thread and what it starts."""
    with contextlib.suppress(OSError):
        if slice_ns() == SHORT_NS:
            _ask(_USUAL)


def slice_ns(thread: int = 0) -> int:
    """What a thread (this one by default) has asked for or is given; 0 where the kernel does not say.

    Raises:
        OSError: it cannot be asked, or there is no such thread.
    """
    nanoseconds: int = _attributes(thread)[5]
    return nanoseconds


def _ask(nanoseconds: int, more: int = 0) -> str:
    try:
        size, policy, flags, nice, priority, *_ = _attributes(0)
        if policy not in (_SCHED_OTHER, _SCHED_BATCH):
            return f"scheduling policy {policy}"  # chosen by somebody, and what it says of time is something else
        wanted = _ATTRIBUTES.pack(size, policy, flags | more, nice, priority, nanoseconds, 0, 0)
        _call(_SYS_SET, 0, ctypes.c_char_p(wanted), ctypes.c_uint(0))
    except OSError as error:
        return str(error)
    return ""


def _attributes(thread: int) -> tuple[Any, ...]:
    buffer = ctypes.create_string_buffer(_ATTRIBUTES.size)
    _call(_SYS_GET, thread, buffer, ctypes.c_uint(_ATTRIBUTES.size), ctypes.c_uint(0))
    return _ATTRIBUTES.unpack(buffer.raw)


def _call(number: int, thread: int, *arguments: Any) -> None:
    if sys.platform != "linux" or not number:
        raise OSError(errno.ENOSYS, f"not for {sys.platform} on {platform.machine()}")
    if ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), ctypes.c_int(thread), *arguments):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
