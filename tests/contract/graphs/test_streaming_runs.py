"""Runs that stream, in a child process's runner: their chunks and checkpoints go to Redis over the same client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from a2a_zmq.handlers import TaskContext
from a2a_zmq.state import keys
from a2a_zmq.streams import Chunk
from daemons.redis.embedded import EmbeddedRedis
from daemons.worker.graphs.runs import GraphRun, GraphRunner

STEPS = 20
GRAPH = f"""
import asyncio
from typing import TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    n: int


async def step(state: State) -> State:
    write = get_stream_writer()
    for part in range(3):
        write([state["n"], part])
        await asyncio.sleep(0)
    return {{"n": state["n"] + 1}}


builder = StateGraph(State)
builder.add_node("step", step)
builder.add_edge(START, "step")
builder.add_conditional_edges("step", lambda state: "step" if state["n"] < {STEPS} else END)
graph = builder.compile()
"""


class Child:
    """What a worker's child process has for graphs, and what it told the worker."""

    def __init__(self, directory: Path, port: int) -> None:
        options = {"keep": 20, "ttl_s": 600.0, "question_ttl_s": 600.0, "stream_bytes": 1 << 20, "stream_ttl_s": 60}
        self.runner = GraphRunner({"url": f"redis://127.0.0.1:{port}", **options}, 1 << 20)
        self.client = redis.Redis(port=port)
        self._reference = f"graph:{directory / 'langgraph.json'}#steps"
        self.events: list[list[Any]] = []

    def run(self, task_id: str, *, stop_after: int = 0) -> Any:
        """Its output; it is stopped when so many events were told."""
        self.events = []
        runs: list[GraphRun] = []

        def told(chunk: Chunk) -> None:
            self.events += orjson.loads(chunk.events)
            if stop_after and len(self.events) >= stop_after:
                runs[0].cancel()

        body = orjson.dumps({"input": {"n": 0}, "stream_mode": ["custom"], "config": {"recursion_limit": 50}})
        context = TaskContext(task_id, 1, "graph:steps", metadata={})
        return self.runner.call(self._reference, body, context, runs.append, told)

    def stored(self, task_id: str) -> list[list[Any]]:
        found: Any = self.client.xrange(keys.stream(task_id))
        return [event for _, fields in found for event in orjson.loads(fields[b"e"])]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "streaming_steps.py").write_text(GRAPH)
    described = {"graphs": {"steps": "./streaming_steps.py:graph"}}
    (tmp_path / "langgraph.json").write_bytes(orjson.dumps(described))
    with EmbeddedRedis(appendfsync="no") as server:
        child = Child(tmp_path, server.port)
        yield child
        child.runner.close()
        child.client.close()


def custom(events: list[list[Any]]) -> list[Any]:
    return [event[3] for event in events if event[1] == "custom"]


EVERYTHING = [[n, part] for n in range(STEPS) for part in range(3)]


def test_a_run_that_streams_takes_one_connection_for_checkpoints_and_one_for_its_stream(child: Child) -> None:
    before = len(child.client.client_list())
    assert child.run("task-1") == {"n": STEPS}
    assert custom(child.events) == custom(child.stored("task-1")) == EVERYTHING
    assert len(child.client.client_list()) == before + 2


@pytest.mark.parametrize("events", [1, 4, 13, 31])
def test_a_run_that_was_stopped_while_it_streamed_leaves_nothing_to_the_next_one(child: Child, events: int) -> None:
    with pytest.raises(asyncio.CancelledError):
        child.run("stopped", stop_after=events)
    told = child.events
    assert child.stored("stopped")[: len(told)] == told
    assert child.run("next") == {"n": STEPS}
    assert custom(child.events) == custom(child.stored("next")) == EVERYTHING
