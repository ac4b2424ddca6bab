"""The engine: runs one role core over its ports. Pure, so that a whole fleet can run on a simulated world.

Inputs are method calls with ``now``; :meth:`Engine.turn` lets the core see everything that came in and fills
:class:`Outputs` for the shell (or the simulator) to perform. Three duties are kept here and nowhere else:

* **persist, then send**: a batch's ``after`` effects are performed only when every write of it is applied;
* **acknowledge what is durable**: link acknowledgements are released for what the core had handled before the cut
  of an applied batch, or at once where nothing had to be made durable;
* **one batch in flight**: what is staged meanwhile goes into the next one, so a batch grows with the load by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from a2a_zmq.clock import Now, parse_iso
from a2a_zmq.errors import Busy, MalformedMessage, Refused
from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.protocol.ports import LEFT, PeerDown, PeerUp, Port, ProbeWanted, Received, Refusal, WatchWanted
from daemons.runtime.calls import LocalAnswer
from daemons.runtime.consults import Consult
from daemons.runtime.contract import (
    BatchApplied,
    Core,
    Effect,
    Event,
    Exit,
    FenceMoved,
    Log,
    Meter,
    Outranked,
    OwnershipGained,
    OwnershipLost,
    Query,
    Send,
    StandsBy,
    StartRun,
    StopRun,
    StoreChanged,
    Undelivered,
)
from daemons.runtime.exemplars import exemplar_of
from daemons.runtime.outputs import Outputs, PendingBatch

# A store that is away is asked again after these bounds (seconds), doubling in between: soon enough to reconcile
# well within three seconds, rare enough to leave a starting Redis alone.
RETRY_MIN_S = 0.05
RETRY_MAX_S = 0.5
# Of so many peers with an unfit protocol version it is remembered that the log names them.
MAX_TOLD = 256
# While nothing may be written, whatever is due for writing stays due; it is looked at this often instead of for ever.
HELD_BACK_S = 0.05
# Whose connections end whenever a program does: nobody is missing then.
_COMING_AND_GOING = frozenset({Role.CLIENT, Role.OPERATOR})


class Engine:
    """One agent: its core, its ports, and the batch in flight."""

    def __init__(self, core: Core, ports: list[Port], meter: Meter, *, owns_state: bool) -> None:
        """
        Args:
            core: the role's decisions.
            ports: hubs and spokes; outputs name them by their index.
            meter: where to count.
            owns_state: False for an agent that writes no shared state (a worker).
        """
        self.core = core
        self.ports = ports
        self.fence = 0
        self.rising = False  # our fence goes up in the store at this moment: nothing is begun under the one of before
        self.safe_until = math.inf  # monotonic: after it the lease may have expired, so nothing is written (self-fence)
        self.exiting: Exit | None = None
        self._meter = meter
        self._owns_state = owns_state
        self._owner = not owns_state
        self._port_of: dict[str, int] = {}
        self._told: dict[str, str] = {}  # peers whose protocol version does not fit, and what was logged of them
        self._inbox: list[Event | Undelivered] = []
        self._out = Outputs()
        self._pending: PendingBatch | None = None
        self._batch_count = 0
        self._retry_at = math.inf
        self._retry_delay_s = RETRY_MIN_S
        self._store_told = (True, False, "")  # what the core knows: (available, spooling, why the spool is off)
        self._reason = self._spool_off = ""
        self._spooling = self._room = False
        self._failing = False  # the batch in flight was tried in vain: only its success shows that the store is back
        self._not_before = -math.inf
        self._withholds: Callable[[], bool] = getattr(core, "withholds", lambda: False)
        self._core_owns = False  # what the core was told last
        self._holder = ""
        if owns_state:
            meter.gauge("store_up", 1)

    # ------------------------------------------------------------ inputs

    def event(self, event: Event) -> None:
        """Queue an event for the next turn."""
        self._inbox.append(event)

    def ownership_gained(self, event: OwnershipGained) -> None:
        """The lease is ours. A batch that an earlier ownership left unfinished is void: the core merges what it
        loads."""
        self.fence = event.fence
        self._owner = self._core_owns = True
        self._holder = ""
        self._void()
        self._inbox.append(event)

    def fence_moved(self, fence: int) -> None:
        """We hold the lease, nobody had it in between, and our fence is this one now: what is in flight stays valid."""
        if fence != self.fence:
            self.fence = fence
            self._inbox.append(FenceMoved(fence))

    def ownership_lost(self, reason: str) -> None:
        """Write nothing, and tell the core so; nothing new for one that owns nothing."""
        self._owner = False
        self._void()
        if self._core_owns:
            self._core_owns = False
            self._inbox.append(OwnershipLost(reason))

    def stands_by(self, holder: str) -> None:
        """The lease is with another process; the core is told once for each holder."""
        if holder != self._holder and not self._core_owns:
            self._holder = holder
            self._inbox.append(StandsBy(holder))

    def _void(self) -> None:
        """Forget the batch in flight; whatever becomes of it is not told to the core any more."""
        self._pending = None
        self._failing = False
        self._retry_at = math.inf
        self._retry_delay_s = RETRY_MIN_S

    @property
    def owner(self) -> bool:
        return self._owner

    def write_applied(self, pending: PendingBatch, version: int) -> bool:
        """The next write of the pending batch is applied. Returns False if the batch was voided meanwhile."""
        if pending is not self._pending:
            return False
        pending.versions[pending.batch.writes[pending.done].section] = version
        pending.done += 1
        return True

    def batch_applied(self, pending: PendingBatch, now: Now) -> None:
        """All writes are applied: perform what waited, acknowledge what is now durable."""
        if pending is not self._pending:
            return
        self._void()
        self.store_available(available=True, reason="")
        self._dispatch(BatchApplied(pending.batch_id, pending.versions), now)
        self._perform(pending.batch.after, now)
        for port, marks in zip(self.ports, pending.marks, strict=True):
            port.acknowledge(marks, now)

    def batch_failed(self, pending: PendingBatch, reason: str, now: Now) -> None:
        """The store is away: the batch stays as it is and is tried again after a growing delay."""
        if pending is not self._pending:
            return
        self._retry_at = now.mono + self._retry_delay_s
        self._retry_delay_s = min(self._retry_delay_s * 2, RETRY_MAX_S)
        self._failing = True
        self.store_available(available=False, reason=reason)

    def batch_refused(self, pending: PendingBatch, reason: str, *, state_lost: bool = False) -> bool:
        """We were fenced, or the store lost state. Returns False if that is no news: the batch was voided before, or it
        was refused by our own fence, which rose meanwhile, and is tried again under that one.

        A fenced core is told that it owns nothing any more. Lost state is another matter: then the core's memory is the
        best copy there is, so it keeps it (and goes on staging) until the lease is taken anew and both are merged.
        """
        if pending is not self._pending:
            return False
        if state_lost:
            self.state_lost()
        elif self.rising or pending.batch.writes[pending.done].fence < self.fence:
            self._retry_at = 0.0
            return False
        else:
            self.ownership_lost(reason)
        return True

    def state_lost(self) -> None:
        """Write nothing until the lease was taken anew and the core's memory merged with what is left."""
        self._owner = False
        self._void()

    def store_available(self, *, available: bool, reason: str) -> None:
        """Tell the core when the availability of the store changes.

        A lease that can be renewed does not prove that records can be written (think of a Redis that is out of memory):
        while a batch fails, only its success does. While batches go to the local spool, what counts is its room.
        """
        if self._spooling:
            available = self._room
        told = (available, self._spooling, self._spool_off)
        if told != self._store_told and not (available and self._failing):
            self._store_told, self._reason = told, reason
            self._meter.gauge("store_up", int(available and not self._spooling))
            self._inbox.append(StoreChanged(available, reason, self._spooling, self._spool_off))
            self._out.exceptional = True

    def spooling(self, *, active: bool, room: bool, reason: str) -> None:
        """Whether batches go to the local spool from now on, which needs no lease, and whether it takes new work."""
        was, self._spooling, self._room = self._spooling, active, room
        if active or was:
            self.store_available(available=True, reason=reason)

    def spool_off(self, why: str) -> None:
        """Why batches do not go to the local spool when Redis is away; "" where they do."""
        if why != self._spool_off:
            self._spool_off = why
            self.store_available(available=self._store_told[0], reason=self._reason)

    # ------------------------------------------------------------ the turn

    def turn(self, now: Now) -> Outputs:
        """Let the core see what came in; return what is to be done."""
        for port in self.ports:
            port.tick(now)
        self._drain(now)
        self._perform(self.core.settle(now), now)
        self._drain(now)
        self._commit(now)
        for index, port in enumerate(self.ports):
            if port.outgoing:
                self._out.transmit.extend((index, route, frame) for route, frame in port.outgoing)
                port.outgoing.clear()
        out, self._out = self._out, Outputs()
        out.again = bool(self._inbox)
        if out.apply is not None:
            for write in out.apply.batch.writes:
                write.fence = self.fence  # ours now: it may have moved since the batch was cut
        # Who was replaced (a status other than 0) must not write any more, and has nothing to wait for.
        leave = self.exiting
        if leave is not None and (leave.status or self._pending is None):
            owed = now.mono < leave.until and any(port.unacknowledged() for port in self.ports)
            out.exit = None if owed else leave
        return out

    def supervise(self, effects: list[Effect], now: Now) -> None:
        """Perform the effects that a run of the supervision graph collected."""
        self._perform(effects, now)

    def next_deadline(self) -> float:
        """Monotonic time at which :meth:`turn` is due without any input."""
        deadline = max(self._not_before, min(self.core.next_deadline(), self._retry_at))
        for port in self.ports:
            deadline = min(deadline, port.next_deadline())
        return deadline

    # ------------------------------------------------------------ inside

    def _drain(self, now: Now) -> None:
        """Hand over events until there are none; handling one may cause others (a full outbox, an answer)."""
        while True:
            progressed = False
            for index, port in enumerate(self.ports):
                if port.events:
                    events, port.events = port.events, []
                    for item in events:
                        self._port_event(index, item, now)
                    progressed = True
            if self._inbox:
                inbox, self._inbox = self._inbox, []
                for event in inbox:
                    self._dispatch(event, now)
                progressed = True
            if not progressed:
                return

    def _port_event(self, index: int, item: Any, now: Now) -> None:
        if isinstance(item, Received):
            message = item.message
            self._meter.count("messages_total", direction="in", type=message.type.value)
            if message.type is MessageType.HEARTBEAT:
                self._meter.count("heartbeats_total", direction="in")
            else:
                sent = parse_iso(message.metadata.timestamp)
                self._meter.observe("message_latency_seconds", max(0.0, now.wall - sent), exemplar_of(message))
            self._dispatch(item, now)
            return
        if isinstance(item, (ProbeWanted, WatchWanted)):
            self._out.probes.append((index, item))
            return
        if isinstance(item, Refusal):
            if item.kind == "signature":
                self._meter.count("signature_failures_total", reason=item.reason)
            else:
                self._meter.count("routing_errors_total", reason=item.reason)
            if item.reason == "version" and self._told.get(item.agent_id) != item.detail:
                # It greets again and again; only an update mends it, so saying it once is enough.
                if len(self._told) >= MAX_TOLD:
                    self._told.clear()
                self._told[item.agent_id] = item.detail
                self._out.logs.append(Log("error", "version_refused", {"peer": item.agent_id, "why": item.detail}))
        elif isinstance(item, PeerUp):
            self._told.pop(item.peer.agent_id, None)
            self._port_of[item.peer.agent_id] = index
            self._out.exceptional = True
        elif isinstance(item, PeerDown):
            self._port_of.pop(item.agent_id, None)
            self._out.exceptional = True
            if item.role not in _COMING_AND_GOING and item.reason not in LEFT:
                self._meter.count("peer_losses_total", role=item.role.value, reason=item.reason)
        self._dispatch(item, now)

    def _dispatch(self, event: Event | Undelivered, now: Now) -> None:
        effects = self.core.handle(event, now)
        if effects:
            self._perform(effects, now)

    def _perform(self, effects: list[Effect], now: Now) -> None:
        out = self._out
        for effect in effects:
            if isinstance(effect, Send):
                self._send(effect, now)
            elif isinstance(effect, (StartRun, StopRun)):
                out.runs.append(effect)
            elif isinstance(effect, (Query, Consult)):
                out.queries.append(effect)
            elif isinstance(effect, Log):
                out.logs.append(effect)
            elif isinstance(effect, LocalAnswer):
                out.answers.append(effect)
            elif isinstance(effect, Outranked):
                out.outranked = effect
            else:
                self.exiting = effect

    def _send(self, effect: Send, now: Now) -> None:
        index = self._port_of.get(effect.to)
        reason = "unroutable"
        if index is not None:
            try:
                self.ports[index].send(
                    effect.to,
                    effect.type,
                    effect.payload,
                    now,
                    reply_to=effect.reply_to,
                    reliable=effect.reliable,
                    bulk=effect.bulk,
                    traceparent=effect.traceparent,
                )
            except Busy:
                reason = "busy"
            except Refused as refusal:
                reason = refusal.reason
            except MalformedMessage as error:
                reason = "malformed"
                self._out.logs.append(Log("error", "message_not_sendable", {"to": effect.to, "why": str(error)}))
            else:
                self._meter.count("messages_total", direction="out", type=effect.type.value)
                return
        if reason != "busy":
            self._meter.count("routing_errors_total", reason=reason)
        if effect.reliable or effect.bulk:
            self._inbox.append(Undelivered(effect, reason))

    def _commit(self, now: Now) -> None:
        self._not_before = -math.inf
        if (self.rising or now.mono >= self.safe_until) and not self._spooling:
            self._not_before = now.mono + HELD_BACK_S
            return
        if self._pending is not None:
            if now.mono >= self._retry_at:
                self._retry_at = math.inf
                self._out.apply = self._pending
            return
        if not self._owner and self._owns_state:
            # What is handled now is not durable and cannot be made so: nobody is told that it is.
            self._not_before = now.mono + HELD_BACK_S
            return
        marks = [port.marks() for port in self.ports] if not self._withholds() else [{} for _ in self.ports]
        batch = self.core.cut(now)
        if batch is not None and batch.writes:
            self._batch_count += 1
            self._pending = PendingBatch(self._batch_count, batch, marks)
            self._out.apply = self._pending
            return
        if batch is not None:
            self._perform(batch.after, now)
        for port, port_marks in zip(self.ports, marks, strict=True):
            if port_marks:
                port.acknowledge(port_marks, now)
