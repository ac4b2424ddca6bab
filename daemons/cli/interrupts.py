"""Ctrl-C and SIGTERM while a private fleet runs: one ends the work, and nothing cuts the cleaning up short."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from daemons.cli.fleet import LocalFleet
from daemons.cli.progress import Busy


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def private_fleet(made: LocalFleet | None = None, **options: Any) -> Iterator[LocalFleet]:
    """A LocalFleet that is stopped and removed whatever ends the block: success, error, Ctrl-C or SIGTERM.

    Args:
        made: the fleet, not started yet; without it one is made of the options.
    """
    fleet = LocalFleet(**options) if made is None else made
    if threading.current_thread() is not threading.main_thread():
        with fleet:
            yield fleet
        return
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with Busy("starting a fleet"):
            fleet.start()
        yield fleet
    finally:
        # An impatient second Ctrl-C must not leave daemons or files behind; stopping is bounded in time.
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        with Busy("stopping the fleet"):
            fleet.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
