"""Graphs in a worker's child processes: what one run does to its process is not the next one's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from daemons.redis.embedded import EmbeddedRedis
from daemons.worker.executors.forks import ForkServer
from daemons.worker.registry import Registry
from tests.contract.executors.conftest import START_S, Rig

GRAPHS = """
import asyncio
import os
import sys
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph


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
    if state["how"] == "half":
        raise ValueError("bad \\ud800 text")
    if state["how"] == "move":
        os.chdir("/")
    return {"told": [os.getpid(), os.getcwd()]}


async def act_later(state: State) -> State:
    await asyncio.sleep(0)
    return act(state)


def of(node):
    builder = StateGraph(State)
    builder.add_node("act", node)
    builder.add_edge(START, "act")
    builder.add_edge("act", END)
    return builder.compile()


plain, coroutine = of(act), of(act_later)
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    server = ForkServer([])
    assert server.wait_ready(START_S)
    yield server
    server.close()


@pytest.fixture(scope="module")
def checkpoints() -> Iterator[dict[str, Any]]:
    with EmbeddedRedis(appendfsync="no") as redis:
        yield {
            "url": f"redis://127.0.0.1:{redis.port}",
            "keep": 20,
            "ttl_s": 600.0,
            "stream_bytes": 1 << 20,
            "stream_ttl_s": 600.0,
        }


Make = Callable[..., Rig]


@pytest.fixture
def make_worker(forks: ForkServer, checkpoints: dict[str, Any]) -> Iterator[Make]:
    """What a worker with these projects runs them with."""
    made: list[Rig] = []

    def make(*files: Path, **config: Any) -> Rig:
        kinds = Registry.load((), [str(file) for file in files], forks=forks).kinds()
        made.append(Rig(kinds, forks, checkpoints, **{"slots": 1, "spare_children": 0, **config}))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_worker: Make, tmp_path: Path) -> Rig:
    (tmp_path / "acting.py").write_text(GRAPHS)
    file = tmp_path / "langgraph.json"
    file.write_bytes(orjson.dumps({"graphs": {name: f"./acting.py:{name}" for name in ("plain", "coroutine")}}))
    return make_worker(file)


def told_by(rig: Rig, graph: str, how: str, task_id: str) -> list[Any]:
    outcome = rig.run(f"graph:{graph}", {"input": {"how": how}}, task_id=task_id)
    assert outcome.outcome == "completed", outcome
    told: list[Any] = orjson.loads(outcome.result)["told"]
    return told


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
    for after in ("plain", "coroutine"):
        assert error_of(rig, graph, how) == error
        told_by(rig, after, "", f"after-{after}")


def test_a_nodes_error_with_half_a_character_is_told(rig: Rig) -> None:
    assert error_of(rig, "plain", "half") == "ValueError: bad \ufffd text"
