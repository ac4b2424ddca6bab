"""A chain of ten steps; each notes itself in a ledger, if there is one, with the key by which it is known."""

from __future__ import annotations

import asyncio
import operator
import os
import time
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

STEPS = 10


class State(TypedDict, total=False):
    """
    Attributes:
        run: names it in the ledger.
        n: steps that are done.
        pause_s: how long a step takes.
        document: changes in no step.
    """

    run: str
    n: int
    pause_s: float
    ledger: str
    document: list[dict[str, str]]
    log: Annotated[list[str], operator.add]


async def step(state: State, runtime: Runtime) -> dict[str, Any]:
    number = state["n"]
    if state.get("ledger"):
        info = runtime.execution_info
        line = f"{state['run']} {number} {info.task_id if info else '-'} {os.getpid()} {time.time():.4f}\n"
        ledger = os.open(state["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(ledger, line.encode())  # one write: lines of several processes do not mix
        finally:
            os.close(ledger)
    if state.get("pause_s"):
        await asyncio.sleep(state["pause_s"])
    return {"n": number + 1, "log": [f"step {number}"]}


def build() -> StateGraph[Any]:
    builder: StateGraph[Any] = StateGraph(State)
    before = START
    for number in range(STEPS):
        builder.add_node(f"step{number}", step)
        builder.add_edge(before, f"step{number}")
        before = f"step{number}"
    builder.add_edge(before, END)
    return builder


graph = build().compile()
