"""A host of its own for what pages tell their reader to do: a home directory, and a network with its ports free.

The network is a namespace, so nothing of this meets a fleet of the developer's, or another test. Whatever is left in it
is killed, however the test ends.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

PATIENCE_S = 120.0  # a host that is busy with other things must not fail a page
HOLDER = Path(__file__).with_name("namespace.py")
ANSWERS = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)"


class Host:
    """``with Host() as host:``; skips the test where no network namespace can be made.

    Attributes:
        home: the user's home directory.
    """

    def __init__(self) -> None:
        self.home = Path()
        self._enter: list[str] = []
        self._holder: subprocess.Popen[str] | None = None
        self._terminals: list[Terminal] = []

    def __enter__(self) -> Self:
        apart = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
        for program in ("unshare", "nsenter", "bash", "curl"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        if subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
            pytest.skip("no network namespace can be made here (unshare --net)")
        self._holder = subprocess.Popen(
            [*apart, sys.executable, str(HOLDER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n"
        users = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        self._enter = ["nsenter", "--target", str(self._holder.pid), *users, "--net"]
        self.home = Path(tempfile.mkdtemp(prefix="a2a-home-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for terminal in self._terminals:
            terminal.close()
        assert self._holder is not None
        self._holder.communicate()  # it kills what is left
        shutil.rmtree(self.home, ignore_errors=True)

    def clone(self, repository: Path) -> None:
        """Put a clone of the repository, as after ``make venv``, into ``~/a2a-zmq``."""
        clone = self.home / "a2a-zmq"
        clone.mkdir()
        for path in repository.iterdir():
            if path.name == "config":  # a fleet writes into it
                leave_out = shutil.ignore_patterns("*.sock", "*.pid", "*.log")
                shutil.copytree(path, clone / path.name, ignore=leave_out)
            elif path.name != ".venv":
                (clone / path.name).symlink_to(path)
        (clone / ".venv").symlink_to(sys.prefix)

    def terminal(self, **env: str) -> Terminal:
        """A shell, as the user opens one."""
        terminal = Terminal(self._enter, self.home, env)
        self._terminals.append(terminal)
        return terminal

    def answers(self, url: str) -> bool:
        """Whether something answers 200 there."""
        command = [*self._enter, sys.executable, "-c", ANSWERS, url]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


class Terminal:
    """A shell that keeps its directory and variables from one command to the next."""

    def __init__(self, enter: list[str], home: Path, env: Mapping[str, str]) -> None:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        clean = {"HOME": str(home), "PATH": path, "LC_ALL": "C.UTF-8", "COLUMNS": "100", "PYTHONDONTWRITEBYTECODE": "1"}
        self._files = Path(tempfile.mkdtemp(prefix="terminal-", dir=home))
        self.home = home
        self._shell = subprocess.Popen(
            [*enter, "bash", "--norc", "--noprofile"],
            cwd=home,
            env={**clean, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, commands: str, patience_s: float = PATIENCE_S) -> str:
        """Run some lines; all must end with status 0. Gives what they print, errors too."""
        self.start(commands)
        failed, printed = self._files / "failed", self.printed
        status = self._status(commands, patience_s)
        complaint = failed.read_text(encoding="utf-8")
        if status or complaint:
            pytest.fail(f"status {status} {complaint.strip()}:\n{commands}\n{printed()}")
        return printed()

    def start(self, commands: str) -> None:
        """Begin some lines and do not wait for their end."""
        lines, output, failed = (self._files / name for name in ("lines", "output", "failed"))
        lines.write_text(commands, encoding="utf-8")
        failed.write_text("", encoding="utf-8")
        # In files, not pipes: what goes on in the background keeps them open.
        trap = f"trap 'echo \"line $LINENO: status $?\" >> {failed}' ERR"
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{trap}; . {lines} < /dev/null > {output} 2>&1; echo $?\n".encode())
        self._shell.stdin.flush()

    def printed(self) -> str:
        """What the last lines have printed so far."""
        output = self._files / "output"
        return output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""

    def interrupt(self, patience_s: float = PATIENCE_S) -> None:
        """Ctrl-C, and wait until what stayed in the foreground has ended."""
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        os.killpg(self._shell.pid, signal.SIGINT)
        self._shell.wait(patience_s)

    def close(self) -> None:
        if self._shell.poll() is None:
            self._shell.kill()
            self._shell.wait()
        for stream in (self._shell.stdin, self._shell.stdout):
            if stream is not None:
                stream.close()

    def _status(self, commands: str, patience_s: float) -> int:
        assert self._shell.stdout is not None
        readable, _, _ = select.select([self._shell.stdout], [], [], patience_s)
        if not readable:
            pytest.fail(f"not done within {patience_s:g} s:\n{commands}\n{self.printed()}")
        line = self._shell.stdout.readline().decode()
        if not line:
            pytest.fail(f"the shell ended:\n{commands}\n{self.printed()}")
        return int(line)
