"""A run's input may go with the checkpoint behind it: a round trip less; no node runs before both are there."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

from a2a_zmq.checkpoint.calls import Call
from a2a_zmq.checkpoint.scripts import COMMIT
from a2a_zmq.errors import StaleCheckpointWriter, StoreUnavailable

CONFIG: Any = {"configurable": {"thread_id": "t", "a2a_fence": 2}}


class State(TypedDict):
    n: int


def graph_of(saver: Any, ran: list[int]) -> Any:
    async def node(state: State) -> State:
        ran.append(state["n"])
        return {"n": state["n"] + 1}

    graph = StateGraph(State)
    graph.add_node("one", node)
    graph.add_node("two", node)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    return graph.compile(checkpointer=saver)


def count_commits(saver: Any, fails_at: int = 0) -> list[Call]:
    seen: list[Call] = []
    send = saver._call

    async def call(each: Call) -> Any:
        if each.script is COMMIT:
            seen.append(each)
            if len(seen) == fails_at:
                raise StoreUnavailable("away")
        return await send(each)

    saver._call = call
    return seen


@pytest.mark.parametrize("waits", [True, False])
async def test_what_is_stored_is_the_same(open_saver: Any, *, waits: bool) -> None:
    ran: list[int] = []
    async with open_saver() as saver:
        saver.input_waits = waits
        commits = count_commits(saver)
        graph = graph_of(saver, ran)
        for turn in (0, 10):  # a thread that is new, and one that goes on
            assert await graph.ainvoke({"n": turn}, CONFIG, durability="sync") == {"n": turn + 2}
        assert len(commits) == (8 if waits else 6)
        history = [each async for each in graph.aget_state_history(CONFIG)]
        assert [(each.metadata["source"], each.metadata["step"]) for each in history] == [
            *(("loop", 6), ("loop", 5), ("loop", 4), ("input", 3)),
            *(("loop", 2), ("loop", 1), ("loop", 0), ("input", -1)),
        ]
        assert [each.values.get("n") for each in history] == [12, 11, 10, 2, 2, 1, 0, None]
    assert ran == [0, 1, 10, 11]


async def test_no_node_runs_if_the_input_cannot_be_stored(open_saver: Any) -> None:
    ran: list[int] = []
    async with open_saver() as saver:
        saver.input_waits = False
        count_commits(saver, fails_at=1)
        with pytest.raises(StoreUnavailable):
            await graph_of(saver, ran).ainvoke({"n": 0}, CONFIG, durability="sync")
        assert ran == []
        assert await graph_of(saver, ran).ainvoke({"n": 0}, CONFIG, durability="sync") == {"n": 2}


async def test_no_node_runs_for_an_owner_that_was_replaced_after_it_had_read(open_saver: Any) -> None:
    ran: list[int] = []
    async with open_saver() as saver:
        saver.input_waits = False
        graph = graph_of(saver, ran)
        await graph.ainvoke({"n": 0}, CONFIG, durability="sync")
        saver._knows("t", 1, None)  # what a claim of before has read
        stale: Any = {"configurable": {"thread_id": "t", "a2a_fence": 1}}
        with pytest.raises(StaleCheckpointWriter):
            await graph.ainvoke({"n": 5}, stale, durability="sync")
        assert ran == [0, 1]
