"""Gives memory that a burst left free in the C library's heap back to the system.

glibc gives back what is free at the heap's end; what lies between blocks in use it keeps. After some 50,000 tasks that
waited at once this was a third of a distributor's memory. ``malloc_trim`` gives it back: some milliseconds, and the
kernel's work for each page that is needed again. So it is called rarely, and never while there is much to do.

Fixing glibc's threshold for blocks with a mapping of their own is no way out: messages and transactions would fall
under it, and a fresh mapping costs half a millisecond a megabyte.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daemons import logs

# Given back is what came in since the least that was seen, if it is more than this, and than this share.
GROWN_BYTES: Final = 8 << 20
GROWN_SHARE: Final = 0.1
# What still grows this much from one look to the next is in use.
GROWING_BYTES: Final = 1 << 20
# Between two times. What load needs again and again comes back at once, at a cost of about 20 ms: a thousandth.
PAUSE_S: Final = 30.0
# Of a core, since the last look: above, there is no time for it.
BUSY_SHARE: Final = 0.5


def resident_bytes() -> int:
    """Memory of this process, with the pages that it shares; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trim_function() -> Callable[[], object] | None:
    """The C library's ``malloc_trim``; None where there is none."""
    try:
        trim = ctypes.CDLL(None).malloc_trim if sys.platform == "linux" else None
    except (OSError, AttributeError):
        return None
    return None if trim is None else lambda: trim(ctypes.c_size_t(0))


class HeapTrimmer:
    """Looks once a supervision interval whether there is something to give back, and time for it."""

    def __init__(
        self,
        trim: Callable[[], object],
        *,
        resident: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        """
        Args:
            trim: gives back what is free.
            resident: memory that this process has now, in bytes.
            clock: monotonic seconds.
            cpu_s: processor seconds of this process so far.
        """
        self._trim = trim
        self._resident = resident
        self._clock = clock
        self._cpu_s = cpu_s
        self._log = logs.get_logger("heap")
        self._least = self._last = resident()
        self._not_before = -float("inf")
        self._looked = (clock(), cpu_s())

    def look(self) -> None:
        busy = self._busy()
        resident = self._resident()
        growing = resident - self._last > GROWING_BYTES
        self._last = resident
        self._least = min(self._least, resident)
        if busy or growing or resident - self._least < max(GROWN_BYTES, self._least * GROWN_SHARE):
            return
        began = self._clock()
        if began < self._not_before:
            return
        self._trim()
        self._not_before = self._clock() + PAUSE_S
        self._least = self._last = self._resident()
        took_ms = (self._clock() - began) * 1000
        self._log.debug("memory_given_back", mb=(resident - self._last) >> 20, took_ms=round(took_ms, 1))

    def _busy(self) -> bool:
        now, cpu_s = self._clock(), self._cpu_s()
        (then, cpu_then), self._looked = self._looked, (now, cpu_s)
        return cpu_s - cpu_then > BUSY_SHARE * (now - then)
