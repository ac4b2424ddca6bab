"""Executor ``process``: a pool of child processes, each of which can be killed.

One thread owns the pool: it starts children, writes runs to their sockets, reads results and printed lines, and ends
what has to end. It lives as long as the pool, because the kernel's parent-death signal goes by the *thread* that
started a child.

A child runs one task at a time, of one project (:mod:`daemons.worker.executors.fitting`); no more than ``slots`` run.
There is one child more (:mod:`daemons.worker.executors.spares`): what follows a killed run need not wait for a process
to start. How many there are is reported, so that a run goes to a worker that has one.

Where the tasks are short a busy child has a second one at hand, so that it need not wait for the way to this thread and
back; a second one that has to wait while another child is free is taken back.

Ending a run: ask (cooperative flag, or an interrupt where the handler has none) → after ``stop_grace_s`` SIGTERM →
after ``kill_grace_s`` SIGKILL of the child's process group. A child that was interrupted, rather than asked, is
replaced, as is one whose graph called ``sys.exit()``: nobody knows what locks or half-written structures are left.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from daemons.runtime.contract import ChildrenReady, Event, RunFinished, RunStarted, StartRun
from daemons.worker.config import WorkerConfig
from daemons.worker.executors import ahead, endings, invoke
from daemons.worker.executors.fitting import first_fit, in_the_way
from daemons.worker.executors.forks import ForkServer
from daemons.worker.executors.hearing import Hearing
from daemons.worker.executors.pool_facts import RunTimes, Starts
from daemons.worker.executors.pool_thread import PoolThread
from daemons.worker.executors.printed import tail
from daemons.worker.executors.process_child import ChildProcess, Job, exit_report, tell_all
from daemons.worker.executors.spares import Spares

Key = tuple[str, int]


class ProcessPool:
    """An unused pool costs nothing, an idle one gives its children back, but for a spare if it is kept warm."""

    def __init__(
        self,
        config: WorkerConfig,
        report: Callable[[list[Event]], None],
        checkpoints: dict[str, Any] | None = None,
        models: dict[str, Any] | None = None,
        forks: ForkServer | None = None,
        *,
        hearing: Hearing | None = None,
    ) -> None:
        """
        Args:
            config: limits; ``slots`` children at most that run something, and ``spare_children`` more.
            report: called from the pool's thread with what happened.
            checkpoints, models: what the children are told of these.
            forks: where the children come from, if that is not started anew for each.
            hearing: takes what the children tell besides.
        """
        self._config = config
        self._report = report
        self._hearing = hearing or Hearing()
        self._options = self._hearing.options(config, checkpoints, models)
        self._forks = forks
        self._thread = PoolThread(self._next_timer, self._turn, self._broken, self._end)
        self._children: list[ChildProcess] = []
        self._pending: deque[Job] = deque()
        self._jobs: dict[Key, Job] = {}
        self._times = RunTimes()
        self._events: list[Event] = []
        self._starts = Starts()
        self._turned_at = self._used_at = 0.0  # the last turn; the end of the last run
        self._spares = Spares(config.spare_children)
        self._told_ready = 0

    # ------------------------------------------------------------ any thread

    def start(self, run: StartRun, reference: str) -> None:
        self._thread.post(lambda: self._take(run, reference))

    def stop(self, task_id: str, attempt: int, reason: str) -> None:
        self._thread.post(lambda: self._stop((task_id, attempt), reason))

    def drain(self, task_id: str, attempt: int) -> None:
        """Have a graph's run stop at the end of its present step, and not begin if it has not."""
        self._thread.post(lambda: self._drain((task_id, attempt)))

    def keep_warm(self, references: Iterable[str]) -> None:
        """Have a spare child from now on, with these handlers imported, also while nothing runs."""
        self._thread.post(lambda: self._spares.keep_warm(references))

    def use_models(self, models: dict[str, Any]) -> None:
        """Have children, those that are there and later ones, use these chat models from now on."""
        self._options["models"] = models
        self._thread.post(lambda: tell_all(self._children, ["models", models]))

    def problem(self) -> str:
        """Why no child can be started, "" if they can."""
        return self._starts.problem

    def pids(self) -> list[int]:
        """Process ids of the living children."""
        return [child.pid for child in self._children]

    def spare_pids(self) -> list[int]:
        """Process ids of the children that could begin a run at once."""
        return [child.pid for child in list(self._children) if child.free]

    def close(self) -> None:
        """Kill every child and wait for the thread; runs that have not ended are not reported."""
        self._thread.close()

    # ------------------------------------------------------------ the thread

    def _turn(self) -> None:
        now = self._turned_at = time.monotonic()
        self._timers(now)
        self._assign(now)
        ready = sum(child.at_work for child in self._children)
        if ready != self._told_ready:
            self._told_ready = ready
            self._events.append(ChildrenReady(ready))
        if self._events:
            events, self._events = self._events, []
            self._report(events)

    def _broken(self, error: Exception) -> None:
        """A fault of this module. The runs fail, visibly; the next run starts a new thread."""
        text = f"the process pool failed: {invoke.one_line(error)}"
        for job in self._jobs.values():
            self._events.append(endings.failed(job.run, "killed", text, retryable=True))
        self._report(self._events)

    def _end(self) -> None:
        for child in list(self._children):
            child.kill()
            child.bury()
        self._children.clear()
        self._jobs.clear()
        self._pending.clear()
        self._events = []

    def _take(self, run: StartRun, reference: str) -> None:
        try:
            job = Job(run, reference)
        except TypeError as error:
            text = f"the payload is not JSON: {error}"
            self._events.append(endings.failed(run, "invalid_input", text, retryable=False))
            return
        self._jobs[(run.task_id, run.attempt)] = job
        self._pending.append(job)

    def _stop(self, key: Key, reason: str) -> None:
        job = self._jobs.get(key)
        if job is None or job.stop_reason:
            return
        job.stop_reason = reason
        if job.child is None:
            self._pending.remove(job)
            self._finish_unstarted(job)
        elif job.child.jobs[0] is job:
            job.ask(self._config.stop_grace_s)
        else:
            self._recall(job)

    def _drain(self, key: Key) -> None:
        job = self._jobs.get(key)
        if job is None or job.stop_reason:
            return
        if job.child is not None and job.child.jobs[0] is job:
            job.child.send(["drain", *key])
        else:
            self._stop(key, "drain")

    def _timers(self, now: float) -> None:
        for child in list(self._children):
            job = child.jobs[0] if child.jobs else None
            if job is not None and job.stop_stage and now >= job.next_stage_at:
                job.insist(now, self._config.kill_grace_s)
            elif now >= child.hung_at(self._config.child_start_s):
                child.kill()
            elif now >= self._idle_until(child) and self._may_go(child):
                child.retire()

    def _idle_until(self, child: ChildProcess) -> float:
        """A spare is not idle while others are busy, whether it ran something or not."""
        since = child.idle_since if self._jobs else max(child.idle_since, self._used_at)
        return since + self._config.child_idle_s

    def _may_go(self, child: ChildProcess) -> bool:
        return not self._pending and self._spares.may_go(child, self._children, busy=bool(self._jobs))

    def _next_timer(self) -> float | None:
        """Seconds until the next thing that is due without any input, None for never."""
        due: list[float] = [self._spares.start_at]
        room = self._room() > 0 and any(child.free for child in self._children)
        for child in self._children:
            if child.jobs and child.jobs[0].stop_stage:
                due.append(child.jobs[0].next_stage_at)
            due.append(child.hung_at(self._config.child_start_s))
            if self._may_go(child):
                due.append(self._idle_until(child))
            elif room:
                due.append(ahead.recall_at(child))
        if (self._pending or self._starts.problem) and self._starts.after > self._turned_at:
            due.append(self._starts.after)
        first = min(due)
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def _room(self) -> int:
        """Runs that could begin now if there were children for them."""
        return self._config.slots - sum(bool(child.jobs) for child in self._children)

    # ------------------------------------------------------------ giving out

    def _assign(self, now: float) -> None:
        self._give_out(now)
        free = self._room() > 0 and any(child.free for child in self._children)
        if behind := ahead.behind(self._children, now, others_free=free):
            for job in behind:
                self._recall(job)
            self._give_out(now)
        if self._starts.problem and not self._children and now >= self._starts.after:
            # Nobody sends work to a worker that cannot start children, so find out without work whether it can again.
            self._spawn(now)
        room = self._room()
        self._start_some(now, room)
        if self._pending and room <= 0:
            self._give_ahead(now)

    def _give_out(self, now: float) -> None:
        """To children that can begin at once."""
        room = self._room()
        free = [child for child in self._children if child.free]
        while room > 0 and (fit := first_fit(self._pending, free)) is not None:
            self._pending.remove(fit[0])
            free.remove(fit[1])
            self._give(fit[1], fit[0], now)
            room -= 1

    def _recall(self, job: Job) -> None:
        if job.child is not None and job.child.recall(job):
            job.child.jobs.remove(job)
            self._came_back(job)

    def _start_some(self, now: float, room: int) -> None:
        """Children for the runs that wait, or a spare."""
        starting = sum(not child.ready for child in self._children)
        most = self._config.slots + self._config.spare_children
        while min(len(self._pending), room) > starting and len(self._children) < most:
            if now < self._starts.after or not self._spawn(now):
                return
            starting += 1
        for child in in_the_way(self._children, min(len(self._pending), room) - starting):
            child.retire()  # it runs something else, and there is no place for one more
        if self._spares.wanted(self._children, now, busy=bool(self._jobs), room=len(self._children) < most):
            self._spawn(now)
        if not self._pending and (found := self._spares.to_import(self._children)) is not None:
            found[0].load(found[1])

    def _give_ahead(self, now: float) -> None:
        """All slots are taken: the next short runs wait behind other short ones, in the child that will run them."""
        for child in self._children:
            if not self._pending or not self._short(self._pending[0]):
                break
            if ahead.may_wait_in(child, self._pending[0]) and self._short(child.jobs[0]):
                self._give(child, self._pending.popleft(), now)

    def _short(self, job: Job) -> bool:
        return not job.stop_reason and self._times.short(job.run.task_type)

    def _give(self, child: ChildProcess, job: Job, now: float) -> None:
        child.give(job, now)
        self._spares.ran(child, job.reference)
        if child.jobs[0] is job:
            self._begins(job)

    def _begins(self, job: Job) -> None:
        """The job is at the front of its child now."""
        self._events.append(RunStarted(job.run.task_id, job.run.attempt, time.time()))
        if job.stop_reason:
            job.ask(self._config.stop_grace_s)

    def _spawn(self, now: float) -> bool:
        try:
            child = ChildProcess(self._options, self._thread.selector, self._frames, self._gone, self._forks)
        except OSError as error:
            self._start_failed(now, f"cannot start a child process: {error}", {})
            return False
        self._spares.started(child)
        self._children.append(child)
        return True

    # ------------------------------------------------------------ children's news

    def _frames(self, child: ChildProcess, head: list[object], body: bytes) -> None:
        """A child sent a frame.

        Raises:
            ValueError, IndexError, TypeError: the frame is not of the protocol; the child is killed for it.
        """
        if head[0] == "ready":
            child.ready = True
            child.idle_since = time.monotonic()
            self._starts.succeeded()
        elif head[0] == "loaded":
            child.knows.add(child.loading)
            child.loading = ""
        elif head[0] == "done":
            self._done(child, head, body)
        elif head[0] == "back":
            child.recalled = None
            job = self._jobs.get((str(head[1]), int(str(head[2]))))
            if job is not None and job in child.jobs:  # else it was taken back without this word
                child.jobs.remove(job)
                job.stop_stage = 0  # it may have come to the front here meanwhile
                self._came_back(job)
        else:
            self._events += self._hearing.hear(child.jobs[0].run if child.jobs else None, head, body)

    def _done(self, child: ChildProcess, head: list[object], body: bytes) -> None:
        _, task_id, attempt, outcome, error, kind, retryable, started_at, execution_s, detail, over = head
        run = child.jobs[0].run
        if (task_id, attempt) != (run.task_id, run.attempt) or not isinstance(detail, dict):
            raise ValueError("a result of something else")
        assert isinstance(execution_s, float)
        assert isinstance(started_at, float)
        child.jobs.popleft()
        if child.recalled == (run.task_id, run.attempt):
            child.recalled = None  # too late: it had begun
        del self._jobs[(run.task_id, run.attempt)]
        if outcome == "completed":
            self._times.ended(run.task_type, execution_s)
        elif lines := child.lines_of(run.task_id, run.attempt):
            detail["log"] = tail([*detail.get("log", []), *lines])
        told = str(outcome), body, str(error), str(kind), bool(retryable), started_at, execution_s, detail
        self._events.append(RunFinished(run.task_id, run.attempt, *told))
        child.idle_since = self._used_at = time.monotonic()
        if over:
            child.retired_at = child.idle_since
            self._take_back(child)  # it takes up nothing more, so what it has at hand was not begun
            child.kill()
            self._gone(child)
        elif child.jobs:
            self._begins(child.jobs[0])

    def _gone(self, child: ChildProcess) -> None:
        """The child has ended, or its socket has: everything it still wrote was read before."""
        if child not in self._children:
            return
        self._children.remove(child)
        code = child.bury()
        if not child.ready:
            error, _, detail = exit_report(code, child.lines_of("", 0))
            self._start_failed(time.monotonic(), f"child process did not start: {error}", detail)
        elif child.spare:
            self._spares.failed(child, time.monotonic())
        if not self._children and not self._jobs:
            self._spares.forget()
        running = child.jobs.popleft() if child.jobs else None
        self._take_back(child)
        if running is not None:
            self._ended_with(child, running, code)

    def _take_back(self, child: ChildProcess) -> None:
        """What was given to this child and not begun waits for another one."""
        while child.jobs:
            self._came_back(child.jobs.pop())

    def _came_back(self, job: Job) -> None:
        job.child = None
        if job.stop_reason:
            self._finish_unstarted(job)
        else:
            self._pending.appendleft(job)

    def _ended_with(self, child: ChildProcess, job: Job, code: int) -> None:
        """The child took this run with it."""
        report = exit_report(code, child.lines_of(job.run.task_id, job.run.attempt))
        del self._jobs[(job.run.task_id, job.run.attempt)]
        self._used_at = time.monotonic()
        self._spares.lost()
        self._events.append(endings.taken_along(job.run, report, job.stop_reason, self._used_at - job.given_at))

    def _start_failed(self, now: float, error: str, detail: dict[str, object]) -> None:
        if not self._starts.problem and (not self._pending or self._room() <= 0):
            self._spares.pause(now)  # no run waits for it: the others go on
            return
        given_up = self._starts.failed(now, error)
        while given_up and self._pending:
            run = self._pending.popleft().run
            del self._jobs[(run.task_id, run.attempt)]
            self._events.append(endings.failed(run, "exited", error, retryable=True, detail=detail))

    def _finish_unstarted(self, job: Job) -> None:
        self._jobs.pop((job.run.task_id, job.run.attempt), None)
        self._events.append(endings.unstarted(job.run, job.stop_reason))
