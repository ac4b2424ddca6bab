"""Executors ``async`` and ``thread``: cooperative code inside the worker's process, off its messaging loop.

Neither can be killed. A run that does not end when it is asked to is given up after the grace: its outcome is
reported, what it may return later is dropped, and a thread that hangs so is replaced until there are too many of them
(see ``problem``).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from a2a_zmq.handlers import TaskContext, running
from daemons.runtime.contract import Event, RunFinished, RunStarted
from daemons.worker.executors import invoke
from daemons.worker.executors.attempts import Attempt, Key, OpenRuns, Report

if TYPE_CHECKING:
    from a2a_zmq.tracing.runs import Entered, Runs

# Inline runs in one go before the handler loop looks after its coroutines again; at 3 µs each below a millisecond.
INLINE_AT_ONCE: Final = 256
# A handler loop that has not looked at its inbox for this long is blocked by an async handler that does not await.
BLOCKED_S: Final = 5.0
# What the names of threads begin with in which handlers run.
HANDLERS: Final = "a2a-handler"
# What a loop calls its callbacks and the steps of its tasks by.
CALLBACK: Final = asyncio.Handle._run.__code__


class AsyncRunner:
    """A thread with an event loop of its own for async handlers, and for built-ins that are called in bulk."""

    def __init__(self, max_result_bytes: int, report: Report, runs: Runs | None = None) -> None:
        self._runs = runs
        self._open = OpenRuns(max_result_bytes, report)
        self._inbox: deque[Attempt] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._woken_at = 0.0  # 0: nothing asked of the loop
        self._finished: list[Event] = []

    def start(self, attempt: Attempt) -> None:
        self._open.table[(attempt.run.task_id, attempt.run.attempt)] = attempt
        self._inbox.append(attempt)
        if not self._woken_at:
            self._woken_at = time.monotonic()
            self._running_loop().call_soon_threadsafe(self._take)

    def stop(self, key: Key, reason: str) -> bool:
        """Ask a run to end; False if there is none (any more)."""
        attempt = self._open.table.get(key)
        if attempt is None or attempt.context.cancelled:
            return False
        attempt.context.stop(reason)
        self._running_loop().call_soon_threadsafe(self._cancel, attempt)
        return True

    def has_begun(self, key: Key) -> bool:
        return self._open.begun(key)

    def give_up(self, key: Key) -> bool:
        return self._open.give_up(key)

    def blocker(self) -> Key | None:
        """On behalf of which run the loop does what it does at this moment; None if of none."""
        frame = sys._current_frames().get(self._thread.ident or 0) if self._thread is not None else None
        while frame is not None and frame.f_code is not CALLBACK:
            frame = frame.f_back
        handle = frame.f_locals.get("self") if frame is not None else None
        context: TaskContext | None = handle._context.get(running) if handle is not None else None
        return None if context is None else (context.task_id, context.attempt)

    def problem(self) -> str:
        since = self._woken_at
        if since and time.monotonic() - since > BLOCKED_S:
            return "an async handler blocks the handler loop"
        return ""

    def close(self, wait_s: float) -> None:
        loop, self._loop = self._loop, None  # by this it ends
        if self._thread is not None and loop is not None:
            with contextlib.suppress(RuntimeError):  # it has noticed already
                loop.call_soon_threadsafe(loop.stop)
            self._thread.join(wait_s)  # a blocked handler does not keep the process: the thread is a daemon
            self._thread = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            # For asyncio.to_thread(); named, since Python waits for these threads at its end (see daemons.worker.main).
            self._loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=f"{HANDLERS}-call"))
            name = f"{HANDLERS}-loop"
            self._thread = threading.Thread(target=self._serve, args=(self._loop,), name=name, daemon=True)
            self._thread.start()
        return self._loop

    # ------------------------------------------------------------ the thread

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            # asyncio passes SystemExit and KeyboardInterrupt of any task on to whoever runs the loop, and anybody may
            # stop it. What one handler does is not the end of all others: each task has its exception, so go on.
            while self._loop is loop:
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    loop.run_until_complete(asyncio.wait(tasks, timeout=0.5))
        finally:
            loop.close()

    def _take(self) -> None:
        self._woken_at = 0.0
        inbox = self._inbox
        finished: list[Event] = []
        loop = asyncio.get_running_loop()
        inline = 0
        while inbox:
            if inline == INLINE_AT_ONCE:
                loop.call_soon(self._take)
                break
            attempt = inbox.popleft()
            if attempt.inline:
                inline += 1
                done = self._call_inline(attempt)
                if done is not None:
                    finished.append(done)
            elif (attempt.run.task_id, attempt.run.attempt) in self._open.table:
                attempt.task = loop.create_task(self._run(attempt))
        if finished:
            self._open.report(finished)

    def _call_inline(self, attempt: Attempt) -> RunFinished | None:
        attempt.started_at = time.time()
        begun = time.monotonic()
        try:
            value = invoke.load(attempt.reference).call(attempt.run.payload)
        except BaseException as error:
            return self._open.failed(attempt, error, begun)
        return self._open.completed(attempt, value, begun)

    async def _run(self, attempt: Attempt) -> None:
        run, context = attempt.run, attempt.context
        attempt.started_at = time.time()
        begun = time.monotonic()
        if run.timeout_s is not None:
            context.deadline = begun + run.timeout_s
        running.set(context)
        try:
            context.raise_if_cancelled()
            handler = invoke.load(attempt.reference)
            if self._runs is not None:
                self._runs.enter(run.metadata, run.task_id, run.attempt)  # this asyncio task is its own context
            positional, named = handler.arguments(run.payload, context)
            value = await handler.call(*positional, **named)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: they must not end the loop's thread
            done = self._open.failed(attempt, error, begun)
        else:
            done = self._open.completed(attempt, value, begun)
        if done is not None:
            if not self._finished:
                asyncio.get_running_loop().call_soon(self._flush)
            self._finished.append(done)

    def _flush(self) -> None:
        """Everything that ended in this turn of the loop is reported in one go."""
        finished, self._finished = self._finished, []
        self._open.report(finished)

    def _cancel(self, attempt: Attempt) -> None:
        if attempt.task is not None:
            attempt.task.cancel()
            if not attempt.started_at:
                # Cancelled before its first step: the coroutine never runs, so it cannot report.
                attempt.task.add_done_callback(lambda _: self._report_stopped(attempt))

    def _report_stopped(self, attempt: Attempt) -> None:
        done = self._open.stopped(attempt, {})
        if done is not None:
            self._open.report([done])


class ThreadRunner:
    """A bounded pool of threads for sync code that looks at ``ctx.cancelled``."""

    def __init__(self, slots: int, max_result_bytes: int, report: Report, runs: Runs | None = None) -> None:
        self._slots = slots
        self._runs = runs
        self._open = OpenRuns(max_result_bytes, report)
        self._queue: queue.SimpleQueue[Attempt | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy: dict[Key, threading.Thread] = {}
        self._lost: list[threading.Thread] = []  # given up, still inside a handler

    def start(self, attempt: Attempt) -> None:
        self._open.table[(attempt.run.task_id, attempt.run.attempt)] = attempt
        self._queue.put(attempt)
        self._grow()

    def stop(self, key: Key, reason: str) -> bool:
        attempt = self._open.table.get(key)
        if attempt is None or attempt.context.cancelled:
            return False
        attempt.context.stop(reason)
        if not attempt.started_at:
            self.give_up(key)  # still queued behind hanging threads: nothing to wait for
        return True

    def has_begun(self, key: Key) -> bool:
        return self._open.begun(key)

    def give_up(self, key: Key) -> bool:
        thread = self._busy.get(key)
        if not self._open.give_up(key):
            return False
        if thread is not None:
            self._lost.append(thread)
            self._threads.remove(thread)
            self._grow()
        return True

    def problem(self) -> str:
        lost = len(self._lost)
        self._lost = [thread for thread in self._lost if thread.is_alive()]
        for _ in range(lost - len(self._lost)):
            self._grow()
        if len(self._lost) > self._slots:
            return f"{len(self._lost)} thread handlers hang"
        return ""

    def close(self, wait_s: float) -> None:
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads.clear()

    def _grow(self) -> None:
        # Hanging threads are replaced, up to as many again; beyond that a worker is broken and says so.
        allowed = min(self._slots, 2 * self._slots - len(self._lost))
        if self._queue.qsize() and len(self._threads) < allowed:
            thread = threading.Thread(target=self._serve, name=f"{HANDLERS}-thread", daemon=True)
            self._threads.append(thread)
            thread.start()

    # ------------------------------------------------------------ the threads

    def _serve(self) -> None:
        this = threading.current_thread()
        while True:
            attempt = self._queue.get()
            if attempt is None:
                return
            key = (attempt.run.task_id, attempt.run.attempt)
            if key not in self._open.table:
                continue
            self._busy[key] = this
            try:
                self._run(attempt)
            except BaseException as error:  # not the handler's, which are caught there: no thread and no run is lost
                done = self._open.failed(attempt, error, time.monotonic())
                if done is not None:
                    self._open.report([done])
            finally:
                del self._busy[key]
            if this not in self._threads:
                return  # given up meanwhile, and replaced

    def _run(self, attempt: Attempt) -> None:
        run, context = attempt.run, attempt.context
        attempt.started_at = time.time()
        begun = time.monotonic()
        if run.timeout_s is not None:
            context.deadline = begun + run.timeout_s
        running.set(context)
        entered: Entered | None = None
        self._open.report([RunStarted(run.task_id, run.attempt, attempt.started_at)])
        try:
            context.raise_if_cancelled()
            handler = invoke.load(attempt.reference)
            if self._runs is not None:
                entered = self._runs.enter(run.metadata, run.task_id, run.attempt)
            positional, named = handler.arguments(run.payload, context)
            value = handler.call(*positional, **named)
        except BaseException as error:  # SystemExit and TaskStopped too
            done = self._open.failed(attempt, error, begun)
        else:
            done = self._open.completed(attempt, value, begun)
        running.set(None)
        if entered is not None and self._runs is not None:
            self._runs.leave(entered)
        if done is not None:
            self._open.report([done])
