"""A terminal's second screen: frames in place, single keys, and everything as it was when it ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any, Self

from rich.console import Console
from rich.text import Text

from daemons.cli.tables import Line

ENTER = "\x1b[?1049h\x1b[?25l"  # second screen, no cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME, END_OF_LINE, END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
# What a terminal sends for keys that have no character.
NAMED = {b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down", b"\x1b[5~": "page up"}
NAMED |= {b"\x1b[6~": "page down", b"\x1b": "q"}


class Screen:
    """Use with ``with``; only if standard output is a terminal that can move its cursor."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._input: int | None = None
        self._before: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError, ValueError, termios.error):
            self._input = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._on()
        for number, handler in ((signal.SIGTERM, _leave), (signal.SIGHUP, _leave), (signal.SIGTSTP, self._stopped)):
            self._handlers[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._off()

    def _on(self) -> None:
        if self._input is not None:
            self._before = termios.tcgetattr(self._input)
            tty.setcbreak(self._input)
        _write(ENTER)

    def _off(self) -> None:
        # The terminal may be gone (SIGHUP); then there is nothing to set right.
        with contextlib.suppress(OSError, termios.error):
            if self._input is not None:
                termios.tcsetattr(self._input, termios.TCSANOW, self._before)
            _write(LEAVE)

    def _stopped(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal as it was, and we ours when we go on."""
        self._off()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._stopped)
        self._on()

    def show(self, lines: Sequence[Line]) -> None:
        """One frame, in one write, so that nothing flickers."""
        with self._console.capture() as drawn:
            for line in lines:
                self._console.print(Text.assemble(*((cell.text, cell.style) for cell in line)))
        text = drawn.get().removesuffix("\n").replace("\n", f"{END_OF_LINE}\r\n")
        _write(f"{HOME}{text}{END_OF_LINE}{END_OF_SCREEN}")

    def keys(self, wait_s: float) -> Iterator[str]:
        """Keys that come within this time; without a keyboard the time passes."""
        watched = [self._input] if self._input is not None else []
        ready, _, _ = select.select(watched, [], [], wait_s)
        if ready and self._input is not None:
            data = os.read(self._input, 64)
            if not data:  # nobody will press a key any more
                self._input = None
            elif data in NAMED:
                yield NAMED[data]
            else:
                yield from (key for key in data.decode(errors="replace") if key.isprintable())


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
