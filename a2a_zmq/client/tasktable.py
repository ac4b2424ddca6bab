"""The tasks that somebody waits for, and the moves of their phases. Pure; the first table of the client's core."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from a2a_zmq.client.entries import ACCEPTED, DONE, QUEUED, WATCHED, Asked, Entry
from a2a_zmq.clock import Now
from a2a_zmq.errors import FleetError, RequestRefused
from a2a_zmq.tasks import WAITING


class TaskTable:
    """Entries by task id; entries of further callers for the same task are the *twins* of the first.

    Attributes:
        accepted, finished: entries that made this move; whoever hands them out empties the lists. ``asked``: those
            whose task asked something, or goes on after that.
        unknown_results: results that nobody waited for (dropped).
    """

    def __init__(self) -> None:
        self.accepted: list[Entry] = []
        self.asked: list[Entry] = []
        self.finished: list[Entry] = []
        self.unknown_results = 0
        self._tasks: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._tasks

    def get(self, task_id: Any) -> Entry | None:
        return self._tasks.get(task_id) if type(task_id) is str else None

    def entries(self) -> list[Entry]:
        return list(self._tasks.values())

    def under_way(self) -> list[str]:
        """Ids that the coordinator has, or is asked about."""
        return [entry.task_id for entry in self._tasks.values() if entry.phase in (WATCHED, ACCEPTED)]

    def add(self, entry: Entry) -> bool:
        """True if it is to be sent: it is the task's first entry; a later one is served along with the first."""
        known = self._tasks.setdefault(entry.task_id, entry)
        if known is entry:
            return True
        if known.twins is None:
            known.twins = []
        known.twins.append(entry)
        entry.phase = known.phase
        if known.phase == ACCEPTED:
            self.accepted.append(entry)
        if known.asked is not None:
            entry.asked = known.asked
            self.asked.append(entry)
        return False

    def submit_watched(self, entry: Entry) -> Entry | None:
        """Somebody only asks about this task, and somebody else submits it now: it is submitted for both.

        Returns:
            the task's first entry, which is to be sent; None if there is none that is only asked about.
        """
        known = self._tasks.get(entry.task_id)
        if known is None or known.phase != WATCHED:
            return None
        known.body, known.check = entry.body, True
        for one in (known, *(known.twins or ())):
            one.phase = QUEUED
        return known

    # ------------------------------------------------------------ moves

    def accept(self, entry: Entry) -> None:
        """The coordinator has it."""
        for one in (entry, *(entry.twins or ())):
            if one.phase < ACCEPTED:
                one.phase = ACCEPTED
                one.body = b""
                self.accepted.append(one)

    def lives(self, entry: Entry, status: Any) -> None:
        """The coordinator has it, and says where it stands. (What it asks comes in a message of its own.)"""
        self.accept(entry)
        if entry.asked is not None and status != WAITING:
            self._asks(entry, None)

    def take_asked(self, items: Any) -> None:
        """Tasks that ask something, or (without questions) go on."""
        for item in items if isinstance(items, list) else ():
            entry = self.get(item.get("task_id")) if isinstance(item, dict) else None
            attempt, interrupts = (item.get("attempt"), item.get("interrupts")) if entry is not None else (None, None)
            if entry is None or not isinstance(attempt, int) or not isinstance(interrupts, list):
                continue
            self.accept(entry)
            if interrupts:
                self._asks(entry, Asked(attempt, interrupts))
            elif entry.asked is not None and entry.asked.attempt == attempt:
                self._asks(entry, None)

    def _asks(self, entry: Entry, asked: Asked | None) -> None:
        for one in (entry, *(entry.twins or ())):
            one.asked = asked
            self.asked.append(one)

    def take_results(self, records: Any) -> None:
        """Result records from the coordinator: the only thing that is done once for every task."""
        if not isinstance(records, list):
            return
        tasks = self._tasks
        finished = self.finished
        for record in records:
            task_id = record.get("task_id") if type(record) is dict else None
            entry = tasks.pop(task_id, None) if type(task_id) is str else None
            if entry is None:
                self.unknown_results += 1
                continue
            entry.phase = DONE
            entry.outcome = record
            entry.body = b""
            finished.append(entry)
            if entry.twins is not None:
                self._finish_twins(entry)

    def finish(self, entry: Entry, outcome: FleetError) -> None:
        """It ends without a record."""
        if entry.phase == DONE:
            return
        if self._tasks.get(entry.task_id) is entry:
            del self._tasks[entry.task_id]
        entry.phase = DONE
        entry.outcome = outcome
        entry.body = b""
        self.finished.append(entry)
        self._finish_twins(entry)

    def _finish_twins(self, entry: Entry) -> None:
        for twin in entry.twins or ():
            if twin.phase != DONE:
                twin.phase = DONE
                twin.outcome = entry.outcome
                self.finished.append(twin)
        entry.twins = None

    def expire(self, entry: Entry, now: Now, error: Callable[[RequestRefused | None], FleetError]) -> float:
        """End an unaccepted entry whose deadline has passed.

        Args:
            error: makes the error, from the last refusal that asked for patience.

        Returns:
            the next deadline of the entry or a twin of it (inf for none).
        """
        if entry.phase >= ACCEPTED:
            return math.inf
        earliest = math.inf
        for twin in entry.twins or ():
            if twin.phase < ACCEPTED and twin.deadline <= now.mono:
                twin.phase = DONE
                twin.outcome = error(entry.trouble)
                self.finished.append(twin)
            elif twin.phase < ACCEPTED:
                earliest = min(earliest, twin.deadline)
        if entry.deadline > now.mono:
            return min(earliest, entry.deadline)
        patient = [twin for twin in entry.twins or () if twin.phase < ACCEPTED]
        if not patient:
            self.finish(entry, error(entry.trouble))
            return math.inf
        # Only this caller gives up; the task goes on under the name of one that waits longer.
        ended = Entry(entry.task_id, b"", entry.sink, index=entry.index)
        ended.phase, ended.outcome = DONE, error(entry.trouble)
        self.finished.append(ended)
        entry.inherit(patient)
        return earliest

    def forget(self, sink: object) -> None:
        """Nobody reads this sink any more: what was not sent is not sent, and results are dropped. What another caller
        waits for as well goes on under that one's name. O(all entries)."""
        for entry in [entry for entry in self._tasks.values() if entry.sink is sink]:
            heirs = [twin for twin in entry.twins or () if twin.sink is not sink and twin.phase != DONE]
            if heirs:
                entry.inherit(heirs)
            else:
                entry.phase = DONE
                del self._tasks[entry.task_id]
