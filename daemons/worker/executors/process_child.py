"""One child process as its pool sees it: socket, printed lines, death."""

from __future__ import annotations

import contextlib
import math
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import orjson

from daemons.runtime.contract import StartRun
from daemons.runtime.modules import child_environment, search_path
from daemons.worker.executors.fitting import project_of
from daemons.worker.executors.forks import Forked, ForkServer
from daemons.worker.executors.frames import BadFrame, Unpacker, pack
from daemons.worker.executors.printed import Printed

COMMAND: Final = (sys.executable, "-X", "faulthandler", "-m", "daemons.worker.executors.child")
READ_BYTES: Final = 256 * 1024
# One reading of a child's output may take this much before other children have their turn.
LOG_BYTES_AT_ONCE: Final = 1024 * 1024
# A killed process may need the kernel to give back gigabytes; it is gone for us meanwhile.
REAP_S: Final = 5.0


class Job:
    """A run in the pool."""

    __slots__ = (
        "child",
        "frame",
        "given_at",
        "next_stage_at",
        "reference",
        "run",
        "stop_reason",
        "stop_stage",
    )

    def __init__(self, run: StartRun, reference: str) -> None:
        """
        Raises:
            TypeError: the payload or metadata is not JSON.
        """
        head = ["run", run.task_id, run.attempt, run.task_type, reference, run.timeout_s, run.metadata]
        self.run = run
        self.reference = reference
        self.frame = pack(head, orjson.dumps(run.payload))
        self.child: ChildProcess | None = None
        self.given_at = 0.0
        self.stop_reason = ""
        self.stop_stage = 0  # 0 not asked, 1 asked, 2 SIGTERM sent
        self.next_stage_at = 0.0

    def ask(self, grace_s: float) -> None:
        """Have the run that its child is at end."""
        assert self.child is not None
        self.stop_stage, self.next_stage_at = 1, time.monotonic() + grace_s
        self.child.send(["stop", self.run.task_id, self.run.attempt, self.stop_reason])

    def insist(self, now: float, grace_s: float) -> None:
        """It did not."""
        assert self.child is not None
        self.next_stage_at = now + grace_s
        if self.stop_stage == 1:
            self.stop_stage = 2
            self.child.terminate()
        else:
            self.child.kill()


