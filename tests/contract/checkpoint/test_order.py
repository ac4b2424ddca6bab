"""What is the latest, and what was before: by the order in which Redis got it, never by clocks of hosts."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypedDict

import langgraph.checkpoint.base.id as ids
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from a2a_zmq.checkpoint.calls import Call
from a2a_zmq.checkpoint.scripts import READ


class Counter(TypedDict):
    n: int


def counting(saver: Any, amount: int = 1) -> Any:
    async def add(state: Counter) -> Counter:
        return {"n": state.get("n", 0) + amount}

    builder = StateGraph(Counter)
    builder.add_node("add", add)
    builder.add_edge(START, "add")
    builder.add_edge("add", END)
    return builder.compile(checkpointer=saver)


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Ids of checkpoints are made as on a host whose clock is off by so many seconds."""

    def off_by(seconds: float) -> None:
        monkeypatch.setattr(ids, "_last_v6_timestamp", None)
        monkeypatch.setattr(ids, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + int(seconds * 1e9)))

    return off_by


async def test_a_host_whose_clock_is_behind_continues_the_thread_and_is_the_latest(
    open_saver: Any, set_clock: Callable[[float], None]
) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    async with open_saver() as saver:
        graph = counting(saver)
        await graph.ainvoke({"n": 1}, config)
        first = await graph.aget_state(config)
        set_clock(-3600)
        await graph.ainvoke({"n": 10}, config)
        second = await graph.aget_state(config)
        assert second.config["configurable"]["checkpoint_id"] < first.config["configurable"]["checkpoint_id"]
        assert second.values == {"n": 11}
        history = [state async for state in graph.aget_state_history(config)]
        assert [state.values.get("n") for state in history] == [11, 10, 2, 2, 1, None]
        assert [state.metadata["step"] for state in history] == [4, 3, 2, 1, 0, -1]
        earlier = [state async for state in graph.aget_state_history(config, before=first.config)]
        assert [state.config for state in earlier] == [state.config for state in history[4:]]
        one = [state async for state in graph.aget_state_history(config, before=second.config, limit=1)]
        assert [state.config for state in one] == [history[1].config]


