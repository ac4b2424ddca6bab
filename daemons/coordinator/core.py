"""The coordinator's decisions: events in, effects out.

A task's way through here::

    submit_tasks ──> accepted, FRESH ──settle──> PLACED (a distributor's section) ──cut──> SENT ──task_results──> client
                                       └───────> HELD (the inbox: nobody can take it) ─┘  └> QUEUED (its window is full)

What is accepted is durable before its client is answered and before its distributor is told (both are ``after``
effects of the cut that writes it). Results come recorded, so they pass straight through. Two tables below say who
handles what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Section
from a2a_zmq.models import LocalAgentState
from a2a_zmq.protocol.message import Message, MessageType, Role
from a2a_zmq.protocol.ports import PeerDown, PeerSuspect, PeerUp, Received, Refusal
from a2a_zmq.tracing.spans import Tracer
from daemons.coordinator import targets
from daemons.coordinator.assigning import Assigner, Assignment
from daemons.coordinator.clients import Client
from daemons.coordinator.commands import Commands
from daemons.coordinator.config import CoordinatorConfig
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.explaining import Explaining
from daemons.coordinator.failover import Failover
from daemons.coordinator.leaving import Leaving
from daemons.coordinator.lists import Lists
from daemons.coordinator.loads import Loads
from daemons.coordinator.local_calls import LocalCalls
from daemons.coordinator.queries import Queries
from daemons.coordinator.refusals import Refusals
from daemons.coordinator.results import Results
from daemons.coordinator.streams import SendEvents, Streams
from daemons.coordinator.submissions import Submissions
from daemons.coordinator.supervision import Supervision
from daemons.coordinator.sync import Sync
from daemons.coordinator.waits import Waits
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

EX_TEMPFAIL = 75  # sysexits.h: the supervisor starts us again, as a standby
WELCOME_TYPES = 64  # a welcome is part of an answer of a few kilobytes


class CoordinatorCore:
    """The coordinator as a :class:`daemons.runtime.contract.Core`.

    Args:
        agent_id: our id.
        config: limits and times.
        new_id: source of unique mutation ids.
        rng: uniform in [0, 1): ties in placement, jitter of retry hints.
        meter: where to count.
        tracer: where spans go; None if nothing is traced.
    """

    def __init__(
        self,
        agent_id: str,
        *,
        config: CoordinatorConfig,
        new_id: Callable[[], str],
        rng: Callable[[], float],
        meter: Meter,
        tracer: Tracer | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.config = config = replace(config)  # ours: it may change (see _reconfigured)
        self.desk = desk = Desk(agent_id, config, new_id, rng, meter, tracer=tracer)
        self.assigner = Assigner(desk)
        self.sync = Sync(desk)
        self.failover = Failover(desk, self.sync)
        self.supervision = Supervision(desk, self.sync, self.failover)
        self._max_batch = config.batch_room()
        submissions = Submissions(desk)
        results = Results(desk)
        queries, lists = Queries(desk), Lists(desk, self.supervision)
        explaining, commands = Explaining(desk, self.failover), Commands(desk)
        self.leaving = Leaving(desk, commands)
        self.waits = Waits(desk)
        self.streams = Streams(desk, self.waits)
        self._events = self._handlers(LocalCalls(desk, self.sync, submissions, self.supervision))
        self._client_requests: dict[str, Callable[[Client, Message, Now], None]] = {
            "submit_tasks": submissions.submit,
            "submit_task": submissions.submit,
            "assign_task": submissions.submit,
            "watch_tasks": queries.watch,
            "get_task": queries.get,
            "explain": explaining.explain,
            "list_tasks": lists.list_tasks,
            "fleet_status": Loads(desk, self.supervision).fleet_status,
            "history": queries.history,
            "cancel_tasks": commands.cancel,
            "resume_task": self.waits.resume,
            "stream_task": self.streams.open,
            "retry_tasks": commands.retry,
            "drain_agent": self.leaving.drain_agent,
            "failover": self.failover.request,
            "audit": self.supervision.reconciler.request,
        }
        self._distributor_messages: dict[str, Callable[[Distributor, Message, Now], None]] = {
            "task_results": results.task_results,
            "task_unknown": results.task_unknown,
            "task_waiting": self.waits.asked,
            "task_events": self.streams.told,
            "resume_tasks": self.waits.told,
            "explain": explaining.told,
            "load": explaining.told,
            "workers_changed": results.workers_changed,
            "heartbeat": self.sync.beat,
            "audit": self.supervision.reconciler.said,
        }

    def _handlers(self, calls: LocalCalls) -> dict[type, Callable[[Any, Now], None]]:
        """By the type of an event."""
        return {
            Received: self._received,
            BatchApplied: self._batch_applied,
            QueryAnswer: self._answered,
            PeerUp: self._peer_up,
            PeerSuspect: self._peer_suspect,
            PeerDown: self._peer_down,
            Undelivered: self._undelivered,
            StoreChanged: self._store_changed,
            Hint: self.sync.hinted,
            OwnershipGained: self.sync.gained,
            Consulted: self.assigner.policy.answered,
            Reconfigured: self._reconfigured,
            OwnershipLost: self._ownership_lost,
            FenceMoved: self._fence_moved,
            StandsBy: self._stands_by,
            Refusal: Refusals(self.desk).note,
            DrainRequested: self.leaving.requested,
            LocalCall: calls.call,
        }

    # ------------------------------------------------------------ the contract

    def handle(self, event: Event | Undelivered, now: Now) -> list[Effect]:
        handler = self._events.get(type(event))
        if handler is not None:
            handler(event, now)
        return self._take()

    def settle(self, now: Now) -> list[Effect]:
        desk = self.desk
        if desk.leading:
            self.failover.settle(now)
            self.assigner.settle(now)
            self.assigner.policy.settle(now)
        if desk.joined:
            self.waits.settle(now)
        self.streams.settle(now)
        desk.out.extend(desk.clients.flush(now))
        desk.questions.expire(now)
        self.leaving.settle(now)
        return self._take()

    def cut(self, now: Now) -> Batch | None:
        desk = self.desk
        if not desk.leading:
            return None
        if desk.ledger.fresh:  # accepted after the last settle: its answer must not go out with a batch that lacks it
            self.assigner.settle(now)
        desk.stage_ended()
        batch = desk.staging.cut(desk.fence, self.assigner.at_cut)
        if desk.out:  # what settle above would have returned can as well wait for this cut
            batch = batch or Batch([], [])
            batch.after.extend(self._take())
        return batch

    def distributors(self) -> list[str]:
        """Ids of all distributors that we know to be registered; a new leader is given what it found in the store."""
        return sorted(home.agent_id for home in self.desk.ledger.distributors.values() if home.registered)

    def supervise(self, step: str, now: Now) -> list[Effect]:
        self.supervision.steps[step](now)
        return self._take()

    def _take(self) -> list[Effect]:
        desk = self.desk
        out, desk.out = desk.out, []
        return out

    def announce(self, now: Now) -> dict[str, Any]:
        return {}

    def welcome(self, peer: str, now: Now) -> dict[str, Any]:
        desk = self.desk
        leads = {"leading": desk.leading, "leader": desk.leader, **desk.mark()}
        if peer in desk.ledger.distributors:
            return leads
        return leads | {
            "task_types": sorted(desk.known_types)[:WELCOME_TYPES],
            "max_payload_bytes": self.config.max_payload_bytes,
            "max_batch": self._max_batch,
        }

    def heartbeat(self, peer: str, now: Now) -> dict[str, Any]:
        desk = self.desk
        status, draining = "busy" if desk.ledger.live else "idle", desk.draining is not None
        beat = {"action": "heartbeat", "status": status, "leading": desk.leading, "draining": draining}
        return beat | desk.mark() if peer in desk.ledger.distributors else beat

    def local_state(self, now: Now) -> LocalAgentState:
        return self.supervision.local_state(now)

    def targets(self, own: Mapping[str, Any], now: Now) -> tuple[bool, Any]:
        """For ``/sd``: (True, the agents to scrape) or (False, why they are not known); ``own``: our whereabouts."""
        if now.mono - self.supervision.started(now).mono < targets.LEARNING_S:
            return False, "just started: the fleet is not known yet"
        return True, targets.groups(self.agent_id, own, self.desk.ledger.distributors.values(), now.mono)

    def ready(self) -> tuple[bool, str]:
        desk = self.desk
        if not desk.leading:
            return False, f"standing by: {desk.leader} leads" if desk.leader else "the state is not loaded yet"
        if not desk.store_available:
            return False, f"the store is not available: {desk.store_reason}"
        if desk.draining is not None:
            return False, "draining"
        return True, ""

    def next_deadline(self) -> float:
        desk = self.desk
        return min(
            self.assigner.next_deadline(),
            desk.clients.next_deadline(),
            desk.questions.next_deadline(),
            self.streams.next_deadline(),
            self.leaving.next_deadline(),
        )

    # ------------------------------------------------------------ messages

    def _received(self, event: Received, now: Now) -> None:
        message = event.message
        action = message.action
        if event.role is Role.DISTRIBUTOR:
            home = self.desk.ledger.distributors.get(event.peer)
            if home is not None:
                self._from_distributor(home, message, action, now)
            return
        if event.role not in (Role.CLIENT, Role.OPERATOR):
            return
        if action == "stream_credit":
            self.streams.credit(event.peer, message, now)
        if message.type is not MessageType.REQUEST:
            return
        handler = self._client_requests.get(action)
        if handler is None:
            self.desk.refuse(message, "UNKNOWN_ACTION", f"a coordinator does not know {action!r}")
        elif not self.desk.leading and action != "fleet_status":
            self._refuse_standby(message)
        else:
            handler(self.desk.clients.came(event.peer, event.role), message, now)

    def _from_distributor(self, home: Distributor, message: Message, action: str, now: Now) -> None:
        desk = self.desk
        home.suspect = False  # it was only slow; after a broken connection nothing comes before a new session
        if message.type is MessageType.ERROR and action not in ("explain", "load"):
            # It did not do what we asked: whatever it was, comparing what it holds with the store sets it right.
            home.needs_sync = True
            code, text = message.payload.get("code"), message.payload.get("message")
            desk.log("warning", "distributor_refused", distributor=home.agent_id, action=action, code=code, reason=text)
            return
        handler = self._distributor_messages.get(action)
        if handler is None:
            if message.type is MessageType.REQUEST:
                desk.refuse(message, "UNKNOWN_ACTION", f"a coordinator does not know {action!r}")
        elif desk.leading or action in ("heartbeat", "workers_changed"):
            handler(home, message, now)

    def _refuse_standby(self, message: Message) -> None:
        desk = self.desk
        if desk.store_available:
            who = f": {desk.leader} leads" if desk.leader else " (yet)"
            desk.refuse(message, "NOT_LEADER", f"{self.agent_id} does not lead{who}")
        else:
            desk.refuse(message, "UNAVAILABLE", f"the store is not available: {desk.store_reason}")

    # ------------------------------------------------------------ sessions

    def _peer_up(self, event: PeerUp, now: Now) -> None:
        if event.peer.role is Role.DISTRIBUTOR:
            self.sync.came(event.peer, now)
            self.waits.came(event.peer.agent_id)
        elif event.peer.role in (Role.CLIENT, Role.OPERATOR):
            self.desk.clients.came(event.peer.agent_id, event.peer.role)
            self.streams.went(event.peer.agent_id)

    def _peer_suspect(self, event: PeerSuspect, now: Now) -> None:
        home = self.desk.ledger.distributors.get(event.agent_id)
        if home is not None:
            home.suspect = True

    def _peer_down(self, event: PeerDown, now: Now) -> None:
        if event.role is Role.DISTRIBUTOR:
            self.sync.went(event, now)
        else:
            self.desk.clients.went(event.agent_id)
            self.streams.went(event.agent_id)

    def _undelivered(self, event: Undelivered, now: Now) -> None:
        effect = event.effect
        home = self.desk.ledger.distributors.get(effect.to)
        if isinstance(effect, Assignment):
            self.assigner.undelivered(effect, event.reason, now)
        elif isinstance(effect, SendEvents):
            self.streams.undelivered(effect, now)
        elif home is not None:
            home.needs_sync = True  # a resync or a cancellation was lost: both follow with the next meeting
        elif event.reason == "malformed" and effect.type is MessageType.RESPONSE:
            text = "the answer does not fit a message"
            payload = {"action": effect.payload["action"], "code": "PAYLOAD_TOO_LARGE", "message": text}
            self.desk.out.append(Send(effect.to, MessageType.ERROR, payload, reply_to=effect.reply_to))
        else:
            self.desk.clients.undelivered(effect, event.reason, now)

    # ------------------------------------------------------------ store and ownership

    def _batch_applied(self, event: BatchApplied, now: Now) -> None:
        spans = self.desk.spans
        for effect in self.desk.staging.waiting():
            if isinstance(effect, Assignment):  # a distributor that has read a later version may have ended its tasks
                effect.payload["version"] = event.versions[Section(effect.to, "coordinator")]
                if spans is not None:
                    spans.assigned(effect.to, effect.entries, now)
        for task_id, result in self.desk.staging.batch_applied(event.versions).items():
            self.desk.recent.put(task_id, result)
        if spans is not None:
            spans.durable(self.desk.staging.applied, now)

    def _reconfigured(self, event: Reconfigured, now: Now) -> None:
        adopt(self.config, event.config)
        self._max_batch = self.config.batch_room()
        self.assigner.policy.allow(self.config.policy_timeout_s)

    def _answered(self, event: QueryAnswer, now: Now) -> None:
        self.desk.questions.answered(event, now)

    def _store_changed(self, event: StoreChanged, now: Now) -> None:
        desk = self.desk
        desk.store_available, desk.spooling = event.available, event.spooling
        desk.store_reason, desk.spool_off = event.reason, event.spool_off
        if event.available:
            desk.place_held = True

    def _fence_moved(self, event: FenceMoved, now: Now) -> None:
        self.desk.fence = event.fence

    def _stands_by(self, event: StandsBy, now: Now) -> None:
        desk = self.desk
        desk.leader = event.holder
        desk.log("info", "standing_by", leader=event.holder)

    def _ownership_lost(self, event: OwnershipLost, now: Now) -> None:
        """Somebody else leads, and our memory ages from now on: start again as a standby with none."""
        desk = self.desk
        desk.leading = False
        desk.staging.clear()
        desk.questions.forget()
        desk.log("error", "ownership_lost", reason=event.reason)
        desk.out.append(Exit(EX_TEMPFAIL, f"no longer the leader: {event.reason}"))
