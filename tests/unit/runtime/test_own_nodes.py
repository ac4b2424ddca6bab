"""Nodes of users in the supervision graph: they replace steps or are added, and hold up or end no agent."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.clock import Now
from a2a_zmq.errors import ConfigError
from a2a_zmq.models import AgentStatus, LocalAgentState
from daemons.runtime.contract import SUPERVISION_STEPS, Effect, Log
from daemons.runtime.own_nodes import NodeContext, OwnNodes
from daemons.runtime.supervision import Supervisor, build_graph
from tests.unit.meter import CountingMeter

PATIENCE_S = 30.0
ALL = list(SUPERVISION_STEPS)
WITHOUT_RECOVER = [step for step in ALL if step != "recover"]
LATE, RAISED = "supervision_fallbacks_total/late", "supervision_fallbacks_total/raised"


class SomeCore:
    """Records its steps, and that they are taken where a core belongs."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.thread = threading.current_thread()

    def supervise(self, step: str, now: Now) -> list[Effect]:
        assert threading.current_thread() is self.thread
        self.steps.append(step)
        return []

    def needs_recovery(self) -> bool:
        return False

    def local_state(self, now: Now) -> LocalAgentState:
        assert threading.current_thread() is self.thread
        return LocalAgentState(agent_id="worker-1", status=AgentStatus.BUSY)


class Agent:
    """A core under supervision with these nodes."""

    def __init__(self, nodes: dict[str, Any], deadline_s: float = PATIENCE_S) -> None:
        self.core = SomeCore()
        self.meter = CountingMeter()
        self.nodes = OwnNodes(nodes)
        self._supervisor = Supervisor(lambda: build_graph(self.nodes.steps), meter=self.meter, deadline_s=deadline_s)

    async def run(self) -> list[Log]:
        await self._supervisor.prepare()
        self.core.steps.clear()
        effects = await self._supervisor.run(self.core, lambda: Now(1.0, 2.0))
        return [effect for effect in effects if isinstance(effect, Log)]


def play(nodes: dict[str, Any], runs: int = 1, deadline_s: float = PATIENCE_S) -> tuple[Agent, list[Log]]:
    async def main() -> tuple[Agent, list[Log]]:
        agent = Agent(nodes, deadline_s)
        lines: list[Log] = []
        for _ in range(runs):
            lines = await agent.run()
        await agent.nodes.close()
        return agent, lines

    return asyncio.run(main())


def test_an_added_node_follows_the_report_and_sees_the_local_state() -> None:
    async def alert(_state: dict[str, Any], context: NodeContext) -> None:
        state = context.local_state()
        context.log("alert", level="warning", agent=state["agent_id"], status=state["status"])

    agent, lines = play({"alert": alert})
    assert agent.core.steps == WITHOUT_RECOVER
    assert [(line.level, line.event, line.fields) for line in lines] == [
        ("warning", "alert", {"node": "alert", "agent": "worker-1", "status": "busy"})
    ]
    assert agent.meter.counts == {}


def test_added_nodes_run_in_the_order_of_their_dict() -> None:
    seen: list[str] = []
    nodes = {name: lambda _state, _context, name=name: seen.append(name) for name in ("z", "a", "m")}
    play(nodes)
    assert seen == ["z", "a", "m"]


@pytest.mark.parametrize("found", [True, False])
def test_a_node_replaces_a_step_and_may_take_the_built_in_one(found: bool) -> None:
    def detect(_state: dict[str, Any], context: NodeContext) -> dict[str, bool]:
        return {"found": context.step() or found}

    agent, _ = play({"detect": detect})
    assert agent.core.steps == (ALL if found else WITHOUT_RECOVER)


def test_a_step_that_a_node_leaves_out_is_left_out() -> None:
    agent, _ = play({"report": lambda _state, _context: None})
    assert agent.core.steps == ["observe", "detect", "reconcile"]


def test_a_node_may_take_another_step_as_well() -> None:
    def reconcile(_state: dict[str, Any], context: NodeContext) -> None:
        context.step("recover")
        context.step()

    assert play({"reconcile": reconcile})[0].core.steps == ["observe", "detect", "recover", "reconcile", "report"]


def fails(_state: dict[str, Any], _context: NodeContext) -> None:
    raise ValueError("not today")


def exits(_state: dict[str, Any], _context: NodeContext) -> None:
    raise SystemExit(3)


@pytest.mark.parametrize(
    "node", [fails, exits, lambda _s, _c: "nonsense", lambda _s, _c: {"found": "yes"}, lambda _s, c: c.step("sleep")]
)
def test_where_a_node_fails_the_built_in_steps_are_taken_and_it_is_counted(node: Any) -> None:
    agent, lines = play({"reconcile": node})
    assert sorted(agent.core.steps) == sorted(ALL)
    assert agent.meter.counts == {RAISED: 1}
    assert [line.event for line in lines] == ["supervision_graph_failed"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_node_that_blocks_holds_up_no_agent(asynchronous: bool) -> None:
    gate, begun = threading.Event(), threading.Event()

    def block(_state: dict[str, Any], context: NodeContext) -> None:
        begun.set()
        gate.wait(PATIENCE_S)
        context.step()

    async def block_async(state: dict[str, Any], context: NodeContext) -> None:
        block(state, context)

    async def main() -> Agent:
        agent = Agent({"reconcile": block_async if asynchronous else block}, deadline_s=0.2)
        await agent.run()
        assert begun.is_set()
        assert sorted(agent.core.steps) == sorted(ALL)
        assert agent.meter.counts == {LATE: 1}
        [line] = await agent.run()
        assert "node reconcile is still at work for an earlier run" in line.fields["why"]
        assert sorted(agent.core.steps) == sorted(ALL)
        gate.set()
        async with asyncio.timeout(PATIENCE_S):
            while await agent.run():
                pass
        assert agent.core.steps == WITHOUT_RECOVER
        await agent.nodes.close()
        return agent

    asyncio.run(main())


# ---------------------------------------------------------------- loading


NODES = """
def look(state, context):
    return None

nodes = {"look": look}
empty = {}
bad = {"no name": look}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "my_nodes.py"
    file.write_text(
        "def look(state, context): return None\nnodes = {'look': look}\nempty = {}\nbad = {'no name': look}\n"
    )
    return file


def test_no_nodes_are_the_default() -> None:
    assert OwnNodes.load("") is None


def test_nodes_of_a_file(file: Path) -> None:
    found = OwnNodes.load(f"{file}:nodes")
    assert found is not None
    assert list(found.steps) == ["look"]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nodes", "is not module:nodes or file.py:nodes"),
        ("{file}:absent", "is no dict of nodes"),
        ("{file}:empty", "is no dict of nodes"),
        ("{file}:look", "is no dict of nodes"),
        ("{file}:bad", "'no name' of"),
        ("no_such_module_anywhere:nodes", "ModuleNotFoundError"),
    ],
)
def test_a_mistake_is_named_with_its_setting(file: Path, reference: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        OwnNodes.load(reference.format(file=file))
    assert str(refused.value).startswith("supervision_nodes: ")
    assert says in str(refused.value)
