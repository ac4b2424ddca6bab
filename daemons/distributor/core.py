"""The distributor's decisions, as one state machine without I/O (see :mod:`daemons.runtime.contract`).

The way of a task::

    assign_tasks ─> QUEUED ─> RUNNING (a worker has it) ─> result staged ─> durable ─> task_results to the coordinator
                      ^           │ failed, lost                                │
                      ├─ STORING <┤  (new attempt: persist, then send)          └ its slot was filled before, in the
                      │           │ asked something                               wake-up in which the result came
       resume_tasks ──┴─ WAITING <┘  (persist, then task_waiting to the coordinator)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.models import LocalAgentState
from a2a_zmq.protocol.message import Message, MessageType, Role
from a2a_zmq.protocol.ports import PeerDown, PeerSuspect, PeerUp, Received, Refusal
from a2a_zmq.tracing.spans import Tracer
from daemons.distributor.auditing import AUDIT, Auditing
from daemons.distributor.config import DistributorConfig
from daemons.distributor.dispatch import Dispatcher
from daemons.distributor.explaining import Explaining
from daemons.distributor.intake import Intake
from daemons.distributor.journal import Journal
from daemons.distributor.loads import Loads
from daemons.distributor.memory import Memory
from daemons.distributor.outcomes import Outcomes
from daemons.distributor.outgoing import Outgoing
from daemons.distributor.oversight import Oversight
from daemons.distributor.records import Stamps
from daemons.distributor.recovery import FOUND, Recovery
from daemons.distributor.roster import Roster
from daemons.distributor.spans import AttemptSpans
from daemons.runtime.calls import LocalCall
from daemons.runtime.consults import Consulted
from daemons.runtime.contract import (
    Batch,
    BatchApplied,
    DrainRequested,
    Effect,
    Event,
    Exit,
    FenceMoved,
    Hint,
    Log,
    Meter,
    OwnershipGained,
    OwnershipLost,
    QueryAnswer,
    Send,
    StandsBy,
    StoreChanged,
    Undelivered,
)
from daemons.runtime.reconfigured import Reconfigured, adopt

# What is said wrongly is answered only where somebody waits for an answer.
_ANSWERED = frozenset({MessageType.REQUEST})


EX_TEMPFAIL = 75  # sysexits.h: the supervisor starts us again, as a standby


class DistributorCore:
    """Implements :class:`daemons.runtime.contract.Core` for the distributor."""

    def __init__(
        self,
        agent_id: str,
        coordinator_id: str,
        *,
        config: DistributorConfig,
        new_id: Callable[[], str],
        rng: Callable[[], float],
        meter: Meter,
        tracer: Tracer | None = None,
    ) -> None:
        """
        Args:
            agent_id: this distributor; names its section of the shared state.
            coordinator_id: to whom results go until a coordinator's session says otherwise.
            config: limits and times.
            new_id: source of mutation ids.
            rng: uniform numbers in [0, 1), for the jitter of retries.
            meter: where to count.
            tracer: where spans go; None if nothing is traced.
        """
        self.agent_id = agent_id
        config = replace(config)  # ours: it may change (see _reconfigured)
        memory = self._memory = Memory(agent_id, coordinator_id, config, meter)
        memory.spans = AttemptSpans(tracer) if tracer is not None else None
        stamps = Stamps()
        journal = self._journal = Journal(memory, stamps, new_id)
        dispatcher = self._dispatcher = Dispatcher(config)
        outcomes = self._outcomes = Outcomes(memory, journal, dispatcher, stamps, rng)
        recovery = self._recovery = Recovery(memory, journal, outcomes)
        self._oversight = Oversight(memory, journal, dispatcher, outcomes)
        self._outgoing = Outgoing(memory, journal, dispatcher, outcomes, self._oversight)
        self._roster = Roster(memory, journal, dispatcher, outcomes, recovery=recovery, outgoing=self._outgoing)
        self._intake = Intake(memory, journal, dispatcher, outcomes, recovery)
        explaining = Explaining(memory, journal, stamps, outcomes.budgets, outcomes.policy)
        self._auditing = Auditing(memory, journal, self._oversight, recovery)
        self._events = self._handlers()
        self._actions: dict[tuple[Role, str], Callable[[Message, Now], None]] = {
            (Role.COORDINATOR, "assign_tasks"): self._intake.assign,
            (Role.COORDINATOR, "assign_task"): self._intake.assign,
            (Role.COORDINATOR, "cancel_tasks"): self._intake.cancel,
            (Role.COORDINATOR, "resume_tasks"): self._intake.resume,
            (Role.COORDINATOR, "end_waiting"): self._intake.end_waiting,
            (Role.COORDINATOR, "resync"): self._resync,
            (Role.COORDINATOR, "explain"): explaining.explain,
            (Role.COORDINATOR, "load"): Loads(memory).told,
            (Role.COORDINATOR, "drain"): self._drain,
            (Role.COORDINATOR, "audit"): self._auditing.asked,
            (Role.COORDINATOR, "heartbeat"): self._coordinator_beat,
            (Role.WORKER, "task_results"): self._roster.results,
            (Role.WORKER, "task_started"): self._roster.started,
            (Role.WORKER, "task_handback"): self._roster.handback,
            (Role.WORKER, "task_events"): self._roster.events,
            (Role.WORKER, "heartbeat"): self._roster.beat,
        }

    def _handlers(self) -> dict[type, Callable[[Any, Now], None]]:
        """By the type of an event."""
        return {
            Received: self._received,
            BatchApplied: self._batch_applied,
            PeerUp: self._roster.up,
            PeerSuspect: self._roster.suspect,
            PeerDown: self._roster.down,
            OwnershipGained: self._ownership_gained,
            OwnershipLost: self._ownership_lost,
            FenceMoved: self._fence_moved,
            StandsBy: self._stands_by,
            StoreChanged: self._store_changed,
            QueryAnswer: self._query_answer,
            Hint: self._hinted,
            Undelivered: self._outgoing.undelivered,
            Refusal: self._refusal,
            DrainRequested: self._drain_requested,
            LocalCall: self._local_call,
            Consulted: self._outcomes.policy.answered,
            Reconfigured: self._reconfigured,
        }

    # ------------------------------------------------------------ contract: events and batches

    def handle(self, event: Event | Undelivered, now: Now) -> list[Effect]:
        handler = self._events.get(type(event))
        if handler is None:
            return []
        handler(event, now)
        return self._take()

    def settle(self, now: Now) -> list[Effect]:
        memory = self._memory
        self._outcomes.policy.settle(now)
        self._outcomes.delays.wake(now)
        self._recovery.tick(now)
        self._outgoing.settle(now)
        if memory.draining:
            self._outgoing.leave_if_done(now)
        return self._take()

    def cut(self, now: Now) -> Batch | None:
        memory = self._memory
        return self._journal.cut(now) if memory.owner and not self._journal.flying else None

    def withholds(self) -> bool:
        """A result came whose task we do not know, and the store is asked for it: another owner may have given it."""
        return self._recovery.looking and not self._memory.spooling

    def supervise(self, step: str, now: Now) -> list[Effect]:
        self._oversight.step(step, now)
        return self._take()

    def _take(self) -> list[Effect]:
        memory = self._memory
        if not memory.out:
            return []
        effects, memory.out = memory.out, []
        return effects

    # ------------------------------------------------------------ contract: what we say of ourselves

    def announce(self, now: Now) -> dict[str, Any]:
        memory = self._memory
        return {
            "task_types": memory.task_types(),
            "fence": memory.fence,
            "live": len(memory.live),
            "workers": len(memory.workers),
            "address": memory.config.address,
            "follows": memory.coordinator if memory.coordinator_was_up else "",
            **memory.coordinator_guard.obeys(),
        }

    def welcome(self, peer: str, now: Now) -> dict[str, Any]:
        return {"fence": self._memory.fence, "epoch": self._memory.epoch}

    def heartbeat(self, peer: str, now: Now) -> dict[str, Any]:
        memory = self._memory
        if peer in memory.workers:
            return {"action": "heartbeat", "fence": memory.fence}
        running = memory.running()
        follows = memory.coordinator_up and memory.coordinator == peer
        return {
            "action": "heartbeat",
            "status": memory.status().value,
            "pending": len(memory.live) - running - len(memory.waiting),
            "in_progress": running,
            "waiting": len(memory.waiting),
            "workers": len(memory.workers),
            "slots": sum(worker.slots for worker in memory.workers.values()),
            "version": memory.version,
            "draining": bool(memory.draining),
            "dropped": memory.reports_dropped,
            "follows": follows,
            **({} if follows else memory.coordinator_guard.obeys()),
        }

    def claim(self) -> int | None:
        """The fence with which we act in our name; None while we do not: then nobody is greeted."""
        return self._memory.fence if self._memory.owner else None

    def closed(self) -> str:
        """Why nobody is to join us: only who owns the section acts in its name."""
        memory = self._memory
        if memory.owner:
            return ""
        return f"standing by: {memory.holder} has the lease" if memory.holder else "does not own its shared state"

    def local_state(self, now: Now) -> LocalAgentState:
        return self._oversight.local_state(now)

    def ready(self) -> tuple[bool, str]:
        memory = self._memory
        if not memory.owner:
            return False, self.closed()
        if not memory.store_available:
            return False, "the store is not available"
        if not memory.coordinator_was_up:
            return False, f"no session with a coordinator that leads yet ({', '.join(memory.coordinators) or 'none'})"
        if memory.draining:
            return False, f"draining: {memory.draining}"
        return True, ""

    def next_deadline(self) -> float:
        owned = min(self._outcomes.delays.next_wake(), self._journal.next_deadline(), self._recovery.next_deadline())
        always = min(self._outgoing.next_deadline(), self._outcomes.policy.next_deadline())
        return min(owned, always) if self._memory.owner else always

    def violations(self) -> list[str]:
        """Every broken invariant of our memory, one line each; O(tasks), for tests, simulations and checks by hand."""
        return self._oversight.violations()

    # ------------------------------------------------------------ events

    def _received(self, event: Received, now: Now) -> None:
        message = event.message
        if event.role is Role.COORDINATOR:
            self._memory.coordinator_seen = now.wall
        action = self._actions.get((event.role, message.action))
        if action is not None and message.type is not MessageType.ERROR:
            action(message, now)
        elif message.type is MessageType.ERROR:
            self._roster.error(event.peer, message, now)
        elif message.type in _ANSWERED:
            text = f"a distributor has no action {message.action!r} for a {event.role.value}"
            payload = {"action": message.action, "code": "UNKNOWN_ACTION", "message": text}
            reply_to = message.metadata.request_id
            self._memory.out.append(Send(event.peer, MessageType.ERROR, payload, reply_to=reply_to))

    def _batch_applied(self, event: BatchApplied, now: Now) -> None:
        memory = self._memory
        if not self._journal.flying:
            return  # of an ownership that ended
        memory.version = event.versions.get(self._journal.section, memory.version)
        if memory.spans is not None:
            memory.spans.recorded(self._journal.flying_results, now)
        for task in self._journal.applied(memory.version):
            self._outcomes.delays.stored(task, now)

    def _ownership_gained(self, event: OwnershipGained, now: Now) -> None:
        self._recovery.gained(event, now)
        self._roster.owned(now)
        self._intake.cancel_read(now)
        self._journal.show_workers(now)

    def _ownership_lost(self, event: OwnershipLost, now: Now) -> None:
        self._recovery.lost(event.reason, now)

    def _fence_moved(self, event: FenceMoved, now: Now) -> None:
        self._memory.fence = event.fence
        self._roster.fence_moved()

    def _stands_by(self, event: StandsBy, now: Now) -> None:
        """Another process of our name owns the section. If we did before, our memory is of no use any more, and our
        workers must find the other one: start again, with none."""
        memory = self._memory
        memory.holder = event.holder
        memory.out.append(Log("info", "standing_by", {"holder": event.holder}))
        if memory.ever_owner:
            memory.out.append(Exit(EX_TEMPFAIL, f"replaced: another process ({event.holder}) owns the shared state"))

    def _store_changed(self, event: StoreChanged, now: Now) -> None:
        memory = self._memory
        if (event.available, event.spooling) == (memory.store_available, memory.spooling):
            return  # only why the spool is off has changed
        memory.store_available, memory.spooling = event.available, event.spooling
        self._intake.cancel_read(now)
        name = "store_back" if event.available else "store_away"
        self._journal.note(now, "", name, {"reason": event.reason, "unrecorded": self._journal.unrecorded()})

    def _reconfigured(self, event: Reconfigured, now: Now) -> None:
        config = self._memory.config
        adopt(config, event.config)
        self._outcomes.budgets.allow(config)
        self._outcomes.policy.allow(config.policy_timeout_s)

    def _query_answer(self, event: QueryAnswer, now: Now) -> None:
        if event.tag == AUDIT:
            self._auditing.loaded(event, now)
            return
        recovery = self._recovery
        answered = recovery.looked_up if event.tag == FOUND else recovery.resynced
        answered(event.value, event.error, now)
        self._intake.cancel_read(now)

    def _hinted(self, event: Hint, _now: Now) -> None:
        self._recovery.hinted(event.writer, event.version)

    def _refusal(self, event: Refusal, now: Now) -> None:
        memory = self._memory
        fields = {"kind": event.kind, "reason": event.reason, "agent": event.agent_id, "detail": event.detail[:200]}
        self._journal.note(now, "", "refused", fields)
        if event.reason == "replaced" and event.agent_id in memory.coordinators and memory.owner:
            # By a process with a higher fence. That the store did not tell us yet changes nothing.
            memory.out.append(Exit(EX_TEMPFAIL, f"replaced: {event.detail}"))

    def _local_call(self, call: LocalCall, now: Now) -> None:
        self._intake.local_call(call, now)
        self._journal.show_workers(now)

    def _coordinator_beat(self, message: Message, now: Now) -> None:
        self._roster.coordinator_says(message.sender, message.payload, now)

    def _resync(self, message: Message, now: Now) -> None:
        self._roster.coordinator_says(message.sender, message.payload, now)
        if self._memory.owner:
            self._recovery.resync()
            self._outcomes.pauses.tell(self._journal.stored_waiting())

    # ------------------------------------------------------------ drain

    def _drain_requested(self, event: DrainRequested, now: Now) -> None:
        self._outgoing.begin_drain(event.reason, event.deadline_s, now)

    def _drain(self, message: Message, now: Now) -> None:
        """The coordinator wants us, or one of our workers, to leave."""
        agent = message.payload.get("agent_id", self.agent_id)
        if agent == self.agent_id:
            self._outgoing.begin_drain(f"asked by {message.sender}", self._memory.config.drain_s, now)
        elif not self._roster.drain(agent, now):
            payload = {"action": "drain", "code": "UNKNOWN_AGENT", "message": f"no worker {agent!r} is connected here"}
            reply_to = message.metadata.request_id
            self._memory.out.append(Send(message.sender, MessageType.ERROR, payload, reply_to=reply_to))
