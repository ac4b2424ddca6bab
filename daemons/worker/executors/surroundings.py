"""What runs in a child process have in common, and one leaves behind for the next: its directory, timer and output.
Imported by child processes.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

from daemons.worker.executors.link import identity

# Starts a run's lines on the log pipe; no text of a handler's has it by accident. (A record separator alone begins each
# record of a JSON text sequence, RFC 7464.)
RUN_MARK = b"\x1ea2a-run\x1e"
STDERR = 2


class Surroundings:
    """As a run is to find them."""

    def __init__(self) -> None:
        self._directory = ""
        self._timer = False  # there was one: a module set it as it was imported
        self._stderr: tuple[int, int] | None = None
        with suppress(OSError):
            self._stderr = identity(STDERR)

    def mark(self, task_id: str, attempt: int) -> None:
        """What is printed from here on is this run's."""
        with suppress(OSError):  # a thread that a handler left may close it at any time
            if identity(STDERR) == self._stderr:
                os.write(STDERR, b"%s%s %d\n" % (RUN_MARK, task_id.encode(), attempt))

    def begin(self) -> None:
        """The handler is loaded, with whatever that sets up for itself."""
        with suppress(OSError):  # somebody has removed it
            self._directory = os.getcwd()  # noqa: PTH109 - pathlib is not there otherwise
        self._timer = signal.getitimer(signal.ITIMER_REAL)[0] > 0

    def left(self) -> None:
        """The run has ended."""
        if not self._timer:
            signal.setitimer(signal.ITIMER_REAL, 0)  # or its SIGALRM kills the next run
        if self._directory:
            with suppress(OSError):
                os.chdir(self._directory)

    def broken(self) -> bool:
        """Standard error is closed, or nobody reads it: what the next run prints would fail it."""
        look = select.poll()
        look.register(STDERR, 0)
        return bool(look.poll(0))  # POLLNVAL or POLLERR, which need not be asked for


def flush() -> None:
    """Everything printed goes to the log pipe before the run's report."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a handler closed or replaced it
            stream.flush()


def print_error(error: BaseException) -> None:
    """As the interpreter does where nobody catches it; on whatever is standard error now."""
    with suppress(BaseException):
        import traceback

        flush()
        os.write(STDERR, "".join(traceback.format_exception(error)).encode(errors="backslashreplace"))
