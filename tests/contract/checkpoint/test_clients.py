"""How the savers reach Redis, and what they say when they cannot."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, TypedDict

import pytest
import redis as blocking_redis
import redis.asyncio as async_redis
from langgraph.graph import END, START, StateGraph

from a2a_zmq.checkpoint import AsyncRedisSaver, RedisSaver, ThreadClaims
from a2a_zmq.errors import StoreUnavailable
from daemons.redis.embedded import EmbeddedRedis


@pytest.fixture
def own_server() -> Iterator[EmbeddedRedis]:
    """A server that the test may stop and fill."""
    with EmbeddedRedis(appendfsync="no", password="secret") as server:
        yield server


def test_the_library_loads_no_langgraph() -> None:
    code = (
        "import sys, a2a_zmq, a2a_zmq.checkpoint;"
        "sys.exit(any(n.startswith(('langgraph', 'redis')) for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_saver_loads_no_graph_and_no_daemon() -> None:
    code = (
        "import sys; from a2a_zmq.checkpoint import RedisSaver, AsyncRedisSaver;"
        "sys.exit(any(n.startswith(('langgraph.graph', 'langgraph.pregel', 'daemons')) for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


async def test_a_client_of_the_callers_own_stays_open(url: str, prefix: str, thread: Any) -> None:
    async with async_redis.Redis.from_url(url) as client:
        async with AsyncRedisSaver.from_client(client, prefix=prefix) as saver:
            await thread(saver, "t").put()
        assert await client.ping()
    with blocking_redis.Redis.from_url(url) as other:
        with RedisSaver.from_client(other, prefix=prefix) as twin:
            found = twin.get_tuple(thread(twin, "t").config())
            assert found is not None
        assert other.ping()


def test_a_client_that_does_not_fit_is_refused(url: str) -> None:
    with blocking_redis.Redis.from_url(url) as client, pytest.raises(TypeError, match=r"redis\.asyncio"):
        AsyncRedisSaver(client)
    with pytest.raises(TypeError, match="not redis"):
        RedisSaver(async_redis.Redis.from_url(url))  # type: ignore[arg-type]
    with blocking_redis.Redis.from_url(url, decode_responses=True) as client, pytest.raises(ValueError, match="decode"):
        RedisSaver(client)
    with blocking_redis.Redis.from_url(url) as client, pytest.raises(ValueError, match="prefix"):
        RedisSaver(client, prefix="a}b")


@pytest.mark.parametrize("thread_id", ["", "%", "}{", "a:b/c d", "ü€", "shared:distributor:d1", 7])
async def test_any_name_of_a_thread_will_do(open_saver: Any, thread: Any, audit: Any, thread_id: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, thread_id)
        await t.put({"ch ä{}": 1}, checkpoint_id="c ä{}", ns="n|s:{}ä")
        await t.write("c ä{}", "täsk", 1, ns="n|s:{}ä")
        found = [each async for each in saver.alist(None)]
        assert [each.config for each in found] == [
            {"configurable": {"thread_id": str(thread_id), "checkpoint_ns": "n|s:{}ä", "checkpoint_id": "c ä{}"}}
        ]
        assert found[0].checkpoint["channel_values"] == {"ch ä{}": 1}
        await audit(str(thread_id))


async def test_a_name_with_a_nul_character_is_refused(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        for options in ({"ns": "a\x00b"}, {"checkpoint_id": "a\x00b"}, {"values": {"a\x00b": 1}}):
            with pytest.raises(ValueError, match="NUL"):
                await t.put(**options)


async def test_two_prefixes_see_nothing_of_each_other(open_saver: Any, thread: Any, prefix: str) -> None:
    async with open_saver() as one, open_saver(prefix=f"{prefix}-2") as two:
        await thread(one, "t").put()
        assert await two.aget_tuple(thread(two, "t").config()) is None
        assert await two.asize() == 0


async def test_errors_of_redis_are_the_projects(own_server: EmbeddedRedis, thread: Any) -> None:
    url = f"redis://127.0.0.1:{own_server.port}"
    async with AsyncRedisSaver.from_url(url) as saver:
        with pytest.raises(StoreUnavailable, match="noauth") as refused:
            await saver.aget_tuple(thread(saver, "t").config())
        assert refused.value.fatal
    async with AsyncRedisSaver.from_url(f"{url}?password=secret", timeout_s=2.0) as saver:
        t = thread(saver, "t")
        await t.put(checkpoint_id="c1")
        client = saver._client
        await client.config_set("maxmemory", "1mb")
        with pytest.raises(StoreUnavailable, match="oom"):
            await t.put({"n": "x" * 2_000_000}, checkpoint_id="c2")
        await client.config_set("maxmemory", "0")
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match=r"readonly|loading|connection"):
            await t.put(checkpoint_id="c2")
        await client.execute_command("REPLICAOF", "NO", "ONE")
        own_server.pause()
        with pytest.raises(StoreUnavailable, match="timeout"):
            await t.write("c1", "task", 1)
        own_server.resume()
        assert await saver.aget_tuple(t.config()) is not None
        await t.put(checkpoint_id="c3")
        assert await t.ids() == ["c3", "c1"]
        own_server.kill()
        with pytest.raises(StoreUnavailable, match="connection"):
            await t.put(checkpoint_id="c4")
        with pytest.raises(StoreUnavailable, match="connection"):
            await saver.aget_tuple(t.config())


async def test_a_server_that_forgot_the_scripts_gets_them_again(open_saver: Any, thread: Any) -> None:
    async with open_saver() as saver:
        t = thread(saver, "t")
        for _ in range(3):
            await saver._client.script_flush()
            await t.put()
        await saver._client.script_flush()
        assert len(await t.ids()) == 3


async def test_threads_beside_the_loop_can_block_on_the_async_saver(open_saver: Any) -> None:
    """Under ``ainvoke`` a plain function runs in a thread, and invokes a graph of its own there."""

    class State(TypedDict):
        n: int

    def bump(state: State) -> State:
        return {"n": state["n"] + 1}

    inner = StateGraph(State)
    inner.add_node("bump", bump)
    inner.add_edge(START, "bump")
    inner.add_edge("bump", END)
    subgraph = inner.compile(checkpointer=True)

    def call(state: State) -> State:
        return {"n": subgraph.invoke({"n": state["n"]})["n"]}

    outer = StateGraph(State)
    outer.add_node("call", call)
    outer.add_edge(START, "call")
    outer.add_edge("call", END)
    async with open_saver() as saver:
        with pytest.raises(RuntimeError, match="beside its event loop"):
            saver.get_tuple({"configurable": {"thread_id": "t"}})
        graph = outer.compile(checkpointer=saver)
        assert await graph.ainvoke({"n": 1}, {"configurable": {"thread_id": "t"}}) == {"n": 2}
        config: Any = {"configurable": {"thread_id": "t"}}
        listed = await asyncio.to_thread(lambda: list(saver.list(config)))
        assert listed == [each async for each in saver.alist(config)]
        with pytest.raises(RuntimeError, match="beside its event loop"):
            saver.get_tuple(config)
        await asyncio.to_thread(saver.copy_thread, "t", "copy")
        await asyncio.to_thread(saver.prune, ["copy"])
        await asyncio.to_thread(saver.delete_for_runs, ["none"])
        await asyncio.to_thread(saver.delete_thread, "copy")
        assert [each.config["configurable"]["thread_id"] async for each in saver.alist(None, limit=1)] == ["t"]


async def test_over_a_single_connection_cancelled_calls_and_lost_connections_mix_no_replies_up(
    own_server: EmbeddedRedis, prefix: str
) -> None:
    url = f"redis://:secret@127.0.0.1:{own_server.port}"
    async with AsyncRedisSaver.from_url(url, prefix=prefix, single_connection=True) as saver:
        claims = ThreadClaims(saver)
        for number in range(100):
            calls = [asyncio.ensure_future(claims.claim(f"t{number}-{each}", f"run {each}", 1)) for each in range(3)]
            await asyncio.sleep(0.0001 * (number % 7))
            calls[1].cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            again = await claims.claim(f"t{number}-0", "another", 1)
            assert (again.outcome, again.holder) == ("busy", "run 0")
        with blocking_redis.Redis(port=own_server.port, password="secret") as other:
            other.client_kill_filter(_type="normal", skipme=True)
        assert (await claims.claim("after", "run", 1)).outcome == "ok"


async def test_over_a_single_connection_errors_are_typed_and_a_server_that_is_away_is_asked_again(
    own_server: EmbeddedRedis, prefix: str
) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        async with AsyncRedisSaver.from_url(
            f"redis://:wrong@127.0.0.1:{own_server.port}", prefix=prefix, single_connection=True
        ) as saver:
            await saver.asize("t")
    assert refused.value.fatal
    url = f"redis://:secret@127.0.0.1:{own_server.port}"
    async with AsyncRedisSaver.from_url(url, prefix=prefix, single_connection=True) as saver:
        assert await saver.asize("t") == 0
        own_server.kill()
        with pytest.raises(StoreUnavailable, match="failed"):
            await saver.asize("t")
        own_server.start()
        claims = ThreadClaims(saver)  # its script is new to this server
        assert (await claims.claim("t", "run", 1)).outcome == "ok"
