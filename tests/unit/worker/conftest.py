"""A worker core with a distributor and executors that the test plays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import PeerDown, PeerInfo, PeerUp, Received
from a2a_zmq.tracing.spans import Tracer
from daemons.runtime.contract import (
    Effect,
    Event,
    Exit,
    Log,
    NoMeter,
    RunFinished,
    RunStarted,
    Send,
    StartRun,
    StopRun,
    Undelivered,
)
from daemons.worker.config import WorkerConfig
from daemons.worker.core import WorkerCore
from daemons.worker.kinds import TaskKind

KINDS = {
    "noop": TaskKind("async", inline=True),
    "sleep": TaskKind("async"),
    "compute": TaskKind("process"),
    "limited": TaskKind("process", timeout_s=3.0),
    "poll": TaskKind("thread"),
}


class Desk:
    """Plays the world around one core; collects what it does."""

    def __init__(self, tracer: Tracer | None = None, **config: Any) -> None:
        self.core = WorkerCore(
            "worker-1",
            "distributor-1",
            config=WorkerConfig(**{"slots": 2, **config}),
            task_types=KINDS,
            labels={"site": "a"},
            meter=NoMeter(),
            tracer=tracer,
        )
        self.now = Now(1000.0, 1_700_000_000.0)
        self.effects: list[Effect] = []
        self.started: list[StartRun] = []
        self.stopped: list[StopRun] = []
        self.reported: list[dict[str, Any]] = []
        self.messages: list[Send] = []
        self.refuse = ""  # reason with which the outbox refuses reliable messages

    # what happens to it

    def event(self, *events: Event | Undelivered) -> None:
        """Some events, then the settling; what comes back at once (a refused message) is handled in the next one."""
        for event in events:
            self._perform(self.core.handle(event, self.now))
        self._perform(self.core.settle(self.now))

    def settle(self) -> None:
        self.event()

    def wait(self, seconds: float) -> None:
        self.now = Now(self.now.mono + seconds, self.now.wall + seconds)
        self.settle()

    def up(self, *, restarted: bool = False, fence: int = 7, epoch: str = "e1") -> None:
        details = {"fence": fence, "epoch": epoch}
        self.event(PeerUp(PeerInfo("distributor-1", Role.DISTRIBUTOR, details=details, restarted=restarted)))

    def down(self) -> None:
        self.event(PeerDown("distributor-1", Role.DISTRIBUTOR, "disconnect", 0.2))

    def request(self, payload: dict[str, Any], sender: str = "distributor-1") -> None:
        message = Message(
            MessageType.REQUEST, sender, "worker-1", payload, Metadata(sender, request_id="r-1", sequence_number=1)
        )
        self.event(Received(sender, Role.DISTRIBUTOR, message))

    def assign(self, *tasks: tuple[str, str] | tuple[str, str, int], fence: int = 7, **more: Any) -> None:
        records = [
            {
                "task_id": task[0],
                "task_type": task[1],
                "attempt": task[2] if len(task) == 3 else 1,
                "payload": {"n": 1},
                "metadata": {},
                **more,
            }
            for task in tasks
        ]
        self.request({"action": "assign_tasks", "fence": fence, "tasks": records})

    def begin(self, task_id: str, attempt: int = 1) -> None:
        self.event(RunStarted(task_id, attempt, self.now.wall))

    def finish(self, task_id: str, attempt: int = 1, **given: Any) -> None:
        self.event(self.ended(task_id, attempt, **given))

    def ended(self, task_id: str, attempt: int = 1, **given: Any) -> RunFinished:
        values = {
            "outcome": "completed",
            "result": b'{"ok":true}',
            "error": "",
            "error_kind": "",
            "retryable": False,
            "started_at": self.now.wall,
            "execution_s": 0.01,
            **given,
        }
        return RunFinished(task_id, attempt, **values)

    # what it did

    def sent(self, action: str) -> list[dict[str, Any]]:
        return [decoded(send) for send in self.messages if send.payload.get("action") == action]

    def exits(self) -> list[Exit]:
        return [effect for effect in self.effects if isinstance(effect, Exit)]

    def logs(self) -> list[str]:
        return [effect.event for effect in self.effects if isinstance(effect, Log)]

    def results(self) -> dict[str, dict[str, Any]]:
        return {item["task_id"]: item for item in self.reported}

    def _perform(self, effects: list[Effect]) -> None:
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Send):
                if self.refuse and effect.reliable:
                    self._perform(self.core.handle(Undelivered(effect, self.refuse), self.now))
                    continue
                self.messages.append(effect)
                if effect.payload.get("action") == "task_results":
                    self.reported += decoded(effect)["results"]
            elif isinstance(effect, StartRun):
                self.started.append(effect)
            elif isinstance(effect, StopRun):
                self.stopped.append(effect)

    def check(self) -> None:
        """The core's own counters agree with its table."""
        assert self.core.supervise("reconcile", self.now) == []


def decoded(send: Send) -> dict[str, Any]:
    """A payload as its receiver sees it."""
    payload: dict[str, Any] = orjson.loads(orjson.dumps(send.payload))
    return payload


@pytest.fixture
def make_desk() -> Iterator[Callable[..., Desk]]:
    """``make_desk(slots=1, ...)``: a worker that has no session yet."""
    made: list[Desk] = []

    def make(**config: Any) -> Desk:
        made.append(Desk(**config))
        return made[-1]

    yield make
    for desk in made:
        desk.check()


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    """A worker with two slots and a session with its distributor."""
    desk = make_desk()
    desk.up()
    return desk
