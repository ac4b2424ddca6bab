"""What the Redis implementation does when the server or the network fails it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StateError, StoreUnavailable
from a2a_zmq.interfaces import INBOX, Section, SectionWrite
from a2a_zmq.state import keys
from a2a_zmq.state.keys import Retention
from a2a_zmq.state.leases import RedisLeases
from a2a_zmq.state.link import Link
from a2a_zmq.state.redis_store import RedisStore
from a2a_zmq.state.section import RetentionPolicy
from daemons.redis.embedded import free_port
from daemons.worker.graphs.telling import Teller

MakeWrite = Callable[..., SectionWrite]
WaitUntil = Callable[..., Awaitable[None]]
SECTION = Section("d1", "distributor")
OWNER = "d1|host|1|2|boot"


def accepted(task_id: str) -> bytes:
    return orjson.dumps(["2025-11-28T10:30:00.000000Z", task_id, "accepted", {}])


def behind(relay_port: int) -> RedisConfig:
    return RedisConfig(host="127.0.0.1", port=relay_port)


async def test_no_write_is_applied_twice_whatever_gets_lost(
    redis_backend: Any, make_relay: Any, make_write: MakeWrite
) -> None:
    relay = await make_relay(redis_backend.server.port).start()
    chance = random.Random(7)
    faults: Counter[str] = Counter()

    def plan() -> str:
        action = chance.choice(["pass", "pass", "reply_lost", "request_lost", "cut", "late"])
        faults[action] += 1
        return action

    relay.plan = plan
    store = redis_backend.store(config=behind(relay.port))
    for i in range(200):
        write = make_write(
            put_tasks={f"t{i}": b"{}"}, results={f"r{i}": b"{}"}, history=[accepted(f"t{i}")], header={"status": "busy"}
        )
        while True:
            try:
                assert await store.apply(write) == i + 1
            except StoreUnavailable:
                continue  # as the daemons do: the same write again, with the same mutation id
            break
    await relay.stop()
    assert min(faults.values()) > 20
    assert store.stats.resolved > 20
    direct = redis_backend.store()
    loaded = await direct.load(SECTION)
    assert loaded.version == 200
    assert loaded.tasks.keys() == {f"t{i}" for i in range(200)}
    recorded = [orjson.loads(event)[1] for event in await direct.history("d1", 1000)]
    assert recorded == [f"t{i}" for i in range(199, -1, -1)]
    assert len(await direct.results("d1", [f"r{i}" for i in range(200)])) == 200


async def test_two_writers_over_a_lossy_network_apply_each_write_once(
    redis_backend: Any, make_relay: Any, make_write: MakeWrite
) -> None:
    relay = await make_relay(redis_backend.server.port).start()
    chance = random.Random(8)
    relay.plan = lambda: chance.choice(["pass", "pass", "pass", "reply_lost", "late"])

    async def writer(section: Section) -> None:
        store = redis_backend.store(config=behind(relay.port))
        for i in range(40):
            write = make_write(section=section, history=[accepted(f"{section.writer}{i}")])
            while True:
                try:
                    await store.apply(write)
                except StoreUnavailable:
                    continue
                break
        assert store.stats.conflicts == 0 or store.stats.doubtful > 0

    await asyncio.gather(writer(SECTION), writer(Section("d1", "coordinator")))
    await relay.stop()
    direct = redis_backend.store()
    assert await direct.versions("d1") == (40, 40)
    events = Counter(orjson.loads(event)[1] for event in await direct.history("d1", 1000))
    assert len(events) == 80
    assert set(events.values()) == {1}


async def test_coordinator_and_distributor_never_conflict(redis_backend: Any, make_write: MakeWrite) -> None:
    async def writer(section: Section) -> int:
        store = redis_backend.store()
        for i in range(50):
            await store.apply(make_write(section=section, put_tasks={f"{section.writer}{i}": b"{}"}))
        return int(store.stats.conflicts)

    conflicts = await asyncio.gather(writer(SECTION), writer(Section("d1", "coordinator")))
    assert sum(conflicts) == 0


async def test_a_lease_taken_with_a_lost_reply_is_ours_once(redis_backend: Any, make_relay: Any) -> None:
    relay = await make_relay(redis_backend.server.port).start()
    chance = random.Random(9)
    relay.plan = lambda: chance.choice(["pass", "reply_lost", "request_lost", "cut", "late"])
    leases = redis_backend.leases(config=behind(relay.port))
    fences = []
    for i in range(40):
        owner = f"agent|host|{i}|1|boot"
        while True:
            try:
                held = await leases.acquire(SECTION, owner, 60_000)
            except StoreUnavailable:
                continue
            break
        assert held is not None
        assert (await leases.holder(SECTION))[:2] == (owner, held.fence)
        fences.append(held.fence)
        assert await leases.release(SECTION, held)
    await relay.stop()
    assert fences == sorted(fences)
    assert len(set(fences)) == len(fences)
    assert (await redis_backend.store().load(SECTION)).fence == fences[-1]


async def test_every_key_has_a_retention_class_that_holds(redis_backend: Any, make_write: MakeWrite) -> None:
    """A key that nobody registered, or that should end and has no TTL, fails here."""
    store, leases = redis_backend.store(RetentionPolicy(bucket_results=2, buckets=2)), redis_backend.leases()
    inbox = Section(INBOX, "coordinator")
    await store.register_distributor("d1")
    for section in (SECTION, inbox):
        held = await leases.acquire(section, OWNER, 60_000)
        assert held is not None
        await leases.renew(section, held, 60_000)
    for section in (SECTION, Section("d1", "coordinator"), inbox):
        for i in range(6):
            await store.apply(
                make_write(
                    section=section,
                    header={"status": "idle"},
                    put_tasks={f"t{i}": b"{}", f"u{i}": b"{}"},
                    drop_tasks=[f"u{i}"],
                    results={f"u{i}": b"{}", f"v{i}": b"{}"},
                    letters=[f"v{i}"],
                    history=[accepted(f"t{i}")],
                )
            )
    client = redis_backend.client
    options = {"max_bytes": 1000, "stream_bytes": 1000, "stream_ttl_s": 60, "question_ttl_s": 60}
    telling = Teller(client, "t:1@x", 1, up=lambda chunk: None, options=options)
    await telling.begin()
    await telling.end()
    found = {key.decode() async for key in client.scan_iter()}
    seen = set()
    for key in found:
        kind = keys.classify(key)
        assert kind is not None, f"{key} is not in a2a_zmq.state.keys"
        assert (await client.type(key)).decode() == kind.redis_type, key
        seen.add(kind.name)
        if kind.retention is Retention.TTL:
            assert await client.pttl(key) > 0, f"{key} should end and has no TTL"
    assert seen == {kind.name for kind in keys.KEY_CLASSES}
    assert len([key for key in found if key.startswith("results:")]) == 3 * 2


async def test_a_refused_connection_is_a_typed_error(make_write: MakeWrite) -> None:
    config = RedisConfig(host="127.0.0.1", port=free_port())
    store, leases = RedisStore(config), RedisLeases(config)
    calls = [
        store.apply(make_write()),
        store.load(SECTION),
        store.ping(),
        store.document("d1"),
        store.results("d1", ["t"]),
        leases.acquire(SECTION, OWNER, 1000),
        leases.holder(SECTION),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable) as error:
            await call
        assert (error.value.reason, error.value.fatal) == ("connection", False)


async def test_an_unknown_host_is_a_typed_error(make_write: MakeWrite) -> None:
    store = RedisStore(RedisConfig(host="no-such-host.invalid", connect_timeout_s=3))
    with pytest.raises(StoreUnavailable, match=r"connection|timeout"):
        await store.apply(make_write())


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_a_missing_or_wrong_password_is_no_mere_outage(
    own_backend: Any, make_write: MakeWrite, password: str | None
) -> None:
    await own_backend.store().ping()
    await own_backend.execute("CONFIG", "SET", "requirepass", "right")
    config = own_backend.server.config
    refused = config.model_copy(update={"password": SecretStr(password) if password else None})
    for call in (
        own_backend.store(config=refused).apply(make_write()),
        own_backend.leases(config=refused).acquire(SECTION, OWNER, 1000),
    ):
        with pytest.raises(StoreUnavailable) as error:
            await call
        assert (error.value.reason, error.value.fatal) == ("noauth", True)
    right = config.model_copy(update={"password": SecretStr("right")})
    assert await own_backend.store(config=right).apply(make_write()) == 1


async def test_a_restarted_server_is_used_again_without_an_error(own_backend: Any, make_write: MakeWrite) -> None:
    store, leases = own_backend.store(), own_backend.leases()
    held = await leases.acquire(SECTION, OWNER, 60_000)
    assert held is not None
    for i in range(3):
        assert await store.apply(make_write(put_tasks={f"t{i}": b"{}"})) == i + 1
    assert (await store.load(SECTION)).version == 3
    own_backend.server.kill()
    with pytest.raises(StoreUnavailable):
        await store.apply(make_write())
    own_backend.server.start()
    assert await store.apply(make_write()) == 4
    own_backend.server.kill()
    own_backend.server.start()
    assert len((await store.load(SECTION)).tasks) == 3
    assert await store.apply(make_write()) == 5
    assert await leases.renew(SECTION, held, 60_000) is True


async def test_a_frozen_server_is_a_timeout_and_the_write_counts_once(
    own_backend: Any, make_write: MakeWrite, wait_until: WaitUntil
) -> None:
    config = own_backend.server.config
    store = own_backend.store(config=config.model_copy(update={"socket_timeout_s": 0.1, "connect_timeout_s": 0.1}))
    await store.apply(make_write())
    write = make_write(history=[accepted("t1")])
    own_backend.server.pause()
    with pytest.raises(StoreUnavailable) as error:
        await store.apply(write)
    assert error.value.reason == "timeout"
    own_backend.server.resume()

    async def applied() -> bool:
        try:
            return bool(await store.apply(write) == 2)
        except StoreUnavailable:
            return False

    await wait_until(applied, "the write is applied after the server woke up")
    assert len(await store.history("d1", 10)) == 1


async def test_a_full_server_refuses_writes_and_answers_reads(own_backend: Any, make_write: MakeWrite) -> None:
    store = own_backend.store()
    await store.apply(make_write(put_tasks={"t1": b"{}"}))
    await own_backend.execute("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreUnavailable) as error:
        await store.apply(make_write(put_tasks={"t2": b"{}"}))
    assert (error.value.reason, error.value.fatal) == ("oom", False)
    with pytest.raises(StoreUnavailable, match="oom"):
        await own_backend.leases().acquire(SECTION, OWNER, 1000)
    assert (await store.load(SECTION)).tasks == {"t1": b"{}"}
    await own_backend.execute("CONFIG", "SET", "maxmemory", "0")
    assert await store.apply(make_write(put_tasks={"t2": b"{}"})) == 2


async def test_a_replica_is_readonly(own_backend: Any, make_write: MakeWrite) -> None:
    store = own_backend.store()
    await store.apply(make_write())
    await own_backend.execute("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailable) as error:
        await store.apply(make_write())
    assert error.value.reason == "readonly"
    await own_backend.execute("REPLICAOF", "NO", "ONE")
    assert await store.apply(make_write()) == 2


async def test_a_key_of_a_foreign_type_is_reported(redis_backend: Any, make_write: MakeWrite) -> None:
    await redis_backend.client.set("tasks:{shared:distributor:d1}", "a string")
    with pytest.raises(StateError, match="foreign type"):
        await redis_backend.store().apply(make_write(put_tasks={"t1": b"{}"}))
    with pytest.raises(StateError, match=r"WRONGTYPE.*\(HLEN tasks:\{shared:distributor:d1\}\)"):
        await redis_backend.store().load(SECTION)


async def test_a_transaction_is_not_sent_on_another_connection_than_its_watch(redis_backend: Any) -> None:
    link = Link(redis_backend.server.config, "test:watch")
    await link.ask([("WATCH", "shared:distributor:d1")])
    watched_on = link.generation
    await redis_backend.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with contextlib.suppress(StoreUnavailable):  # unless the end of the connection was noticed before
        await link.ask([("PING",)])
    await link.ask([("PING",)])
    with pytest.raises(StoreUnavailable, match="between WATCH and EXEC"):
        await link.exchange([("MULTI",), ("SET", "x", "1"), ("EXEC",)], only_on=watched_on)
    assert await redis_backend.client.get("x") is None
    await link.close()


async def test_a_cancelled_write_leaves_no_reply_for_the_next(redis_backend: Any, make_write: MakeWrite) -> None:
    store = redis_backend.store()
    await store.apply(make_write())
    for _ in range(20):
        task = asyncio.create_task(store.apply(make_write(put_tasks={"t": b"x" * 100_000})))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        before = (await store.versions("d1"))[1]
        assert await store.apply(make_write()) in (before + 1, before + 2)
        assert await store.tasks("d1", ["unknown"]) == {}


async def test_more_sections_than_connections(redis_backend: Any, make_write: MakeWrite) -> None:
    store = redis_backend.store()
    for turn in (1, 2):
        for i in range(70):
            assert await store.apply(make_write(section=Section(f"d{i}", "coordinator"))) == turn
    clients = await redis_backend.client.client_list()
    assert len([client for client in clients if client["name"].endswith("/coordinator")]) <= 64
