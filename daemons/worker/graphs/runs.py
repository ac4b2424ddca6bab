"""Running a graph's task in a child process.

One run at a time, on an event loop of this process that lives as long as it does, and so do the connections to Redis
and the compiled graph. What makes a run go on elsewhere is the checkpoint that each step leaves (``durability="sync"``:
no step begins before the one before is in Redis): LangGraph takes a run up where its last checkpoint of the same
``run_id``, the task's id, stands.

Before anything is read the run *claims* its thread: it gets a fence that is above all earlier ones, which goes into
each write. What an attempt writes that was replaced is refused, however late it comes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson
import uvloop

from a2a_zmq.errors import ConfigError, ModelBusy, StaleCheckpointWriter, StateError, StoreUnavailable, TypeNotAllowed
from a2a_zmq.handlers import InvalidInput, TaskContext
from a2a_zmq.streams import Chunk
from a2a_zmq.tasks import CHECKPOINT_GONE
from a2a_zmq.tracing.context import sampled_in
from daemons.worker.executors.copies import CopiesEnd
from daemons.worker.executors.invoke import Ended, encode, one_line
from daemons.worker.graphs import questions
from daemons.worker.graphs.breakpoints import Breakpoints
from daemons.worker.graphs.loading import Graph, load_graph
from daemons.worker.graphs.payload import GraphRequest
from daemons.worker.graphs.streaming import Output, stream

if TYPE_CHECKING:
    from a2a_zmq.tracing.runs import Runs

# While another task has the thread it is looked at again after so long, unless that task's end is noticed.
THREAD_BUSY_S: Final = 0.5
# Until a worker may be there that has the graph with which a run began.
GRAPH_CHANGED_S: Final = 1.0
# While checkpoints cannot be read or written; the saver has tried for longer than that.
STORE_AWAY_S: Final = 1.0
# For each attempt of a write of what a run tells.
STREAM_TIMEOUT_S: Final = 10.0


# What to do about a type that checkpoints may not hold.
ALLOW: Final = (
    "Annotate the type in the graph's state schema, or name it in langgraph.json: "
    'checkpointer.serde.allowed_msgpack_modules: [["module", "Type"]]'
)


class GraphRun:
    """Requests to a run, from other threads; what it tells."""

    def __init__(self, loop: asyncio.AbstractEventLoop, told: Callable[[Chunk], None]) -> None:
        from langgraph.runtime import RunControl

        self.control = RunControl()
        self.told = told
        self.teller: Any = None
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._lock = threading.Lock()

    def begins(self) -> None:
        self._task = asyncio.current_task()

    def drain(self) -> None:
        """Stop at the end of the present step."""
        self.control.request_drain("drain")

    def cancel(self) -> None:
        """Stop now."""
        task = self._task
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)


class GraphRunner:
    """What a child process keeps for its graph runs."""

    def __init__(self, options: dict[str, Any], max_bytes: int, runs: Runs | None = None) -> None:
        """
        Args:
            options: of the store of checkpoints and streams (``url``, ``connection``, ``keep``, ``ttl_s``,
                ``question_ttl_s``, ``stream_bytes``, ``stream_ttl_s``); empty where there is none.
            max_bytes: for what is reported besides a value, and for an event.
            runs: traces, where they are reported.
        """
        self._traces = runs
        self._options = options
        self._max_bytes = max_bytes
        self._loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._graphs: dict[str, Graph] = {}
        self._saver: Any = None
        self._claims: Any = None
        self._streams: Any = None
        self._giving_back: asyncio.Task[None] | None = None

    def load(self, reference: str) -> Graph:
        """Import the graph, and what running it needs.

        Raises:
            ConfigError: it cannot be used.
        """
        graph = self._graphs.get(reference)
        if graph is None:
            graph = self._graphs[reference] = load_graph(reference)
            if self._options:
                import a2a_zmq.checkpoint.aio
                import a2a_zmq.checkpoint.claims  # noqa: F401 - a spare child is to have all that a run needs
        return graph

    def call(
        self,
        reference: str,
        body: bytes,
        context: TaskContext,
        on_run: Callable[[GraphRun], None],
        told: Callable[[Chunk], None],
    ) -> Any:
        """Run the task; its graph's output.

        Args:
            on_run: gets the handle by which other threads stop the run.
            told: gets what it streams, when that is stored.

        Raises:
            Ended: it waits for somebody, goes on elsewhere, or later.
            InvalidInput, Exception: as handlers do.
        """
        self.settle()
        run = GraphRun(self._loop, told)
        return self._loop.run_until_complete(self._run(reference, body, context, run, on_run=on_run))

    def settle(self) -> None:
        """Wait until the last run's thread is given back, which is on its way to Redis when the run is reported."""
        if self._giving_back is not None:
            self._loop.run_until_complete(self._giving_back)
            self._giving_back = None

    def close(self) -> None:
        """Give the connections to Redis back."""
        self.settle()
        if self._saver is not None:
            self._loop.run_until_complete(self._saver.aclose())
        if self._streams is not None:
            self._loop.run_until_complete(self._streams.aclose())
        self._loop.close()

    async def _run(
        self,
        reference: str,
        body: bytes,
        context: TaskContext,
        run: GraphRun,
        *,
        on_run: Callable[[GraphRun], None],
    ) -> Any:
        run.begins()
        on_run(run)
        context.raise_if_cancelled()
        request = GraphRequest(orjson.loads(body), context.task_id)
        graph = self.load(reference)
        try:
            return await self._claimed(graph, request, context, run)
        except StaleCheckpointWriter as error:
            raise Ended("abandoned", f"replaced: {one_line(error)}", "replaced") from None
        except StoreUnavailable as error:
            why = f"the checkpoint store is away: {one_line(error)}"
            raise Ended("put_off", why, "store", detail={"delay_s": STORE_AWAY_S}) from error
        except TypeNotAllowed as error:
            why = f"thread {request.thread_id!r}: {error}. {ALLOW}"
            raise Ended("failed", why, "type_not_allowed", retryable=False) from error
        except ModelBusy as error:
            raise Ended("put_off", one_line(error), "model_busy", detail={"delay_s": error.retry_after_s}) from error

    async def _claimed(self, graph: Graph, request: GraphRequest, context: TaskContext, run: GraphRun) -> Any:
        saver, claims = await self._open_store()
        async with graph.opened(_config_of(request, context, 0), saver) as compiled:
            _check_bound(graph, context)
            claim = await claims.claim(request.thread_id, context.task_id, context.attempt, graph.hash)
            if claim.outcome != "ok":
                raise _not_ours(claim, request.thread_id, context.task_id)
            renewing = asyncio.create_task(_renew(claims, request.thread_id, claim.fence))
            again = True  # this run is to go on, so nobody else gets the thread meanwhile
            try:
                output = await self._told(compiled, claim.fence, request, context, run)
                again = False
                if output.interrupts or output.breakpoint:
                    asked = [output.breakpoint] if output.breakpoint else []
                    if output.interrupts:
                        asked = questions.ask(output.interrupts, await saver.apending_writes(request.thread_id))
                    # Nothing is written to it while it waits, and that may take longer than its checkpoints live.
                    await claims.keep(request.thread_id, claim.fence, self._options["question_ttl_s"])
                    raise Ended("waiting", "", "", body=encode(asked, self._max_bytes, "question"))
                return output.value
            except Ended as ended:
                again = again and ended.retryable
                raise
            except InvalidInput:
                again = False
                raise
            finally:
                renewing.cancel()
                if not again:
                    self._giving_back = asyncio.create_task(_give_back(claims, request.thread_id, claim.fence))
                    for _ in range(2):  # so that it is sent: the client begins a task of its own for that
                        await asyncio.sleep(0)

    async def _told(
        self, compiled: Any, fence: int, request: GraphRequest, context: TaskContext, run: GraphRun
    ) -> Output:
        """Run it, streaming what was asked for."""
        if not request.stream_mode:
            return await self._invoke(compiled, fence, request, context, run)
        from daemons.worker.graphs.telling import Teller

        options = {**self._options, "max_bytes": self._max_bytes}
        teller = Teller(self._streams_client(), context.task_id, context.attempt, up=run.told, options=options)
        waits = False
        try:
            await teller.begin()
            self._saver.before_write = teller.before_checkpoint
            run.teller = teller
            output = await self._invoke(compiled, fence, request, context, run)
            waits = bool(output.interrupts or output.breakpoint)
            return output
        finally:
            self._saver.before_write = None
            await teller.end(waits=waits)

    async def _invoke(
        self, compiled: Any, fence: int, request: GraphRequest, context: TaskContext, run: GraphRun
    ) -> Output:
        from langgraph.errors import EmptyInputError, GraphDrained, GraphRecursionError, InvalidUpdateError
        from langgraph.types import Command

        given = request.input
        config = _config_of(request, context, fence)
        breakpoints = Breakpoints(compiled, request)
        answers = context.metadata.get("resume")
        answers = answers if isinstance(answers, dict) else {}
        if answers:
            if await self._saver.aget_tuple(config) is None:
                raise _nothing_left(request.thread_id)
            new = questions.not_taken(answers, await self._saver.apending_writes(request.thread_id))
            given = Command(resume=new) if new else given
        if breakpoints and context.attempt > 1 and given is request.input:
            stands = await breakpoints.unanswered(compiled, config, context.task_id, answers)
            if stands is not None:
                return Output(None, (), stands)
        try:
            options = {
                "context": request.context,
                "interrupt_before": request.interrupt_before,
                "interrupt_after": request.interrupt_after,
                "durability": "sync",
                "control": run.control,
                "version": "v2",
            }
            traced = self._traced(config, context)
            with CopiesEnd():  # here, before they write to the connections that both have
                if run.teller is None:
                    found = await compiled.ainvoke(given, traced, **options)
                    output = Output(found.value, found.interrupts)
                else:
                    output = await stream(compiled, given, traced, request, run.teller, **options)
            if breakpoints and not output.interrupts:
                output = output._replace(breakpoint=await breakpoints.reached(compiled, config))
            return output
        except GraphDrained:
            raise Ended("moved", "stopped at the end of a step: its worker leaves", "drain") from None
        except GraphRecursionError as error:
            raise Ended("failed", one_line(error), "raised", retryable=False) from None
        except (EmptyInputError, InvalidUpdateError) as error:
            raise InvalidInput(one_line(error)) from error

    def _traced(self, config: dict[str, Any], context: TaskContext) -> dict[str, Any]:
        if self._traces is None or sampled_in(context.metadata) is None:
            return config
        from daemons.worker.graphs.nodes import NodeSpans

        return {**config, "callbacks": [NodeSpans(self._traces.exporter, context)]}

    async def _open_store(self) -> tuple[Any, Any]:
        if self._saver is None:
            if not self._options:
                raise ConfigError("this worker has no store for checkpoints")
            from a2a_zmq.checkpoint import AsyncRedisSaver, Retention, ThreadClaims

            retention = Retention(keep=self._options["keep"], ttl_s=self._options["ttl_s"])
            self._saver = AsyncRedisSaver.from_url(
                self._options["url"],
                retention=retention,
                single_connection=True,
                connection=self._options.get("connection"),
            )
            self._saver.input_waits = False
            self._claims = ThreadClaims(self._saver)
        return self._saver, self._claims

    def _streams_client(self) -> Any:
        """For what runs tell: a connection beside the saver's, because a checkpoint waits for what was told."""
        if self._streams is None:
            from a2a_zmq.checkpoint.aio import open_client

            self._streams = open_client(self._options["url"], STREAM_TIMEOUT_S, self._options.get("connection"))
        return self._streams


