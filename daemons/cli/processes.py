"""Processes of a private fleet: started, watched, measured, stopped. Linux only, without psutil."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROBE_TIMEOUT_S = 1.0
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_TICKS = os.sysconf("SC_CLK_TCK")


def die_with_parent() -> None:
    """Between fork and exec: the kernel kills this process when the thread that started it is gone, however it went."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Daemon:
    """One daemon of the suite as a child process.

    Args:
        name: its agent id.
        module: what ``python -m`` runs.
        env: its whole environment.
        log: file that takes its standard output and error, appended over restarts.
        cwd: its working directory.
        metrics_port: port of its health server, 0 if it has none.
        metrics_host: its address.
        network: network namespace to run in; "" for ours.
    """

    def __init__(
        self,
        name: str,
        module: str,
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
        metrics_port: int = 0,
        metrics_host: str = "127.0.0.1",
        network: str = "",
    ) -> None:
        self.name = name
        self.module = module
        self.env = dict(env)
        self.log = log
        self.cwd = cwd
        self.metrics_port = metrics_port
        self.metrics_host = metrics_host
        self.network = network
        self.starts = 0
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id, 0 if it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def exit_status(self) -> int | None:
        """As subprocess says it: negative for a signal, None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        with self.log.open("ab") as log:
            enter = ["nsenter", f"--net=/run/netns/{self.network}"] if self.network else []
            self._process = subprocess.Popen(
                [*enter, sys.executable, "-m", self.module],
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop the daemons in order
                preexec_fn=die_with_parent,  # noqa: PLW1509 - a single system call, no lock is taken
            )
        self.starts += 1
        self.started_at = time.monotonic()

    def signal(self, number: int) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """True if it is gone within the time."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of a page of its health server; (0, why) if it does not answer."""
        connection = http.client.HTTPConnection(self.metrics_host, self.metrics_port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    def tail(self, lines: int = 8) -> str:
        """The end of its log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def stop_all(daemons: list[Daemon], timeout_s: float) -> list[str]:
    """SIGTERM to all at once, SIGKILL to those that are still there after the timeout.

    Returns:
        the names of those that had to be killed.
    """
    for daemon in daemons:
        daemon.signal(signal.SIGCONT)
        daemon.signal(signal.SIGTERM)
    until = time.monotonic() + timeout_s
    killed = []
    for daemon in daemons:
        if not daemon.wait(max(0.0, until - time.monotonic())):
            killed.append(daemon.name)
            daemon.signal(signal.SIGKILL)
            daemon.wait(5.0)
    return killed


def tree(pid: int) -> list[int]:
    """The process and all that descend from it, as far as they can be read."""
    found = [pid]
    for one in found:
        found.extend(_children(one))
    return found


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from (int(text) for text in (task / "children").read_text().split())


def pss_mb(pid: int) -> float:
    """Proportional set size in MB of a process and its descendants: shared pages count once over all who share them."""
    total_kb = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total_kb += int(line.split()[1])
                    break
    return total_kb / 1024


def cpu_s(pid: int) -> float:
    """Processor seconds that a process and its living descendants have used so far."""
    ticks = 0
    for one in tree(pid):
        with contextlib.suppress(OSError, IndexError, ValueError):
            # The command name may hold spaces and brackets: the fields begin behind its last bracket.
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS
