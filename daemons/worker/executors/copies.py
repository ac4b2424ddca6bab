"""Copies of a child process that a handler makes with ``os.fork()``. Imported by child processes.

A copy has everything that its parent has, the socket to the worker too: one that came back from the handler would
report the run while its parent is still at it, and wait for the next one. So it ends where it comes back, as a program
does at its end.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
from contextlib import suppress

from daemons.worker.executors.surroundings import flush, print_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import NoReturn


class CopiesEnd:
    """``with CopiesEnd():`` around code of the user's: the process that entered it leaves it, copies end instead."""

    __slots__ = ("_pid",)

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:
            _leave(error)


def _leave(error: BaseException | None) -> NoReturn:
    code = 0 if error is None else 1
    with suppress(BaseException):
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            code = int(error.code or 0) & 0xFF
        elif isinstance(error, SystemExit):
            print(error.code, file=sys.stderr)
        elif error is not None:
            print_error(error)
        flush()
    os._exit(code)


def without_handler(number: int, handler: Callable[[int, object], None]) -> None:
    """From now on copies take this signal as any process does: ``multiprocessing`` ends them by it.

    It waits while a copy is made, or one that comes too early would be lost.
    """
    masks: dict[int, set[int]] = {}

    def before() -> None:
        masks[_thread.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, {number})

    def after() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(_thread.get_ident()))

    def after_in_copy() -> None:
        if signal.getsignal(number) == handler:
            signal.signal(number, signal.SIG_DFL)
        after()

    os.register_at_fork(before=before, after_in_parent=after, after_in_child=after_in_copy)
