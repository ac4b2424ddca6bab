"""What is shown while something takes longer than a second: on standard error, if that is a terminal."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any, Self

from daemons.cli.output import is_dumb

# What is done sooner shows nothing.
QUIET_S = 0.7


def on_terminal() -> bool:
    """Something that moves may be shown."""
    return sys.stderr.isatty() and not is_dumb()


class Busy:
    """A line that turns, with what is being done: ``with Busy("asking the fleet"): …``."""

    def __init__(self, text: str, *, enabled: bool = True) -> None:
        self._text = text
        self._lock = threading.Lock()
        self._over = False
        self._shown: Any = None
        self._timer: threading.Timer | None = None
        if enabled and on_terminal():
            self._timer = threading.Timer(QUIET_S, self._show)
            self._timer.daemon = True

    def __enter__(self) -> Self:
        if self._timer is not None:
            self._timer.start()
        return self

    def say(self, text: str) -> None:
        """What is being done now."""
        with self._lock:
            self._text = text
            if self._shown is not None:
                self._shown.update(text)

    def _show(self) -> None:
        with self._lock:
            if self._over:
                return
            from rich.console import Console

            # A "line" turns on every terminal; Braille needs UTF-8 and a font.
            self._shown = Console(stderr=True, highlight=False).status(self._text, spinner="line")
            self._shown.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._over = True
            if self._shown is not None:
                self._shown.stop()


class Progress:
    """A bar: ``with Progress("waiting", 10) as advance: … advance()``."""

    def __init__(self, what: str, total: int, *, enabled: bool = True) -> None:
        self._bar: Any = None
        self._task: Any = None
        if enabled and on_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Any:
        if self._bar is not None:
            self._bar.start()
        return self.advance

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(self._task, advance=count)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
