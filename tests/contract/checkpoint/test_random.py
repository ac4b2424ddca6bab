"""Random histories: each checkpoint has its values, and what scripts keep about it adds up; also with lost replies."""

from __future__ import annotations

import random
from typing import Any

import pytest
from redis.asyncio import Redis

from a2a_zmq.checkpoint import AsyncRedisSaver
from a2a_zmq.checkpoint import keys as names
from a2a_zmq.checkpoint.calls import Call

KINDS = {kind.name: kind for kind in names.KEY_CLASSES}
SPACES = ("", "sub", "call:1", "call:2")


class History:
    """Does the same to a saver for the same seed."""

    def __init__(self, saver: AsyncRedisSaver, t: Any, seed: int) -> None:
        self.saver = saver
        self.t = t
        self.rng = random.Random(seed)
        self.put: list[tuple[str, str]] = []  # namespace and id of all checkpoints so far
        self.values: dict[tuple[str, str], dict[str, Any]] = {}
        self.versions: dict[tuple[str, str], dict[str, str]] = {}
        self.counter = 0

    async def step(self) -> None:
        roll = self.rng.random()
        if roll < 0.62 or not self.put:
            await self.checkpoint()
        elif roll < 0.9:
            await self.write()
        elif roll < 0.92:
            await self.saver.adelete_for_runs([f"run{self.rng.randrange(4)}"])
        elif roll < 0.93:
            await self.saver.aprune([self.t.thread_id])
        elif roll < 0.94:
            await self.saver.adelete_thread(self.t.thread_id)
        else:  # once more
            ns, name = self.rng.choice(self.put)
            if name in await self.t.ids(ns):
                await self.store(ns, name, None)

    async def checkpoint(self) -> None:
        ns = self.rng.choice(SPACES)
        before = [named for named in self.put if named[0] == ns]
        parent = self.rng.choice(before[-3:]) if before and self.rng.random() < 0.9 else None
        self.counter += 1
        name = f"c{self.counter}"
        self.values[ns, name] = dict(self.values[parent]) if parent else {}
        self.versions[ns, name] = dict(self.versions[parent]) if parent else {}
        for channel in self.rng.sample("abcd", self.rng.randrange(3)):
            self.values[ns, name][channel] = [channel, self.counter]
            self.versions[ns, name][channel] = f"{self.counter:05d}"
        for channel in self.rng.sample("abcd", 1 if self.rng.random() < 0.2 else 0):
            self.values[ns, name].pop(channel, None)
            self.versions[ns, name][channel] = f"{self.counter:05d}"
        self.put.append((ns, name))
        await self.store(ns, name, parent[1] if parent else None)

    async def store(self, ns: str, name: str, parent: str | None) -> None:
        root = next((one for space, one in reversed(self.put) if space == ""), None)
        metadata = {
            "run_id": f"run{self.rng.randrange(4)}",
            "parents": {"": root} if ns and root and self.rng.random() < 0.8 else {},
        }
        if self.rng.random() < 0.3:
            metadata["counters_since_delta_snapshot"] = {"d": [1, self.rng.randrange(1, 4)]}
        old = self.versions.get((ns, parent or ""), {})
        versions = self.versions[ns, name]
        changed = [channel for channel, version in versions.items() if old.get(channel) != version]
        await self.t.put(
            self.values[ns, name],
            ns=ns,
            parent=parent,
            checkpoint_id=name,
            versions=versions,
            changed=changed,
            metadata=metadata,
        )

    async def write(self) -> None:
        ns = self.rng.choice(SPACES)
        name = self.rng.choice([one for space, one in self.put[-4:]] + [f"c{self.counter + 1}"])
        channel = self.rng.choice(["n", "__error__"])
        await self.t.write(name, f"task{self.rng.randrange(3)}", self.counter, ns=ns, channel=channel)

    async def check(self) -> None:
        for ns in SPACES:
            found = [each async for each in self.saver.alist(self.t.config(ns=ns))]
            for each in found:
                assert each.checkpoint["channel_values"] == self.values[ns, each.checkpoint["id"]]
            one = await self.saver.aget_tuple(self.t.config(ns=ns))
            assert one == (found[0] if found else None)


@pytest.mark.parametrize("seed", range(6))
async def test_random_histories_add_up(open_saver: Any, thread: Any, audit: Any, seed: int) -> None:
    async with open_saver(keep=random.Random(seed).choice([1, 2, 5, None])) as saver:
        history = History(saver, thread(saver, "t"), seed)
        for _ in range(120):
            await history.step()
            await audit("t")
        await history.check()


async def everything(redis: Redis, prefix: str) -> dict[str, Any]:
    """All stored under a prefix, but for times and the token of a copy."""
    found: dict[str, Any] = {}
    async for key in redis.scan_iter(f"{{{prefix}:*"):
        name = key.decode().removeprefix(f"{{{prefix}:")
        kind = KINDS[name.rpartition(":")[2]]
        if kind.redis_type == "hash":
            fields = await redis.hgetall(key)
            found[name] = {each: value for each, value in fields.items() if each not in (b"copy", b"touched")}
        elif kind.redis_type == "zset":
            found[name] = await redis.zrange(key, 0, -1)
        else:
            found[name] = await redis.get(key)
    return found


def make_twice(saver: AsyncRedisSaver) -> list[str]:
    """Every script call goes out twice, as after a lost reply; the second reply is the one that counts."""
    call = saver._call
    seen: list[str] = []

    async def twice(each: Call) -> Any:
        if each.script is not None:
            seen.append(each.script.name)
            await call(each)
        return await call(each)

    setattr(saver, "_call", twice)  # noqa: B010 - a method is replaced
    return seen


@pytest.mark.parametrize("seed", range(6))
async def test_a_call_that_is_carried_out_twice_changes_nothing_more(
    open_saver: Any, thread: Any, url: str, seed: int
) -> None:
    keep = random.Random(seed).choice([2, 5, None])
    async with (
        open_saver(keep=keep, prefix=f"once{seed}") as once,
        open_saver(keep=keep, prefix=f"twice{seed}") as twice,
        Redis.from_url(url) as redis,
    ):
        seen = make_twice(twice)
        for saver in (once, twice):
            t = thread(saver, "t", a2a_fence=seed)
            history = History(saver, t, seed)
            for _ in range(100):
                await history.step()
            await saver.aget_tuple(t.config())
            await saver.acopy_thread("t", "copy")
            await saver.asize()
        assert await everything(redis, f"twice{seed}") == await everything(redis, f"once{seed}")
        assert {"commit", "read", "delete_runs", "export", "tally"} <= set(seen)
