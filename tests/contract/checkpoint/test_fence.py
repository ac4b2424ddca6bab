"""A stale owner of a thread can write nothing more, from the moment its successor reads the thread."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from a2a_zmq.checkpoint import AsyncRedisSaver
from a2a_zmq.errors import StaleCheckpointWriter, StateError


async def contents(saver: AsyncRedisSaver, t: Any) -> list[Any]:
    return [
        (found.checkpoint, found.metadata, found.pending_writes)
        async for found in saver.alist({"configurable": {"thread_id": t.thread_id}})
    ]


async def test_after_a_takeover_every_write_of_the_stale_owner_is_refused(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        old, new = thread(saver, "t", a2a_fence=4), thread(saver, "t", a2a_fence=5)
        await old.put(checkpoint_id="c1")
        await new.put(checkpoint_id="c2", parent="c1")
        before = await contents(saver, new)
        with pytest.raises(StaleCheckpointWriter) as refused:
            await old.put(checkpoint_id="c3", parent="c1")
        assert (refused.value.thread_id, refused.value.ours, refused.value.recorded) == ("t", (4,), (5,))
        with pytest.raises(StaleCheckpointWriter):
            await old.write("c1", "task", "stale")
        with pytest.raises(StaleCheckpointWriter):
            await old.write("c2", "task", "stale")
        with pytest.raises(StaleCheckpointWriter):
            await saver.aget_tuple(old.config())
        assert await contents(saver, new) == before
        await new.put(checkpoint_id="c4", parent="c2")


async def test_a_successor_that_only_read_the_thread_has_taken_it_over(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        old, new = thread(saver, "t", a2a_fence=1), thread(saver, "t", a2a_fence=2)
        await old.put(checkpoint_id="c1")
        found = await saver.aget_tuple(new.config())
        assert found.checkpoint["id"] == "c1"
        with pytest.raises(StaleCheckpointWriter):
            await old.write("c1", "task", 1)


async def test_a_successor_takes_over_a_thread_that_has_no_checkpoint_yet(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        assert await saver.aget_tuple(thread(saver, "t", a2a_fence=2).config()) is None
        with pytest.raises(StaleCheckpointWriter):
            await thread(saver, "t", a2a_fence=1).put()


@pytest.mark.parametrize(
    ("lower", "higher"), [(9, 10), ((1, 9), (2, 0)), ((2, 1), (2, 2)), (2, (2, 1)), ([3], (4,)), (2**53 - 1, 2**53)]
)
async def test_fences_are_compared_number_by_number(open_saver: Any, thread: Any, lower: Any, higher: Any) -> None:
    async with open_saver() as saver:
        await thread(saver, "t", a2a_fence=lower).put()
        await thread(saver, "t", a2a_fence=higher).put()
        await thread(saver, "t", a2a_fence=higher).put()
        with pytest.raises(StaleCheckpointWriter):
            await thread(saver, "t", a2a_fence=lower).put()


async def test_a_trailing_zero_makes_no_difference(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        await thread(saver, "t", a2a_fence=(2, 0)).put()
        await thread(saver, "t", a2a_fence=2).put()
        await thread(saver, "t", a2a_fence=(2, 0)).put()


@pytest.mark.parametrize("fence", ["5", -1, 1.5, True, (1, "2"), 2**53 + 1])
async def test_a_fence_that_is_none_is_named(open_saver: Any, thread: Any, fence: Any) -> None:
    async with open_saver() as saver:
        with pytest.raises(ValueError, match="a2a_fence"):
            await thread(saver, "t", a2a_fence=fence).put()
        with pytest.raises(ValueError, match="a2a_fence"):
            await thread(saver, "t", a2a_fence=fence).write("c1", "task", 1)


async def test_a_thread_that_never_saw_a_fence_needs_none(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        await thread(saver, "t").put()
        await thread(saver, "t").put()


async def test_who_has_no_fence_writes_no_fenced_thread(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        await thread(saver, "t", a2a_fence=3).put(checkpoint_id="c1")
        with pytest.raises(StaleCheckpointWriter, match="no fence") as refused:
            await thread(saver, "t").put()
        assert refused.value.ours == ()
        with pytest.raises(StateError):
            await thread(saver, "t").write("c1", "task", 1)
        assert (await saver.aget_tuple(thread(saver, "t").config())).checkpoint["id"] == "c1"  # reading is free


async def test_a_stale_owner_does_not_bring_a_deleted_thread_back(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        old, new = thread(saver, "t", a2a_fence=1), thread(saver, "t", a2a_fence=2)
        await old.put(checkpoint_id="c1")
        await new.put(checkpoint_id="c2")
        await saver.adelete_thread("t")
        with pytest.raises(StaleCheckpointWriter):
            await old.put(checkpoint_id="c3")
        with pytest.raises(StaleCheckpointWriter):
            await old.write("c1", "task", 1)
        assert await new.ids() == []


async def test_the_fence_is_no_part_of_the_metadata(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t", a2a_fence=7, owner="w1")
        await t.put()
        found = await saver.aget_tuple(t.config())
        assert found.metadata["owner"] == "w1"
        assert "a2a_fence" not in found.metadata


async def test_the_blocking_saver_refuses_too(open_blocking: Any, thread: Any) -> None:
    with open_blocking() as saver:
        old, new = thread(saver, "t", a2a_fence=1), thread(saver, "t", a2a_fence=2)
        saver.put(*old.arguments(checkpoint_id="c1"))
        assert saver.get_tuple(new.config()).checkpoint["id"] == "c1"
        with pytest.raises(StaleCheckpointWriter):
            saver.put(*old.arguments())
        with pytest.raises(StaleCheckpointWriter):
            saver.put_writes(old.config("c1"), [("n", 1)], "task")


class State(TypedDict):
    n: int


async def test_a_graph_whose_owner_was_replaced_stops_and_leaves_no_trace(open_saver: Any) -> None:
    """Also what a subgraph of it writes."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    def build(saver: AsyncRedisSaver, name: str) -> Any:
        async def first(state: State) -> State:
            ran.append(f"{name} first")
            return {"n": state["n"] + 1}

        async def within(state: State) -> State:
            ran.append(f"{name} within")
            if name == "old":
                reached.set()
                await go_on.wait()
            return {"n": state["n"] + 1}

        async def last(state: State) -> State:
            ran.append(f"{name} last")
            return {"n": state["n"] + 1}

        inner = StateGraph(State)
        inner.add_node("within", within)
        inner.add_edge(START, "within")
        inner.add_edge("within", END)
        builder = StateGraph(State)
        builder.add_node("first", first)
        builder.add_node("sub", inner.compile())
        builder.add_node("last", last)
        builder.add_edge(START, "first")
        builder.add_edge("first", "sub")
        builder.add_edge("sub", "last")
        builder.add_edge("last", END)
        return builder.compile(checkpointer=saver)

    def config(fence: int) -> RunnableConfig:
        return {"configurable": {"thread_id": "t", "a2a_fence": (fence, 1)}}

    async with open_saver() as saver, open_saver() as others:
        old = asyncio.create_task(build(saver, "old").ainvoke({"n": 0}, config(1), durability="sync"))
        await reached.wait()
        result = await build(others, "new").ainvoke(None, config(2), durability="sync")
        assert result == {"n": 3}
        before = [found async for found in others.alist({"configurable": {"thread_id": "t"}})]
        go_on.set()
        with pytest.raises(StaleCheckpointWriter):
            await old
        assert [found async for found in others.alist({"configurable": {"thread_id": "t"}})] == before
        assert ran == ["old first", "old within", "new within", "new last"]
