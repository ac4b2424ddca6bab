"""Real executors with a loop that the test drives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from daemons.runtime.contract import ChildrenReady, Event, RunFinished, RunStarted, StartRun, StopRun
from daemons.worker.config import WorkerConfig
from daemons.worker.executors.facade import Executor
from daemons.worker.executors.forks import ForkServer
from daemons.worker.kinds import TaskKind
from daemons.worker.registry import Registry

# Importing LangGraph on a busy host.
START_S = 40.0
HERE = Path(__file__).parent


class Rig:
    """An executor, and everything that it delivered."""

    def __init__(
        self,
        kinds: dict[str, TaskKind],
        forks: ForkServer | None,
        checkpoints: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.config = WorkerConfig(
            **{"slots": 2, "spare_children": 1, "stop_grace_s": 0.2, "kill_grace_s": 0.3, **config}
        )
        self.executor = Executor(
            Registry(kinds), self.config, self._deliver, self.loop, checkpoints=checkpoints, forks=forks
        )
        self.finished: dict[str, list[RunFinished]] = {}
        self.begun: list[str] = []
        self.ready: list[int] = []  # how many children it said to have
        self.batches: list[int] = []

    def _deliver(self, events: list[Event]) -> None:
        self.batches.append(len(events))
        for event in events:
            if isinstance(event, RunFinished):
                self.finished.setdefault(event.task_id, []).append(event)
            elif isinstance(event, RunStarted):
                self.begun.append(event.task_id)
            elif isinstance(event, ChildrenReady):
                self.ready.append(event.count)

    def start(self, task_type: str, payload: dict[str, Any] | None = None, task_id: str = "", **more: Any) -> str:
        task_id = task_id or task_type
        values = {"timeout_s": None, "metadata": {}, **more}
        self.executor.start(StartRun(task_id, 1, task_type, payload or {}, **values))
        return task_id

    def stop(self, task_id: str, reason: str = "cancelled", **more: Any) -> None:
        self.executor.stop(StopRun(task_id, 1, reason, **more))

    def wait(self, predicate: Callable[[], object], what: str, timeout_s: float = 8.0) -> None:
        end = time.monotonic() + timeout_s

        async def look() -> bool:
            while not predicate():
                if time.monotonic() > end:
                    return False
                await asyncio.sleep(0.002)
            return True

        assert self.loop.run_until_complete(look()), f"after {timeout_s:g} s still not: {what}; have {self.finished}"

    def end_of(self, task_id: str) -> RunFinished:
        """The one outcome of a run."""
        self.wait(lambda: task_id in self.finished, f"{task_id} has ended")
        (outcome,) = self.finished[task_id]
        return outcome

    def run(self, task_type: str, payload: dict[str, Any] | None = None, **more: Any) -> RunFinished:
        self.finished.pop(more.get("task_id", task_type), None)
        return self.end_of(self.start(task_type, payload, **more))

    def value(self, task_type: str, payload: dict[str, Any] | None = None, **more: Any) -> Any:
        """The result of a run that must complete."""
        outcome = self.run(task_type, payload, **more)
        assert outcome.outcome == "completed", outcome
        return orjson.loads(outcome.result)

    @staticmethod
    def gone(pid: int) -> bool:
        """No such process, or one that only waits to be reaped."""
        try:
            return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].startswith("Z")
        except (FileNotFoundError, ProcessLookupError):
            return True

    def close(self) -> None:
        self.loop.run_until_complete(self.executor.close())
        self.loop.close()


@pytest.fixture(scope="session")
def kinds() -> dict[str, TaskKind]:
    """The built-in task types and those of trouble.py and mischief.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        return Registry.load(["trouble", "mischief"]).kinds()


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """Has imported LangGraph; a worker with graphs has one."""
    server = ForkServer([])
    yield server
    server.close()


@pytest.fixture(params=["started", "forked"])
def make_rig(
    kinds: dict[str, TaskKind], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Rig]]:
    """Child processes behave in the same way wherever they come from."""
    forks = request.getfixturevalue("server") if request.param == "forked" else None
    assert forks is None or forks.wait_ready(START_S)
    monkeypatch.syspath_prepend(str(HERE))
    made: list[Rig] = []

    def make(**config: Any) -> Rig:
        made.append(Rig(kinds, forks, **config))
        return made[-1]

    yield make
    for rig in made:
        rig.close()
        assert all(len(outcomes) == 1 for outcomes in rig.finished.values()), "every run ends once"


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