class ChildProcess:
    """A child with the jobs it has; the first of ``jobs`` is the one that runs.

    Attributes:
        used: it was given a run.
        project: what it belongs to (see :mod:`daemons.worker.executors.fitting`), None as long as that is open.
        knows: handlers that it has imported, or that it is not to import ahead.
        loading: the handler that it imports ahead, "" for none.
        loading_since: monotonic time at which that began.
        recalled: the run that it was asked to give back and has not yet; it is given nothing until then.
    """

    def __init__(
        self,
        options: dict[str, Any],
        selector: selectors.BaseSelector,
        on_frame: Callable[[ChildProcess, list[Any], bytes], None],
        on_gone: Callable[[ChildProcess], None],
        forks: ForkServer | None = None,
    ) -> None:
        """
        Args:
            options: what it is told first, besides where its modules are.
            forks: has imported what it needs.

        Raises:
            OSError: the process cannot be started.
        """
        self.jobs: deque[Job] = deque()
        self.ready = self.used = False
        self.project: str | None = None
        self.knows: set[str] = set()
        self.loading = ""
        self.loading_since = 0.0
        self.recalled: tuple[str, int] | None = None
        self.retired_at: float | None = None
        self.born = self.idle_since = time.monotonic()
        self._selector = selector
        self._on_frame = on_frame
        self._on_gone = on_gone
        self._unpacker = Unpacker()
        self._out = bytearray()
        self._printed = Printed()
        self._buried = False
        ours, theirs = socket.socketpair()
        log_read, log_write = os.pipe()
        try:
            forked = _fork(forks, log_write, theirs.fileno()) if forks is not None else None
            self._process = forked or subprocess.Popen(  # noqa: S603 - our own module
                [*COMMAND, str(os.getpid()), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log_write,
                stderr=log_write,
                pass_fds=(theirs.fileno(),),
                env=child_environment(),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            os.close(log_read)
            raise
        finally:
            theirs.close()
            os.close(log_write)
        self.pid = self._process.pid
        self._socket, self._log_fd = ours, log_read
        self._pid_fd = os.pidfd_open(self.pid)
        ours.setblocking(False)
        os.set_blocking(log_read, False)
        selector.register(ours, selectors.EVENT_READ, self._socket_event)
        selector.register(log_read, selectors.EVENT_READ, self._log_event)
        selector.register(self._pid_fd, selectors.EVENT_READ, self._exit_event)
        found_by = {
            "path": search_path(),
            "pythonpath": os.environ.get("PYTHONPATH"),
        }
        self.send(["init", {**options, **found_by}])

    @property
    def free(self) -> bool:
        """It could begin a run at once."""
        return self.spare and self.ready and not self.loading and self.recalled is None

    @property
    def spare(self) -> bool:
        """It has nothing to run, and is free or will be."""
        return not self.jobs and self.retired_at is None

    @property
    def at_work(self) -> bool:
        """It runs something, or could at once."""
        return bool(self.jobs) or self.free

    def hung_at(self, start_s: float) -> float:
        """When it is given up on, as it starts, imports something ahead, or leaves; inf for never."""
        if not self.ready:
            return self.born + start_s
        if self.loading:
            return self.loading_since + start_s
        if self.recalled is not None and not self.jobs:
            return self.idle_since + start_s
        return math.inf if self.retired_at is None else self.retired_at + REAP_S

    # ------------------------------------------------------------ towards the child

    def give(self, job: Job, now: float) -> None:
        self.used = True
        self._belongs_to(job.reference)
        job.child, job.given_at = self, now
        self.jobs.append(job)
        self._queue(job.frame)

    def recall(self, job: Job) -> bool:
        """Ask for a run back that it has at hand. True if it will not begin it, False if it may have (or will).

        The child says so itself, but only when it comes to it, and a handler that holds the interpreter keeps it from
        that. So nobody waits for its word: before it begins a run, and after it has reported the one before, it takes
        all that has come (``Link.take``). Once the request is in its socket, and no such report in ours, it is certain
        to meet the request first.
        """
        if self.recalled is None:
            if not self._behind(job):
                return False  # that report was there already
            self.recalled = job.run.task_id, job.run.attempt
            self.send(["revoke", *self.recalled])
        return not self._out and self._behind(job)  # (or the request is not there yet)

    def _behind(self, job: Job) -> bool:
        """After all that has come, the run still waits for the one before it."""
        while not self._buried and self._has_input():
            if not self._read():
                return False  # its end is told next
        return job in self.jobs and self.jobs[0] is not job

    def load(self, reference: str) -> None:
        """Have it import that handler; it is not free meanwhile."""
        self._belongs_to(reference)
        self.loading, self.loading_since = reference, time.monotonic()
        self.send(["load", reference])

    def _belongs_to(self, reference: str) -> None:
        if self.project is None:
            self.project = project_of(reference)

    def send(self, head: list[Any]) -> None:
        self._queue(pack(head))

    def _queue(self, frame: bytes) -> None:
        waiting = bool(self._out)
        self._out += frame
        if not waiting:
            self._write()

    def _write(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except OSError as error:
            if not isinstance(error, BlockingIOError):  # (the rest of it goes when there is room)
                self._out.clear()  # it is dying: its exit is reported next
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        if not self._buried and self._selector.get_key(self._socket).events != events:
            self._selector.modify(self._socket, events, self._socket_event)

    # ------------------------------------------------------------ from the child

    def _socket_event(self, mask: int) -> None:
        if self._buried:
            return
        if mask & selectors.EVENT_WRITE:
            self._write()
        if mask & selectors.EVENT_READ and not self._read():
            self._end()

    def _read(self) -> bool:
        """Take what has come; False at the end of the stream or of our patience with it."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        try:
            for head, body in self._unpacker.feed(data):
                self._on_frame(self, head, body)
                if self._buried:
                    break
        except (BadFrame, ValueError, LookupError, TypeError, AssertionError) as error:
            self._printed.add(f"protocol error: {error}")
            self.kill()
            return False
        return True

    def _exit_event(self, mask: int) -> None:
        if not self._buried:
            # What it wrote before it ended counts.
            while not self._buried and self._has_input() and self._read():
                continue
            self._end()

    def _has_input(self) -> bool:
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    def _end(self) -> None:
        if not self._buried:
            self.kill()
            self._on_gone(self)

    # ------------------------------------------------------------ printed lines

    def _log_event(self, mask: int) -> None:
        if self._buried:
            return
        taken = 0
        while taken < LOG_BYTES_AT_ONCE:
            try:
                data = os.read(self._log_fd, READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._selector.unregister(self._log_fd)
                return
            taken += len(data)
            self._printed.note(data)

    def lines_of(self, task_id: str, attempt: int) -> list[str]:
        """The last lines that this run printed."""
        if not self._buried and self._selector.get_map().get(self._log_fd) is not None:
            self._log_event(0)
        return self._printed.lines_of(task_id, attempt)

    # ------------------------------------------------------------ the end

    def terminate(self) -> None:
        """SIGTERM: interrupts a run that was asked to stop."""
        self._signal(signal.SIGTERM, group=False)

    def kill(self) -> None:
        """SIGKILL to the child and whatever it started."""
        self._signal(signal.SIGKILL, group=True)

    def retire(self) -> None:
        """An idle child ends by itself when its socket closes."""
        self.retired_at = time.monotonic()
        self._socket.shutdown(socket.SHUT_WR)

    def _signal(self, number: int, *, group: bool) -> None:
        # It may have ended meanwhile; it is not reaped yet, so the number is nobody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def bury(self) -> int:
        """Close everything, reap; returns the exit status (negative: signal)."""
        if not self._buried:
            self.lines_of("", 0)
            self._buried = True
            for descriptor in (self._socket, self._log_fd, self._pid_fd):
                if self._selector.get_map().get(descriptor) is not None:
                    self._selector.unregister(descriptor)
            self._socket.close()
            os.close(self._log_fd)
            # Popen.wait() with a time limit looks in growing intervals; this returns at once.
            poller = select.poll()
            poller.register(self._pid_fd, select.POLLIN)
            if poller.poll(REAP_S * 1000):
                self._code = self._process.wait()
            else:
                self.kill()
                self._code = -signal.SIGKILL
            os.close(self._pid_fd)
        return self._code


def _fork(forks: ForkServer, log: int, theirs: int) -> Forked | None:
    with Path(os.devnull).open("rb") as nothing:
        return forks.start([], nothing.fileno(), log, log, theirs)


def exit_report(code: int, lines: list[str]) -> tuple[str, str, dict[str, Any]]:
    """(error, error_kind, detail) of a child that ended by itself."""
    detail: dict[str, Any] = {"log": lines} if lines else {}
    if code >= 0:
        detail["exit_code"] = code
        return f"its process exited with status {code}", "exited", detail
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    detail["signal"] = name
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"its process was killed by {name}{hint}", "killed", detail


def tell_all(children: Iterable[ChildProcess], head: list[Any]) -> None:
    """Send all of them the same frame."""
    for child in children:
        child.send(head)
