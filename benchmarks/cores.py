"""Cost of each role's core for one task, without sockets, Redis or executors.

A coordinator, a distributor and two workers pass the same no-op tasks on as they do in a fleet: events in, effects out.
What carries effects from one to the other here (JSON there and back, an executor that ends at once, a store that is
always ready) is not measured; only the processor time inside the cores is, with the meter that the daemons use.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import deque
from time import thread_time_ns
from typing import Any

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import INBOX, Loaded, Section
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import PeerInfo, PeerUp, Received
from a2a_zmq.tracing.spans import Tracer
from benchmarks.common import Effort
from daemons.coordinator.config import CoordinatorConfig
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.config import DistributorConfig
from daemons.distributor.core import DistributorCore
from daemons.meter import PrometheusMeter
from daemons.runtime.contract import (
    BatchApplied,
    Core,
    Effect,
    Event,
    OwnershipGained,
    Query,
    QueryAnswer,
    RunFinished,
    Send,
    StartRun,
)
from daemons.worker.config import WorkerConfig
from daemons.worker.core import WorkerCore
from daemons.worker.kinds import TaskKind

CLIENT = "client~1"
COORDINATOR = "coordinator-1"
DISTRIBUTOR = "distributor-1"
WORKERS = ("worker-1", "worker-2")
ROLES = {CLIENT: Role.CLIENT, COORDINATOR: Role.COORDINATOR, DISTRIBUTOR: Role.DISTRIBUTOR}
EMPTY = Loaded(0, 1, "epoch", {}, {})


def now() -> Now:
    return Now(time.monotonic(), time.time())


class Agent:
    """One core, and the time spent in it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.spent_ns = 0
        self._inbox: list[Event] = []

    def put(self, event: Event) -> None:
        self._inbox.append(event)

    @property
    def waits(self) -> bool:
        return bool(self._inbox)

    def turn(self) -> list[Effect]:
        """One wake-up of the engine, with a store that applies every batch at once."""
        inbox, self._inbox = self._inbox, []
        core, at = self.core, now()
        effects: list[Effect] = []
        began = thread_time_ns()
        for event in inbox:
            effects += core.handle(event, at)
        effects += core.settle(at)
        while (batch := core.cut(at)) is not None:
            if batch.writes:
                effects += core.handle(BatchApplied(1, {write.section: 1 for write in batch.writes}), at)
            effects += batch.after
            effects += core.settle(at)
        self.spent_ns += thread_time_ns() - began
        return effects


