"""What must hold at every moment of a run, judged by what is seen from outside: writes as they are applied, frames as
they are sent, runs as they begin. Nothing here asks the code under test for its opinion.

1. Nothing is applied twice, and no lower fence is applied after a higher one was granted or applied.
2. A write is decided on only while its process holds the lease.
3. A result is recorded once, and it is the result of the attempt that it names, the newest that was stored. (After a
   loss of state the very same record may be written again: its owner could not know that it was there.)
4. Persist, then send: assignments, attempts after the first, results and acceptances are stored before they are sent.
5. An acknowledged report is durable: recorded, or replaced by a later attempt that is stored.
6. An attempt begins at most once; a message is handled at most once by a process.
7. Orders of an owner that was replaced are refused.
8. A task that waits for an answer is stored as such before anybody is told, runs nothing, and goes on only by an answer
   that somebody gave.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from a2a_zmq.interfaces import INBOX, Section, SectionWrite
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.ports import PeerUp, Received
from a2a_zmq.tasks import WAITING
from daemons.runtime.contract import Send
from tests.simulation.network import Connection, HubSocket

FENCED_ACTIONS = frozenset({"assign_tasks", "assign_task"})


# How long a lease that was lost with the state would have lasted.
LEASE_S = 5.0


class Ended(NamedTuple):
    """A result as it was recorded."""

    section: Section
    status: str
    attempt: int
    mutation: str


@dataclass(slots=True)
class Report:
    """A worker's results that are not acknowledged yet."""

    session: str
    number: int
    results: list[tuple[str, int]]


def role_of(identity: str) -> str:
    return identity.partition("-")[0].partition("~")[0]


