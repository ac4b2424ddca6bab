"""A distributor core with everything around it played by plain data: clock, store, coordinator and workers.

It keeps the engine's duties (events, settle, cut, apply, after), so a test says what happens and looks at what became
of it. :meth:`Site.check` holds after every test: the core's own invariants, and what the store may never show.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Loaded, Section, SectionWrite
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import PeerDown, PeerInfo, PeerSuspect, PeerUp, Received
from a2a_zmq.protocol.wire import MAX_FRAME_BYTES
from a2a_zmq.tracing.spans import Tracer
from daemons.distributor.config import DistributorConfig
from daemons.distributor.core import DistributorCore
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.consults import Consult, Consulted
from daemons.runtime.contract import (
    SUPERVISION_STEPS,
    Batch,
    BatchApplied,
    DrainRequested,
    Effect,
    Event,
    Exit,
    Log,
    Outranked,
    OwnershipGained,
    OwnershipLost,
    Query,
    QueryAnswer,
    Send,
    StoreChanged,
    Undelivered,
)
from tests.unit.distributor.fakes import DISTRIBUTOR, SECTION, Store
from tests.unit.meter import CountingMeter

COORDINATOR = "coordinator-1"
CREATED = "2025-11-28T10:00:00.000000Z"


class Site:
    """One distributor core and its surroundings.

    Attributes:
        sent: (recipient, action, payload) of every message, payloads as the recipient would parse them.
        trace: one line for everything that left the core, for stories.
    """

    def __init__(
        self,
        config: DistributorConfig | None = None,
        store: Store | None = None,
        start: float = 1000.0,
        tracer: Tracer | None = None,
    ) -> None:
        self.config = config or DistributorConfig()
        self.store = store or Store()
        self.meter = CountingMeter()
        self.mono = start
        self.store_up = True
        self.unreachable: set[str] = set()
        self.full: set[str] = set()
        self.unsealable: set[str] = set()  # task ids that no message can carry
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self.logs: list[Log] = []
        self.answers: dict[int, Any] = {}
        self.queries: list[tuple[Query, Loaded]] = []  # with what the store had when it was asked
        self.consults: list[Consult] = []  # questions to the user's policy
        self.exit: Exit | None = None
        self.outranked: list[Outranked] = []
        self.trace: list[str] = []
        self.flight: Batch | None = None
        self._ids = 0
        self._queue: list[Event | Undelivered] = []
        self._mutations: set[str] = set()
        self.core = DistributorCore(
            DISTRIBUTOR,
            COORDINATOR,
            config=self.config,
            new_id=self._new_id,
            rng=lambda: 0.5,
            meter=self.meter,
            tracer=tracer,
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"mutation-{self._ids}"

    @property
    def now(self) -> Now:
        return Now(self.mono, 1_764_324_000.0 + self.mono)

    # ------------------------------------------------------------ the engine's part

    def event(self, *events: Event | Undelivered) -> None:
        """Let the core see these events in one wake-up, and do what it wants."""
        self._queue.extend(events)
        self.turn()

    def turn(self) -> None:
        """One wake-up."""
        self._handle_queue()
        self._perform(self.core.settle(self.now))
        self._handle_queue()
        if self.flight is None and self.core.ready()[1] != "does not own its shared state":
            self.flight = self.core.cut(self.now)
            for write in self.flight.writes if self.flight else ():
                assert write.mutation_id not in self._mutations, "a mutation id is fresh for each write"
                self._mutations.add(write.mutation_id)
        if self.flight is not None and self.store_up:
            self.apply()
            self.turn()

    def _handle_queue(self) -> None:
        while self._queue:
            queue, self._queue = self._queue, []
            for event in queue:
                self._perform(self.core.handle(event, self.now))

    def apply(self) -> None:
        """The batch in flight becomes durable."""
        assert self.flight is not None
        batch, self.flight = self.flight, None
        for write in batch.writes:
            self.store.apply(write)
            self._trace_write(write)
        self._perform(self.core.handle(BatchApplied(1, {SECTION: self.store.version}), self.now))
        self._perform(batch.after)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._send(effect)
            elif isinstance(effect, Log):
                self.logs.append(effect)
                self.trace.append(f"log {effect.level} {effect.event}")
            elif isinstance(effect, LocalAnswer):
                self.answers[effect.call_id] = effect.value
                self.trace.append(f"answer {effect.call_id} {effect.value}")
            elif isinstance(effect, Query):
                self.queries.append((effect, self.store.loaded()))
                self.trace.append(f"query {effect.op}")
            elif isinstance(effect, Consult):
                self.consults.append(effect)
                self.trace.append(f"consult {len(effect.facts['tasks'])}")
            elif isinstance(effect, Outranked):
                self.outranked.append(effect)
            elif isinstance(effect, Exit):
                self.exit = effect
                self.trace.append(f"exit {effect.status}")

    def _send(self, effect: Send) -> None:
        if effect.to in self.full or effect.to in self.unreachable or not effect.to:
            self._queue.append(Undelivered(effect, "busy" if effect.to in self.full else "unroutable"))
            return
        raw = orjson.dumps(effect.payload)
        payload = orjson.loads(raw)
        action = payload["action"]
        if len(raw) > MAX_FRAME_BYTES - 1024:
            self._queue.append(Undelivered(effect, "malformed"))
            return
        if action == "assign_tasks" and self.unsealable & {item["task_id"] for item in payload.get("tasks", ())}:
            self._queue.append(Undelivered(effect, "malformed"))
            return
        for item in payload.get("tasks", ()) if action == "assign_tasks" else ():
            key = (item["task_id"], item["attempt"])
            assert key not in self.store.dispatched, f"attempt {key} was sent twice, the second time to {effect.to}"
            self.store.dispatched.add(key)
        self.sent.append((effect.to, action, payload))
        self.trace.append(f"send {effect.to} {effect.type.value} {action}{_summary(payload)}")

    def _trace_write(self, write: SectionWrite) -> None:
        parts = [f"put {task_id} {_shown(orjson.loads(raw))}" for task_id, raw in write.put_tasks.items()]
        parts += [f"result {task_id} {_shown(orjson.loads(raw))}" for task_id, raw in write.results.items()]
        if "assigned_workers" in write.header:
            parts.append(f"workers {write.header['assigned_workers']}")
        self.trace.append(
            f"store v{self.store.version}: " + "; ".join(parts) if parts else f"store v{self.store.version}"
        )

    def advance(self, seconds: float) -> None:
        """Let time pass, with a wake-up at each of the core's deadlines."""
        end = self.mono + seconds
        for _ in range(10_000):
            due = self.core.next_deadline()
            if due > end:
                break
            self.mono = max(self.mono, due)
            self.turn()
        else:
            raise AssertionError("the core keeps asking to be woken")
        self.mono = end
        self.turn()

    def supervise(self) -> None:
        for step in SUPERVISION_STEPS:
            self._perform(self.core.supervise(step, self.now))
        self.turn()

    # ------------------------------------------------------------ surroundings

    def own(self, *, state_lost: bool = False, handed_in: Iterable[str] = ()) -> None:
        self.flight = None
        self.store.fence += 1
        told = Loaded(self.store.told_version, 0, "", {}, {})
        loaded = {SECTION: self.store.loaded(), Section(DISTRIBUTOR, "coordinator"): told}
        loaded[SECTION].ended = set(handed_in)
        self.event(OwnershipGained(self.store.fence, "epoch", loaded, state_lost=state_lost))

    def disown(self) -> None:
        self.flight = None
        self.event(OwnershipLost("lease"))

    def coordinator_up(self, *, restarted: bool = False) -> None:
        self.unreachable.discard(COORDINATOR)
        self.event(PeerUp(PeerInfo(COORDINATOR, Role.COORDINATOR, details={"fence": 1}, restarted=restarted)))

    def coordinator_down(self) -> None:
        self.unreachable.add(COORDINATOR)
        self.event(PeerDown(COORDINATOR, Role.COORDINATOR, "disconnect", 0.2))

    def worker_up(
        self,
        name: str,
        *,
        limit: int = 1,
        slots: int = 1,
        types: list[str] | None = None,
        slot_types: list[str] | None = None,
        async_types: list[str] | None = None,
        thread_slots: int = 4,
        slot_limit: int | None = None,
        slots_ready: int | None = None,
        running: list[list[Any]] | None = None,
        restarted: bool = False,
        labels: dict[str, str] | None = None,
        graphs: dict[str, str] | None = None,
        obeys: tuple[int, str] | None = None,
    ) -> None:
        details: dict[str, Any] = {
            "task_types": types or ["noop"],
            "slot_types": slot_types or [],
            "slot_limit": slot_limit,
            "slots_ready": slots_ready,
            **({} if async_types is None else {"async_types": async_types, "thread_slots": thread_slots}),
            "slots": slots,
            "limit": limit,
            "labels": labels or {},
            "graphs": graphs or {},
            "running": running or [],
        }
        if obeys is not None:
            details["obeys"] = {"fence": obeys[0], "epoch": obeys[1]}
        self.unreachable.discard(name)
        self.event(PeerUp(PeerInfo(name, Role.WORKER, details=details, restarted=restarted)))

    def worker_suspect(self, name: str, reason: str = "disconnect") -> None:
        self.event(PeerSuspect(name, reason))

    def worker_down(self, name: str, reason: str = "exited", silent_s: float = 0.01) -> None:
        self.unreachable.add(name)
        self.event(PeerDown(name, Role.WORKER, reason, silent_s))

    def from_coordinator(self, action: str, **payload: Any) -> None:
        self.event(self.message(COORDINATOR, Role.COORDINATOR, MessageType.REQUEST, {"action": action, **payload}))

    def from_worker(self, name: str, action: str, **payload: Any) -> None:
        type_ = MessageType.HEARTBEAT if action == "heartbeat" else MessageType.EVENT
        self.event(self.message(name, Role.WORKER, type_, {"action": action, **payload}))

    @staticmethod
    def message(sender: str, role: Role, type_: MessageType, payload: dict[str, Any]) -> Received:
        wire = orjson.loads(orjson.dumps(payload))
        return Received(
            sender, role, Message(type_, sender, DISTRIBUTOR, wire, Metadata(sender, request_id="request-1"))
        )

    def record(self, task_id: str, task_type: str = "noop", **metadata: Any) -> dict[str, Any]:
        return {
            "task_id": task_id,
            "task_type": task_type,
            "payload": {"name": task_id},
            "status": "pending",
            "created_at": CREATED,
            "updated_at": CREATED,
            "metadata": {"client": "client-1", **metadata},
        }

    def assign(self, *task_ids: str, task_type: str = "noop", fence: int = 1, **metadata: Any) -> None:
        """The coordinator makes records durable and assigns them."""
        records = [self.record(task_id, task_type, **metadata) for task_id in task_ids]
        for record in records:
            self.store.live[record["task_id"]] = orjson.loads(orjson.dumps(record))
        self.store.accepted.update(task_ids)
        self.from_coordinator("assign_tasks", tasks=records, fence=fence)

    def cancel(self, *task_ids: str) -> None:
        self.from_coordinator("cancel_tasks", task_ids=list(task_ids))

    def complete(self, worker: str, *tasks: tuple[str, int] | str, limit: int | None = None) -> None:
        """The worker reports results; a bare id means the attempt that it was sent last."""
        results = []
        for task in tasks:
            task_id, attempt = (task, self.attempt(worker, task)) if isinstance(task, str) else task
            results.append(
                {
                    "task_id": task_id,
                    "attempt": attempt,
                    "outcome": "completed",
                    "result": {"from": worker},
                    "started_at": self.now.wall,
                    "execution_s": 0.25,
                }
            )
        self.from_worker(worker, "task_results", results=results, limit=limit)

    def report(self, worker: str, task_id: str, attempt: int, outcome: str, **fields: Any) -> None:
        result = {"task_id": task_id, "attempt": attempt, "outcome": outcome, **fields}
        self.from_worker(worker, "task_results", results=[result])

    def fail(self, worker: str, task_id: str, attempt: int, *, kind: str = "raised", **fields: Any) -> None:
        self.report(worker, task_id, attempt, "failed", error="boom", error_kind=kind, **fields)

    def store_away(self) -> None:
        self.store_up = False
        self.event(StoreChanged(available=False, reason="connection"))

    def store_back(self) -> None:
        self.store_up = True
        self.event(StoreChanged(available=True))

    def answer(self) -> None:
        """The store answers the oldest query, with what it had when it was asked."""
        query, loaded = self.queries.pop(0)
        if query.op == "results":
            self.event(QueryAnswer(query.tag, self.store.results_of(query.args["task_ids"])))
            return
        self.event(QueryAnswer(query.tag, loaded))
        if self.queries and self.queries[0][0].op == "results":  # of what was found
            self.answer()

    def advise(self, answer: Any = None, reason: str = "") -> None:
        """The policy answers the newest question."""
        self.event(Consulted(self.consults[-1].question_id, answer, reason, "why"))

    def drain(self, deadline_s: float = 5.0) -> None:
        self.event(DrainRequested("SIGTERM", deadline_s))

    def call(self, call_id: int, name: str, **args: Any) -> None:
        self.event(LocalCall(call_id, name, args))

    # ------------------------------------------------------------ looking

    def got(self, worker: str) -> list[tuple[str, int]]:
        """(task id, attempt) of everything this worker was sent, in order."""
        return [
            (item["task_id"], item["attempt"])
            for to, action, payload in self.sent
            if to == worker and action == "assign_tasks"
            for item in payload["tasks"]
        ]

    def sent_of(self, task_id: str) -> list[tuple[str, int]]:
        """(worker, attempt) of all that went out of this task."""
        return [
            (to, item["attempt"])
            for to, action, payload in self.sent
            if action == "assign_tasks"
            for item in payload["tasks"]
            if item["task_id"] == task_id
        ]

    def fallbacks(self) -> dict[str, float]:
        """Reason → tasks that the retry policy did not decide on."""
        prefix = "policy_fallbacks_total/retry/"
        counts = self.meter.counts.items()
        return {name.removeprefix(prefix): count for name, count in counts if name.startswith(prefix)}

    def attempt(self, worker: str, task_id: str) -> int:
        return [attempt for got, attempt in self.got(worker) if got == task_id][-1]

    def told(self, to: str, action: str) -> list[dict[str, Any]]:
        return [payload for recipient, name, payload in self.sent if recipient == to and name == action]

    def reported(self) -> list[tuple[str, str]]:
        """(task id, status) of every result that the coordinator was told."""
        payloads = self.told(COORDINATOR, "task_results")
        return [(result["task_id"], result["status"]) for payload in payloads for result in payload["results"]]

    def cancelled_at(self, worker: str) -> list[list[Any]]:
        return [pair[:2] for payload in self.told(worker, "cancel_tasks") for pair in payload["tasks"]]

    def check(self) -> None:
        """What must hold whatever happened."""
        assert self.core.violations() == []
        both = self.store.live.keys() & self.store.results.keys()
        assert not both, f"live and ended at once: {both}"
        twice = {task_id: attempts for task_id, attempts in self.store.recorded.items() if len(attempts) > 1}
        assert not twice, f"recorded twice: {twice}"
        lost = self.store.accepted - self.store.live.keys() - self.store.results.keys()
        assert not lost, f"accepted and lost: {lost}"
        for task_id, record in self.store.live.items():
            assert bool(record["metadata"].get("interrupts")) == (record["status"] == "waiting"), task_id
        for task_id, _ in self.reported():
            assert task_id in self.store.results, f"{task_id} was reported before it was recorded"


def _shown(record: dict[str, Any]) -> str:
    metadata = record["metadata"]
    text = f"{record['status']}#{metadata['attempt']}"
    if record.get("retry_count"):
        text += f" failures={record['retry_count']}"
    kind = metadata.get("error_kind")
    return f"{text} {kind}" if kind else text


def _summary(payload: dict[str, Any]) -> str:
    action = payload["action"]
    if "code" in payload:
        return f" {payload['code']}"
    if action == "assign_tasks":
        return "".join(f" {item['task_id']}#{item['attempt']}" for item in payload["tasks"])
    if action == "cancel_tasks":
        return "".join(f" {task_id}#{attempt}" for task_id, attempt, *_ in payload["tasks"])
    if action == "task_results":
        return f" v{payload['version']}" + "".join(
            f" {item['task_id']}:{item['status']}" for item in payload["results"]
        )
    if action == "workers_changed":
        return "".join(f" {item['id']}:{'up' if item['up'] else 'down'}" for item in payload["workers"])
    if action == "task_unknown":
        return "".join(f" {task_id}" for task_id in payload["task_ids"])
    return ""
