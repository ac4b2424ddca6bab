"""The supervision graph: every agent looks at itself and its neighbours once an interval, and when it must.

observe → detect → recover → reconcile → report, as a compiled LangGraph StateGraph; each node calls the pure core's
``supervise(step, now)`` and collects the effects. ``recover`` runs only where ``detect`` found something. One run
serves all events since the last one. Nodes can be replaced by users, so the graph is not trusted with the agent's
life: one that raises or is late is left for the plain sequence of the same steps, and counted.

What is large stays in the run's *context*; the channels carry one flag. LangGraph costs 37 MB and half a second to
import, so that is done in the background of the first runs, which take the plain steps: a daemon serves at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Protocol, TypedDict

from a2a_zmq.clock import Now
from a2a_zmq.models import LocalAgentState
from daemons.runtime.contract import SUPERVISION_STEPS, Effect, Log, Meter, NoMeter
from daemons.runtime.slices import usual_slices

# A run of the built-in graph takes about a millisecond. One that takes this long hangs, or waits for something slow:
# the plain steps take over, because what supervision has to do must not wait for it.
DEADLINE_S: Final = 2.0

# After this many failures in a row the graph is asked only once in RETRY_EVERY runs.
GIVE_UP_AFTER: Final = 3
RETRY_EVERY: Final = 60

# LangGraph reports runs to a tracing service if the host's environment says so. What an agent knows of tasks goes
# nowhere: these are set in the process before LangGraph is imported.
TRACING_OFF: Final = {
    "LANGSMITH_TRACING": "false",
    "LANGSMITH_TRACING_V2": "false",
    "LANGCHAIN_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
}


class Supervised(Protocol):
    """The part of a core that supervision uses.

    A core may also have ``needs_recovery() -> bool``, asked after ``detect``: False spares the ``recover`` step.
    Without it, the step is always taken.
    """

    def supervise(self, step: str, now: Now) -> list[Effect]: ...

    def local_state(self, now: Now) -> LocalAgentState: ...


class SupervisionState(TypedDict, total=False):
    """The graph's channels; small on purpose."""

    found: bool


@dataclass(slots=True)
class Supervision:
    """The context of one run: who is supervised, and what the steps want done.

    Attributes:
        done: steps that were completed.
        closed: the run was left for being late; whatever it still does counts for nothing.
    """

    core: Supervised
    now: Callable[[], Now]
    effects: list[Effect] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    closed: bool = False

    def step(self, name: str) -> bool:
        """Run one step of the core. Returns True if it was ``detect`` and found something."""
        if self.closed:
            return False
        effects = self.core.supervise(name, self.now())
        self.done.append(name)
        self.effects += effects
        return name == "detect" and needs_recovery(self.core, effects)


def needs_recovery(core: Supervised, detected: list[Effect]) -> bool:
    """True if there is something to recover, as far as the core tells after ``detect`` returned these effects."""
    asked = getattr(core, "needs_recovery", None)
    return bool(detected) or asked is None or bool(asked())


def run_plain(core: Supervised, now: Callable[[], Now], done: Collection[str] = ()) -> list[Effect]:
    """The same steps without a graph, for simulations and as the fallback.

    Args:
        done: steps that a failed run of the graph had completed; they are not repeated.
    """
    context = Supervision(core, now)
    found = "detect" in done  # what the failed run found is not known: recovering in vain does no harm
    for step in SUPERVISION_STEPS:
        if step not in done and (step != "recover" or found):
            found = context.step(step) or found
    return context.effects


def tracing_off() -> None:
    """Make sure that LangGraph reports to nobody; call it before the first import of LangGraph or LangChain."""
    os.environ.update(TRACING_OFF)


def build_graph(steps: dict[str, Callable[..., Any]] | None = None) -> Any:
    """The supervision StateGraph, compiled.

    Args:
        steps: nodes that replace built-in ones, by step name; those of other names follow ``report``. A node is
            ``async (state, runtime) -> dict`` with ``runtime.context`` a :class:`Supervision`; ``detect`` returns
            ``{"found": bool}``.
    """
    tracing_off()
    from langgraph.graph import END, START, StateGraph

    nodes = {step: _node(step) for step in SUPERVISION_STEPS} | (steps or {})
    graph = StateGraph(SupervisionState, context_schema=Supervision)
    for name, node in nodes.items():
        graph.add_node(name, node)
    graph.add_edge(START, "observe")
    graph.add_edge("observe", "detect")
    graph.add_conditional_edges("detect", _after_detect, ["recover", "reconcile"])
    graph.add_edge("recover", "reconcile")
    graph.add_edge("reconcile", "report")
    added = [name for name in nodes if name not in SUPERVISION_STEPS]
    for name, following in pairwise(["report", *added, END]):
        graph.add_edge(name, following)
    return graph.compile(name="supervision")


