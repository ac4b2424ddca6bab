"""Taking over: what a new owner of the section does with live records, and with workers that come back.

A task that was dispatched by an earlier owner may still be running. So live records are first *restored*: for a short
grace, workers come back with their inventory and what they hold is adopted. The rest is queued again with a fresh
attempt number, two above the recorded one: the earlier owner may have sent the next one without having recorded it.
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Loaded, Section
from a2a_zmq.tasks import IN_PROGRESS, Record
from daemons.distributor import lookups
from daemons.distributor.consulting import waits_s
from daemons.distributor.doubts import Doubts
from daemons.distributor.journal import Journal
from daemons.distributor.memory import (
    QUEUED,
    RESTORED,
    RUNNING,
    STORING,
    WAITING,
    LiveTask,
    Memory,
    Parsed,
    as_pairs,
    names_in,
    parse_all,
)
from daemons.distributor.outcomes import Outcomes
from daemons.distributor.pauses import forgotten, missed
from daemons.distributor.workers import Worker
from daemons.runtime.contract import Log, OwnershipGained, Query

# Tags of our queries.
RESYNC = "resync"
FOUND = "found"


class Recovery:
    """Ownership, restored tasks, inventories, and records that we were not told of."""

    def __init__(self, memory: Memory, journal: Journal, outcomes: Outcomes) -> None:
        self._memory = memory
        self._journal = journal
        self._outcomes = outcomes
        self._section = Section(memory.agent_id, "distributor")
        self._grace_until = math.inf
        self._began_at = 0.0
        self._adopted = 0
        self._resync_at = math.inf
        self._resyncing = False
        self._resync_again = False
        self._found: dict[str, Parsed] = {}  # records, new to us, whose results are looked up
        self._stored: AbstractSet[str] = frozenset()  # those of them that are live in the store
        self._doubted: set[str] = set()  # those of them that ended here, and may have lost their results
        self._read_as = 0  # our fence when we began to read them
        self._late: dict[str, Parsed] = {}  # told of by the coordinator, but older than what we read first
        self._seen_version = 0
        self._doubts = Doubts(memory, journal)
        self._verify_until = -math.inf
        self._claims: dict[str, list[tuple[Worker, int]]] = {}  # runs of tasks that we do not know (yet)
        self.assigned_unowned = False
        self.looking = False  # for the tasks of results whose tasks we do not know

    # ------------------------------------------------------------ ownership

    def gained(self, event: OwnershipGained, now: Now) -> None:
        """We own the section: bring memory and store together, then wait for workers that may hold more."""
        memory, journal = self._memory, self._journal
        if memory.ever_owner and event.fence != memory.fence + 1:  # somebody else had it meanwhile
            self._verify_until = now.mono + memory.config.adoption_grace_s
        loaded = event.loaded.get(self._section) or Loaded(0, 0, "", {}, {})
        memory.owner = memory.ever_owner = True
        memory.holder = ""
        read = event.loaded.get(Section(memory.agent_id, "coordinator"))
        memory.read_version = read.version if read is not None else 0
        memory.fence, memory.epoch, memory.version = event.fence, event.epoch, loaded.version
        journal.ground()
        journal.note_spooled(loaded.ended)
        if event.state_lost:
            self._doubts.state_lost()
        records = parse_all(loaded.tasks)
        dropped = self._merge(records, now, state_lost=event.state_lost)
        if not event.state_lost:
            dropped += journal.keep_results_of({task_id: attempt for task_id, (_, _, attempt) in records.items()})
        for task_id, (record, metadata, attempt) in records.items():
            known = task_id in memory.live or journal.holds_result(task_id)
            # In a store that lost state there may be tasks again that had ended.
            if known or (memory.refuses(record, now.mono) and not event.state_lost):
                continue
            if self._outcomes.pauses.take((record, metadata, attempt)) is None:
                task = LiveTask(record, metadata, attempt, attempt, RESTORED)
                memory.live[task_id] = memory.restored[task_id] = task
        if self.assigned_unowned:  # what came while we read may be of a record that we did not read yet
            self.assigned_unowned = False
            self.resync()
        self._outcomes.pauses.tell(journal.stored_waiting())
        fields = {"fence": event.fence, "live": len(memory.live), "restored": len(memory.restored), "dropped": dropped}
        memory.out.append(Log("info", "ownership_gained", fields))
        journal.note(now, "", "ownership_gained", fields)
        self._begin_grace(loaded, now)

    def _merge(self, records: dict[str, Parsed], now: Now, *, state_lost: bool) -> int:
        """Compare what we remember with what is stored; returns how many tasks were forgotten.

        Where the store lost state, our memory is the better one: what is absent or behind there is written again.
        """
        memory = self._memory
        dropped = 0
        for task in list(memory.live.values()):
            stored = records.get(task.task_id)
            if state_lost and (stored is None or stored[2] < task.recorded or forgotten(task, stored)):
                self._journal.put(task)
                continue
            # An attempt that we have not stored yet is ours only if nobody has stored one of the same number: another
            # owner may have sent it.
            newest = task.attempt - 1 if task.phase is STORING and task.recorded < task.attempt else task.attempt
            behind = stored is None or stored[2] > newest or missed(task, stored)
            if stored is not None and not behind and task.phase is not RESTORED:
                task.recorded = stored[2]
                task.shown = stored[0].get("status") == IN_PROGRESS
                continue
            # Finished by somebody, or brought further by another owner: then it is restored from its record.
            self._outcomes.drop(task, now)
            dropped += 1
        return dropped

    def _begin_grace(self, loaded: Loaded, now: Now) -> None:
        memory, config = self._memory, self._memory.config
        self._began_at = now.mono
        self._adopted = 0
        memory.awaited = names_in(loaded.header.get("assigned_workers", ""))
        self._grace_until = now.mono + (config.adoption_grace_s if memory.awaited else 0.0)
        for worker in memory.workers.values():
            self.worker_back(worker, now)

    def lost(self, reason: str, now: Now) -> None:
        memory = self._memory
        memory.owner = False
        self._grace_until = math.inf
        memory.out.append(Log("warning", "ownership_lost", {"reason": reason, "live": len(memory.live)}))
        self._journal.note(now, "", "ownership_lost", {"reason": reason})

    def tick(self, now: Now) -> None:
        """End the grace, and repeat a resync that failed."""
        if now.mono >= self._grace_until:
            self._end_grace(now)
        memory = self._memory
        if memory.strayed and memory.owner and not memory.spooling:
            memory.strayed = False
            self.looking = True
            self.resync()
        if now.mono >= self._resync_at and memory.owner:
            self._resync_at = math.inf
            self.resync()

    def next_deadline(self) -> float:
        return min(self._grace_until, self._resync_at)

    def _end_grace(self, now: Now) -> None:
        memory = self._memory
        self._grace_until = math.inf
        waiting = memory.restored
        rest = sorted(waiting.values(), key=lambda task: (-task.priority, str(task.record.get("created_at"))))
        waiting.clear()
        for task in rest:
            self._queue_again(task, now)
        if memory.awaited:
            memory.awaited = set()
            self._journal.show_workers(now)
        seconds = now.mono - self._began_at
        memory.meter.observe("reconciliation_seconds", seconds)
        if rest or self._adopted:
            fields = {"adopted": self._adopted, "queued_again": len(rest), "seconds": round(seconds, 3)}
            memory.out.append(Log("info", "recovered", fields))
            self._journal.note(now, "", "recovered", fields)

    def _queue_again(self, task: LiveTask, now: Now) -> None:
        self._outcomes.out_of_sight(task, now)
        wait_s = waits_s(task, now.wall)
        self._outcomes.store_next(task, task.recorded + 2, not_before=now.mono + wait_s if wait_s else 0.0)
        self._journal.backlog.append(task)

    # ------------------------------------------------------------ workers

    def inventory(self, worker: Worker, now: Now) -> set[str]:
        """Compare what a worker says to hold with what we know: adopt, keep, or have it cancelled.

        Returns:
            ids that it holds and that are current there.
        """
        live = self._memory.live
        entries, worker.inventory = worker.inventory, None
        current: set[str] = set()
        worker.ghosts.clear()
        for task_id, attempt in as_pairs(entries):
            task = live.get(task_id)
            if task is None and not self._journal.holds_result(task_id):
                # An earlier owner may have been told of it after we read: we look before we have it ended.
                self._claims.setdefault(task_id, []).append((worker, attempt))
                worker.ghosts[task_id, attempt] = now.mono
            elif task is not None and self._is_current(worker, task, attempt, now):
                current.add(task_id)
            else:
                worker.disown(task_id, attempt, now.mono)
        if self._claims:
            self.resync()
        return current

    def adopted(self, task: LiveTask, now: Now) -> bool:
        """Whether a worker showed a run of this task, which we are told of only now, and goes on with it."""
        claims = self._claims.pop(task.task_id, None) if self._claims else None
        if claims is None:
            return False
        task.phase = RESTORED
        if self._claimed(task, claims, now):
            self._adopted += 1
            return True
        for _, attempt in claims:
            self._memory.stranger(task.task_id, attempt)
        return False

    def _claimed(self, task: LiveTask, claims: list[tuple[Worker, int]], now: Now) -> bool:
        """Whether a worker that showed a run of this task, before we knew it, has its current attempt."""
        held = False
        for worker, attempt in claims:
            if self._memory.workers.get(worker.agent_id) is worker and self._is_current(worker, task, attempt, now):
                worker.ghosts.pop((task.task_id, attempt), None)
                held = True
            else:
                worker.disown(task.task_id, attempt, now.mono)
        return held

    def _is_current(self, worker: Worker, task: LiveTask, attempt: int, now: Now) -> bool:
        if task.phase is RUNNING and task.attempt == attempt:
            return task.worker == worker.agent_id
        if task.phase is RESTORED and max(task.recorded, task.floor + 1) <= attempt <= task.recorded + 1:
            self._outcomes.hold(task, worker, attempt, now)
            self._adopted += 1
            return True
        if task.phase is WAITING and attempt == task.recorded + 1:
            self._outcomes.hold(task, worker, attempt, now)  # it was answered; the store went back to before that
            self._adopted += 1
            return True
        if task.phase is QUEUED and task.attempt == attempt:
            self._outcomes.hold(task, worker, attempt, now)  # sent by the earlier owner: as good as sent by us
            return True
        if task.phase is RUNNING and attempt > task.attempt and attempt == task.recorded + 1:
            # Two workers hold a restored task: the later attempt is the one that the earlier owner meant.
            former = self._memory.workers.get(task.worker)
            if former is not None:
                former.disown(task.task_id, task.attempt, now.mono)
            self._outcomes.hold(task, worker, attempt, now)
            return True
        return False

    def worker_back(self, worker: Worker, now: Now) -> None:
        """A worker's session is up: its inventory tells what it still has. Looked at only while we own the section:
        before, we do not know all tasks, and another owner may have sent it some."""
        if not self._memory.owner:
            return
        if worker.inventory is not None:
            current = self.inventory(worker, now)
            if worker.restarted:
                gone = [task for task_id, task in worker.held.items() if task_id not in current]
                self._outcomes.losses.lost(worker, gone, now, "restarted")
            worker.restarted = False
        self._back(worker.agent_id, now)

    def _back(self, worker_id: str, now: Now) -> None:
        awaited = self._memory.awaited
        if worker_id not in awaited:
            return
        awaited.discard(worker_id)
        if not awaited:
            self._grace_until = min(self._grace_until, now.mono + self._memory.config.adoption_settle_s)

    # ------------------------------------------------------------ records that we were not told of

    def coordinator_gone(self, now: Now) -> None:
        """What the coordinator had made durable and not sent yet is ours to run all the same: look for it soon."""
        self._resync_at = min(self._resync_at, now.mono + self._memory.config.resync_retry_s)

    def hinted(self, writer: str, version: int) -> None:
        """The coordinator's section moved. While its session is up it tells us itself; without one we read."""
        if writer != "coordinator" or version <= self._seen_version:
            return
        self._seen_version = version
        if self._memory.owner and not self._memory.coordinator_up:
            self.resync()

    @property
    def reading(self) -> bool:
        """Whether there may be records of ours that we do not know yet, but will soon."""
        return not self._memory.owner or self._resyncing or self._resync_at != math.inf

    def resync(self) -> None:
        """Read the live records again; one read at a time, and another one if it is asked for meanwhile."""
        if self._resyncing:
            self._resync_again = True
            return
        self._resyncing = True
        self._read_as = self._memory.fence
        self._memory.out.append(Query(RESYNC, "load", {"section": self._section}))

    def verifies(self, now: Now) -> bool:
        """Whether assignments may be old: while another owner had the section they waited on the link to us, and their
        tasks may have ended there. What is in the store counts then."""
        return now.mono < self._verify_until

    def ended(self, record: Record) -> bool:
        """Did the task of this record end here, as far as we know? If that is doubtful, its record is read once more,
        and its result looked up."""
        if not self._doubts.ended(record):
            return False
        if self._doubts.doubtful(record):
            self._resync_at = 0.0
        return True

    def assigned_late(self, task_id: str, parsed: Parsed) -> None:
        """The coordinator stored this record before we read all live ones, and it was not among them: its task has
        ended, then the coordinator is told once more; or it is somebody else's by now. (If the store has lost it, it
        comes again.) Or the task ended here in an outage, and the coordinator may not know."""
        self._late[task_id] = parsed
        self.resync()

    def resynced(self, loaded: Any, error: str | None, now: Now) -> None:
        """The store has live records that we do not know: did their tasks end before we came? (A write may reach the
        store seconds late. The distributor may have been told directly by then, have ended it, and have died.)"""
        memory = self._memory
        if error is not None or not isinstance(loaded, Loaded) or memory.fence != self._read_as:
            self._read_again(now)
            return
        found, self._doubted = self._doubts.sift(parse_all(loaded.tasks), now)
        self._late = {task_id: parsed for task_id, parsed in self._late.items() if task_id not in memory.live}
        self._found, self._stored = {**self._late, **found}, found.keys()
        if self._found and memory.owner:
            lookups.ask(memory, FOUND, self._found)
        else:
            self._take_in({}, now)

    def _read_again(self, now: Now) -> None:
        self._resyncing = self.looking = False
        self._resync_at = now.mono + self._memory.config.resync_retry_s

    def looked_up(self, results: Any, error: str | None, now: Now) -> None:
        """Those that are live and have no result are taken in."""
        if error is not None or not isinstance(results, dict) or self._memory.fence != self._read_as:
            self._read_again(now)
            return
        self._late = {task_id: parsed for task_id, parsed in self._late.items() if task_id not in self._found}
        alive = lookups.unended(self._memory, self._found, results)
        for task_id, (record, _, _) in self._found.items():
            if task_id not in alive:
                self._doubts.settled(record)
            elif task_id in self._doubted and not self._journal.holds_result(task_id):
                self._memory.recent.forget(task_id)  # its result is lost: it runs again
        self._take_in({task_id: parsed for task_id, parsed in alive.items() if task_id in self._stored}, now)

    def _take_in(self, found: dict[str, Parsed], now: Now) -> None:
        memory = self._memory
        self._resyncing = False
        claims: dict[str, list[tuple[Worker, int]]] = {}
        if self._resync_again:
            self._resync_again = False
            self.resync()
        elif memory.owner:
            claims, self._claims = self._claims, {}
        self.looking = self.looking and self._resyncing
        if not memory.owner:
            return
        taken = 0
        for task_id, (record, metadata, attempt) in found.items():
            if task_id in memory.live or memory.refuses(record, now.mono) or self.ended(record):
                continue  # told of it meanwhile
            waits = self._outcomes.pauses.take((record, metadata, attempt))
            task = waits or LiveTask(record, metadata, attempt + 1, attempt, RESTORED)
            memory.live[task_id] = task
            if self._claimed(task, claims.pop(task_id, []), now):
                self._adopted += 1
            elif waits is not None:
                self._outcomes.pauses.tell([task])
            elif not (memory.strays and self._outcomes.reported_before(task, now)):
                # The coordinator may have told an owner before us of it, which was cut off from the store and does not
                # know that we took over: that one sends the first attempt, we send another.
                self._queue_again(task, now)
            taken += 1
        for task_id, runs in claims.items():
            known = memory.live.get(task_id)
            for worker, attempt in runs:
                if known is not None:
                    self._claimed(known, [(worker, attempt)], now)
                else:
                    memory.stranger(task_id, attempt)  # its record may be with a coordinator that has no store now
                    worker.disown(task_id, attempt, now.mono)
        if taken:
            memory.accepted += taken
            self._journal.note(now, "", "resynced", {"taken": taken})
