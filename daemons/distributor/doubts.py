"""Tasks that ended here and are live for the coordinator: after a loss of state their results may be gone, too."""

from __future__ import annotations

from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.tasks import Record
from daemons.distributor.journal import Journal
from daemons.distributor.memory import Memory, Parsed


class Doubts:
    """Which tasks ended here, and whose result has to be looked up all the same.

    What is doubted is told apart by when it was created: an id may be used for another task later.
    """

    def __init__(self, memory: Memory, journal: Journal) -> None:
        self._memory = memory
        self._journal = journal
        self._lost_before = False
        self._recorded: dict[str, Any] = {}  # looked up since the state was lost, and found to have a result

    def state_lost(self) -> None:
        """The store has just lost state: what was found before says nothing."""
        self._lost_before = True
        self._recorded.clear()

    def ended(self, record: Record) -> bool:
        """Did the task of this record end here, as far as we know?

        A coordinator that has lost its memory together with the state takes a task for a new one when its client
        submits it again: so after a loss one that ended here is not new before its result was looked for. Nor is one
        whose result is yet to be recorded. (One that an operator sent around again is.)
        """
        memory, task_id = self._memory, record["task_id"]
        if memory.recent.ended(record):
            return True
        known = (self._lost_before and task_id in memory.recent) or self._journal.holds_result(task_id)
        return known and "retried" not in record["metadata"]

    def doubtful(self, record: Record) -> bool:
        """It ended here: has its result to be looked up?"""
        task_id = record["task_id"]
        known = task_id in self._recorded and self._recorded[task_id] == record.get("created_at")
        return self._lost_before and not known and not self._journal.holds_result(task_id)

    def sift(self, records: dict[str, Parsed], now: Now) -> tuple[dict[str, Parsed], set[str]]:
        """Those of the live records whose results have to be looked up, and which of them ended here."""
        memory, found, ended = self._memory, dict[str, Parsed](), set[str]()
        for task_id, parsed in records.items():
            record = parsed[0]
            if task_id in memory.live or memory.refuses(record, now.mono):
                continue
            known = self.ended(record)
            if not known or self.doubtful(record):
                found[task_id] = parsed
                if known:
                    ended.add(task_id)
        return found, ended

    def settled(self, record: Record) -> None:
        """The store has a result of it."""
        if self._lost_before:
            self._recorded[record["task_id"]] = record.get("created_at")
