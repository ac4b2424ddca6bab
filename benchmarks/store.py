"""How long one atomic write to the shared state takes, by its size and by when the server forces it to disk."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import orjson
import uvloop

from a2a_zmq.clock import iso
from a2a_zmq.config import RedisConfig
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.state.redis_store import RedisStore
from benchmarks.common import Effort, quantiles_ms
from benchmarks.messages import records
from daemons.redis.embedded import EmbeddedRedis

DISTRIBUTOR = "distributor-1"
SAMPLES_MIN = 30


async def write_ms(config: RedisConfig, tasks: int, effort: Effort) -> dict[str, dict[str, float]]:
    """Both writes in a task's life: ``accept`` is the coordinator's, ``results`` the distributor's."""
    store = RedisStore(config)
    accept, results = Section(DISTRIBUTOR, "coordinator"), Section(DISTRIBUTOR, "distributor")
    numbers = itertools.count()
    times: dict[str, list[float]] = {"accept": [], "results": []}
    await store.register_distributor(DISTRIBUTOR)
    until = time.monotonic() + effort.seconds * effort.rounds
    while time.monotonic() < until or len(times["accept"]) < SAMPLES_MIN:
        batch = {f"{next(numbers):024x}": orjson.dumps(record) for record in records(tasks)}
        ended = {
            task_id: orjson.dumps({"task_id": task_id, "status": "completed", "completed_at": iso(time.time())})
            for task_id in batch
        }
        history = [orjson.dumps([iso(time.time()), task_id, "completed", {}]) for task_id in batch]
        writes = {
            "accept": SectionWrite(accept, 1, f"a{next(numbers)}", put_tasks=batch),
            "results": SectionWrite(
                results, 1, f"r{next(numbers)}", drop_tasks=list(batch), results=ended, history=history
            ),
        }
        for name, write in writes.items():
            began = time.perf_counter()
            await store.apply(write)
            times[name].append(time.perf_counter() - began)
    await store.close()
    return {name: quantiles_ms(found[1:]) for name, found in times.items()}  # the first one connects


def measure(effort: Effort) -> dict[str, Any]:
    """Mode of appendfsync → tasks a write → kind of write → quantiles in milliseconds."""
    report: dict[str, Any] = {}
    for appendfsync in ("everysec", "always"):
        with EmbeddedRedis(appendfsync=appendfsync) as redis:
            for tasks in (1, 50, 200):
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    found = runner.run(write_ms(redis.config, tasks, effort))
                report.setdefault(appendfsync, {})[str(tasks)] = found
    return report