def _node(step: str) -> Callable[..., Any]:
    # A coroutine although it awaits nothing: a plain function would be run in a thread, and a core belongs to the loop.
    async def node(_state: SupervisionState, runtime: Any) -> SupervisionState:
        found = runtime.context.step(step)
        return {"found": found} if step == "detect" else {}

    node.__name__ = step
    return node


async def _after_detect(state: SupervisionState) -> str:  # a coroutine for the same reason
    return "recover" if state.get("found") else "reconcile"


class Supervisor:
    """Runs an agent's supervision graph, whatever becomes of it."""

    def __init__(
        self,
        build: Callable[[], Any] = build_graph,
        *,
        meter: Meter | None = None,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            build: makes the compiled graph; called once, in a thread.
            deadline_s: after this a run is left and the plain steps are taken.
            clock: monotonic seconds.
        """
        self._build = build
        self._meter: Meter = meter or NoMeter()
        self._deadline_s = deadline_s
        self._clock = clock
        self._graph: Any = None
        self._loading: asyncio.Future[Any] | None = None
        self._failures = 0
        self._skipped = 0

    async def run(self, core: Supervised, now: Callable[[], Now]) -> list[Effect]:
        """One run over everything since the last one. Never raises because of the graph; a core's own error does."""
        graph = self._ready_graph()
        if graph is None:
            return run_plain(core, now)
        context = Supervision(core, now)
        started = self._clock()
        try:
            async with asyncio.timeout(self._deadline_s):
                await graph.ainvoke({"found": False}, context=context)
        except TimeoutError:
            return self._fall_back(context, "late", f"no end after {self._deadline_s:g} s")
        except Exception as error:
            return self._fall_back(context, "raised", f"{type(error).__name__}: {error}")
        finally:
            context.closed = True
        self._failures = 0
        self._meter.observe("supervision_seconds", self._clock() - started)
        return context.effects

    async def prepare(self) -> None:
        """Wait until the graph is built. :meth:`run` does not need it.

        Raises:
            whatever building it raised.
        """
        if self._graph is None:
            self._graph = await self._load()

    def _ready_graph(self) -> Any:
        """The graph; None while it is being built, and mostly where it failed too often lately."""
        if self._graph is None:
            loading = self._load()
            if not loading.done():
                return None
            if loading.exception() is not None:
                self._loading = None  # try again with the next run: a full disk may have room by then
                self._failures += 1
                self._meter.count("supervision_fallbacks_total", reason="not_built")
            else:
                self._graph = loading.result()
        if self._failures < GIVE_UP_AFTER:
            return self._graph
        self._skipped = (self._skipped + 1) % RETRY_EVERY
        return self._graph if self._skipped == 0 else None

    def _load(self) -> asyncio.Future[Any]:
        """Build the graph in a thread of its own. A daemon thread: nobody waits at the exit for an import to end."""
        if self._loading is None:
            loop = asyncio.get_running_loop()
            self._loading = loop.create_future()
            threading.Thread(target=self._load_in_thread, args=(loop, self._loading), name="graph", daemon=True).start()
        return self._loading

    def _load_in_thread(self, loop: asyncio.AbstractEventLoop, loading: asyncio.Future[Any]) -> None:
        usual_slices()
        graph, failure = None, None
        try:
            graph = self._build()
        except Exception as error:
            failure = error
        # The import left 100,000 objects that stay for ever; a full collection would visit them all each time (50 ms).
        gc.freeze()

        def deliver() -> None:
            if not loading.done():
                loading.set_result(graph) if failure is None else loading.set_exception(failure)

        try:
            loop.call_soon_threadsafe(deliver)
        except RuntimeError:
            return  # the loop has ended meanwhile: nobody wants it any more

    def _fall_back(self, context: Supervision, reason: str, why: str) -> list[Effect]:
        context.closed = True
        self._failures += 1
        self._meter.count("supervision_fallbacks_total", reason=reason)
        line = Log("error", "supervision_graph_failed", {"reason": reason, "why": why[:500]})
        return [*context.effects, line, *run_plain(context.core, context.now, context.done)]
