"""A handler's log lines on their way from its child process to the worker's log. Imported where handlers log."""

from __future__ import annotations

import logging
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# A handler that logs without end fills neither the socket nor the log: so many lines at once, so many a second.
BURST = 50.0
PER_S = 10.0
TEXT_CHARS = 2000
TRACE_CHARS = 6000


class Forwarder(logging.Handler):
    """Sends warnings and errors to the worker, as long as a run lasts.

    Where nobody else takes care of what is logged it is printed as well, as if this handler were not there: the last
    lines that a run printed are part of its record if it fails.
    """

    def __init__(self, send: Callable[[list[Any]], bool], busy: Callable[[], bool]) -> None:
        """
        Args:
            send: writes a frame; False if it could not.
            busy: whether something runs.
        """
        super().__init__(logging.WARNING)
        self._send = send
        self._busy = busy
        self._room = BURST
        self._at = time.monotonic()
        self._held_back = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if logging.root.handlers == [self] and logging.lastResort is not None:
                logging.lastResort.handle(record)
            if self._busy():
                self._forward(record)
        except Exception:  # logging stops nothing
            self.handleError(record)

    def _forward(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        self._room = min(BURST, self._room + (now - self._at) * PER_S)
        self._at = now
        if self._room < 1:
            self._held_back += 1
            return
        self._room -= 1
        held_back, self._held_back = self._held_back, 0
        level = "warning" if record.levelno < logging.ERROR else "error"
        error = ""
        if record.exc_info:
            error = logging.Formatter().formatException(record.exc_info)[-TRACE_CHARS:]
        if not self._send(["log", level, record.name, record.getMessage()[:TEXT_CHARS], error, held_back]):
            self._held_back += held_back + 1


def forward(send: Callable[[list[Any]], bool], busy: Callable[[], bool]) -> None:
    """From now on, if it is not so already. A program's own handlers stay; ours is added behind them."""
    if not any(isinstance(each, Forwarder) for each in logging.root.handlers):
        logging.root.addHandler(Forwarder(send, busy))
