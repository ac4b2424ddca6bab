"""Channels of which only changes are stored: what they are rebuilt from must not be trimmed away."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph


def joined(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *(each for write in writes for each in write)]


class OftenStored(TypedDict):
    log: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=3)]


class RarelyStored(TypedDict):
    log: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=1000)]


@pytest.mark.parametrize("state_type", [OftenStored, RarelyStored])
async def test_a_delta_channel_keeps_the_ancestors_that_it_is_rebuilt_from(
    open_saver: Any, open_blocking: Any, audit: Any, state_type: Any
) -> None:
    """A saver that trims to the last N by their number alone gives back a shorter list, without an error."""

    async def note(state: Any) -> Any:
        return {"log": [f"{len(state['log'])}"]}

    builder = StateGraph(state_type)
    builder.add_node("note", note)
    builder.add_edge(START, "note")
    builder.add_edge("note", END)
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    async with open_saver(keep=2) as saver:
        graph = builder.compile(checkpointer=saver)
        for turn in range(20):
            await graph.ainvoke({"log": [f"turn {turn}"]}, config, durability="sync")
        log = (await graph.aget_state(config)).values["log"]
        assert [each for each in log if each.startswith("turn")] == [f"turn {turn}" for turn in range(20)]
        assert len(log) == 40
        for found in [each async for each in saver.alist(config)]:
            asked: Any = {"config": found.config, "channels": ["log", "none"]}
            plain = await BaseCheckpointSaver.aget_delta_channel_history(saver, **asked)
            assert await saver.aget_delta_channel_history(**asked) == plain
            with open_blocking(keep=2) as blocking:
                assert blocking.get_delta_channel_history(**asked) == plain
        counts = await audit("t")
        if state_type is OftenStored:
            assert counts["checkpoints"] < 20  # of 60
        await saver.aprune(["t"])
        assert (await graph.aget_state(config)).values["log"] == log
        await audit("t")


async def test_a_fork_of_an_old_checkpoint_keeps_its_delta_ancestors(open_saver: Any, thread: Any, audit: Any) -> None:
    async with open_saver(keep=2) as saver:
        t = thread(saver, "t")

        async def delta(name: str, parent: str | None, depth: int) -> None:
            counters = {"counters_since_delta_snapshot": {"d": [1, depth]}} if depth else {}
            await t.put({}, checkpoint_id=name, parent=parent, metadata=counters)

        await delta("a", None, 0)
        await delta("b", "a", 1)
        await delta("c", "b", 2)
        await delta("fork", "b", 2)
        await delta("fork2", "fork", 3)
        assert await t.ids() == ["fork2", "fork", "c", "b", "a"]
        await delta("snapshot", "fork2", 0)
        assert await t.ids() == ["snapshot", "fork2", "fork", "c", "b", "a"]  # fork2 still needs them
        await delta("next", "snapshot", 1)
        assert await t.ids() == ["next", "snapshot"]
        await audit("t")


async def test_where_one_of_two_channels_is_stored_anew_the_other_still_has_its_ancestors(
    open_saver: Any, thread: Any, audit: Any
) -> None:
    async with open_saver(keep=1) as saver:
        t = thread(saver, "t")
        for name, parent, depth in (("a", None, 0), ("b", "a", 1), ("c", "b", 2), ("d", "c", 3), ("e", "d", 2)):
            counters = {"counters_since_delta_snapshot": {"d": [1, depth]}} if depth else {}
            await t.put({}, checkpoint_id=name, parent=parent, metadata=counters)
        assert await t.ids() == ["e", "d", "c"]
        await saver.aprune(["t"])
        assert await t.ids() == ["e", "d", "c"]
        await audit("t")


async def test_a_long_history_is_read_in_few_round_trips(open_saver: Any, thread: Any) -> None:
    async with open_saver(keep=None) as saver:
        t = thread(saver, "t")
        parent = await t.put({"d": "whole"}, checkpoint_id="a")
        for number in range(150):
            await t.write(parent, "task", number, channel="d")
            parent = await t.put({}, parent=parent)
        call = saver._call
        calls: list[Any] = []

        async def counted(each: Any) -> Any:
            calls.append(each)
            return await call(each)

        saver._call = counted
        found = await saver.aget_delta_channel_history(config=t.config(), channels=["d"])
        assert found == {"d": {"seed": "whole", "writes": [("task", "d", number) for number in range(150)]}}
        assert len(calls) == 7  # 64 ancestors in two, and the stored value
        saver._call = call
        await t.put({}, checkpoint_id="loop", parent="loop")
        of_itself = await saver.aget_delta_channel_history(config=t.config("loop"), channels=["d"])
        assert of_itself == {"d": {"writes": []}}
        assert await saver.aget_delta_channel_history(config=t.config("none"), channels=["d"]) == {"d": {"writes": []}}
