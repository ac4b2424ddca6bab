"""Runs a graph on a saver in a process that kills itself in the middle of it.

It starts the thread's graph, or continues it if there is a checkpoint, and writes the result to a file as JSON. Each
node notes its name in a log when it begins. A node that is to die does so in the first process only.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from a2a_zmq.checkpoint import AsyncRedisSaver, RedisSaver, Retention

CONFIG: RunnableConfig = {"configurable": {"thread_id": "t", "a2a_fence": (1, 1)}}


class State(TypedDict):
    log: Annotated[list[str], operator.add]


class Process:
    def __init__(self, url: str, prefix: str, log: Path) -> None:
        self.url = url
        self.prefix = prefix
        self.log = log
        self.first = not log.exists()

    def note(self, name: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")

    def die(self, when_stored: int = 0) -> None:
        """In the first process: once so many tasks of the latest checkpoint have stored their writes."""
        if not self.first:
            return
        with RedisSaver.from_url(self.url, prefix=self.prefix) as saver:
            while True:
                found = saver.get_tuple({"configurable": {"thread_id": "t", "checkpoint_ns": ""}})
                stored = {write[0] for write in (found.pending_writes or [])} if found is not None else set()
                if len(stored) >= when_stored:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.005)

    def node(self, name: str, *, dies: bool = False, when_stored: int = 0) -> Callable[..., Any]:
        async def run(state: Any) -> State:
            self.note(name)
            if dies:
                await asyncio.to_thread(self.die, when_stored)
            return {"log": [name]}

        return run

    def plain(self, name: str, *, dies: bool = False, when_stored: int = 0) -> Callable[..., Any]:
        def run(state: Any) -> State:
            self.note(name)
            if dies:
                self.die(when_stored)
            return {"log": [name]}

        return run


def linear(process: Process, node: Callable[..., Any]) -> Any:
    builder = StateGraph(State)
    builder.add_node("one", node("one"))
    builder.add_node("two", node("two", dies=True))
    builder.add_node("three", node("three"))
    for edge in ((START, "one"), ("one", "two"), ("two", "three"), ("three", END)):
        builder.add_edge(*edge)
    return builder


def parallel(process: Process, node: Callable[..., Any]) -> Any:
    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    builder.add_node("left", node("left"))
    builder.add_node("middle", node("middle", dies=True, when_stored=2))
    builder.add_node("right", node("right"))
    builder.add_edge(START, "before")
    for name in ("left", "middle", "right"):
        builder.add_edge("before", name)
        builder.add_edge(name, END)
    return builder


def sends(process: Process, node: Callable[..., Any]) -> Any:
    async def piece(state: Any) -> State:
        number = state["number"]
        process.note(f"piece {number}")
        if number == 3:
            await asyncio.to_thread(process.die, 4)
        return {"log": [f"piece {number}"]}

    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    builder.add_node("piece", piece)
    builder.add_node("after", node("after"))
    builder.add_edge(START, "before")
    builder.add_conditional_edges("before", lambda _: [Send("piece", {"number": number}) for number in range(5)])
    builder.add_edge("piece", "after")
    builder.add_edge("after", END)
    return builder


def subgraph(process: Process, node: Callable[..., Any]) -> Any:
    inner = StateGraph(State)
    inner.add_node("inner one", node("inner one"))
    inner.add_node("inner two", node("inner two", dies=True))
    inner.add_edge(START, "inner one")
    inner.add_edge("inner one", "inner two")
    inner.add_edge("inner two", END)
    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    builder.add_node("sub", inner.compile())
    builder.add_edge(START, "before")
    builder.add_edge("before", "sub")
    builder.add_edge("sub", END)
    return builder


def waiting(process: Process, node: Callable[..., Any]) -> Any:
    async def ask(state: State) -> State:
        process.note("ask")
        answer = interrupt("how many?")
        return {"log": [f"answer {answer}"]}

    builder = StateGraph(State)
    builder.add_node("before", node("before"))
    builder.add_node("ask", ask)
    builder.add_edge(START, "before")
    builder.add_edge("before", "ask")
    builder.add_edge("ask", END)
    return builder


def functional(process: Process, saver: Any) -> Any:
    @task
    async def work(name: str) -> str:
        process.note(name)
        return name

    @entrypoint(checkpointer=saver)
    async def flow(inputs: Any) -> list[str]:
        process.note("flow")
        first = await work("first")
        both = await asyncio.gather(work("left"), work("right"))
        if process.first:
            await asyncio.to_thread(process.die, 3)
        return [first, *both, await work("last")]

    return flow


def unborn(process: Process, node: Callable[..., Any]) -> Any:
    """Dies before anything is stored."""
    process.die()
    return linear(process, node)


GRAPHS = {
    "linear": linear,
    "parallel": parallel,
    "sends": sends,
    "subgraph": subgraph,
    "waiting": waiting,
    "unborn": unborn,
}


async def run(process: Process, name: str) -> Any:
    async with AsyncRedisSaver.from_url(process.url, prefix=process.prefix, retention=Retention(keep=2)) as saver:
        if name == "functional":
            graph = functional(process, saver)
        else:
            graph = GRAPHS[name](process, process.node).compile(checkpointer=saver)
        started = await saver.aget_tuple(CONFIG) is not None
        inputs: Any = None if started else {"log": []}
        if started and name == "waiting":
            inputs = Command(resume=3)
        result = await graph.ainvoke(inputs, CONFIG, durability="sync")
        return result["log"] if isinstance(result, dict) else result


def run_blocking(process: Process, name: str) -> Any:
    with RedisSaver.from_url(process.url, prefix=process.prefix, retention=Retention(keep=2)) as saver:
        graph = GRAPHS[name](process, process.plain).compile(checkpointer=saver)
        inputs: Any = {"log": []} if saver.get_tuple(CONFIG) is None else None
        return graph.invoke(inputs, CONFIG, durability="sync")["log"]


def main(url: str, prefix: str, name: str, log: Path, result: Path) -> None:
    process = Process(url, prefix, log)
    if process.first:
        process.note("begin")
    if name.endswith(" blocking"):
        found = run_blocking(process, name.removesuffix(" blocking"))
    else:
        found = asyncio.run(run(process, name))
    result.write_text(json.dumps(found), encoding="utf-8")