async def test_listing_filters_and_limits_in_the_same_order(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        for number, name in enumerate("zyxwv"):  # falling names, as of a clock that runs backwards
            await t.put(checkpoint_id=name, metadata={"even": number % 2 == 0})
        assert await t.ids() == ["v", "w", "x", "y", "z"]
        assert await t.ids(filter={"even": True}) == ["v", "x", "z"]
        assert await t.ids(filter={"even": True}, limit=2) == ["v", "x"]
        assert await t.ids(filter={"even": False}, before=t.config("w")) == ["y"]
        assert await t.ids(limit=0) == []
        assert await t.ids(before=t.config("unknown")) == []
        assert (await saver.aget_tuple(t.config())).checkpoint["id"] == "v"


async def test_listing_without_a_namespace_or_a_thread_gives_all_of_them(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        for name in ("t1", "t2"):
            t = thread(saver, name)
            await t.put(checkpoint_id="root")
            await t.put(checkpoint_id="sub", ns="sub")
            await t.put(checkpoint_id="last")
            assert await t.ids(None) == ["last", "sub", "root"]
        found = [each async for each in saver.alist(None)]
        assert {each.config["configurable"]["thread_id"] for each in found} == {"t1", "t2"}
        assert len(found) == 6
        assert len([each async for each in saver.alist(None, limit=4)]) == 4


async def test_a_long_thread_is_listed_in_pages(open_saver: Any, thread: Any) -> None:
    async with open_saver(keep=None) as saver:
        t = thread(saver, "t")
        put = [await t.put({"n": number, "same": "s"}) for number in range(40)]
        assert await t.ids() == put[::-1]
        found = [each async for each in saver.alist(t.config())]
        assert [each.checkpoint["channel_values"]["n"] for each in found] == list(range(40))[::-1]


async def test_a_checkpoint_that_goes_while_it_is_listed_is_not_shown_without_its_values(
    open_saver: Any, thread: Any
) -> None:
    async with open_saver() as saver, open_saver() as other:
        await thread(saver, "t").put()
        call = saver._call

        async def deletes_after_reading(each: Call) -> Any:
            reply = await call(each)
            if each.script is READ:
                await other.adelete_thread("t")
            return reply

        saver._call = deletes_after_reading
        assert await thread(saver, "t").ids() == []


async def test_a_replay_finds_the_subgraphs_state_before_the_root_graphs_checkpoint(
    open_saver: Any, thread: Any
) -> None:
    """LangGraph asks with the root's id for checkpoints of the subgraph's namespace, and relies on ids being sorted."""
    async with open_saver() as saver:
        t = thread(saver, "t")
        await t.put(checkpoint_id="r9")
        await t.put(checkpoint_id="s9", ns="sub")
        await t.put(checkpoint_id="r5")
        await t.put(checkpoint_id="s1", ns="sub")
        assert await t.ids("sub", before=t.config("r5")) == ["s9"]
        assert await t.ids("sub", before=t.config("r9")) == []
        await t.put(checkpoint_id="i1", ns="sub|inner")
        assert await t.ids("sub|inner", before=t.config("s1")) == []
        await t.put(checkpoint_id="s0", ns="sub")
        assert await t.ids("sub|inner", before=t.config("s0")) == ["i1"]


async def test_a_subgraphs_checkpoint_that_comes_before_its_root_graphs_is_not_older_than_that(
    open_saver: Any, thread: Any, audit: Any
) -> None:
    """With durability "async" the subgraph's first one may be stored before the one that it started from."""
    async with open_saver() as saver:
        t = thread(saver, "t")
        await t.put(checkpoint_id="r1")
        await t.put(checkpoint_id="s1", ns="sub", metadata={"parents": {"": "r2"}})
        assert await t.ids() == ["r1"]
        await t.put(checkpoint_id="r2", parent="r1")
        assert await t.ids() == ["r2", "r1"]
        assert await t.ids("sub", before=t.config("r2")) == []
        assert (await audit("t"))["expected"] == 0


async def test_a_place_that_was_kept_free_is_not_used_if_others_came_later(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        await t.write("late", "task", 1)
        await t.put(checkpoint_id="c1")
        await t.put(checkpoint_id="late")
        assert await t.ids() == ["late", "c1"]
        found = await saver.aget_tuple(t.config())
        assert found.pending_writes == [("task", "n", 1)]


class Parent(TypedDict):
    turn: int
    seen: list[int]


@pytest.mark.parametrize("durability", ["sync", "async"])
async def test_time_travel_restores_a_stateful_subgraph_as_it_was(
    open_saver: Any, set_clock: Callable[[float], None], durability: str
) -> None:
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    async with open_saver() as saver:

        async def bump(state: Counter) -> Counter:
            return {"n": state.get("n", 0) + 1}

        inner = StateGraph(Counter)
        inner.add_node("bump", bump)
        inner.add_edge(START, "bump")
        inner.add_edge("bump", END)
        subgraph: Any = inner.compile(checkpointer=True)

        async def ask(state: Parent) -> dict[str, Any]:
            found = await subgraph.ainvoke({})
            return {"seen": [*state.get("seen", []), found["n"]]}

        outer = StateGraph(Parent)
        outer.add_node("ask", ask)
        outer.add_edge(START, "ask")
        outer.add_edge("ask", END)
        graph: Any = outer.compile(checkpointer=saver)
        for turn in range(3):
            set_clock(-1000.0 * turn)  # each turn on a host whose clock is further behind
            await graph.ainvoke({"turn": turn}, config, durability=durability)
        assert (await graph.aget_state(config)).values["seen"] == [1, 2, 3]
        history = [state async for state in graph.aget_state_history(config)]
        second = next(state for state in history if state.values.get("turn") == 1 and state.next == ("ask",))
        replayed = await graph.ainvoke(None, second.config, durability=durability)
        assert replayed["seen"] == [1, 2]


async def test_branches_of_a_thread_do_not_share_values_of_the_same_step(open_saver: Any) -> None:
    """Both count their channels' versions up from the same checkpoint."""
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    async with open_saver() as saver:
        graph = counting(saver)
        await graph.ainvoke({"n": 1}, config)
        start = (await graph.aget_state(config)).config
        branches = [await graph.aupdate_state(start, {"n": 10 * number}) for number in (1, 2, 3)]
        assert [(await graph.aget_state(branch)).values["n"] for branch in branches] == [10, 20, 30]
        assert (await graph.aget_state(start)).values["n"] == 2
