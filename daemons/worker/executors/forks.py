"""A worker's children by fork from a process that has imported LangGraph (see
:mod:`daemons.worker.executors.preloaded`).

It is started with the worker and ends with it. Until it is ready, or if it is gone, children are started in the
ordinary way: slower, and otherwise the same.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from typing import Any, Final

import orjson

from daemons.runtime.modules import child_environment
from daemons.worker.executors.preloaded import MESSAGE_BYTES, TRACES

COMMAND: Final = (sys.executable, "-X", "faulthandler", "-m", "daemons.worker.executors.preloaded")
# A fork takes milliseconds. A server that does not answer for so long (a host that swaps, a paused machine) is done
# without until it does: its children run on.
ANSWER_S: Final = 10.0


def _own(theirs: socket.socket, arguments: list[str]) -> None:
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [*COMMAND, str(theirs.fileno()), str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=child_environment(),
                start_new_session=True,
            )
        except OSError:
            return  # its end of the socket closes, which says so
    process.wait()


class ForkServer:
    """Used by one thread at a time."""

    def __init__(self, projects: list[str], *, traces: bool = False) -> None:
        """
        Args:
            projects: ``langgraph.json`` files, for the variables that their code expects.
            traces: have imported what reports traces, too.
        """
        arguments = [TRACES, *projects] if traces else projects
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ready: bool | None = None  # None: it has not said so yet
        self._late: list[str] = []  # kinds of the requests whose answers are still to come, in order
        self._unreaped: list[
            int
        ] = []  # ended children whose status is to be asked for, though nobody wants it any more
        # The kernel ends the server with the thread that started it: this one has nothing else to do.
        threading.Thread(target=_own, args=(theirs, arguments), name="a2a-fork-server", daemon=True).start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether children can be forked, once that is known or the time is over."""
        with self._lock:
            if self._ready is None:
                try:
                    self._control.settimeout(timeout_s)
                    self._ready = self._receive() == ["ready", ""]
                except (BlockingIOError, TimeoutError):
                    pass  # it imports yet
                except OSError:
                    self._give_up()
            return self._ready is True

    def start(self, arguments: list[str], *descriptors: int) -> Forked | None:
        """A child with these arguments; standard input, output and error are the first three descriptors, the numbers
        of others come to be its last arguments. None where it cannot be forked."""
        if not self.wait_ready(0.0):
            return None
        pid = self._ask(["fork", arguments], list(descriptors))
        return Forked(self, pid) if pid else None

    def run(self, arguments: list[str], given: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes] | None:
        """The same for a child that prints something and ends; None where it cannot be forked.

        Args:
            given: what it reads from standard input.

        Raises:
            subprocess.TimeoutExpired: it did not end in time; it is killed.
        """
        if not self.wait_ready(timeout_s):
            return None
        with tempfile.TemporaryFile() as read, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            read.write(given)
            read.seek(0)
            forked = self.start(arguments, read.fileno(), out.fileno(), err.fileno())
            if forked is None:
                return None
            code = forked.wait(timeout_s)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), err.read())

    def close(self) -> None:
        """End the server, and with it every child that is left."""
        with self._lock:
            self._give_up()

    def ask_exit_status(self, pid: int) -> int:
        """Of a child that has ended."""
        status = self._ask(["wait", pid], [])
        return -signal.SIGKILL if status is None else status

    def _ask(self, request: list[Any], descriptors: list[int]) -> int | None:
        """None where there is no answer: it is late, or the server is gone and with it, by the kernel, all children."""
        kind = request[0]
        with self._lock:
            try:
                caught_up = self._catch_up(ANSWER_S if kind == "wait" else 0.0)
                if caught_up and self._send(request, descriptors):
                    answer = self._receive()
                    return int(answer[0]) if answer else None
            except TimeoutError:
                self._late.append(kind)
                return None
            except OSError:
                self._give_up()
                return None
            if kind == "wait":
                self._unreaped.append(request[1])
            return None

    def _send(self, request: list[Any], descriptors: list[int]) -> bool:
        """False where there is no room for it."""
        self._control.settimeout(ANSWER_S)
        try:
            socket.send_fds(self._control, [orjson.dumps(request)], descriptors)
        except TimeoutError:
            return False
        return True

    def _catch_up(self, timeout_s: float) -> bool:
        """Read the answers that came too late; False while there are some to come."""
        while self._ready and (self._late or self._unreaped):
            if not self._late:
                if not self._send(["wait", self._unreaped.pop()], []):
                    return False
                self._late.append("wait")
            self._control.settimeout(timeout_s)
            try:
                answer = self._receive()
            except (BlockingIOError, TimeoutError):
                return False
            if answer and self._late.pop(0) == "fork" and answer[0]:
                # Nobody waits for this child. Its number is no other process's before its status was asked for.
                os.kill(answer[0], signal.SIGKILL)
                self._unreaped.append(answer[0])
        return self._ready is True

    def _receive(self) -> list[Any]:
        data = self._control.recv(MESSAGE_BYTES)
        if not data:
            self._give_up()
            return []
        answer: list[Any] = orjson.loads(data)
        return answer

    def _give_up(self) -> None:
        self._ready = False
        self._control.close()


class Forked:
    """A forked child, as far as ``subprocess.Popen`` is needed."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._server = server

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit status (negative: signal).

        Raises:
            subprocess.TimeoutExpired: it had to be killed.
        """
        descriptor = os.pidfd_open(self.pid)  # it is not reaped before we ask for its status
        try:
            if not _ended(descriptor, timeout_s):
                os.kill(self.pid, signal.SIGKILL)
                _ended(descriptor, None)
                self._server.ask_exit_status(self.pid)
                raise subprocess.TimeoutExpired(str(self.pid), timeout_s or 0.0)
        finally:
            os.close(descriptor)
        return self._server.ask_exit_status(self.pid)


def _ended(descriptor: int, timeout_s: float | None) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))