class Witness:
    """Sees everything, forgets nothing but what the world lost.

    Attributes:
        violations: what should not have been.
        stored: task id → highest attempt in a live record that was ever stored (0: none named).
        ended: task id → every result that was ever recorded.
        runs: task id → attempts that began, in order; ``given``: those that were sent to a worker.
        kept_results: tasks whose result is, or was, in a local spool.
        set_aside: task id → statuses of its results in the spool of a distributor that was replaced, or from which the
            task was moved: the client may have been told of them, and the next one ran the task again.
        kept_assignments: tasks whose only record in their distributor's section was in the coordinator's spool: a
            distributor that was restarted cannot know them, so it lets go of reports and runs them again.
        uncounted, unordered: tasks and distributors that :mod:`tests.simulation.loss` excuses from some rules.
        forgotten: tasks that the coordinator's memory has lost; ``anew``: those of them that their client submitted
            again since, or that are back in the inbox, so that each distributor may record a result.
        retried: tasks that an operator sent around again: they may have a result for each life.
    """

    def __init__(self, violate: Callable[[str], None], note: Callable[..., None]) -> None:
        self._violate = violate
        self._note = note
        self.on_stored: Callable[[str, str, bool], None] = lambda task_id, writer, ended: None
        self.clock: Callable[[], float] = lambda: 0.0
        self._lost_at = -math.inf
        self.lease_pid: Callable[[Section], int | None] = lambda section: None
        self.is_overtaken: Callable[[str], bool] = lambda place: False
        self.stored: dict[str, int] = {}
        self.ended: dict[str, list[Ended]] = {}
        self.retried: set[str] = set()
        self.runs: dict[str, list[int]] = {}
        self.given: dict[str, set[int]] = {}
        self._givers: set[tuple[HubSocket, str, int]] = set()
        self.kept_results: set[str] = set()
        self._ends_kept: dict[tuple[str, str], set[str]] = {}  # (distributor, task id) → statuses in its spool
        self.set_aside: dict[str, set[str]] = {}
        self.kept_assignments: set[str] = set()
        # Task id → attempt in its record that waits, and the one that asked.
        self._asking: dict[str, tuple[int, int]] = {}
        # Tasks that wait by a record on a disk alone: whoever moves them elsewhere cannot know.
        self._kept_asking: set[str] = set()
        self._asked: set[tuple[str, int]] = set()  # with the attempt that asked, ever stored
        self._answered: set[tuple[str, int]] = set()
        self._places: dict[str, str] = {}  # task id → distributor in whose section its record was stored last
        # Task id → what held before it was put into the inbox, to be moved elsewhere: its attempt, and its place.
        self._moving: dict[str, tuple[int, str]] = {}
        self.uncounted: set[str] = set()
        self.unordered: set[str] = set()
        self.forgotten: set[str] = set()
        self.anew: set[str] = set()
        self.having_result: set[str] = set()  # tasks with a result in the present state
        self._results_at: set[tuple[Section, str]] = set()
        self._results: dict[tuple[Section, str], dict[str, Any]] = {}  # as they were recorded last
        self._created: dict[str, str] = {}
        self._mutations: set[str] = set()
        self._fences: dict[Section, int] = {}
        self._without_lease: dict[str, bool] = {}  # mutation → the lease was lost a moment ago, with everything else
        self._reports: dict[bytes, list[Report]] = defaultdict(list)
        self._handled: set[tuple[int, str, str]] = set()
        self._shown: dict[int, tuple[str, int]] = {}

    # ------------------------------------------------------------ the store

    def granted(self, section: Section, fence: int) -> None:
        self._fences[section] = max(fence, self._fences.get(section, 0))

    def decided(self, write: SectionWrite, pid: int) -> None:
        """A process begins a write, believing that it may."""
        section = write.section if write.section.writer == "distributor" else Section(INBOX, "coordinator")
        # A lease that was lost with everything else may still be believed in by who is loading: it takes sections by
        # empty writes, and notices when it has read everything. Nor does a first write to a section show the loss.
        empty = not (write.put_tasks or write.drop_tasks or write.results or write.header or write.history)
        lost = self.lease_pid(section) is None and self.clock() - self._lost_at < LEASE_S
        if self.lease_pid(section) != pid and not (empty and lost):
            self._without_lease[write.mutation_id] = lost
        else:
            self._without_lease.pop(write.mutation_id, None)

    def applied(self, write: SectionWrite, version: int, found_fence: int) -> None:
        section, mutation = write.section, write.mutation_id
        where = f"{section.distributor_id or 'inbox'}/{section.writer}"
        if mutation in self._mutations:
            self._violate(f"a write to {where} was applied twice")
        self._mutations.add(mutation)
        highest = max(found_fence, self._fences.get(section, 0))
        if write.fence < highest:
            self._violate(f"a write to {where} was applied with fence {write.fence} after {highest}")
        self._fences[section] = max(write.fence, highest)
        lost = self._without_lease.get(mutation)
        if lost is not None and not (lost and version == 1):
            self._violate(f"a write to {where} was begun without the lease")
        if section.distributor_id == INBOX:
            self._move(write)
        self._stored(write)
        self._comes_from_disk(write)
        if section.writer == "distributor":
            self.kept_assignments.difference_update(write.put_tasks)
        self._places.update(dict.fromkeys(write.put_tasks, section.distributor_id))
        for task_id in (*write.put_tasks, *write.results):
            self.on_stored(task_id, section.writer, task_id in write.results)
        for task_id, raw in write.results.items():
            self._recorded(section, task_id, orjson.loads(raw), mutation)
        self._note("wrote", where, version, len(write.put_tasks), len(write.results))

    def _move(self, write: SectionWrite) -> None:
        """A move begins in the inbox. If its distributor comes back, the inbox alone lets go of the task, which is
        where it was, and goes on with the attempt that it had, or has got there meanwhile."""
        for task_id in write.drop_tasks:
            before = self._moving.pop(task_id, None)
            if before is not None and self._places.get(task_id) in (INBOX, before[1]) and task_id not in write.results:
                self.stored[task_id], self._places[task_id] = before[0], before[1]
            elif before is not None:  # what stands on its distributor's disk counts no more
                self.set_aside.setdefault(task_id, set()).update(self._ends_kept.get((before[1], task_id), ()))
        for task_id in write.put_tasks:
            place = self._places.get(task_id, INBOX)
            if place != INBOX:
                self._moving[task_id] = self.stored.get(task_id, 0), place

    def _stored(self, write: SectionWrite) -> None:
        for task_id, raw in write.put_tasks.items():
            record = orjson.loads(raw)
            attempt = (record.get("metadata") or {}).get("attempt") or 0
            self.stored[task_id] = max(attempt, self.stored.get(task_id, 0))
            before = self._moving.get(task_id)
            if before is not None and before[1] == write.section.distributor_id:
                self._moving[task_id] = max(attempt, before[0]), before[1]
            self._waits(task_id, attempt, record)
            if self._created.setdefault(task_id, record["created_at"]) != record["created_at"]:
                self._created[task_id] = record["created_at"]
                if task_id in self.forgotten:
                    self.begin_anew(task_id)

    def _waits(self, task_id: str, attempt: int, record: dict[str, Any]) -> None:
        metadata = record.get("metadata") or {}
        if record["status"] == WAITING:
            self._asked.add((task_id, metadata["asked"]))
        if attempt >= self.stored[task_id]:  # else it is with another distributor by now
            before = self._asking.pop(task_id, None)
            if record["status"] == WAITING:
                self._asking[task_id] = attempt, metadata["asked"]
            elif (
                before is not None
                and attempt > before[0]
                and (task_id, before[1]) not in self._answered
                and task_id not in self.uncounted | self._kept_asking
            ):
                self._violate(f"{task_id} waits no more, and what attempt {before[1]} asked was not answered")
        resumed = metadata.get("resumed")
        if resumed is not None and (task_id, resumed) not in self._answered:
            self._violate(f"{task_id} goes on after attempt {resumed} without an answer")

    def _comes_from_disk(self, write: SectionWrite) -> None:
        """That a task waits may be on a disk alone even after its record was written: the coordinator hands in what it
        put before its distributor began, and the store lets that give way only to what is in the store."""
        for task_id in self._kept_asking.intersection(write.put_tasks):
            attempt = (orjson.loads(write.put_tasks[task_id]).get("metadata") or {}).get("attempt") or 0
            if task_id not in self._asking or attempt >= self._asking[task_id][0]:
                self._kept_asking.discard(task_id)

    def answered(self, task_id: str, attempt: int) -> None:
        """The client answers what this attempt asked."""
        self._answered.add((task_id, attempt))

    def kept(self, write: SectionWrite) -> None:
        """It stands on a local disk, from where it must come into the store: as good as stored, if not recorded."""
        if write.section.writer == "coordinator":
            here = write.section.distributor_id
            self.kept_assignments.update(each for each in write.put_tasks if self._places.get(each) != here)
        else:
            self.kept_assignments.difference_update(write.put_tasks)
            for task_id, raw in write.results.items():
                end = self._ends_kept.setdefault((write.section.distributor_id, task_id), set())
                end.add(orjson.loads(raw)["status"])
        self._stored(write)
        self._kept_asking.update(each for each in write.put_tasks if each in self._asking)
        self.kept_results.update(write.results)
        self._note("kept", write.section.distributor_id or "inbox", len(write.put_tasks), len(write.results))

    def put_aside(self, write: SectionWrite) -> None:
        """This stands in the spool of a process that another one has replaced, which does not know it."""
        self.uncounted.update(write.put_tasks, write.results)
        for task_id, raw in write.results.items():
            self.set_aside.setdefault(task_id, set()).add(orjson.loads(raw)["status"])

    def _recorded(self, section: Section, task_id: str, record: dict[str, Any], mutation: str) -> None:
        attempt = (record.get("metadata") or {}).get("attempt") or 0
        doubtful = section.distributor_id in self.unordered
        if doubtful:
            self.uncounted.add(task_id)
        elsewhere = task_id in self.anew and (section, task_id) not in self._results_at
        same = self._lost_at > -math.inf and self._results.get((section, task_id)) == record
        self._results[section, task_id] = record
        if task_id in self.having_result and task_id not in self.retried and not (doubtful or elsewhere or same):
            self._violate(f"a second result of {task_id} was recorded")
        self.having_result.add(task_id)
        self._results_at.add((section, task_id))
        self.ended.setdefault(task_id, []).append(Ended(section, record["status"], attempt, mutation))
        if attempt >= self._asking.get(task_id, (math.inf, 0))[0]:
            del self._asking[task_id]  # it was cancelled while it waited; a retry of it runs anew
        result = record.get("result")
        ran = result.get("attempt") if isinstance(result, dict) else None
        if ran is not None and ran != attempt:
            self._violate(f"{task_id}: the result of attempt {ran} was recorded as that of attempt {attempt}")
        if ran is not None and task_id not in self.uncounted and ran < self.stored.get(task_id, 0):
            self._violate(f"{task_id}: attempt {ran} was recorded although attempt {self.stored[task_id]} was stored")

    def lost_state(self, results: set[str], fences: dict[Section, int]) -> None:
        """The store went back to a state in which these tasks have results, and these fences hold."""
        self.having_result = results
        self._results_at = set()
        self._lost_at = self.clock()
        self._fences = fences
        self._mutations = set()

    def forget(self, task_id: str) -> None:
        """Nobody remembers how often it was tried: its attempts are counted anew, and former ones may still run."""
        self.uncounted.add(task_id)
        self.stored[task_id] = 0

    def begin_anew(self, task_id: str) -> None:
        """The coordinator takes it for new; what it sent before may be with another distributor."""
        self.anew.add(task_id)
        self.uncounted.add(task_id)

    # ------------------------------------------------------------ the network

    def sent(self, connection: Connection, direction: str, frame: bytes) -> None:
        if direction == "up":
            if b'"task_results"' in frame:
                spoke = role_of(connection.spoke.identity)
                if spoke == "worker":
                    self._worker_reports(connection, orjson.loads(frame))
                elif spoke == "distributor":
                    self._must_be_recorded(orjson.loads(frame)["payload"])
            elif b'"task_waiting"' in frame:
                for item in orjson.loads(frame)["payload"]["tasks"]:
                    if (item["task_id"], item["attempt"]) not in self._asked:
                        self._violate(f"{item['task_id']} was said to wait before that was stored")
            return
        if b'"assign_tasks"' in frame:
            tasks: list[dict[str, Any]] = orjson.loads(frame)["payload"].get("tasks") or []
            if role_of(connection.hub.identity) == "coordinator":
                self._must_be_stored(tasks)
            else:
                self._attempts_must_be_stored(connection.hub, tasks)
        if self._reports.get(connection.route):
            self._acknowledges(connection, orjson.loads(frame)["metadata"])

    def _worker_reports(self, connection: Connection, message: dict[str, Any]) -> None:
        results = [(item["task_id"], item["attempt"]) for item in message["payload"]["results"]]
        metadata = message["metadata"]
        report = Report(metadata["session"], metadata["sequence_number"], results)
        self._reports[connection.route].append(report)

    def _acknowledges(self, connection: Connection, metadata: dict[str, Any]) -> None:
        ack, session = metadata.get("ack") or 0, metadata.get("session")
        waiting = self._reports[connection.route]
        for report in [each for each in waiting if each.session == session and each.number <= ack]:
            waiting.remove(report)
            for task_id, attempt in report.results:
                if (
                    not self._is_durable(task_id)
                    and (task_id, attempt) not in self._asked
                    and task_id not in self.uncounted | self.kept_assignments
                    and self.stored.get(task_id, 0) <= attempt
                    and not self._is_unknown_to(connection.hub, task_id, attempt)
                ):
                    self._violate(f"the result of attempt {attempt} of {task_id} was acknowledged, and is not durable")

    def _is_unknown_to(self, hub: HubSocket, task_id: str, attempt: int) -> bool:
        """Whether it was another process that gave this attempt, which has replaced this one: that is cut off from the
        store, goes on with its spool, and does not know."""
        return self.is_overtaken(hub.host) and (hub, task_id, attempt) not in self._givers

    def _is_durable(self, task_id: str) -> bool:
        """Whether its result is."""
        return task_id in self.ended or task_id in self.kept_results

    def _must_be_recorded(self, payload: dict[str, Any]) -> None:
        for record in payload.get("results") or ():
            if not self._is_durable(record["task_id"]):
                self._violate(f"the result of {record['task_id']} was sent before it was recorded")

    def _must_be_stored(self, tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            if task["task_id"] not in self.stored:
                self._violate(f"{task['task_id']} was assigned to a distributor before it was stored")

    def _attempts_must_be_stored(self, hub: HubSocket, tasks: list[dict[str, Any]]) -> None:
        for task in tasks:
            self._givers.add((hub, task["task_id"], task["attempt"]))
            self.given.setdefault(task["task_id"], set()).add(task["attempt"])
            counted = task["task_id"] not in self.uncounted
            if counted and task["attempt"] > self.stored.get(task["task_id"], -1) + 1:
                self._violate(f"attempt {task['attempt']} of {task['task_id']} was sent before it was stored")

    def accepted(self, task_id: str) -> None:
        """The client was told that this task is durable."""
        if task_id not in self.stored and not self._is_durable(task_id):
            self._violate(f"{task_id} was accepted before it was stored")

    # ------------------------------------------------------------ the processes

    def begun(self, task_id: str, attempt: int) -> None:
        """A worker begins a run."""
        runs = self.runs.setdefault(task_id, [])
        if attempt in runs and task_id not in self.uncounted:
            self._violate(f"attempt {attempt} of {task_id} was begun twice")
        runs.append(attempt)
        if attempt > self._asking.get(task_id, (attempt, 0))[0] and task_id not in self.uncounted:
            self._violate(f"attempt {attempt} of {task_id} was begun while it waits for an answer")

    def handled(self, pid: int, event: Any, effects: list[Any]) -> None:
        """A process has handled this event with these effects."""
        if isinstance(event, PeerUp):
            details = event.peer.details
            self._is_shown(pid, details.get("fence"), details.get("epoch"))
        elif isinstance(event, Received) and event.message.type not in (MessageType.HEARTBEAT, MessageType.ACK):
            message = event.message
            key = (pid, event.peer, message.metadata.request_id)
            if key in self._handled:
                self._violate(f"a message {message.action!r} was handled twice by {message.recipient}")
            self._handled.add(key)
            if message.action in FENCED_ACTIONS:
                payload = message.payload
                stale = self._is_shown(pid, payload.get("fence"), payload.get("epoch"))
                refused = any(isinstance(each, Send) and each.type is MessageType.ERROR for each in effects)
                if stale and not refused:
                    self._violate(f"{message.recipient} obeyed the lower fence {payload['fence']} of {event.peer}")

    def _is_shown(self, pid: int, fence: Any, epoch: Any) -> bool:
        """Whether the process was shown a higher fence of the same epoch before."""
        if not isinstance(fence, int) or not isinstance(epoch, str):
            return False
        known_epoch, known = self._shown.get(pid, ("", 0))
        if epoch and epoch != known_epoch:
            self._shown[pid] = (epoch, fence)
            return False
        if fence < known:
            return True
        self._shown[pid] = (known_epoch, fence)
        return False