async def _renew(claims: Any, thread_id: str, fence: int) -> None:
    """Hold the thread as long as the run lasts. If that fails the run goes on: the fence protects the thread."""
    while True:
        await asyncio.sleep(claims.hold_s / 3)
        with suppress(StateError):
            await claims.renew(thread_id, fence)


async def _give_back(claims: Any, thread_id: str, fence: int) -> None:
    """Others may have the thread. If that cannot be said they get it when the claim runs out."""
    with suppress(StateError):
        await claims.release(thread_id, fence)


def _check_bound(graph: Graph, context: TaskContext) -> None:
    """Is this the graph that the task began with? (The file may have changed since the worker told of it.)"""
    bound = context.metadata.get("graph")
    if isinstance(bound, str) and bound != graph.hash:
        why = f"its run began with graph {bound}, this worker has {graph.hash}"
        raise Ended("put_off", why, "graph_changed", detail={"delay_s": GRAPH_CHANGED_S})


def _not_ours(claim: Any, thread_id: str, task_id: str) -> Ended:
    """Why an attempt cannot have its thread."""
    if claim.outcome == "busy":
        why = f"thread {thread_id!r} is in use by task {claim.holder}"
        return Ended("put_off", why, "thread_busy", detail={"delay_s": THREAD_BUSY_S, "holder": claim.holder})
    if claim.outcome == "replaced":
        return Ended("abandoned", f"replaced by attempt {claim.holder}", "replaced")
    if claim.outcome == "changed":
        why = f"its run began with graph {claim.holder}"
        return Ended("put_off", why, "graph_changed", detail={"delay_s": GRAPH_CHANGED_S})
    why = f"thread {thread_id!r} went on with task {claim.holder}, so task {task_id} cannot go on"
    return Ended("failed", why, "overtaken", retryable=False)


def _nothing_left(thread_id: str) -> Ended:
    """The run that asked is gone: begun anew it would repeat its steps, and ask once more."""
    why = f"thread {thread_id!r} has no checkpoint any more (it expired, was removed, or lost by the store), so nothing"
    return Ended("failed", f"{why} can take the answer; a retry begins anew", CHECKPOINT_GONE, retryable=False)


def _config_of(request: GraphRequest, context: TaskContext, fence: int) -> dict[str, Any]:
    given = request.config
    ours = {"thread_id": request.thread_id, "a2a_fence": fence}
    return {
        **given,
        "configurable": {**given.get("configurable", {}), **ours, "a2a_task": context.task_id},
        # LangGraph takes up a run by this, and what belongs to a run is deleted by it.
        "metadata": {**given.get("metadata", {}), "run_id": context.task_id},
    }
