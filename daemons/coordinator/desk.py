"""What the coordinator's handlers share: its memory, and the few things that several of them do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.encoding import kept_json
from a2a_zmq.fences import obeyed_above
from a2a_zmq.interfaces import CANCELS
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.tasks import ABANDONED, COMPLETED, FAILED, Record, attempt_of, dead_letter, read_object
from a2a_zmq.tracing.spans import Tracer
from daemons.coordinator.clients import Client, Clients, results_message, split
from daemons.coordinator.config import CoordinatorConfig
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.ledger import Ledger
from daemons.coordinator.lives import cancelled_record, life_of
from daemons.coordinator.memory import Recent
from daemons.coordinator.questions import Questions, Then
from daemons.coordinator.records import MOVING, Entry, public_result, unreadable
from daemons.coordinator.spans import TaskSpans
from daemons.coordinator.staging import INBOX_SECTION, Staging
from daemons.runtime.contract import DrainRequested, Effect, Log, Meter, Outranked, QueryAnswer, Send

# Task types that are remembered at most: they are kept in one header member, and named to clients. What comes later is
# taken for as long as a worker offers it.
MAX_KNOWN_TYPES = 1_000


class Desk:
    """See the module's text.

    Attributes:
        out: effects of the call that is being handled.
        spans: None where nothing is traced.
        leading_since: monotonic time at which we began to lead; who was away before may have come and gone unseen.
        leading: we own the sections; only then anything is taken or placed.
        leader: who leads, as far as known.
        draining: why and until when we leave, once asked to.
        known_types: every task type that a distributor's workers ever offered, up to a bound.
        place_held: something changed that may let tasks out of the inbox. ``look_held``: perhaps it did.
        inbox_checked: the loaded inbox was compared with the results in the store.
        letters: dead letters, as counted in the store a while ago and kept up since.
        restaged: live tasks whose records the store had lost and was given again.
        joined: clients that in this wake-up came to wait for tasks that asked something.
        untold: of these, by (client's id, task's id), those for whom that could not be read; they join again.
        streamed: tasks whose streams are read by somebody.
        accept: takes in a new task, to be placed with the next ``settle``.
        stopped: those that in this wake-up ended (with their status) or asked something.
        finished: tasks that ended since this process started, by status; ``late``: results that were not wanted.
    """

    def __init__(
        self,
        agent_id: str,
        config: CoordinatorConfig,
        new_id: Callable[[], str],
        rng: Callable[[], float],
        meter: Meter,
        *,
        tracer: Tracer | None = None,
    ) -> None:
        self.agent_id = agent_id
        self.config = config
        self.rng = rng
        self.meter = meter
        self.spans = TaskSpans(tracer) if tracer is not None else None
        self.ledger = Ledger()
        self.staging = Staging(new_id)
        self.clients = Clients(config)
        self.questions = Questions(config.question_timeout_s, config.max_pending_questions)
        self.recent = Recent(config.recent_results, config.recent_bytes)
        self.letters = 0
        self.known_types: set[str] = set()
        self.out: list[Effect] = []
        self.leading = False
        self.leading_since = -math.inf
        self.leader = ""
        self.fence = 0
        self.epoch = ""
        self.store_available = True
        self.spooling = False
        self.store_reason = self.spool_off = ""
        self.draining: DrainRequested | None = None
        self.drain_until = math.inf
        self.place_held = self.look_held = False
        self.inbox_checked = True
        self.checks = 0
        self.finished = {COMPLETED: 0, FAILED: 0, ABANDONED: 0}
        self.late = 0
        self.restaged: set[str] = set()
        self.joined: list[tuple[Client, Entry]] = []
        self.untold: dict[tuple[str, str], Client] = {}
        self.streamed: set[str] = set()
        self.stopped: list[tuple[str, str]] = []
        self._ended: dict[str, list[bytes]] = {}
        self.accept = self.ledger.accept if self.spans is None else self._accept_traced

    # ------------------------------------------------------------ answers

    def reply(self, message: Message, payload: dict[str, Any]) -> Send:
        """The RESPONSE to a request; the caller decides whether it waits for the store."""
        answer = {"action": message.action, **payload}
        return Send(message.sender, MessageType.RESPONSE, answer, reply_to=message.metadata.request_id)

    def refuse(self, message: Message, code: str, text: str) -> None:
        """Answer with an ERROR; codes that ask for patience say for how long."""
        self.meter.count("requests_refused_total", code=code)
        payload: dict[str, Any] = {"action": message.action, "code": code, "message": text}
        if code in ("BUSY", "NOT_LEADER", "UNAVAILABLE", "DRAINING"):
            payload["retry_after_s"] = round(self.retry_after_s(), 3)
        self.out.append(Send(message.sender, MessageType.ERROR, payload, reply_to=message.metadata.request_id))

    def unread(self, message: Message, answer: QueryAnswer, task_id: str = "") -> bool:
        """Refuse a request for which the store could not be read, or has a record of this task that cannot be."""
        if answer.error is not None:
            self.refuse(message, "UNAVAILABLE", f"the store could not be read: {answer.error}")
        elif task_id in answer.unreadable:
            self.refuse(message, "UNREADABLE", unreadable(task_id))
        else:
            return False
        return True

    def mark(self) -> dict[str, Any]:
        """What shows a distributor that it is the present leader who asks."""
        return {"fence": self.fence, "epoch": self.epoch}

    def heed(self, home: Distributor) -> None:
        """Has it obeyed a leader with a higher fence than ours?"""
        if self.leading and (fence := obeyed_above(home.said, self.fence, self.epoch)):
            self.out.append(Outranked(fence, self.epoch, home.agent_id))

    def retry_after_s(self) -> float:
        """The configured pause ± 25 %."""
        return self.config.retry_after_s * (0.75 + 0.5 * self.rng())

    def log(self, level: str, event: str, **fields: Any) -> None:
        self.out.append(Log(level, event, fields))

    def ask(self, op: str, args: dict[str, Any], then: Then, now: Now) -> None:
        self.out.append(self.questions.ask(op, args, then, now))

    def everywhere(self) -> list[str]:
        """Ids of all places where results are kept: every distributor, and the inbox."""
        return [*(each.agent_id for each in self.ledger.distributors.values() if each.registered), ""]

    def ask_results(self, task_ids: list[str], then: Then, now: Now, *, letters: bool = False) -> None:
        """Result records by id, wherever they are; with ``letters`` also of dead letters whose results have expired."""
        args = {"distributor_ids": self.everywhere(), "task_ids": task_ids, "letters": letters}
        self.ask("results", args, then, now)

    def _accept_traced(self, entry: Entry) -> None:
        self.ledger.accept(entry)
        if self.spans is not None:
            self.spans.accepted(entry)

    def subscribe(self, client: Client, entry: Entry) -> bool:
        """This client gets the task's result too. False if there are too many further subscriptions."""
        taken = self.clients.subscribe(client, entry)
        if taken and entry.task_id in self.ledger.waits:
            self.joined.append((client, entry))
        return taken

    def leave_untold(self, client: Client, entry: Entry) -> None:
        """What the task asks cannot be read now: this client is told later. Beyond the bound it asks again itself."""
        if len(self.untold) < self.config.max_watched:
            self.untold[client.agent_id, entry.task_id] = client

    def rejoin(self) -> None:
        """Try the oldest untold ones again; no more than leaves room for what others ask the store."""
        for key in list(islice(self.untold, max(1, self.config.max_pending_questions // 2))):
            client, entry = self.untold.pop(key), self.ledger.live.get(key[1])
            if entry is not None and self.clients.connected.get(key[0]) is client:
                self.joined.append((client, entry))

    # ------------------------------------------------------------ ends of tasks

    def durable(self, entry: Entry) -> bool:
        """Whether its present write is applied (and so, if it has a distributor, this was told, or found no room)."""
        return entry.batch != 0 and entry.batch <= self.staging.applied

    def ended(self, task_id: str) -> bytes | None:
        """Result record of a task that ended lately, durable or (see ``Staging.unrecorded``) not yet."""
        return self.recent.get(task_id) or self.staging.unrecorded(task_id)

    def finish(self, entry: Entry, encoded: bytes, record: Record) -> None:
        """The task is terminal, and recorded by whoever ran it: forget it, tell who waits."""
        status = record["status"]
        self.finished[status] += 1
        dead = status != COMPLETED and dead_letter(record)
        self.letters += dead
        if status == FAILED:
            reason = (record.get("metadata") or {}).get("error_kind")
            self.meter.count("task_failures_total", reason=reason if isinstance(reason, str) and reason else "raised")
        floor = self.ledger.floors.get(entry.task_id) if self.ledger.floors else None
        if floor is not None:
            self.drop_letter(entry.task_id, floor.letter, unless=entry.home if dead else None)
        if entry.task_id in self.restaged:
            # We put its record back after the store had lost it; whoever ended it may have dropped it before that.
            self.restaged.discard(entry.task_id)
            if entry.batch and entry.home is not None:
                self.staging.section(entry.home.section).drops.append(entry.task_id)
        self._stop_moving(entry)
        self.ledger.remove(entry)
        self.stops(entry.task_id, status)
        self.recent.put(entry.task_id, encoded)
        self.clients.forward(entry, encoded)

    def stops(self, task_id: str, status: str = "") -> None:
        """It has ended with this status, or asks something: who reads its stream is to be told, behind the rest."""
        if task_id in self.streamed:
            self.stopped.append((task_id, status))

    def finish_stored(self, entry: Entry, stored: bytes) -> bool:
        """End a task by the result record found in the store; False if that is no (new) result of it."""
        record = orjson.loads(stored)
        if record.get("status") not in self.finished or self.stale(entry.task_id, record):
            return False
        self.finish(entry, public_result(record), record)
        return True

    def stale(self, task_id: str, record: Record) -> bool:
        """A copy of the result that a retried task had before."""
        floor = self.ledger.floors.get(task_id)
        return floor is not None and attempt_of(record) <= floor.attempt

    def drop_letter(self, task_id: str, place: str, unless: Distributor | None = None) -> None:
        """The task is no dead letter of that distributor any more (``unless`` it has just become one there again)."""
        home = self.ledger.distributors.get(place)
        if home is not None and home is not unless:
            self.staging.section(home.section).letters.append(task_id)

    def end_here(self, entry: Entry, by: str, now: Now) -> None:
        """Cancel a task that no distributor runs: recorded by us; who waits is told when that is durable."""
        record = cancelled_record(entry, by, now)
        self.staging.end(entry, entry.home.section if entry.home is not None else INBOX_SECTION, kept_json(record))
        public = public_result(record)
        for client in self.clients.waiting_for(entry):
            self._ended.setdefault(client.agent_id, []).append(public)
        floor = self.ledger.floors.get(entry.task_id)
        if floor is not None:
            self.drop_letter(entry.task_id, floor.letter)
        self.restaged.discard(entry.task_id)
        self.finished[ABANDONED] += 1
        self._stop_moving(entry)
        self.ledger.remove(entry)
        self.stops(entry.task_id, ABANDONED)

    def _stop_moving(self, entry: Entry) -> None:
        """It ends where it was: the inbox lets go of it."""
        if entry.state == MOVING:
            self.staging.section(INBOX_SECTION).drops.append(entry.task_id)

    # ------------------------------------------------------------ cancellations

    def cancel_there(self, home: Distributor, task_ids: Iterable[str]) -> None:
        """These tasks of this distributor are to be cancelled. That is kept until they have ended, so whoever leads
        after us asks again."""
        live = self.ledger.live
        home.cancels.update((task_id, life_of(live[task_id].record)) for task_id in task_ids)
        self.keep_cancels(home)

    def keep_cancels(self, home: Distributor) -> None:
        """Store which tasks of this distributor are to be cancelled."""
        kept = {**home.moved_cancels, **home.cancels}
        home.cancels_kept = len(kept)
        self.staging.section(home.section).header[CANCELS] = orjson.dumps(kept).decode()

    def trim_cancels(self, home: Distributor) -> None:
        """Tasks that have ended need not be named any more, once they are most of those that are. One that ended in the
        inbox is until that is durable, for the two are not written at once."""
        if home.moved_cancels and self.inbox_checked:
            left = {name: life for name, life in home.moved_cancels.items() if self.staging.unrecorded(name)}
            home.moved_cancels = left
        if home.cancels_kept > 2 * (len(home.cancels) + len(home.moved_cancels)):
            self.keep_cancels(home)

    def know_cancels(self, home: Distributor, header: dict[str, str]) -> None:
        """What was asked of a leader before us. Those that are not here have ended, or were moved to the inbox."""
        kept = read_object(header.get(CANCELS) or "{}") or {}
        home.cancels_kept = len(kept)
        for task_id, life in kept.items():
            entry = self.ledger.live.get(task_id)
            here = entry is not None and entry.home is home and life_of(entry.record) == life
            (home.cancels if here else home.moved_cancels)[task_id] = life

    # ------------------------------------------------------------ ends of tasks that were cancelled here

    def stage_ended(self) -> None:
        """Before a cut: the results of :meth:`end_here` wait for it."""
        if self._ended:
            for name, parts in self._ended.items():
                self.staging.after.extend(self.result_messages(name, parts))
            self._ended = {}

    def result_messages(self, client: str, parts: Iterable[bytes]) -> list[Send]:
        return [results_message(client, run) for run in split(list(parts), self.config.message_bytes)]

    # ------------------------------------------------------------ task types

    def learn_types(self, types: Iterable[str]) -> None:
        """Remember task types that were offered, also for the coordinator after us."""
        new = set(types) - self.known_types
        if new and len(self.known_types) < MAX_KNOWN_TYPES:
            self.known_types |= new
            self.stage_types()

    def offers(self, task_type: str) -> bool:
        """Whether a worker has it now. O(distributors), for it is asked for each task of a type that is not known."""
        return any(home.up and task_type in home.task_types for home in self.ledger.distributors.values())

    def offered_types(self) -> set[str]:
        """What workers have now."""
        return set().union(*(home.task_types for home in self.ledger.distributors.values() if home.up))

    def stage_types(self) -> None:
        if self.leading and self.known_types:
            names = sorted(self.known_types)
            self.staging.section(INBOX_SECTION).header["known_types"] = orjson.dumps(names).decode()
