"""The child process that runs handlers: ``python -m daemons.worker.executors.child PARENT_PID FD``, or a fork of
:mod:`daemons.worker.executors.preloaded`.

One run at a time on the main thread, so that handlers meet the ordinary rules for signals; a second thread reads the
frames, so that a request to stop arrives while a handler runs. Also ``--list`` and ``--list-graphs``: import handler
modules, or projects of graphs, and say what they offer.

A run that was given ahead begins in the child itself, without a word from the worker; so before each run it takes all
that the worker has sent, and finds a request to give that run back (see ``ChildProcess.recall``).

What keeps it from outliving or disturbing its worker: its own session (a terminal's Ctrl-C does not reach it), a
parent-death signal, and end-of-file on the socket. SIGTERM interrupts a run that was asked to stop, and nothing else:
a service manager that signals the whole control group must not end running work before the worker drains.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
from collections import deque
from contextlib import suppress
from time import monotonic as monotonic_s  # (bound here: a handler may replace those of the module, and leave them so)
from time import time as wall_s

import orjson

from a2a_zmq.handlers import TaskContext, TaskStopped, running
from a2a_zmq.llm import configure
from daemons.runtime.slices import usual_slices
from daemons.runtime.tether import die_with_parent
from daemons.worker.executors import invoke
from daemons.worker.executors.copies import CopiesEnd, without_handler
from daemons.worker.executors.link import Link
from daemons.worker.executors.surroundings import Surroundings, flush, print_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from a2a_zmq.llm.calls import Call
    from a2a_zmq.streams import Chunk
    from a2a_zmq.tracing.runs import Entered, Runs
    from daemons.worker.graphs.runs import GraphRun, GraphRunner

# This process may be killed at any time: what it did is reported soon.
GATHER_SPANS_S = 0.1
# Begins the references of graphs; those of functions are module:function.
GRAPH = "graph:"


class Job:
    """A run that was received."""

    __slots__ = ("attempt", "body", "context", "on_drain", "on_stop", "reference", "task_id", "timeout_s")

    def __init__(self, head: list[Any], body: bytes) -> None:
        _, self.task_id, self.attempt, task_type, self.reference, self.timeout_s, metadata = head
        self.body = body
        self.context = TaskContext(self.task_id, self.attempt, task_type, metadata=metadata)
        self.on_stop: Callable[[], None] | None = None
        self.on_drain: Callable[[], None] | None = None  # stop at the end of a step


class Child:
    """Both threads' state. ``waiting`` decides who has a job: whoever pops it (atomically) runs or returns it."""

    def __init__(self, fd: int) -> None:
        self._link = Link(fd)
        self._surroundings = Surroundings()
        self._order: deque[tuple[str, int]] = deque()
        self._waiting: dict[tuple[str, int], Job | str] = {}  # a text: a handler to import
        self._available = _thread.allocate_lock()  # held while there is nothing to do
        self._available.acquire()
        self._current: Job | None = None
        self._stops: dict[tuple[str, int], str] = {}  # asked to end, perhaps before the main thread took them up
        self._drained: set[tuple[str, int]] = set()  # asked to stop at the end of a step, perhaps before they began
        self._max_bytes = 0
        self._checkpoints: dict[str, Any] = {}
        self._graphs: GraphRunner | None = None
        self._runs: Runs | None = None  # where traces are reported
        self._entered: Entered | None = None
        self._told = False  # it knows its options
        self._closing = False

    def run(self) -> None:
        """Serve until the worker closes the socket."""
        while not self._told:
            self._link.wait()
            if not self._heard():
                return
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminated)
        without_handler(signal.SIGTERM, self._terminated)
        _thread.start_new_thread(self._read_forever, ())
        self._link.send(["ready"])
        while True:
            self._available.acquire()
            while self._order and self._heard():
                job = self._waiting.pop(self._order.popleft(), None)
                if isinstance(job, str):
                    self._load(job)
                elif job is not None and not self._work(job):
                    return
            if self._closing:
                break
        if self._graphs is not None:
            self._graphs.close()
        if self._runs is not None:
            self._runs.exporter.close()

    def _heard(self) -> bool:
        """Take what has come; False if the worker is gone."""
        if not self._link.take(self._take):
            self._closing = True
        return not self._closing

    def _set_up(self, options: dict[str, Any]) -> None:
        self._max_bytes = options["max_result_bytes"]
        self._checkpoints = options["checkpoints"]
        if options["models"] is not None:
            configure(**options["models"], on_call=self._model_called)
        if options["traces"] is not None:
            self._open_traces(*options["traces"])
        sys.path[:] = options["path"]
        if options["pythonpath"] is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = options["pythonpath"]
        self._told = True

    # ------------------------------------------------------------ reading thread

    def _read_forever(self) -> None:
        # Signals belong to the main thread: one that arrived here would not interrupt what that one waits for.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:
            with suppress(OSError):  # the worker is gone: the same as end of file
                while self._heard():
                    self._wake()  # only now: the main thread takes what has come, too, and would wait for this one
                    self._link.wait()
        except BaseException as error:  # without this thread the worker would be heard no more
            print_error(error)
            os.killpg(0, signal.SIGKILL)
        self._closing = True
        self._wake()
        # A handler that still runs has nobody to report to; it and whatever it started end here.
        if self._current is not None:
            os.killpg(0, signal.SIGKILL)

    def _take(self, head: list[Any], body: bytes) -> None:
        if head[0] == "init":
            self._set_up(head[1])
            return
        if head[0] == "load":
            self._waiting[head[1], 0] = head[1]
            self._order.append((head[1], 0))
            return
        if head[0] == "models":
            configure(**head[1], on_call=self._model_called)
            return
        key = (head[1], head[2])
        if head[0] == "run":
            self._waiting[key] = Job(head, body)
            self._order.append(key)
        elif head[0] == "revoke":
            if self._waiting.pop(key, None) is not None:
                self._link.send(["back", *key])
        elif head[0] == "drain":
            self._drained.add(key)
            job = self._current
            if job is not None and (job.task_id, job.attempt) == key and job.on_drain is not None:
                job.on_drain()
        elif head[0] == "stop":
            self._stops[key] = head[3]
            job = self._current
            if job is not None and (job.task_id, job.attempt) == key:
                job.context.stop(head[3])
                if job.on_stop is not None:
                    job.on_stop()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # released already: the main thread is about to look
            self._available.release()

    def _model_called(self, call: Call) -> None:
        """At once, not with the run's report: what a killed run used counts, too. It costs little beside a call."""
        with suppress(OSError):  # the worker is gone
            self._link.send(["model", *call])

    # ------------------------------------------------------------ what handlers trace and log

    def _open_traces(self, endpoint: str, resource: dict[str, str]) -> None:
        from a2a_zmq.tracing.export import Exporter, quiet
        from a2a_zmq.tracing.runs import Runs
        from daemons import redaction

        quiet()
        self._runs = Runs(Exporter(endpoint, resource, gather_s=GATHER_SPANS_S, clean=redaction.text))

    def _begins(self, job: Job) -> None:
        """Its handler is loaded, with whatever that sets up for itself, and is about to be called."""
        if "logging" in sys.modules:
            from daemons.worker.executors.child_logs import forward

            forward(self._link.send_log, lambda: self._current is not None)
        self._surroundings.begin()
        if self._runs is not None:
            self._entered = self._runs.enter(job.context.metadata, job.task_id, job.attempt)

    def _left(self) -> None:
        self._surroundings.left()
        if self._runs is not None:
            self._runs.leave(self._entered)
            self._entered = None
            counts = self._runs.exporter.counts()
            if any(counts):
                with suppress(OSError):  # the worker is gone
                    self._link.send(["spans", *counts])

    # ------------------------------------------------------------ main thread

    def _terminated(self, signum: int, frame: object) -> None:
        job = self._current
        if job is not None and job.context.cancelled:
            raise TaskStopped(job.context.stop_reason)

    def _load(self, reference: str) -> None:
        """Import a handler before there is a run of it. What goes wrong is told by the run that needs it."""
        with CopiesEnd(), suppress(Exception, SystemExit):
            if reference.startswith(GRAPH):
                self._graph_runner().load(reference)
            elif invoke.load(reference).is_async:
                import asyncio  # noqa: F401 - such a handler's run needs it
        flush()
        self._link.send(["loaded"])

    def _work(self, job: Job) -> bool:
        """Run it and report; False if nobody knows what it left behind: then this process must run nothing any more."""
        context = job.context
        self._surroundings.mark(job.task_id, job.attempt)
        outcome, result, error, kind, retryable, detail = "completed", b"null", "", "", False, {}
        over = False  # it was interrupted, or left its event loop as it was
        started_at, begun = wall_s(), monotonic_s()
        if job.timeout_s is not None:
            context.deadline = begun + job.timeout_s
        running.set(context)
        try:
            self._current = job
            if (job.task_id, job.attempt) in self._stops:
                context.stop(self._stops[(job.task_id, job.attempt)])
            try:
                context.raise_if_cancelled()
                with CopiesEnd():
                    result = invoke.encode(self._call(job), self._max_bytes)
            finally:
                self._current = None  # from here on SIGTERM interrupts nothing
        except invoke.Ended as ended:
            self._current = None
            outcome, result, error, kind, retryable = (
                ended.outcome,
                ended.body,
                ended.error,
                ended.kind,
                ended.retryable,
            )
            detail = ended.detail
        except BaseException as failed:
            self._current = None
            if invoke.ended_on_request(failed, context):
                outcome, error, kind, retryable = invoke.stopped(context.stop_reason, job.timeout_s)
                detail = {"log": context.lines} if context.lines else {}
                over = True
            else:
                kind, error, retryable, detail = invoke.failure(failed, context)
                outcome = "failed"
                # SystemExit and the like leave an event loop at once: what else was on it, the run itself too, is there
                # still, and would be the next run's to end.
                over = job.reference.startswith(GRAPH) and not isinstance(failed, Exception)
        execution_s = monotonic_s() - begun
        running.set(None)
        self._left()
        self._stops.pop((job.task_id, job.attempt), None)
        self._drained.discard((job.task_id, job.attempt))
        flush()
        over = over or self._surroundings.broken()
        head = ["done", job.task_id, job.attempt, outcome, error, kind, retryable, started_at, execution_s, detail]
        try:
            self._link.send([*head, over], result)
        except OSError as lost:
            # The worker is gone, or the handler closed what was not its own.
            print(f"cannot report to the worker: {lost.strerror}", file=sys.stderr)
            flush()
            os._exit(1)  # and not at the end of what threads the handler has left
        if self._graphs is not None and not over:
            self._graphs.settle()
        return not over

    def _call(self, job: Job) -> Any:
        if job.reference.startswith(GRAPH):
            return self._call_graph(job)
        handler = invoke.load(job.reference)
        self._begins(job)
        positional, named = handler.arguments(orjson.loads(job.body), job.context)
        if handler.is_async:
            return self._call_async(job, handler, positional, named)
        if not handler.takes_context:
            # It has no way to look at the flag, so there is nothing to wait for: interrupt at once.
            job.on_stop = _interrupt
            job.context.raise_if_cancelled()
        return handler.call(*positional, **named)

    def _call_async(self, job: Job, handler: invoke.Handler, positional: list[Any], named: dict[str, Any]) -> Any:
        import asyncio

        async def main() -> Any:
            loop, this = asyncio.get_running_loop(), asyncio.current_task()
            assert this is not None

            def cancel() -> None:
                with suppress(RuntimeError):  # its loop is closed: what is left is to encode the result
                    loop.call_soon_threadsafe(this.cancel)

            job.on_stop = cancel
            job.context.raise_if_cancelled()
            with CopiesEnd():  # here, and not when they have closed the loop's descriptors, which both have
                return await handler.call(*positional, **named)

        return asyncio.run(main())

    def _graph_runner(self) -> GraphRunner:
        if self._graphs is None:
            from daemons.worker.graphs.runs import GraphRunner

            self._graphs = GraphRunner(self._checkpoints, self._max_bytes, self._runs)
        return self._graphs

    def _call_graph(self, job: Job) -> Any:
        from a2a_zmq.streams import id_text

        def running(run: GraphRun) -> None:
            # In this order: who asks meanwhile is seen by one of both.
            job.on_stop, job.on_drain = run.cancel, run.drain
            if (job.task_id, job.attempt) in self._drained:
                run.drain()

        def told(chunk: Chunk) -> None:
            names = id_text(chunk.prev), id_text(chunk.last)
            self._link.send(["events", job.task_id, job.attempt, *names], chunk.events)

        self._graph_runner().load(job.reference)
        self._begins(job)
        return self._graph_runner().call(job.reference, job.body, job.context, running, told)


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str]) -> None:
    """
    Args:
        arguments: what to list; or the process to end with, unless that was seen to, and the number of the socket.
    """
    usual_slices()
    if arguments[0].startswith("--list"):
        from daemons.worker.executors.listing import answer

        answer(*arguments)
        return
    if len(arguments) > 1:
        die_with_parent(int(arguments[0]))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    try:
        Child(int(arguments[-1])).run()
    except BaseException as error:
        # At once: the interpreter would wait for the threads that handlers have left, and the run with it.
        print_error(error)
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
