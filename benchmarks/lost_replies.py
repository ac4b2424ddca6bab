"""``python -m benchmarks.lost_replies``: a network loses the reply to each of 1,000 transactions; none may apply twice.

A relay between the store's client and a real server passes a transaction on and then breaks the connection, or loses
the transaction itself, or half of it, or passes it on late. The client repeats each write until it knows that it was
applied. Then the store must hold each write exactly once. Exit status 1 if it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from random import Random
from typing import Any

import orjson

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.redis_store import RedisStore
from a2a_zmq.state.section import RetentionPolicy
from daemons.cli.chaos.relay import CUT, LATE, PASS, REPLY_LOST, REQUEST_LOST, Relay
from daemons.redis.embedded import EmbeddedRedis

SECTION = Section("distributor-1", "distributor")
# Everything is looked at in the end, so nothing may be trimmed before.
KEEP_ALL = 1_000_000


async def write_over(port: int, losses: int, seed: int) -> dict[str, Any]:
    """Write until so many replies were lost; returns what was done and what is wrong."""
    chance = Random(seed)
    faults: Counter[str] = Counter()

    def plan() -> str:
        action = chance.choices((PASS, REPLY_LOST, REQUEST_LOST, CUT, LATE), (30, 50, 5, 5, 10))[0]
        faults[action] += 1
        return action

    relay = await Relay(("127.0.0.1", port)).start()
    relay.plan = plan
    store = RedisStore(RedisConfig(host="127.0.0.1", port=relay.port), policy=RetentionPolicy(history_entries=KEEP_ALL))
    writes = repeated = 0
    while faults[REPLY_LOST] < losses:
        write = SectionWrite(
            SECTION,
            1,
            f"m{writes}",
            put_tasks={f"t{writes}": b"{}"},
            results={f"r{writes}": b"{}"},
            history=[orjson.dumps(["2025-11-28T10:30:00.000000Z", f"t{writes}", "accepted", {}])],
        )
        while True:
            try:
                await store.apply(write)
            except StoreUnavailable:
                repeated += 1  # as the daemons do: the same write, with the same mutation id
                continue
            break
        writes += 1
    await store.close()
    await relay.stop()
    return {"writes": writes, "repeated": repeated, "faults": dict(faults), "wrong": await compare(port, writes)}


async def compare(port: int, writes: int) -> list[str]:
    """What the store holds against what was written once."""
    store = RedisStore(RedisConfig(host="127.0.0.1", port=port))
    loaded = await store.load(SECTION)
    events = Counter(orjson.loads(line)[1] for line in await store.history(SECTION.distributor_id, KEEP_ALL))
    await store.close()
    wrong = []
    if loaded.version != writes:
        wrong.append(f"version {loaded.version} after {writes} writes")
    if loaded.tasks.keys() != {f"t{n}" for n in range(writes)}:
        wrong.append(f"{len(loaded.tasks)} task records of {writes}")
    double = [name for name, count in events.items() if count > 1]
    wrong += [f"{name} was applied {events[name]} times" for name in double[:10]]
    if len(events) != writes:
        wrong.append(f"{len(events)} history events of {writes}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--losses", type=int, default=1000, help="replies that get lost (1000)")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    began = time.monotonic()
    with EmbeddedRedis() as server:
        found = asyncio.run(write_over(server.port, given.losses, given.seed))
    faults = ", ".join(f"{count} {name}" for name, count in sorted(found["faults"].items()))
    print(f"{found['writes']} writes, transactions: {faults}; {found['repeated']} writes were repeated by the caller")
    for line in found["wrong"]:
        print(f"WRONG: {line}")
    print(f"{len(found['wrong'])} wrong, in {time.monotonic() - began:.1f} s")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
