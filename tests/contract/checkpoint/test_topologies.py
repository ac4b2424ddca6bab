"""The savers on a real cluster of three masters, and behind a real Sentinel that fails over."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as blocking_redis
import redis.asyncio as async_redis
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import Sentinel
from redis.cluster import RedisCluster as BlockingCluster
from redis.sentinel import Sentinel as BlockingSentinel

from a2a_zmq.checkpoint import AsyncRedisSaver, RedisSaver
from a2a_zmq.checkpoint import keys as names
from a2a_zmq.errors import StaleCheckpointWriter, StoreUnavailable
from daemons.redis.embedded import EmbeddedRedis, free_port
from daemons.redis.resolve import available_servers

SERVERS = {server.kind: server for server in available_servers()}
SLOTS = 16384


def until(predicate: Callable[[], Any], what: str, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not predicate():
        assert time.monotonic() < deadline, f"still not so after {within_s} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module", params=sorted(SERVERS))
def cluster(request: pytest.FixtureRequest) -> Iterator[int]:
    """Port of one node of three."""
    with contextlib.ExitStack() as stack:
        buses = [free_port() for _ in range(3)]
        nodes = [
            stack.enter_context(
                EmbeddedRedis(
                    server=SERVERS[request.param],
                    appendfsync="no",
                    extra={"cluster-enabled": "yes", "cluster-port": str(bus), "cluster-node-timeout": "5000"},
                )
            )
            for bus in buses
        ]
        clients = [stack.enter_context(blocking_redis.Redis(port=node.port)) for node in nodes]
        for number, client in enumerate(clients):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus in list(zip(nodes, buses, strict=True))[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)

        def whole() -> bool:
            states = [client.cluster("INFO")["cluster_state"] for client in clients]
            return set(states) == {"ok"} and all(len(client.cluster("SLOTS")) == 3 for client in clients)

        until(whole, "the cluster is whole")
        yield nodes[0].port


async def test_a_cluster_passes_every_capability(cluster: int, prefix: str) -> None:
    async def make() -> AsyncIterator[AsyncRedisSaver]:
        async with RedisCluster(host="127.0.0.1", port=cluster) as client:
            yield AsyncRedisSaver(client, prefix=prefix)

    report = await validate(checkpointer_test(name="cluster")(make))
    assert [failure for found in report.results.values() for failure in found.failures] == []
    assert {name for name, found in report.results.items() if found.passed} == {each.value for each in Capability}


async def test_in_a_cluster_threads_spread_over_nodes_and_each_is_in_one_slot(
    cluster: int, prefix: str, thread: Any, audit: Any
) -> None:
    async with RedisCluster(host="127.0.0.1", port=cluster) as client:
        saver = AsyncRedisSaver(client, prefix=prefix)
        used = set()
        for number in range(30):
            t = thread(saver, f"t{number}", a2a_fence=1)
            await t.put({"n": "x" * 100}, checkpoint_id="c1")
            await t.write("c1", "task", 1)
            slots = {client.keyslot(key) for key in names.of_thread(prefix, names.encode(t.thread_id))}
            assert len(slots) == 1
            node = client.get_node_from_key(names.of_kind(prefix, t.thread_id, "facts"))
            assert node is not None
            used.add(node.port)
            await audit(t.thread_id, client)
        assert len(used) == 3
        sizes = [await saver.asize(f"t{number}") for number in range(30)]
        assert await saver.asize() == sum(sizes)
        await saver.acopy_thread("t1", "t99")
        await audit("t99", client)
        with pytest.raises(StaleCheckpointWriter):
            await thread(saver, "t1", a2a_fence=0).put()
        assert len([each async for each in saver.alist(None)]) == 31


def test_the_blocking_saver_works_on_a_cluster(cluster: int, prefix: str, thread: Any) -> None:
    with BlockingCluster(host="127.0.0.1", port=cluster) as client:
        saver = RedisSaver(client, prefix=prefix)
        for number in range(10):
            t = thread(saver, f"t{number}")
            saver.put(*t.arguments(checkpoint_id="c1"))
            saver.put_writes(t.config("c1"), [("n", number)], "task")
            found = saver.get_tuple(t.config())
            assert found is not None
            assert found.pending_writes == [("task", "n", number)]
        assert len(list(saver.list(None))) == 10
        saver.copy_thread("t1", "t2x")
        saver.prune(["t1", "t2"], strategy="delete")
        assert len(list(saver.list(None))) == 9
        assert saver.size() == sum(saver.size(f"t{number}") for number in range(10)) + saver.size("t2x")


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[int, EmbeddedRedis, EmbeddedRedis]]:
    """Its port, the master and the replica."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(EmbeddedRedis(appendfsync="no"))
        replica = stack.enter_context(
            EmbeddedRedis(
                appendfsync="no", extra={"replicaof": f"127.0.0.1 {master.port}", "repl-diskless-sync-delay": "0"}
            )
        )
        with blocking_redis.Redis(port=replica.port) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up", "the replica follows")
        port = free_port()
        file = tmp_path / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor ours 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds ours 500\nsentinel failover-timeout ours 3000\n"
        )
        process = subprocess.Popen(
            [str(master.server.path), str(file), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        with blocking_redis.Redis(port=port) as client:

            def sees_both() -> bool:
                with contextlib.suppress(blocking_redis.RedisError):
                    return len(client.sentinel_slaves("ours")) == 1
                return False

            until(sees_both, "Sentinel knows the replica")
        yield port, master, replica


@pytest.mark.timeout(90)
async def test_behind_sentinel_a_thread_goes_on_at_the_next_master(
    sentinel: tuple[int, EmbeddedRedis, EmbeddedRedis], prefix: str, thread: Any
) -> None:
    port, master, replica = sentinel
    watcher: Any = Sentinel([("127.0.0.1", port)])  # type: ignore[no-untyped-call]
    client = watcher.master_for("ours", socket_timeout=2.0)
    saver = AsyncRedisSaver(client, prefix=prefix)
    t = thread(saver, "t", a2a_fence=1)
    await t.put(checkpoint_id="c1")
    await t.write("c1", "task", 1)
    await client.wait(1, 2000)
    blocking: Any = BlockingSentinel([("127.0.0.1", port)])  # type: ignore[no-untyped-call]
    with blocking.master_for("ours") as other:
        assert RedisSaver(other, prefix=prefix).get_tuple(t.config()) is not None
    master.kill()
    deadline = time.monotonic() + 30
    while True:
        try:
            await saver.aget_tuple(t.config())
            await t.put(checkpoint_id="c2", parent="c1")
            break
        except StoreUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
    assert await t.ids() == ["c2", "c1"]
    found = await saver.aget_tuple(t.config("c1"))
    assert found is not None
    assert found.pending_writes == [("task", "n", 1)]
    with pytest.raises(StaleCheckpointWriter):
        await thread(saver, "t", a2a_fence=0).put()
    async with async_redis.Redis(port=replica.port) as direct:
        assert await AsyncRedisSaver(direct, prefix=prefix).asize("t") == await saver.asize("t")
    await client.aclose()
    for each in watcher.sentinels:
        await each.aclose()
