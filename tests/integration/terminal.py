"""A terminal of any size for programs of the suite, and what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte

from tests.integration.rig import PATIENCE_S, clean_environment, script, wait_until


class Terminal:
    """A program on a pseudo-terminal. Its screen is what somebody would see.

    Attributes:
        pid: of the program; ``status``: as the shell says it, None while it runs.
        raw: all that it wrote, with colours and movements.
    """

    def __init__(
        self, *command: str, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None, cwd: Path
    ) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=2_000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.status: int | None = None
        given = clean_environment({"TERM": "xterm-256color", "LANG": "C.UTF-8", **(env or {})})
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            if name not in (env or {}):
                given.pop(name, None)
        self.pid, self._file = pty.fork()
        if not self.pid:
            os.chdir(cwd)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.execve(script(command[0]), list(command), given)
        self.resize(columns, lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._reap(0)
        os.close(self._file)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def press(self, keys: str) -> None:
        os.write(self._file, keys.encode())

    def read(self) -> None:
        """Take what it wrote."""
        while select.select([self._file], [], [], 0)[0]:
            try:
                data = os.read(self._file, 65_536)
            except OSError:  # it has ended, and all is read
                data = b""
            if not data:
                break
            self.raw += data
            self._stream.feed(data)
        if self.status is None:
            self._reap(os.WNOHANG)

    def _reap(self, how: int) -> None:
        pid, status = os.waitpid(self.pid, how)
        if pid:
            self.status = os.waitstatus_to_exitcode(status)

    def text(self) -> str:
        """What it shows now."""
        self.read()
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def everything(self) -> str:
        """And what was scrolled out of sight."""
        self.read()
        above = [self._row(row) for row in self.screen.history.top]
        return "\n".join([*above, self.text()])

    def _row(self, row: Any) -> str:
        return "".join(row[column].data for column in range(self.screen.columns)).rstrip()

    def wait_for(self, words: str) -> str:
        """Until it shows these; gives the whole screen."""
        wait_until(lambda: words in self.text(), f"{words!r} is on the screen:\n{self.text()}")
        return self.text()

    def wait_end(self) -> int:
        """Until the program has ended; gives its status."""
        until = time.monotonic() + PATIENCE_S
        while self.status is None and time.monotonic() < until:
            self.read()
            time.sleep(0.02)
        self.read()
        assert self.status is not None, f"it goes on: {self.text()}"
        return self.status

    def echoes(self) -> bool:
        """What is typed appears, as a shell wants it."""
        flags = termios.tcgetattr(self._file)[3]
        return bool(flags & termios.ECHO) and bool(flags & termios.ICANON)
