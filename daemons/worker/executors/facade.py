"""The executors of a worker behind one face: ``start``, ``stop``, and batches of what happened.

Called from the messaging loop and never blocks it. Reports of all executors' threads are gathered; however many there
are, the loop is woken once for them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from a2a_zmq.llm import configure
from a2a_zmq.llm.calls import Call
from daemons.runtime.contract import Event, ModelCalled, RunFinished, StartRun, StopRun
from daemons.worker.config import WorkerConfig
from daemons.worker.executors.attempts import Attempt, Key
from daemons.worker.executors.cooperative import AsyncRunner, ThreadRunner
from daemons.worker.executors.forks import ForkServer
from daemons.worker.executors.hearing import Hearing
from daemons.worker.executors.processes import ProcessPool
from daemons.worker.kinds import PROCESS, executor_of
from daemons.worker.registry import Registry

if TYPE_CHECKING:
    from a2a_zmq.tracing.runs import Runs

# How long close() waits for cooperative handlers that were cancelled.
CLOSE_WAIT_S: Final = 1.0


class Executor:
    """Runs attempts; for every started one exactly one RunFinished is delivered, whatever the handler does."""

    def __init__(
        self,
        registry: Registry,
        config: WorkerConfig,
        deliver: Callable[[list[Event]], None],
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        checkpoints: dict[str, Any] | None = None,
        models: dict[str, Any] | None = None,
        forks: ForkServer | None = None,
        runs: Runs | None = None,
    ) -> None:
        """
        Args:
            registry: how each task type is run.
            config: limits.
            deliver: called on the loop with everything that happened since the last call, in order.
            loop: the messaging loop; the running one if left out.
            checkpoints: where graphs keep theirs (``url``, ``keep``, ``ttl_s``).
            models: arguments of :func:`a2a_zmq.llm.configure` for what is run; None if there are none.
            forks: where child processes come from, where there are graphs.
            runs: traces of runs, where they are reported.
        """
        self._registry = registry
        self._config = config
        self._deliver = deliver
        self._loop = loop if loop is not None else asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._woken = False
        self._closed = False
        # What we do when a handler's thread calls us is not done on behalf of its task.
        self._context = copy_context()
        self._async = AsyncRunner(config.max_result_bytes, self._report, runs)
        self._threads = ThreadRunner(config.thread_slots, config.max_result_bytes, self._report, runs)
        self._processes = ProcessPool(config, self._report, checkpoints, models, forks, hearing=Hearing(runs))
        if models is not None:  # of handlers that run in this process
            configure(**models, on_call=self._model_called)

    def start(self, run: StartRun) -> None:
        """Run this attempt; what becomes of it is delivered."""
        kind = self._registry.get(run.task_type)
        if kind is None:
            error = f"there is no handler of task type {run.task_type!r}"
            self._report(
                [
                    RunFinished(
                        run.task_id, run.attempt, "failed", b"null", error, "unknown_task_type", False, time.time(), 0.0
                    )
                ]
            )
            return
        executor = executor_of(kind, run.metadata)
        if executor == "async":
            self._async.start(Attempt(run, kind.reference, inline=kind.inline))
        elif executor == "thread":
            self._threads.start(Attempt(run, kind.reference))
        else:
            self._processes.start(run, kind.reference)

    def stop(self, stop: StopRun) -> None:
        """End a run early; one that has ended is left alone."""
        key = (stop.task_id, stop.attempt)
        grace_s = self._config.stop_grace_s + self._config.kill_grace_s
        if stop.unbegun and (self._async.has_begun(key) or self._threads.has_begun(key)):
            return
        if self._async.stop(key, stop.reason):
            self._loop.call_later(grace_s, self._async.give_up, key)
        elif self._threads.stop(key, stop.reason):
            self._loop.call_later(grace_s, self._threads.give_up, key)
        elif stop.unbegun:
            return
        elif stop.at_step:
            self._processes.drain(stop.task_id, stop.attempt)
        else:
            self._processes.stop(stop.task_id, stop.attempt, stop.reason)

    def keep_warm(self) -> None:
        """Have a child process ready for the next run that needs one, whether or not anything runs."""
        kinds = self._registry.kinds().values()
        self._processes.keep_warm([kind.reference for kind in kinds if kind.executor == PROCESS])

    def use_models(self, models: dict[str, Any]) -> None:
        """Chat models of all that is run, from now on."""
        configure(**models, on_call=self._model_called)
        self._processes.use_models(models)

    def problem(self) -> str:
        """Why runs cannot be relied on to run, "" if they can."""
        return self.health()[0]

    def health(self) -> tuple[str, list[str], Key | None]:
        """The same, which executors begin nothing more by it, and which run is the cause, where one is known; for
        ``WorkerCore.executor_health``."""
        problems = {"async": self._async.problem(), "thread": self._threads.problem()}
        stuck = [kind for kind, problem in problems.items() if problem]
        blocker = self._async.blocker() if problems["async"] else None
        return self._processes.problem() or problems["async"] or problems["thread"], stuck, blocker

    def child_pids(self) -> list[int]:
        """Process ids of the living child processes."""
        return self._processes.pids()

    def spare_pids(self) -> list[int]:
        """Process ids of the child processes that could begin a run at once."""
        return self._processes.spare_pids()

    async def close(self) -> None:
        """End everything: kill the children, cancel coroutines. Runs that have not ended are not reported any more."""
        self._closed = True
        await asyncio.to_thread(self._close_all)

    def _close_all(self) -> None:
        self._processes.close()
        self._async.close(CLOSE_WAIT_S)
        self._threads.close(CLOSE_WAIT_S)

    # ------------------------------------------------------------ from any thread

    def _model_called(self, call: Call) -> None:
        self._report([ModelCalled(call)])

    def _report(self, events: list[Event]) -> None:
        self._events.extend(events)
        # Two threads may both wake the loop, never none: the flag falls before the events are taken.
        if not self._woken and not self._closed:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._hand_over, context=self._context)
            except RuntimeError:
                self._closed = True  # the loop is closed: nobody listens any more

    def _hand_over(self) -> None:
        self._woken = False
        events = self._events
        batch = [events.popleft() for _ in range(len(events))]
        if batch and not self._closed:
            self._deliver(batch)
