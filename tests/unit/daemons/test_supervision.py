"""The supervision graph: order of steps, the conditional step, and what happens when the graph itself fails."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.clock import Now
from a2a_zmq.models import AgentStatus, LocalAgentState
from daemons.coordinator import graph as coordinator_graph
from daemons.distributor import graph as distributor_graph
from daemons.runtime.contract import SUPERVISION_STEPS, Effect, Log, NoMeter
from daemons.runtime.exemplars import Exemplar
from daemons.runtime.supervision import GIVE_UP_AFTER, RETRY_EVERY, Supervisor, build_graph, run_plain
from daemons.worker import graph as worker_graph

ALL = list(SUPERVISION_STEPS)
WITHOUT_RECOVER = [step for step in ALL if step != "recover"]


def clock() -> Now:
    return Now(1.0, 2.0)


class SomeCore:
    """Records the steps; each returns a log line of its name."""

    def __init__(self, *, attention: bool = False) -> None:
        self.steps: list[str] = []
        self.attention = attention

    def supervise(self, step: str, now: Now) -> list[Effect]:
        assert now == clock()
        self.steps.append(step)
        return [] if step == "detect" else [Log("info", step)]

    def needs_recovery(self) -> bool:
        return self.attention

    def local_state(self, now: Now) -> LocalAgentState:
        return LocalAgentState(agent_id="some", status=AgentStatus.IDLE)


class Counts(NoMeter):
    def __init__(self) -> None:
        self.fallbacks: list[str] = []
        self.observed: list[str] = []

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        assert name == "supervision_fallbacks_total"
        self.fallbacks.append(labels["reason"])

    def observe(self, name: str, value: float, exemplar: Exemplar | None = None, **labels: str) -> None:
        self.observed.append(name)


def names(effects: list[Effect]) -> list[str]:
    return [effect.event for effect in effects if isinstance(effect, Log)]


def run_once(
    core: Any, build: Callable[[], Any], meter: Counts, *, runs: int = 1, deadline_s: float = 5
) -> list[Effect]:
    async def go() -> list[Effect]:
        supervisor = Supervisor(build, meter=meter, deadline_s=deadline_s)
        await supervisor.prepare()
        effects: list[Effect] = []
        for _ in range(runs):
            effects = await supervisor.run(core, clock)
        return effects

    return asyncio.run(go())


@pytest.mark.parametrize("build", [coordinator_graph.build, distributor_graph.build, worker_graph.build])
def test_every_role_takes_the_steps_in_order(build: Callable[[], Any]) -> None:
    core, meter = SomeCore(attention=True), Counts()
    effects = run_once(core, build, meter)
    assert core.steps == ALL
    assert names(effects) == [step for step in ALL if step != "detect"]
    assert (meter.fallbacks, meter.observed) == ([], ["supervision_seconds"])


def test_recover_only_if_detect_found_something() -> None:
    core = SomeCore(attention=False)
    run_once(core, build_graph, Counts())
    assert core.steps == WITHOUT_RECOVER


def test_what_detect_returns_counts_as_found() -> None:
    class Finder(SomeCore):
        def supervise(self, step: str, now: Now) -> list[Effect]:
            super().supervise(step, now)
            return [Log("warning", "stuck")] if step == "detect" else []

    core = Finder(attention=False)
    run_once(core, build_graph, Counts())
    assert core.steps == ALL


def test_the_plain_sequence_does_the_same() -> None:
    for attention, expected in ((True, ALL), (False, WITHOUT_RECOVER)):
        core = SomeCore(attention=attention)
        assert names(run_plain(core, clock)) == [step for step in expected if step != "detect"]
        assert core.steps == expected


def test_a_replaced_node_is_used() -> None:
    async def report(state: Any, runtime: Any) -> dict[str, Any]:
        runtime.context.effects.append(Log("info", "my own report"))
        return {}

    core = SomeCore()
    assert names(run_once(core, lambda: build_graph({"report": report}), Counts()))[-1] == "my own report"
    assert core.steps == ["observe", "detect", "reconcile"]


def test_a_graph_that_raises_is_left_and_no_step_is_taken_twice() -> None:
    async def reconcile(state: Any, runtime: Any) -> dict[str, Any]:
        raise ValueError("my policy is broken")

    core, meter = SomeCore(), Counts()
    effects = run_once(core, lambda: build_graph({"reconcile": reconcile}), meter)
    assert core.steps == ["observe", "detect", "recover", "reconcile", "report"]
    assert names(effects) == ["observe", "supervision_graph_failed", "recover", "reconcile", "report"]
    assert meter.fallbacks == ["raised"]
    (failed,) = [effect for effect in effects if isinstance(effect, Log) and effect.level == "error"]
    assert failed.fields == {"reason": "raised", "why": "ValueError: my policy is broken"}


def test_a_graph_that_is_late_is_left() -> None:
    async def detect(state: Any, runtime: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {"found": False}

    core, meter = SomeCore(), Counts()
    run_once(core, lambda: build_graph({"detect": detect}), meter, deadline_s=0.05)
    assert core.steps == ["observe", "detect", "reconcile", "report"]
    assert meter.fallbacks == ["late"]


def test_a_graph_that_keeps_failing_is_asked_rarely() -> None:
    asked = [0]

    async def observe(state: Any, runtime: Any) -> dict[str, Any]:
        asked[0] += 1
        raise ValueError("broken")

    core, meter = SomeCore(), Counts()
    run_once(core, lambda: build_graph({"observe": observe}), meter, runs=GIVE_UP_AFTER + RETRY_EVERY)
    assert asked[0] == GIVE_UP_AFTER + 1
    assert len(core.steps) == len(WITHOUT_RECOVER) * (GIVE_UP_AFTER + RETRY_EVERY)


def test_supervision_works_while_the_graph_is_being_built_and_if_it_cannot_be() -> None:
    def build() -> Any:
        raise OSError("no space left on device")

    async def go() -> None:
        core, meter = SomeCore(), Counts()
        supervisor = Supervisor(build, meter=meter)
        while not meter.fallbacks:
            core.steps.clear()
            await supervisor.run(core, clock)
            assert core.steps == WITHOUT_RECOVER
            await asyncio.sleep(0)
        assert meter.fallbacks == ["not_built"]

    asyncio.run(go())


def test_an_error_of_the_core_is_not_hidden() -> None:
    class Broken(SomeCore):
        def supervise(self, step: str, now: Now) -> list[Effect]:
            if step == "report":
                raise RuntimeError("a bug in the core")
            return super().supervise(step, now)

    with pytest.raises(RuntimeError, match="a bug in the core"):
        run_once(Broken(), build_graph, Counts())


def test_tracing_is_off_whatever_the_host_says_and_langgraph_is_loaded_late() -> None:
    code = """
import sys
import daemons.runtime.supervision, daemons.worker.graph
assert not [name for name in sys.modules if name.startswith(("langgraph", "langchain", "langsmith"))]
daemons.worker.graph.build()
from langsmith.utils import tracing_is_enabled
assert tracing_is_enabled() is False
"""
    environ = os.environ | dict.fromkeys(
        ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGCHAIN_TRACING"), "true"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
