"""Graphs that tell what they do, and what a reader makes of it."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from a2a_zmq import FleetClient
from a2a_zmq.streams import StreamEvent, parse_id
from daemons.cli.fleet import LocalFleet

# A graph's first run loads LangGraph in a child process: seconds on a busy host.
PATIENCE_S = 60.0
STEPS = 8
TALK = "one two three four five six seven eight nine ten"
FLOOD = 3000
FLOOD_TEXT = "x" * 4000

GRAPHS = f"""
import asyncio
import os
import time
from typing import TypedDict

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    n: int
    pause: float
    said: str
    secret: str
    answer: str


class Output(TypedDict):
    n: int


def step(state: State) -> State:
    write = get_stream_writer()
    write({{"begin": state["n"]}})
    time.sleep(state.get("pause", 0.0))
    write({{"end": state["n"]}})
    return {{"n": state["n"] + 1}}


def ask(state: State) -> State:
    return {{"answer": interrupt("Go on?")}}


async def talk(state: State) -> State:
    model = GenericFakeChatModel(messages=iter([AIMessage({TALK!r})]))
    said = ""
    async for token in model.astream("talk"):
        said += token.content
        await asyncio.sleep(0.02)
    return {{"said": said}}


async def flood(state: State) -> State:
    write = get_stream_writer()
    for number in range({FLOOD}):
        write([number, {FLOOD_TEXT!r}])
        if number % 20 == 0:
            await asyncio.sleep(0)
    return {{"n": {FLOOD}}}


def odd(state: State) -> State:
    write = get_stream_writer()
    write(object)
    write("y" * 600_000)
    write({{"set": {{1}}}})
    return {{"n": 1, "secret": "not for everybody"}}


def straight(*nodes, **options):
    graph = StateGraph(State, **options)
    before = START
    for number, node in enumerate(nodes):
        name = f"{{node.__name__}}_{{number}}"
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, END)
    return graph.compile()


steps = straight(*[step] * {STEPS})
asking = straight(step, ask, step)
talking = straight(talk)
flooding = straight(flood)
oddities = straight(odd, output_schema=Output)
inner = straight(step, step)
outer = StateGraph(State)
outer.add_node("inner", inner)
outer.add_edge(START, "inner")
outer.add_edge("inner", END)
nested = outer.compile()
"""


def make_project(base: Path) -> Path:
    """A LangGraph project whose graphs tell what they do."""
    directory = base / "telling"
    directory.mkdir()
    (directory / "graphs.py").write_text(GRAPHS)
    names = ("steps", "asking", "talking", "flooding", "oddities", "nested")
    described = {"dependencies": ["."], "graphs": {name: f"./graphs.py:{name}" for name in names}}
    (directory / "langgraph.json").write_bytes(orjson.dumps(described))
    return directory


def fleet_of(project: Path, *, standbys: bool = False, **env: str) -> LocalFleet:
    env = {"A2A_WORKER_GRAPHS": str(project / "langgraph.json"), "A2A_WORKER_SLOTS": "2", **env}
    return LocalFleet(workers=2, coordinators=2 if standbys else 1, twins=standbys, env=env)


def rising(events: list[StreamEvent]) -> bool:
    """Each event comes once, in order."""
    ids = [parse_id(event.id) for event in events if event.type != "waiting"]
    return None not in ids and all(first < second for first, second in itertools.pairwise(ids))  # type: ignore[operator]


def steps_of(events: list[StreamEvent]) -> list[int]:
    """Numbers of the steps that were told to be done."""
    return [next(iter(event.data.values()))["n"] - 1 for event in events if event.type == "updates"]


def custom(events: list[StreamEvent]) -> list[Any]:
    return [event.data for event in events if event.type == "custom"]


def gathered(client: FleetClient, task_id: str, into: list[StreamEvent], **options: Any) -> threading.Thread:
    """Read a stream to its end on a thread."""

    def read() -> None:
        into.extend(client.stream(task_id, **options))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def rss_mb(pid: int | None) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def running_on(client: FleetClient, task_id: str) -> str:
    """The worker that runs the task."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found = client.explain(task_id) or {}
        worker = (found.get("distributor") or {}).get("worker")
        if worker:
            return str(worker)
    raise AssertionError("nobody runs it")
