"""Users' policies: what is loaded from a setting, and real graphs that are slow, raise, or block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest

from a2a_zmq.errors import ConfigError
from daemons.runtime.consults import Consult, Consulted
from daemons.runtime.policies import PolicyRunner, load_policy

PATIENCE_S = 30.0
FACTS = {"tasks": [{"task_id": "t1"}], "distributors": []}

GRAPH = """
from langgraph.graph import END, START, StateGraph
from a2a_zmq.policies import PlacementState

def place(state):
    return {"placements": {task["task_id"]: "d1" for task in state["tasks"]}}

builder = StateGraph(PlacementState)
builder.add_node("place", place)
builder.add_edge(START, "place")
builder.add_edge("place", END)
compiled = builder.compile()
nothing = {}
"""


class State(TypedDict, total=False):
    tasks: list[Any]
    placements: dict[str, str]


def graph_of(node: Any) -> Any:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(State)
    graph.add_node("decide", node)
    graph.add_edge(START, "decide")
    graph.add_edge("decide", END)
    return graph.compile()


class Asked:
    """A runner, and what it answered."""

    def __init__(self, graph: Any) -> None:
        self.answers: asyncio.Queue[Consulted] = asyncio.Queue()
        self.runner = PolicyRunner(graph, self.answers.put_nowait)
        self._count = 0

    def ask(self, timeout_s: float = PATIENCE_S) -> None:
        self._count += 1
        self.runner.ask(Consult(self._count, dict(FACTS), timeout_s))

    async def answer(self) -> Consulted:
        return await asyncio.wait_for(self.answers.get(), PATIENCE_S)


def play(node: Callable[[State], Any], story: Callable[[Asked], Awaitable[None]]) -> None:
    async def main() -> None:
        asked = Asked(graph_of(node))
        await story(asked)
        await asked.runner.close()

    asyncio.run(main())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "my-policy.py"
    file.write_text(GRAPH)
    return file


# ---------------------------------------------------------------- loading


def test_no_policy_is_the_default() -> None:
    assert load_policy("placement_policy", "") is None


@pytest.mark.parametrize("name", ["compiled", "builder"])
def test_a_graph_in_a_file_compiled_or_not(file: Path, name: str) -> None:
    graph = load_policy("placement_policy", f"{file}:{name}")
    assert asyncio.run(graph.ainvoke(FACTS))["placements"] == {"t1": "d1"}


def test_a_graph_in_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.rename(file.with_name("my_policy_module.py"))
    monkeypatch.syspath_prepend(str(file.parent))
    assert load_policy("placement_policy", "my_policy_module:compiled") is not None


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("no_colon", "is not module:graph or file.py:graph"),
        (":graph", "is not module:graph or file.py:graph"),
        ("no_such_module_anywhere:graph", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("{file}:absent", "has no 'absent'"),
        ("{file}:nothing", "is a dict, not a graph"),
        ("{file}.py:graph", "FileNotFoundError"),
    ],
)
def test_a_mistake_is_named_with_its_setting(file: Path, reference: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_policy("placement_policy", reference.format(file=file))
    text = str(refused.value)
    assert text.startswith("placement_policy: ")
    assert says in text
    assert "\n" not in text


def test_a_module_that_exits_is_a_mistake_like_any_other(file: Path) -> None:
    file.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ConfigError, match="SystemExit: 3"):
        load_policy("placement_policy", f"{file}:graph")


# ---------------------------------------------------------------- running


def test_the_graphs_output_is_the_answer() -> None:
    threads = []

    async def decide(state: State) -> State:
        threads.append(threading.current_thread())
        return {"placements": {task["task_id"]: "d2" for task in state["tasks"]}}

    async def story(asked: Asked) -> None:
        for number in (1, 2):
            asked.ask()
            told = await asked.answer()
            assert (told.question_id, told.reason, told.answer["placements"]) == (number, "", {"t1": "d2"})
        assert threading.current_thread() not in threads

    play(decide, story)


def test_a_graph_that_raises() -> None:
    async def decide(_state: State) -> State:
        raise ValueError("not\ntoday")

    async def story(asked: Asked) -> None:
        asked.ask()
        told = await asked.answer()
        assert (told.reason, told.why) == ("raised", "ValueError: not today")

    play(decide, story)


def test_a_node_that_wants_to_end_the_process_ends_nothing() -> None:
    async def decide(_state: State) -> State:
        raise SystemExit(1)

    async def story(asked: Asked) -> None:
        for _ in range(2):
            asked.ask()
            assert (await asked.answer()).reason == "raised"

    play(decide, story)


def test_a_slow_graph_is_cancelled_and_asked_again_the_next_time() -> None:
    cancelled: list[bool] = []

    async def decide(state: State) -> State:
        if not cancelled:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)
        return {"placements": {}}

    async def story(asked: Asked) -> None:
        asked.ask(timeout_s=0.05)
        assert (await asked.answer()).reason == "late"
        assert cancelled
        asked.ask()
        assert (await asked.answer()).reason == ""

    play(decide, story)


def test_a_node_that_blocks_its_thread_makes_further_questions_busy_until_it_ends() -> None:
    gate, left = threading.Event(), threading.Event()

    def decide(_state: State) -> State:
        gate.wait(PATIENCE_S)
        left.set()
        return {"placements": {}}

    async def story(asked: Asked) -> None:
        asked.ask(timeout_s=0.05)
        assert (await asked.answer()).reason == "late"
        asked.ask()
        assert (await asked.answer()).reason == "busy", "no second thread is lost to it"
        gate.set()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                asked.ask()
                if (await asked.answer()).reason == "":
                    break
        assert left.is_set()

    play(decide, story)


def test_a_node_that_blocks_the_policys_loop_blocks_nothing_else() -> None:
    gate = threading.Event()

    async def decide(_state: State) -> State:
        gate.wait(PATIENCE_S)  # a mistake in an async node
        return {"placements": {}}

    async def story(asked: Asked) -> None:
        asked.ask(timeout_s=0.05)
        asked.ask()
        told = await asked.answer()
        assert (told.question_id, told.reason) == (2, "busy")
        gate.set()
        assert (await asked.answer()).question_id == 1

    play(decide, story)
