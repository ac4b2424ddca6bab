"""What a worker runs graphs with, on a Redis of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from daemons.redis.embedded import EmbeddedRedis
from daemons.worker.executors.forks import ForkServer
from daemons.worker.registry import Registry
from tests.contract.executors.conftest import START_S, Rig


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    server = ForkServer([])
    assert server.wait_ready(START_S)
    yield server
    server.close()


@pytest.fixture(scope="module")
def checkpoints() -> Iterator[dict[str, Any]]:
    with EmbeddedRedis(appendfsync="no") as redis:
        yield {
            "url": f"redis://127.0.0.1:{redis.port}",
            "keep": 20,
            "ttl_s": 600.0,
            "question_ttl_s": 600.0,
            "stream_bytes": 1 << 20,
            "stream_ttl_s": 600.0,
        }


Make = Callable[..., Rig]


@pytest.fixture
def make_worker(forks: ForkServer, checkpoints: dict[str, Any]) -> Iterator[Make]:
    """What a worker with these projects runs them with."""
    made: list[Rig] = []

    def make(*files: Path, handlers: Sequence[str] = (), forked: bool = True, **config: Any) -> Rig:
        kinds = Registry.load(handlers, map(str, files), forks=forks).kinds()
        limits = {"slots": 1, "spare_children": 0, **config}
        made.append(Rig(kinds, forks if forked else None, checkpoints, **limits))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


def told_by(rig: Rig, graph: str, how: str, task_id: str) -> list[Any]:
    rig.start(f"graph:{graph}", {"input": {"how": how}}, task_id)
    rig.wait(lambda: task_id in rig.finished, f"{task_id} has ended", START_S)
    (outcome,) = rig.finished[task_id]
    assert outcome.outcome == "completed", outcome
    told: list[Any] = orjson.loads(outcome.result)["told"]
    return told
