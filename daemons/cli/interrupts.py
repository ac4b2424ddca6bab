"""Ctrl-C, SIGTERM, SIGHUP while we do something to a fleet: one ends that, and nothing cuts the cleaning up short."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from daemons.cli.fleet import LocalFleet
from daemons.cli.progress import Busy

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _interrupt(number, frame)


@contextlib.contextmanager
def undone() -> Iterator[None]:
    """What the block has done to others is undone by it, also where it ends by Ctrl-C, SIGTERM or SIGHUP: the first of
    these raises KeyboardInterrupt, and further ones do not disturb."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # who started us with nohup means it
                signal.signal(number, _interrupt_once)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    before = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
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
