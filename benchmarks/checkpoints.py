"""What checkpoints cost a graph: ten steps on our saver and a local server, against LangGraph's SQLite saver.

``python -m benchmarks.checkpoints`` needs ``langgraph-checkpoint-sqlite`` in the environment. Both run in this process,
in turn, so what else the machine does hits both.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import operator
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from a2a_zmq.checkpoint import AsyncRedisSaver
from benchmarks.common import machine
from daemons.redis.embedded import EmbeddedRedis

STEPS = 10
ROUNDS = 15
RUNS = 4


class State(TypedDict):
    n: int
    document: list[dict[str, str]]
    log: Annotated[list[str], operator.add]


def build(saver: Any) -> Any:
    """A chain of nodes, each of which changes two channels; a larger one stays as it is."""

    async def step(state: State) -> dict[str, Any]:
        return {"n": state["n"] + 1, "log": [f"step {state['n']}"]}

    builder = StateGraph(State)
    before = START
    for number in range(STEPS):
        builder.add_node(f"step{number}", step)
        builder.add_edge(before, f"step{number}")
        before = f"step{number}"
    builder.add_edge(before, END)
    return builder.compile(checkpointer=saver)


async def run_ms(graph: Any, numbers: itertools.count[int]) -> tuple[float, float]:
    """Wall and processor milliseconds of one run in a new thread of its own."""
    inputs = {"n": 0, "document": [{"text": "x" * 50} for _ in range(200)], "log": []}
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(RUNS):
        config: RunnableConfig = {"configurable": {"thread_id": f"t{next(numbers)}"}}
        await graph.ainvoke(inputs, config, durability="sync")
    return (time.perf_counter() - wall) / RUNS * 1e3, (time.process_time() - processor) / RUNS * 1e3


async def measure(redis: EmbeddedRedis, directory: Path) -> dict[str, dict[str, float]]:
    numbers = itertools.count()
    times: dict[str, list[tuple[float, float]]] = {"memory": [], "sqlite": [], "redis": []}
    async with (
        AsyncRedisSaver.from_url(f"redis://127.0.0.1:{redis.port}") as ours,
        AsyncSqliteSaver.from_conn_string(str(directory / "checkpoints.db")) as sqlite,
    ):
        graphs = {"memory": build(InMemorySaver()), "sqlite": build(sqlite), "redis": build(ours)}
        for number in range(ROUNDS + 1):
            for name, graph in graphs.items():
                found = await run_ms(graph, numbers)
                if number:  # the first one connects, and makes tables
                    times[name].append(found)
    return {
        name: {
            "run_ms": round(statistics.median(wall for wall, _ in found), 2),
            "client_cpu_ms": round(statistics.median(processor for _, processor in found), 2),
        }
        for name, found in times.items()
    }


def main() -> None:
    with EmbeddedRedis() as redis, tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(measure(redis, Path(directory)))
        server = redis.server.kind
    ratio = {kind: round(found["redis"][kind] / found["sqlite"][kind], 2) for kind in found["redis"]}
    report = {"machine": machine(), "server": server, "steps": STEPS, **found, "redis_to_sqlite": ratio}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
