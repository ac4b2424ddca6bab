"""A coordinator core with everything around it played by plain data: clock, store, clients and distributors.

It keeps the engine's duties (events, settle, cut, apply, after), so a test says what happens and looks at what clients
and distributors were told and what the store holds. What must hold at every moment is checked as it happens: nobody is
told of what is not durable. :meth:`World.check` holds when a test is over.
"""

from __future__ import annotations

from typing import Any

import orjson

from a2a_zmq.clock import Now, iso
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import PeerDown, PeerInfo, PeerSuspect, PeerUp, Received
from a2a_zmq.protocol.wire import MAX_FRAME_BYTES
from a2a_zmq.tracing.spans import Tracer
from daemons.coordinator.config import CoordinatorConfig
from daemons.coordinator.core import CoordinatorCore
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
from tests.unit.coordinator.fakes import COORDINATOR, Json, Peer, Store, Told, task
from tests.unit.meter import CountingMeter


class World:
    """See the module's text.

    Attributes:
        batches_held, queries_held: True: what the core wants from the store stays under way until released.
        busy: peers whose outbox takes nothing.
        query_error: answer every read with this error.
        consults: what the policy was asked, oldest first; :meth:`advise` answers the last.
    """

    def __init__(self, store: Store | None = None, tracer: Tracer | None = None, **limits: Any) -> None:
        self.store = store or Store()
        self.time = 1_000.0
        self.meter = CountingMeter()
        self._ids = 0
        self.core = CoordinatorCore(
            COORDINATOR,
            config=CoordinatorConfig(**limits),
            new_id=self._new_id,
            rng=lambda: 0.5,
            meter=self.meter,
            tracer=tracer,
        )
        self.peers: dict[str, Peer] = {}
        self.busy: set[str] = set()
        self.logs: list[Log] = []
        self.answers: dict[int, Any] = {}
        self.exit: Exit | None = None
        self.outranked: list[Outranked] = []
        self.queries: list[Query] = []
        self.consults: list[Consult] = []
        self.queries_held = False
        self.query_error: str | None = None
        self.batches_held = False
        self._flying: Batch | None = None
        self._batch_id = 0
        self._inbox: list[Event | Undelivered] = []

    def _new_id(self) -> str:
        self._ids += 1
        return f"id-{self._ids}"

    @property
    def now(self) -> Now:
        return Now(self.time, 1_764_325_800.0 + self.time)

    # ------------------------------------------------------------ the engine's part

    def event(self, event: Event | Undelivered) -> None:
        self._inbox.append(event)
        self.turn()

    def turn(self) -> None:
        """Until nothing is left to do at this moment of time."""
        for _ in range(1_000):
            self._dispatch()
            self._perform(self.core.settle(self.now))
            self._dispatch()
            if self._flying is None and self._cut():
                continue  # applied: the engine takes another turn
            if not self._inbox and self.core.next_deadline() > self.time:
                return
        raise AssertionError("the core never comes to rest")

    def _dispatch(self) -> None:
        while self._inbox:
            self._perform(self.core.handle(self._inbox.pop(0), self.now))

    def _cut(self) -> bool:
        """True if a batch was cut and is durable already."""
        batch = self.core.cut(self.now)
        if batch is None:
            return False
        if not batch.writes:
            self._perform(batch.after)
            return False
        self._flying = batch
        if not self.batches_held:
            self.apply()
        return not self.batches_held

    def apply(self) -> None:
        """The batch in flight becomes durable."""
        batch = self._flying
        assert batch is not None, "no batch is in flight"
        for write in batch.writes:
            self.store.apply(write)
        self._flying = None
        self._batch_id += 1
        self._inbox.append(BatchApplied(self._batch_id, {write.section: 10 + self._batch_id for write in batch.writes}))
        self._dispatch()
        self._perform(batch.after)

    def release_batches(self) -> None:
        self.batches_held = False
        if self._flying is not None:
            self.apply()
        self.turn()

    def crash_between_writes(self, applied: int) -> None:
        """The process dies when so many writes of the batch in flight are applied."""
        assert self._flying is not None
        for write in self._flying.writes[:applied]:
            self.store.apply(write)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._deliver(effect)
            elif isinstance(effect, Query):
                self.queries.append(effect)
            elif isinstance(effect, Consult):
                self.consults.append(effect)
            elif isinstance(effect, Log):
                self.logs.append(effect)
            elif isinstance(effect, LocalAnswer):
                self.answers[effect.call_id] = effect.value
            elif isinstance(effect, Outranked):
                self.outranked.append(effect)
            elif isinstance(effect, Exit):
                self.exit = effect
        if not self.queries_held:
            self.answer_queries()

    def answer_queries(self) -> None:
        queries, self.queries = self.queries, []
        for query in queries:
            answer = QueryAnswer(query.tag, error=self.query_error)
            if self.query_error is None:
                bad = self.store.unreadable.intersection(query.args["task_ids"]) if query.op == "results" else ()
                answer = QueryAnswer(query.tag, self.store.read(query), unreadable=frozenset(bad))
            self._inbox.append(answer)

    def release_queries(self) -> None:
        self.queries_held = False
        self.answer_queries()
        self.turn()

    def _deliver(self, effect: Send) -> None:
        peer = self.peers.get(effect.to)
        if peer is None or not peer.up:
            self._inbox.append(Undelivered(effect, "unroutable"))
            return
        if effect.to in self.busy:
            self._inbox.append(Undelivered(effect, "busy"))
            return
        raw = orjson.dumps(effect.payload)
        if len(raw) > MAX_FRAME_BYTES - 1024:
            self._inbox.append(Undelivered(effect, "malformed"))
            return
        payload = orjson.loads(raw)
        told = Told(effect.type, payload, effect.reply_to, self._new_id())
        self._check_told(effect.to, told)
        peer.told.append(told)

    def _check_told(self, name: str, told: Told) -> None:
        """Persist, then send."""
        if told.action == "assign_tasks":
            for record in told.payload["tasks"]:
                durable = record["task_id"] in self.store.live[name] or record["task_id"] in self.store.recorded
                assert durable, f"{name} was told of {record['task_id']}, which is not durable"
        elif told.action == "task_results":
            for record in told.payload["results"]:
                assert record["task_id"] in self.store.recorded, f"{record['task_id']} is not recorded"
                assert "payload" not in record, "a client got a payload back"
        elif told.type is MessageType.RESPONSE and told.action == "cancel_tasks":
            for task_id in told.payload["cancelled"]:
                assert task_id in self.store.recorded, f"the cancellation of {task_id} is not durable"

    # ------------------------------------------------------------ time, store, ownership

    def advance(self, seconds: float) -> None:
        """Let time pass, in turns, with the supervision of an interval at the end."""
        end = self.time + seconds
        while (deadline := self.core.next_deadline()) <= end:
            self.time = max(self.time, deadline)
            self.turn()
        self.time = end
        self.supervise()

    def supervise(self) -> None:
        for step in SUPERVISION_STEPS:
            self._perform(self.core.supervise(step, self.now))
        self.turn()

    def own(self, *, state_lost: bool = False) -> None:
        """The lease is taken, with a higher fence; everything is loaded."""
        self.store.fence += 1
        self._flying = None
        self.event(OwnershipGained(self.store.fence, "epoch", self.store.load_all(), state_lost))

    def lose(self) -> None:
        self._flying = None
        self.event(OwnershipLost("somebody else has it"))

    def store_goes(self) -> None:
        self.batches_held = self.queries_held = True
        self.event(StoreChanged(False, "connection"))

    def store_comes(self) -> None:
        self.event(StoreChanged(True))
        self.release_batches()
        self.release_queries()

    def drain(self, deadline_s: float = 5.0) -> None:
        self.event(DrainRequested("SIGTERM", deadline_s))

    def advise(self, answer: Any = None, reason: str = "", question: int = -1) -> None:
        self.event(Consulted(self.consults[question].question_id, answer, reason, "says why"))

    def call(self, call_id: int, name: str, **args: Any) -> None:
        self.event(LocalCall(call_id, name, args))

    # ------------------------------------------------------------ peers

    def _join(self, name: str, role: Role, details: Json, *, restarted: bool = False) -> None:
        peer = self.peers.get(name)
        if peer is None:
            peer = self.peers[name] = Peer(role)
        elif restarted:
            peer.boot += 1
        peer.up = True
        info = PeerInfo(name, role, boot_id=f"boot-{peer.boot}", details=details, restarted=restarted)
        self.event(PeerUp(info))

    def client(self, name: str = "alice~1", role: Role = Role.CLIENT) -> str:
        self._join(name, role, {})
        return name

    def operator(self, name: str = "root~1") -> str:
        return self.client(name, Role.OPERATOR)

    def distributor(
        self, name: str = "d1", types: str = "noop", slots: int = 4, *, restarted: bool = False, **details: Any
    ) -> str:
        """It comes with one worker."""
        says = {"task_types": types.split(), "workers": 1, "live": 0, **details}
        self._join(name, Role.DISTRIBUTOR, says, restarted=restarted)
        self.workers(name, types, slots)
        return name

    def workers(self, name: str, types: str, slots: int = 4, labels: dict[str, str] | None = None) -> None:
        up = bool(types)
        worker = {"id": f"{name}-w1", "up": up, "slots": slots, "task_types": types.split(), "labels": labels or {}}
        payload = {"action": "workers_changed", "workers": [worker], "task_types": types.split(), "draining": False}
        self.say(name, MessageType.EVENT, payload)

    def gone(self, name: str, reason: str = "disconnect", silent_s: float = 0.2) -> None:
        self.peers[name].up = False
        self.event(PeerDown(name, self.peers[name].role, reason, silent_s))

    def suspect(self, name: str) -> None:
        self.event(PeerSuspect(name, "disconnect"))

    def say(self, name: str, type_: MessageType, payload: Json) -> str:
        """A message from a peer; gives its request id."""
        request_id = self._new_id()
        message = Message(type_, name, COORDINATOR, payload, Metadata(name, request_id=request_id))
        self.event(Received(name, self.peers[name].role, message))
        return request_id

    def ask(self, name: str, action: str, **payload: Any) -> Json:
        """A request whose answer comes at once; gives the answer's payload."""
        request_id = self.say(name, MessageType.REQUEST, {"action": action, **payload})
        answer = self.answer_to(name, request_id)
        assert answer is not None, f"{action} was not answered"
        return answer.payload

    def answer_to(self, name: str, request_id: str) -> Told | None:
        return next((told for told in self.peers[name].told if told.reply_to == request_id), None)

    def submit(self, name: str, *task_ids: str, check: bool = False, **fields: Any) -> Json:
        tasks = [task(task_id, **fields) for task_id in task_ids]
        return self.ask(name, "submit_tasks", tasks=tasks, check=check)

    def beat(self, name: str, **load: Any) -> None:
        self.say(name, MessageType.HEARTBEAT, {"action": "heartbeat", "status": "busy", **load})

    # ------------------------------------------------------------ a distributor's work

    def assigned(self, name: str) -> list[str]:
        """Ids that a distributor was told of, in order."""
        told = [each for each in self.peers[name].told if each.action == "assign_tasks"]
        return [record["task_id"] for each in told for record in each.payload["tasks"]]

    def result(self, name: str, task_id: str, status: str = "completed", **more: Any) -> Json:
        """The result record that a distributor makes of its live task."""
        record = self.store.live[name][task_id]
        metadata = {**record["metadata"], "attempt": record["metadata"].get("attempt", 0) + 1, "distributor": name}
        result: Json = {
            "task_id": task_id,
            "task_type": record["task_type"],
            "status": status,
            "result": record["payload"] if status == "completed" else None,
            "error": None if status == "completed" else "it raised",
            "created_at": record["created_at"],
            "started_at": iso(self.now.wall),
            "completed_at": iso(self.now.wall),
            "retry_count": 0,
            "metadata": {**metadata, "worker": f"{name}-w1", "execution_s": 0.001},
        }
        if status != "completed":
            result["metadata"]["error_kind"] = "raised" if status == "failed" else "cancelled"
            if "distributor" in record["metadata"]:
                result["metadata"]["pinned"] = True
            result["payload"] = record["payload"]
        return {**result, **more}

    def finish(self, name: str, *task_ids: str, status: str = "completed", tell: bool = True, version: int = 1) -> None:
        """A distributor records results and reports them (unless the message is lost on its way)."""
        results = [self.result(name, task_id, status) for task_id in task_ids]
        for result in results:
            self.store.record(name, result["task_id"], result)
            del self.store.live[name][result["task_id"]]
        if tell:
            self.report(name, results, version)

    def report(self, name: str, results: list[Json], version: int = 1) -> None:
        self.say(name, MessageType.EVENT, {"action": "task_results", "results": results, "version": version})

    def got(self, name: str) -> dict[str, Json]:
        """Results that a client was told, by task id; each once."""
        found: dict[str, Json] = {}
        for told in self.peers[name].told:
            if told.action == "task_results":
                for record in told.payload["results"]:
                    assert record["task_id"] not in found, f"{name} was told {record['task_id']} twice"
                    found[record["task_id"]] = record
        return found

    # ------------------------------------------------------------ invariants

    def check(self) -> None:
        """The core's counts agree, and at rest memory and store know of the same tasks, each in one place."""
        ledger = self.core.desk.ledger
        assert ledger.deep_audit() == []
        if self.exit is None:
            assert [line for line in self.logs if line.event == "counts_disagree"] == []
        if self._flying is not None or not self.core.desk.leading or self.batches_held or self.queries_held:
            return
        for task_id, entry in ledger.live.items():
            place = entry.home.agent_id if entry.home is not None else "inbox"
            assert place in self.store.where(task_id), f"{task_id} should be with {place}"
        for name, tasks in self.store.live.items():
            for task_id in tasks:
                assert self.store.where(task_id) == [name or "inbox"], f"{task_id} is in two places"
