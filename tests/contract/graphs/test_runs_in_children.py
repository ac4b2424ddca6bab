"""Graphs in a worker's child processes: what one run does to its process is not the next one's."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.contract.executors.conftest import Rig
from tests.contract.graphs.conftest import Make, told_by

GRAPHS = """
import asyncio
import os
import sys
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class Own(BaseException):
    pass


class State(TypedDict, total=False):
    how: str
    told: Any


def act(state: State) -> State:
    if state["how"] == "exit":
        sys.exit(3)
    if state["how"] == "interrupt":
        raise KeyboardInterrupt
    if state["how"] == "own":
        raise Own("as it is")
    if state["how"] == "raise":
        raise ValueError("no good")
    if state["how"] == "ask-set":
        interrupt({1, 2})
    if state["how"] == "ask-much":
        interrupt("x" * 300_000)
    if state["how"] == "half":
        raise ValueError("bad \\ud800 text")
    if state["how"] == "move":
        os.chdir("/")
    if state["how"].startswith("fork"):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return {"told": ["of the parent"]}
        if state["how"] == "fork-exit":
            sys.exit(3)
        if state["how"] == "fork-raise":
            raise ValueError("in the copy")
    return {"told": [os.getpid(), os.getcwd()]}


async def act_later(state: State) -> State:
    await asyncio.sleep(0)
    return act(state)


def of(node, name="act"):
    builder = StateGraph(State)
    builder.add_node(name, node)
    builder.add_edge(START, name)
    builder.add_edge(name, END)
    return builder.compile()


plain, coroutine = of(act), of(act_later)
around = of(plain, "inner")
"""


@pytest.fixture
def rig(make_worker: Make, tmp_path: Path) -> Rig:
    (tmp_path / "acting.py").write_text(GRAPHS)
    file = tmp_path / "langgraph.json"
    file.write_bytes(
        orjson.dumps({"graphs": {name: f"./acting.py:{name}" for name in ("plain", "coroutine", "around")}})
    )
    return make_worker(file)


def error_of(rig: Rig, graph: str, how: str) -> str:
    return rig.run(f"graph:{graph}", {"input": {"how": how}}, task_id=f"{graph}-{how}").error


@pytest.mark.parametrize("graph", ["plain", "coroutine"])
@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("exit", "the handler called sys.exit(3)"),
        ("interrupt", "KeyboardInterrupt"),
        ("own", "Own: as it is"),
    ],
)
def test_a_node_that_exits_fails_its_own_run_only(rig: Rig, graph: str, how: str, error: str) -> None:
    """Symptom: the run that its child process took up next, of whichever graph, failed with the same words."""
    for number, after in enumerate(("plain", "coroutine")):
        assert error_of(rig, graph, how) == error
        told_by(rig, after, "", f"after-{number}")


def test_a_directory_that_a_run_changes_to_is_not_the_next_ones(rig: Rig) -> None:
    pid, directory = told_by(rig, "plain", "", "first")
    assert told_by(rig, "plain", "move", "moves") == [pid, "/"]
    assert told_by(rig, "coroutine", "", "next") == [pid, directory]


@pytest.mark.parametrize("how", ["fork-exit", "fork-raise", "fork-return"])
def test_a_copy_of_the_process_that_a_node_makes_ends(rig: Rig, how: str) -> None:
    """Symptom: it reported the run of its parent, and wrote to the store by the same connection."""
    for n in range(2):
        assert told_by(rig, "coroutine", how, f"run-{n}") == ["of the parent"]
    told_by(rig, "coroutine", "", "after")


def test_a_nodes_error_with_half_a_character_is_told(rig: Rig) -> None:
    assert error_of(rig, "plain", "half") == "ValueError: bad \ufffd text (in node 'act')"


def test_an_error_names_its_node(rig: Rig) -> None:
    assert error_of(rig, "plain", "raise") == "ValueError: no good (in node 'act')"
    assert error_of(rig, "around", "raise") == "ValueError: no good (in node 'act' of 'inner')"


@pytest.mark.parametrize(
    ("how", "says"),
    [("ask-set", "the question is not JSON"), ("ask-much", "the question has ")],
)
def test_a_question_that_cannot_be_carried_is_called_one(rig: Rig, how: str, says: str) -> None:
    """Symptom: it was called a result, which this task had not."""
    assert error_of(rig, "plain", how).startswith(says)
