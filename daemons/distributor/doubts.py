"""Tasks that ended here and are live for the coordinator, after a loss of state: their results may be gone, too.

Each is looked up. What has no result runs again; of the rest the coordinator is told once more.
"""

from __future__ import annotations

from typing import Any

from a2a_zmq.tasks import Record
from daemons.distributor import lookups
from daemons.distributor.journal import Journal
from daemons.distributor.memory import Memory

# Tag of our queries.
RESULTS = "results"


class Doubts:
    """What is doubted is told apart by when it was created: an id may be used for another task later."""

    def __init__(self, memory: Memory, journal: Journal) -> None:
        self._memory = memory
        self._journal = journal
        self._lost_before = False
        self._doubted: dict[str, Any] = {}  # task id → when it was created
        self._asked: dict[str, Any] = {}  # is looked up now; whoever is doubted meanwhile waits for the next look
        self._looking = False
        self._recorded: dict[str, Any] = {}  # doubted since the state was lost, and found to have a result

    def state_lost(self) -> None:
        """The store has just lost state: what is read now may still be of the former one."""
        self._lost_before = True
        self._recorded.clear()
        self._ask_again()

    def __bool__(self) -> bool:
        return bool(self._doubted)

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

    def add(self, record: Record) -> bool:
        """It ended here, and is live for the coordinator. Returns whether it has to be looked up."""
        task_id, created = record["task_id"], record.get("created_at")
        known = task_id in self._recorded and self._recorded[task_id] == created
        if not self._lost_before or known or self._journal.holds_result(task_id):
            return False
        self._doubted[task_id] = created
        return True

    def look_up(self) -> None:
        """Ask for results. One look at a time: its answer says nothing of what is doubted meanwhile."""
        if self._looking:
            return
        self._looking = True
        self._asked, self._doubted = self._doubted, {}
        lookups.ask(self._memory, RESULTS, self._asked)

    def _ask_again(self) -> None:
        self._doubted = {**self._asked, **self._doubted}
        self._asked = {}

    def looked_up(self, found: Any, error: str | None) -> bool:
        """The answer; False if it was none, and the look is to be repeated a little later."""
        memory = self._memory
        self._looking = False
        if error is not None or not isinstance(found, dict):
            self._ask_again()
            return False
        asked, self._asked = self._asked, {}
        for task_id in (each for each in asked if each in found):
            self._recorded[task_id] = asked[task_id]
            lookups.tell(memory, found[task_id])
        for task_id in asked.keys() - found.keys():
            if not self._journal.holds_result(task_id):
                memory.recent.forget(task_id)
        return True
