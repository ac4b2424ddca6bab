"""Nothing grows without a bound: what goes with what, how much is stored, and what must stay."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from redis.asyncio import Redis

from a2a_zmq.checkpoint import Retention, ThreadClaims
from a2a_zmq.checkpoint import keys as names


async def test_the_last_n_stay_and_take_along_what_only_the_others_needed(
    open_saver: Any, thread: Any, audit: Any
) -> None:
    async with open_saver(keep=3) as saver:
        t = thread(saver, "t")
        parent = None
        for number in range(10):
            parent = await t.put({"n": number, "same": "s"}, parent=parent, versions={"n": f"{number}", "same": "1"})
            await t.write(parent, "task", number)
        assert await t.ids() == ["c10", "c9", "c8"]
        assert (await saver.aget_tuple(t.config("c8"))).checkpoint["channel_values"] == {"n": 7, "same": "s"}
        assert await saver.aget_tuple(t.config("c7")) is None
        assert await audit("t") == {"checkpoints": 3, "blobs": 4, "writes": 3, "expected": 0, "members": 7}


async def test_each_namespace_has_its_own_last_n(open_saver: Any, thread: Any, audit: Any) -> None:
    async with open_saver(keep=2) as saver:
        t = thread(saver, "t")
        for ns in ("", "sub", ""):
            for _ in range(3):
                await t.put(ns=ns)
        assert await t.ids() == ["c9", "c8"]
        assert await t.ids("sub") == ["c6", "c5"]
        await audit("t")


async def test_an_unchanged_value_is_written_once(open_saver: Any, thread: Any) -> None:
    async with open_saver(keep=None) as saver:
        t = thread(saver, "t")
        large = "x" * 100_000
        await t.put({"large": large, "n": 0}, versions={"large": "1", "n": "1"})
        once = await saver.asize("t")
        for number in range(2, 20):
            versions = {"large": "1", "n": f"{number}"}
            await t.put({"large": large, "n": number}, versions=versions, changed=["n"])
        assert await saver.asize("t") - once < 10_000
        found = await saver.aget_tuple(t.config())
        assert found.checkpoint["channel_values"] == {"large": large, "n": 19}


async def test_a_subgraph_calls_checkpoints_go_with_the_one_they_started_from(
    open_saver: Any, thread: Any, audit: Any
) -> None:
    async with open_saver(keep=2) as saver:
        t = thread(saver, "t")
        for number in range(1, 6):
            root = f"r{number}"
            await t.put(checkpoint_id=root)
            await t.put(ns=f"call:{number}", metadata={"parents": {"": root}})
            await t.put(ns=f"call:{number}|inner:1", metadata={"parents": {"": root, f"call:{number}": "x"}})
            await t.put(ns="stateful", metadata={"parents": {"": root}})
            await t.write("later", "task", 1, ns=f"call:{number}")
        assert await t.ids("call:3") == []
        assert await t.ids("call:3|inner:1") == []
        assert len(await t.ids("call:4")) == len(await t.ids("call:5|inner:1")) == 1
        assert len(await t.ids("stateful")) == 2
        counts = await audit("t")
        assert (counts["checkpoints"], counts["writes"]) == (2 + 4 + 2, 2)


async def test_a_long_conversation_with_subgraphs_does_not_grow(open_saver: Any, audit: Any) -> None:
    class State(TypedDict):
        n: int

    async def bump(state: State) -> State:
        return {"n": state["n"] + 1}

    inner = StateGraph(State)
    inner.add_node("bump", bump)
    inner.add_edge(START, "bump")
    inner.add_edge("bump", END)
    outer = StateGraph(State)
    outer.add_node("call", inner.compile())
    outer.add_edge(START, "call")
    outer.add_edge("call", END)
    config: RunnableConfig = {"configurable": {"thread_id": "t"}}
    async with open_saver(keep=6) as saver:
        graph = outer.compile(checkpointer=saver)
        for turn in range(30):
            await graph.ainvoke({"n": turn}, config, durability="sync" if turn % 2 else "async")
            if turn == 9:
                early = await audit("t"), await saver.asize("t")
        late = await audit("t"), await saver.asize("t")
        assert late[0] == early[0]
        assert late[1] < early[1] * 1.1


async def test_a_smaller_n_takes_effect_step_by_step(open_saver: Any, thread: Any, audit: Any) -> None:
    async with open_saver(keep=None) as many, open_saver(keep=5) as few:
        for number in range(150):
            await thread(many, "t").put(checkpoint_id=f"m{number}")
        for number in range(3):
            await thread(few, "t").put(checkpoint_id=f"f{number}")
        assert await thread(few, "t").ids() == ["f2", "f1", "f0", "m149", "m148"]
        await audit("t")


async def test_writes_whose_checkpoint_never_came_go_in_the_end(open_saver: Any, thread: Any, audit: Any) -> None:
    async with open_saver(keep=2) as saver:
        t = thread(saver, "t")
        await t.write("never", "task", 1)
        await t.put(ns="call:1", metadata={"parents": {"": "never"}})
        await t.put()
        await t.put()
        await t.put()
        assert (await audit("t"))["writes"] == 1  # it may still come
        for _ in range(70):
            await t.put()
        assert await t.ids("call:1") == []
        assert await audit("t") == {"checkpoints": 2, "blobs": 2, "writes": 0, "expected": 0, "members": 3}


async def test_every_key_expires_some_time_after_the_threads_last_write(
    open_saver: Any, thread: Any, audit: Any, url: str, prefix: str
) -> None:
    async with open_saver(ttl_s=60.0) as saver, Redis.from_url(url) as redis:
        claims = ThreadClaims(saver)
        t = thread(saver, "t", a2a_fence=(await claims.claim("t", "run", 1)).fence)
        await t.put(checkpoint_id="c1")
        await t.write("c1", "task", 1)
        found = [key.decode() async for key in redis.scan_iter(f"{{{prefix}:*")]
        assert sorted(found) == sorted(names.of_thread(prefix, "t"))
        for key in found:
            kind = next(kind for kind in names.KEY_CLASSES if kind.name == key.rpartition(":")[2])
            assert await redis.type(key) == kind.redis_type.encode()
            assert 50_000 < await redis.pttl(key) <= 60_000
            await redis.pexpire(key, 1000)
        await asyncio.sleep(0.1)  # times to live begin again a thousand times in one of them at the most
        await t.write("c1", "task2", 1)
        assert await claims.renew("t", 1)
        for key in names.of_thread(prefix, "t"):
            assert await redis.pttl(key) > 50_000, key
        await audit("t")


async def test_without_a_time_to_live_threads_stay(open_saver: Any, thread: Any, url: str, prefix: str) -> None:
    async with open_saver(ttl_s=None) as saver, Redis.from_url(url) as redis:
        await ThreadClaims(saver).claim("t", "run", 1)
        await thread(saver, "t", a2a_fence=1).put(checkpoint_id="c1")
        await thread(saver, "t", a2a_fence=1).write("c1", "task", 1)
        assert [await redis.pttl(key) for key in names.of_thread(prefix, "t")] == [-1] * 9


async def test_a_thread_that_expired_is_not_counted_any_more(open_saver: Any, thread: Any, wait_for: Any) -> None:
    async with open_saver(ttl_s=1.0) as short, open_saver() as saver:
        await thread(short, "short").put({"n": "x" * 1000})
        await thread(saver, "long").put({"n": "x" * 1000})
        size = await saver.asize("long")
        assert await saver.asize() > 1000 + size
        await wait_for(saver.asize, size)
        assert await saver.asize("short") == 0
        assert [found.config["configurable"]["thread_id"] async for found in saver.alist(None)] == ["long"]


async def test_threads_of_one_bucket_that_expire_are_forgotten_by_the_next_write_to_it(
    open_saver: Any, thread: Any, url: str, prefix: str, wait_for: Any
) -> None:
    bucket = names.bucket_of(names.encode("long"))
    short = next(f"s{number}" for number in range(10_000) if names.bucket_of(f"s{number}") == bucket)
    _, sizes = names.of_bucket(prefix, bucket)
    async with open_saver(ttl_s=1.0) as brief, open_saver() as saver, Redis.from_url(url) as redis:
        for reads in (True, False):
            await thread(saver, "long").put({"n": 1})
            await thread(brief, short).put({"n": "x" * 1000})
            await wait_for(lambda: redis.exists(names.of_kind(prefix, short, "facts")), 0)
            assert len(await redis.hgetall(sizes)) == 3
            if reads:
                assert await saver.asize() == await saver.asize("long")
            else:
                await thread(saver, "long").put({"n": 2})
            assert set(await redis.hgetall(sizes)) == {b"", b"long"}


async def test_deleting_leaves_nothing_but_the_fence(
    open_saver: Any, thread: Any, url: str, prefix: str, audit: Any
) -> None:
    async with open_saver() as saver, Redis.from_url(url) as redis:
        await thread(saver, "t", a2a_fence=1).put(checkpoint_id="c1")
        await thread(saver, "t", a2a_fence=1).write("c1", "task", 1)
        await saver.adelete_thread("t")
        assert await saver.asize() == 0
        found = [key async for key in redis.scan_iter(f"{{{prefix}:*")]
        assert found == [names.of_kind(prefix, "t", "fence").encode()]
        await audit("t")


async def test_deleting_the_only_run_of_a_thread_leaves_nothing(open_saver: Any, thread: Any, audit: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        await t.put(checkpoint_id="c1", metadata={"run_id": "r1"})
        await t.put(ns="call:1", metadata={"run_id": "r1", "parents": {"": "c1"}})
        await saver.adelete_for_runs(["r1"])
        assert await saver.asize() == 0
        assert (await audit("t"))["members"] == 0


async def test_pruning_drops_calls_of_checkpoints_that_went(open_saver: Any, thread: Any, audit: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        for number in (1, 2):
            await t.put(checkpoint_id=f"r{number}")
            await t.put(ns=f"call:{number}", metadata={"parents": {"": f"r{number}"}})
        await saver.aprune(["t"])
        assert await t.ids() == ["r2"]
        assert await t.ids("call:1") == []
        assert len(await t.ids("call:2")) == 1
        await audit("t")
        with pytest.raises(ValueError, match="strategy"):
            await saver.aprune(["t"], strategy="keep_some")
        with pytest.raises(TypeError):
            await saver.aprune("t")


async def test_a_thread_that_was_deleted_under_a_running_graph_is_whole_again_with_its_next_checkpoint(
    open_saver: Any, thread: Any, audit: Any
) -> None:
    """Values that did not change are not sent, so what is missing is asked for."""
    async with open_saver() as saver:
        t = thread(saver, "t")
        await t.put({"same": "s", "n": 1}, versions={"same": "1", "n": "1"}, checkpoint_id="c1")
        await saver.adelete_thread("t")
        await t.put({"same": "s", "n": 2}, versions={"same": "1", "n": "2"}, changed=["n"], parent="c1")
        assert (await saver.aget_tuple(t.config())).checkpoint["channel_values"] == {"same": "s", "n": 2}
        await audit("t")


async def test_copying_takes_everything_and_never_replaces(open_saver: Any, thread: Any, audit: Any) -> None:
    async with open_saver(keep=4) as saver:
        source = thread(saver, "source", a2a_fence=3)
        for number in range(6):
            name = await source.put({"n": number, "same": 1}, versions={"n": str(number), "same": "1"})
            await source.write(name, "task", number)
        await saver.acopy_thread("source", "target {}:%")
        await audit("target {}:%")
        assert await saver.asize("target {}:%") == await saver.asize("source")
        target = thread(saver, "target {}:%")
        assert await target.ids() == await source.ids()
        await target.put()  # it has no fence yet
        assert len(await target.ids()) == 4
        with pytest.raises(ValueError, match="already"):
            await saver.acopy_thread("source", "target {}:%")


def test_retention_is_checked() -> None:
    for options in ({"keep": 0}, {"ttl_s": 0.5}):
        with pytest.raises(ValueError, match="at least"):
            Retention(**options)


async def test_what_a_reducer_gathered_survives_trimming(open_saver: Any) -> None:
    class State(TypedDict):
        log: Annotated[list[int], operator.add]

    async def note(state: State) -> State:
        return {"log": [len(state["log"])]}

    builder = StateGraph(State)
    builder.add_node("note", note)
    builder.add_edge(START, "note")
    builder.add_edge("note", END)
    async with open_saver(keep=1) as saver:
        graph = builder.compile(checkpointer=saver)
        for _ in range(5):
            result = await graph.ainvoke({"log": []}, {"configurable": {"thread_id": "t"}})
        assert result["log"] == [0, 1, 2, 3, 4]


async def test_what_was_empty_and_is_written_again_has_a_time_to_live(
    open_saver: Any, thread: Any, url: str, prefix: str
) -> None:
    """Times to live do not begin again with each write, so a key that is made anew needs one of its own."""
    async with open_saver(ttl_s=3600.0, keep=1) as saver, Redis.from_url(url) as redis:
        t = thread(saver, "t")
        for round_ in range(3):
            await t.put(checkpoint_id=f"a{round_}")
            await t.write(f"a{round_}", "task", 1)
            await t.put(checkpoint_id=f"b{round_}")  # the only one kept: the write of the one before goes
            await t.write(f"b{round_}", "task", 1)
            if round_ == 1:
                await saver.aprune(["t"])
            async for key in redis.scan_iter(f"{{{prefix}:*"):
                assert await redis.pttl(key) > 0, key