class Line:
    """The whole way of a task, core by core."""

    def __init__(self, tracer: Tracer | None = None) -> None:
        new_id = map(str, itertools.count()).__next__
        self.coordinator = CoordinatorCore(
            COORDINATOR,
            config=CoordinatorConfig(),
            new_id=new_id,
            rng=lambda: 0.5,
            meter=PrometheusMeter(),
            tracer=tracer,
        )
        self.distributor = DistributorCore(
            DISTRIBUTOR,
            COORDINATOR,
            config=DistributorConfig(),
            new_id=new_id,
            rng=lambda: 0.5,
            meter=PrometheusMeter(),
            tracer=tracer,
        )
        cores: dict[str, Core] = {COORDINATOR: self.coordinator, DISTRIBUTOR: self.distributor}
        for name in WORKERS:
            kinds = {"noop": TaskKind("async", inline=True)}
            cores[name] = WorkerCore(
                name,
                DISTRIBUTOR,
                config=WorkerConfig(slots=2),
                task_types=kinds,
                meter=PrometheusMeter(),
                tracer=tracer,
            )
        self.agents = {name: Agent(core) for name, core in cores.items()}
        self.results = 0
        self._submitted = itertools.count()
        self._join()

    def _join(self) -> None:
        put, at = self._put, now()
        put(COORDINATOR, OwnershipGained(1, "epoch", {Section(INBOX, "coordinator"): EMPTY}))
        put(DISTRIBUTOR, OwnershipGained(1, "epoch", {Section(DISTRIBUTOR, "distributor"): EMPTY}))
        self.run()
        self._connect(DISTRIBUTOR, COORDINATOR, at)
        for name in WORKERS:
            self._connect(name, DISTRIBUTOR, at)
        put(COORDINATOR, PeerUp(PeerInfo(CLIENT, Role.CLIENT)))
        self.run()

    def _connect(self, spoke: str, hub: str, at: Now) -> None:
        below, above = self.agents[spoke].core, self.agents[hub].core
        self._put(hub, PeerUp(PeerInfo(spoke, ROLES.get(spoke, Role.WORKER), details=below.announce(at))))
        self._put(spoke, PeerUp(PeerInfo(hub, ROLES[hub], details=above.welcome(spoke, at))))
        self.run()

    def _put(self, name: str, event: Event) -> None:
        self.agents[name].put(event)

    def submit(self, count: int) -> None:
        """One message of the client with so many tasks."""
        tasks = [
            {"task_id": f"task-{number}", "task_type": "noop", "payload": {"n": number}}
            for number in itertools.islice(self._submitted, count)
        ]
        self._deliver(CLIENT, Send(COORDINATOR, MessageType.REQUEST, {"action": "submit_tasks", "tasks": tasks}))

    def run(self) -> None:
        """Until nobody has anything left to do."""
        waiting = deque(name for name, agent in self.agents.items() if agent.waits)
        while waiting:
            name = waiting.popleft()
            for effect in self.agents[name].turn():
                self._perform(name, effect)
            waiting = deque(name for name, agent in self.agents.items() if agent.waits)

    def _perform(self, name: str, effect: Effect) -> None:
        if isinstance(effect, Send):
            self._deliver(name, effect)
        elif isinstance(effect, StartRun):
            result = orjson.dumps(effect.payload)
            ended = RunFinished(
                effect.task_id, effect.attempt, "completed", result, "", "", False, time.time(), execution_s=0.00001
            )
            self._put(name, ended)
        elif isinstance(effect, Query):
            self._put(name, QueryAnswer(effect.tag, EMPTY if effect.op in ("load", "register") else {}))

    def _deliver(self, sender: str, send: Send) -> None:
        payload = orjson.loads(orjson.dumps(send.payload))
        if send.to == CLIENT:
            if payload["action"] == "task_results":
                self.results += len(payload["results"])
            elif payload.get("rejected") or "code" in payload:
                raise AssertionError(f"the coordinator refused: {payload}")
            return
        metadata = Metadata(sender, request_id="request", parent_request_id=send.reply_to)
        message = Message(send.type, sender, send.to, payload, metadata)
        self._put(send.to, Received(sender, ROLES.get(sender, Role.WORKER), message))


def cost_us(batch: int, effort: Effort, tracer: Tracer | None = None) -> dict[str, float]:
    """Microseconds of each core for one task, when tasks come in messages of this size (both workers together)."""
    line = Line(tracer)
    rounds: list[dict[str, float]] = []
    for number in range(effort.rounds + 1):  # the first one warms up
        for agent in line.agents.values():
            agent.spent_ns = 0
        before, until = line.results, time.monotonic() + effort.seconds
        submitted = 0
        while time.monotonic() < until:
            line.submit(batch)
            line.run()
            submitted += batch
        if line.results - before != submitted:
            raise AssertionError(f"{line.results - before} results of {submitted} tasks")
        spent = {name: agent.spent_ns / submitted / 1000 for name, agent in line.agents.items()}
        if number:
            rounds.append({**spent, "worker": sum(spent.pop(name) for name in WORKERS)})
    names = {"coordinator": COORDINATOR, "distributor": DISTRIBUTOR, "worker": "worker"}
    return {label: round(statistics.median(found[name] for found in rounds), 2) for label, name in names.items()}


def measure(effort: Effort) -> dict[str, Any]:
    """Tasks a message → core → microseconds a task."""
    return {str(batch): cost_us(batch, effort) for batch in (1, 50, 200)}
