"""What may be lost when the store loses its state: exactly the tasks that no running process remembers.

When the store is wiped or goes back to an older copy, a task that is not in it any more lives in the memories of the
coordinator and of its distributor. It is excused, and only then, if none of them remembers it at that moment, or if
those that do die (or stop as no longer being the owner) before it is stored again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from a2a_zmq.interfaces import Section
from a2a_zmq.state.section import Snapshot
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.core import DistributorCore

if TYPE_CHECKING:
    from tests.simulation.fleet import Agent, Fleet


def remembers(agent: Agent, task_id: str) -> bool:
    """Whether this process could bring the task back."""
    core = agent.core
    if isinstance(core, CoordinatorCore):
        return task_id in core.desk.ledger.live or core.desk.ended(task_id) is not None
    if isinstance(core, DistributorCore):
        return task_id in core._memory.live or core._journal.holds_result(task_id)
    return False


class Loss:
    """
    Attributes:
        excused: tasks that may be lost.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._holders: dict[str, set[int]] = {}
        self.excused: set[str] = set()

    def state_lost(self) -> None:
        """The store has just gone back, or begun empty."""
        fleet, witness = self._fleet, self._fleet.witness
        data = fleet.redis.peek()
        results = {task_id for key, bucket in data.hashes.items() if key.startswith("results:") for task_id in bucket}
        sections = [Section(each, "distributor") for each in fleet.distributors]
        sections += [Section(each, "coordinator") for each in ("", *fleet.distributors)]
        snapshots: dict[Section, Snapshot] = {each: fleet.redis.snapshot(data, each) for each in sections}
        witness.lost_state(results, {section: found.fence for section, found in snapshots.items()})
        there = results.union(fleet.live())
        for task_id in witness.stored.keys() - there - fleet.user.outcomes.keys():
            holders = {each.pid for each in fleet.agents.values() if remembers(each, task_id)}
            self._holders[task_id] = holders
            if not holders:
                self._excuse(task_id)

    def died(self, pid: int) -> None:
        """A process is gone with what it remembered."""
        if not self._holders:
            return
        there = set(self._fleet.live()) | self._fleet.witness.having_result
        for task_id in sorted(self._holders):
            holders = self._holders[task_id]
            if task_id in there:
                del self._holders[task_id]
            elif pid in holders:
                holders.discard(pid)
                if not holders:
                    self._excuse(task_id)

    def _excuse(self, task_id: str) -> None:
        self.excused.add(task_id)
        self._fleet.note("excused", task_id)
