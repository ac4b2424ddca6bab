"""What a client of the fleet decides: a plain state machine without socket, clock, thread or environment.

Three tables are all its memory: tasks that somebody waits for, submissions that the coordinator has not answered, and
other requests that it has not answered. The shell puts work in (:meth:`ClientCore.submit`, :meth:`~ClientCore.attach`,
:meth:`~ClientCore.request`), feeds port events to :meth:`~ClientCore.handle`, sends what :meth:`~ClientCore.flush`
returns, and then hands out ``accepted``, ``finished`` and the answered calls to the waiting callers.

*What makes handles outlive a connection.* A submission is repeated until it is answered: with the same task ids and
``check: true``, so that the coordinator takes each task once however often it hears of it. For every task that was
accepted but not finished, a ``watch_tasks`` follows every new session: its result comes as the answer if it is there,
and as an event later if it is not. So it does not matter which results a lost connection or a lost coordinator took
with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from a2a_zmq.client.entries import ACCEPTED, SENT, WATCHED, Call, Entry, Outbound, refused_too_long
from a2a_zmq.client.limits import (
    BODY_OVERHEAD_BYTES,
    DEADLINE_SCAN_S,
    DEFAULT_MAX_PAYLOAD_BYTES,
    DEFAULT_RETRY_AFTER_S,
    FINAL_REFUSALS,
    LOCKED_OUT_S,
    MALFORMED,
    TRANSIENT,
)
from a2a_zmq.client.lockouts import Lockouts
from a2a_zmq.client.quantities import bounded, seconds
from a2a_zmq.client.silence import Silence
from a2a_zmq.client.submits import MAX_BATCH_TASKS
from a2a_zmq.client.tables import Tables
from a2a_zmq.clock import Now
from a2a_zmq.errors import FleetError, FleetUnavailable, KeyRefused, RequestRefused
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.protocol.ports import GOODBYE, PeerDown, PeerInfo, PeerUp, PortEvent, Received, Refusal


class ClientCore(Tables):
    """See the module's text.

    Args:
        new_id: source of unique request ids.
        rand: uniform random numbers in [0, 1) for the jitter of repetitions.

    Attributes:
        tasks: tasks that somebody waits for; the shell hands out its ``accepted`` and ``finished``.
        calls: requests that are not submissions; the shell hands out its ``answered``.
        streams: what is read of tasks' streams.
        peer: id of the coordinator that we have a session with, or "".
        wants_other: the coordinator says that it does not lead.
        others: the shell knows further coordinators: one that does not lead is asked nothing, and left.
        max_payload_bytes: largest body of one task that the coordinator takes.
        task_types: task types that the fleet knew at the last welcome.
        departed: the coordinator that said good-bye last and has not greeted since, or "".
        trouble: why there is no session, as far as known; set by the shell too.
        lockouts: at which addresses keys do not fit; the shell says which address it is at, and what it sees there.
    """

    def __init__(self, new_id: Callable[[], str], rand: Callable[[], float]) -> None:
        self._new_id = new_id
        self._rand = rand
        super().__init__()
        self._next_scan = math.inf
        self.departed = self.trouble = ""
        self.lockouts = Lockouts()
        self._silence = Silence()
        self._boot_id = ""
        self.peer = ""
        self.wants_other = self.others = False
        self.max_payload_bytes = DEFAULT_MAX_PAYLOAD_BYTES
        self.task_types: tuple[str, ...] = ()

    # ------------------------------------------------------------ work in

    def submit(self, entry: Entry, now: Now) -> None:
        """Queue a task; an entry too large for the wire ends at once."""
        if len(entry.body) > self.max_payload_bytes + BODY_OVERHEAD_BYTES:
            text = f"task of {len(entry.body)} bytes, the limit is {self.max_payload_bytes}"
            self.tasks.finish(entry, RequestRefused("PAYLOAD_TOO_LARGE", text))
            return
        self._note_deadline(entry.deadline, now)
        watched = self.tasks.submit_watched(entry)
        if watched is not None:
            self._watches.drop(entry.task_id)
            self._submits.add(watched)
        if self.tasks.add(entry):
            self._submits.add(entry)

    def attach(self, entry: Entry, now: Now) -> None:
        """Ask for the result of a task that was submitted before, by whomever."""
        self._note_deadline(entry.deadline, now)
        if self.tasks.add(entry):
            entry.phase = WATCHED
            self._watches.add(entry.task_id)

    def request(self, call: Call, now: Now) -> None:
        self._note_deadline(call.deadline, now)
        self.calls.add(call)

    @property
    def elsewhere(self) -> bool:
        """The present coordinator stands by, and another one is to be found."""
        return self.wants_other and self.others

    @property
    def _within_reach(self) -> bool:
        return bool(self.peer) and not self.elsewhere

    # ------------------------------------------------------------ events in

    def handle(self, event: PortEvent, now: Now) -> None:
        if isinstance(event, Received):
            # Looked for before it is read: what is answered is not unanswered any more.
            request_id = event.message.metadata.parent_request_id or ""
            batch, watched = self._submits.unanswered(request_id), self._watches.unanswered(request_id)
            try:
                self._take(event.message, now)
            except Exception as error:  # of another version, maybe: it ends what it was about, and nothing else
                self._unreadable(event.message, error, batch, watched)
        elif isinstance(event, PeerUp):
            self._peer_up(event.peer, now)
        elif isinstance(event, PeerDown):
            if event.agent_id == self.peer:
                self.peer = ""
                self.trouble = f"the coordinator is gone: {event.reason}"
                if event.reason == GOODBYE:
                    self.departed = event.agent_id
        elif isinstance(event, Refusal) and not self.peer:
            self.trouble = f"{event.reason}: {event.detail}" if event.detail else event.reason
            if event.agent_id and event.reason in FINAL_REFUSALS:
                self.lockouts.refused(now.mono + LOCKED_OUT_S)

    def _take(self, message: Message, now: Now) -> None:
        if message.type is MessageType.EVENT:
            if message.action == "task_results":
                self.tasks.take_results(message.payload.get("results"))
                self._heard(now)
                if message.payload.get("dropped"):
                    self._resume(same_process=True)
            elif message.action == "task_waiting":
                self.tasks.take_asked(message.payload.get("tasks"))
            elif message.action == "task_events":
                self.streams.take(message.payload)
        elif message.type is MessageType.RESPONSE:
            self._take_response(message, now)
        elif message.type is MessageType.ERROR:
            self._take_error(message, now)

    def _heard(self, now: Now) -> None:
        """Results or acceptances came."""
        if not self.others:
            self.wants_other = False  # the only one that there is leads by now
        self._silence.ended(now, waiting=bool(self.tasks))

    def _audit(self, now: Now) -> None:
        """Nothing came for a while: ask for everything that is under way."""
        if self.tasks and self.peer and self._watches.idle():
            self._watch_all()
        self._silence.goes_on(now, waiting=bool(self.tasks))

    def lockout(self, now: Now) -> KeyRefused | None:
        """Why waiting for a session is in vain, once that is clear."""
        if self.peer or now.mono < self.lockouts.give_up_at:
            return None
        return KeyRefused(f"no session with the coordinator: {self.trouble}")

    def _give_up(self, error: KeyRefused) -> None:
        """End what waits for a session; what was accepted stays valid."""
        self.lockouts.gave_up = True
        self.calls.close(error)
        watched = [e for task_id in self._watches.ids() if (e := self.tasks.get(task_id)) is not None]
        for entry in [*self._submits.entries(), *watched]:
            if entry.phase < ACCEPTED:
                self.tasks.finish(entry, error)
        self._drop_ended()

    def disconnected(self) -> None:
        """The shell gave the session up (next address, or a new socket)."""
        self.peer = ""

    def _peer_up(self, peer: PeerInfo, now: Now) -> None:
        first = not self._boot_id
        same_process = peer.boot_id == self._boot_id
        self.peer = peer.agent_id
        self._boot_id = peer.boot_id or "unknown"
        self.wants_other = False
        self.trouble = ""
        if self.departed == peer.agent_id:
            self.departed = ""
        self.lockouts.session()
        details = peer.details
        if details.get("leading") is False:
            self._stands_by(f"{peer.agent_id} stands by")
        self.max_payload_bytes = bounded(details.get("max_payload_bytes"), DEFAULT_MAX_PAYLOAD_BYTES)
        self._submits.max_batch = min(bounded(details.get("max_batch"), MAX_BATCH_TASKS), MAX_BATCH_TASKS)
        types = details.get("task_types")
        if isinstance(types, list):
            self.task_types = tuple(str(name) for name in types)
        if not first:
            self._resume(same_process=same_process)

    def _resume(self, *, same_process: bool) -> None:
        """A new session, or the coordinator had to drop messages for us: repeat what was not answered, and ask again
        for every result that is still to come."""
        self._submits.restart()
        self.calls.resume(same_process=same_process)
        self.streams.restart()
        self._watch_all()

    def _watch_all(self) -> None:
        self._watches.restart(self.tasks.under_way())

    # ------------------------------------------------------------ answers

    def _take_response(self, message: Message, now: Now) -> None:
        request_id = message.metadata.parent_request_id or ""
        payload = message.payload
        batch = self._submits.answered(request_id)
        if batch is not None:
            rejected = payload.get("rejected")
            if rejected:
                self._reject(batch, rejected, now)
            for entry in batch:
                if entry.phase == SENT:
                    self.tasks.accept(entry)
            self._heard(now)
            return
        if self.streams.answered(request_id):
            return
        if self.calls.answer(request_id, payload):
            return
        asked = self._watches.answered(request_id)
        if asked is not None:
            self._take_watch(payload, asked)
            if self.wants_other or self._silence.ask_at == math.inf:
                self._heard(now)

    def _reject(self, batch: list[Entry], rejected: Any, now: Now) -> None:
        """Some of a submission's tasks were not taken."""
        by_id = {entry.task_id: entry for entry in batch}
        patient: list[Entry] = []
        wait = DEFAULT_RETRY_AFTER_S
        for refusal in rejected:
            entry = by_id.get(refusal.get("task_id"))
            if entry is None or entry.phase != SENT:
                continue
            refused = RequestRefused(str(refusal.get("code", "INVALID_TASK")), str(refusal.get("message", "")))
            if refused.code in TRANSIENT:
                entry.trouble = refused
                patient.append(entry)
                wait = max(wait, seconds(refusal.get("retry_after_s"), DEFAULT_RETRY_AFTER_S))
            else:
                self.tasks.finish(entry, refused)
        if patient:
            self._submits.delay(patient, self._later(wait, now))

    def _take_error(self, message: Message, now: Now) -> None:
        request_id = message.metadata.parent_request_id or ""
        payload = message.payload
        code = str(payload.get("code", "UNKNOWN_ACTION"))
        text = str(payload.get("message", ""))
        refused = RequestRefused(code, text)
        wait = seconds(payload.get("retry_after_s"), DEFAULT_RETRY_AFTER_S)
        batch = self._submits.answered(request_id)
        if batch is not None:
            self._refused_by(code, text)
            waiting = [entry for entry in batch if entry.phase == SENT]
            if code in TRANSIENT:
                self._put_off(waiting, refused, self._later(wait, now), hold=True)
            elif code == MALFORMED and len(waiting) > 1:
                self._submits.part(waiting)  # one of them is not well-formed, the others are to be taken
            else:
                for one in waiting:
                    self.tasks.finish(one, refused)
            return
        again_at = self._later(wait, now) if code in TRANSIENT else None
        if self.calls.refuse(request_id, code, text, again_at) or self.streams.refused(request_id, refused, again_at):
            self._refused_by(code, text)
        elif request_id in self._watches:
            self._refused_by(code, text)
            for task_id in self._watches.refused(request_id, code, again_at):
                entry = self.tasks.get(task_id)
                if entry is not None:
                    self.tasks.finish(entry, refused)

    def _refused_by(self, code: str, text: str) -> None:
        """A request of this session was refused. (What was asked in an earlier one may have led since.)"""
        if code == "NOT_LEADER":
            self._stands_by(text)

    def _stands_by(self, why: str) -> None:
        self.wants_other = True
        self.trouble = why

    def _put_off(self, batch: list[Entry], why: RequestRefused, again_at: float, *, hold: bool) -> None:
        """Nothing of a submission was taken; it is sent again later."""
        for entry in batch:
            entry.trouble = why
        self._submits.delay(batch, again_at, hold=hold)

    def _later(self, wait: float, now: Now) -> float:
        """After ``wait`` seconds and up to half as long again: refused clients must not come back as one."""
        return now.mono + wait * (1 + self._rand() / 2)

    # ------------------------------------------------------------ messages out

    def flush(self, now: Now, room: int) -> list[Outbound]:
        """What to send now.

        Args:
            room: how many messages the outbox takes.
        """
        for table in (self.calls, self._watches, self._submits, self.streams):
            table.release(now)
        out: list[Outbound] = []
        if not self._within_reach:
            return out
        watches = partial(self._watches.next, known=self.tasks)
        for take in (self.calls.next, watches, self.streams.next, self._submits.next):
            while len(out) < room and (message := take(now, self._new_id())) is not None:
                out.append(message)
        return out

    def unsent(self, request_id: str, now: Now) -> None:
        """The link would not take the message: it goes out later, under a new id."""
        again_at = self._later(DEFAULT_RETRY_AFTER_S, now)
        batch = self._submits.answered(request_id)
        if batch is not None:
            waiting = [entry for entry in batch if entry.phase == SENT]
            self._put_off(waiting, RequestRefused("BUSY", "the outbox is full"), again_at, hold=False)
            return
        if not self.calls.refuse(request_id, "BUSY", "", again_at) and not self.streams.unsent(request_id, again_at):
            self._watches.refused(request_id, "BUSY", again_at)

    # ------------------------------------------------------------ time

    def _note_deadline(self, deadline: float, now: Now) -> None:
        if deadline < self._next_scan:
            self._next_scan = max(deadline, now.mono + DEADLINE_SCAN_S)

    def next_deadline(self) -> float:
        """Monotonic time at which :meth:`tick` and :meth:`flush` want to be called again (inf: never)."""
        deadline = min(self._next_scan, self._silence.ask_at)
        if not self.peer and not self.lockouts.gave_up:
            deadline = min(deadline, self.lockouts.give_up_at)
        if self._within_reach:  # else what is due waits for the next session, which wakes us
            for table in (self.calls, self._watches, self._submits, self.streams):
                deadline = min(deadline, table.next_deadline())
        return deadline

    def tick(self, now: Now) -> None:
        """Give up on requests whose deadline has passed. O(what is not answered), which the windows bound."""
        if now.mono >= self._silence.ask_at:
            self._audit(now)
        lockout = self.lockout(now)
        if lockout is not None:
            self._give_up(lockout)
        if now.mono < self._next_scan:
            return
        earliest = self.calls.expire(now, None if self._within_reach else self._out_of_reach(), self.peer)
        watched = [e for task_id in self._watches.ids() if (e := self.tasks.get(task_id)) is not None]
        for entry in [*self._submits.entries(), *(e for e in watched if e.phase == WATCHED)]:
            earliest = min(earliest, self.tasks.expire(entry, now, self._too_late))
        self._drop_ended()
        self._next_scan = max(earliest, now.mono + DEADLINE_SCAN_S)

    def _too_late(self, trouble: RequestRefused | None) -> FleetError:
        if not self._within_reach:
            return self._out_of_reach()
        if trouble is not None:
            return refused_too_long("the task", trouble)
        return FleetUnavailable(f"coordinator {self.peer!r} did not answer before the deadline")

    def _out_of_reach(self) -> FleetUnavailable:
        why = f" ({self.trouble})" if self.trouble else ""
        return FleetUnavailable(f"no coordinator was reachable before the deadline{why}")
