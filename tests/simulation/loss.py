"""What may be lost when the store loses its state: exactly what no running process remembers.

When the store is wiped or goes back to an older copy, a task whose record or result was lost lives in the memories of
the coordinator and of its distributor. A memory ends when its process dies, or another process of its name takes over.

- A task may be lost only if neither memory has it at that moment, or both end before it is stored again.
- A record in the spool of a process that was replaced is set aside: it brings nothing back. Nor does one on a disk
  that is gone for good with its host; and the attempts of tasks there are nowhere else.
- A result that stood only on such a disk may be missing, once the state was lost: the record that would have had the
  task run again is lost, and the coordinator, which was told of the end, has no reason to put it back.
- A client that asks may be told that it is unknown only if the coordinator's memory does not have it, or ends
  before its result is recorded: a report that is still on its way may end the task without a result in the store.
- A task that the coordinator's memory has lost is new to it when its client submits it again. What it had sent before
  may be with another distributor: then both run, and each distributor records a result. One distributor records one.
- So is one whose record is back in the inbox, if the coordinator's memory does not know where it was sent, or ends
  before it is stored there again.
- Its attempts are counted anew only if its distributor's memory does not have it, or ends; likewise if its record is
  still there, but back in the inbox, where its distributor does not look.
- Where another process takes over a lost state while the former owner lives on, cut off, the two cannot be ordered (the
  number of the fence was lost, too): when the former one comes back, results may be recorded for a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from a2a_zmq.interfaces import INBOX, Section
from a2a_zmq.state import keys
from a2a_zmq.state.memory_world import MemoryData
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.core import DistributorCore

if TYPE_CHECKING:
    from tests.simulation.agent import Agent
    from tests.simulation.fleet import Fleet


def remembers(agent: Agent, task_id: str) -> bool:
    """Whether this process could bring the task back."""
    core = agent.core
    if isinstance(core, CoordinatorCore):
        return task_id in core.desk.ledger.live or core.desk.ended(task_id) is not None
    if isinstance(core, DistributorCore):
        return task_id in core._memory.live or core._journal.holds_result(task_id)
    return False


def counts(agent: Agent, task_id: str) -> bool:
    """Whether this process knows how often it was tried. A result on its way to the store may have been recorded before
    the loss: when that is confirmed the process forgets the task, and rightly."""
    core = agent.core
    return isinstance(core, DistributorCore) and (task_id in core._memory.live or task_id in core._journal.results)


class Loss:
    """
    Attributes:
        excused: tasks that may be lost.
        untold: tasks that a client may be told are unknown.
        lost: whether the state was ever lost.
        ends_gone: tasks whose result was on a disk that is gone for good, after the state was lost.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        # Task id → processes that remember it at all, that can tell a client, that know its attempts, or its place.
        self._holders: dict[str, set[int | str]] = {}
        self._tellers: dict[str, set[int]] = {}
        self._counters: dict[str, set[int]] = {}
        self._placers: dict[str, set[int]] = {}
        self.excused: set[str] = set()
        self.untold = fleet.witness.forgotten
        self.lost = False
        self.ends_gone: set[str] = set()

    def state_lost(self, before: MemoryData) -> None:
        """The store has just gone back, or begun empty.

        Args:
            before: what was in it.
        """
        self.lost = True
        fleet, witness = self._fleet, self._fleet.witness
        data = fleet.redis.peek()
        sections = [Section(each, "distributor") for each in fleet.distributors]
        sections += [Section(each, "coordinator") for each in ("", *fleet.distributors)]
        fences = {each: fleet.redis.snapshot(data, each).fence for each in sections}
        had, has, inbox = contents(before), contents(data), keys.tasks(INBOX)
        results = [records for name, records in data.hashes.items() if name.startswith("results:")]
        witness.lost_state({task_id for records in results for task_id in records}, fences)
        for task_id in sorted(task_id for task_id, kept in had.items() if has.get(task_id) != kept):
            holders = [each for each in fleet.agents.values() if remembers(each, task_id)]
            self._counters[task_id] = {each.pid for each in holders if counts(each, task_id)}
            if task_id not in has or has[task_id].record != had[task_id].record:  # else it is only elsewhere
                disks = {each.place for each in fleet.agents.values() if task_id in each.disk.tasks()}
                self._holders[task_id] = {each.pid for each in holders} | disks
                self._tellers[task_id] = {each.pid for each in holders if isinstance(each.core, CoordinatorCore)}
            if task_id in has and has[task_id].place == inbox and had[task_id].place:
                self._placers[task_id] = {each.pid for each in holders if isinstance(each.core, CoordinatorCore)}
            self._look_at(task_id)

    def died(self, pid: int) -> None:
        """A process is gone with what it remembered."""
        self._gone(pid)

    def disk_gone(self, agent: Agent) -> None:
        """A host is gone for good, with what stood in the spool there."""
        if self.lost:
            self.ends_gone.update(task_id for write in agent.disk.writes() for task_id in write.results)
        self._gone(agent.place)

    def _gone(self, holder: int | str) -> None:
        remembered: dict[str, set[Any]]
        for remembered in (self._holders, self._tellers, self._counters, self._placers):
            for task_id in [each for each, holders in remembered.items() if holder in holders]:
                remembered[task_id].discard(holder)
                self._look_at(task_id)

    def replaced(self, agent: Agent, by: Agent | None) -> None:
        """Another process of its name has its lease now: what it remembers is nothing any more, and what is in its
        spool is set aside, if the other one has another disk."""
        self._gone(agent.pid)
        if by is None or by.disk.file is not agent.disk.file:
            self._gone(agent.place)
        if self.lost and agent.alive and agent.core is not None:
            self._fleet.witness.unordered.add(agent.name)

    def stored(self, task_id: str, writer: str, ended: bool) -> None:
        """It is in the store again; if its distributor wrote it, with its attempts."""
        self._holders.pop(task_id, None)
        self._placers.pop(task_id, None)
        if ended:
            self._tellers.pop(task_id, None)
        if writer == "distributor":
            self._counters.pop(task_id, None)

    def _look_at(self, task_id: str) -> None:
        if task_id in self._counters and not self._counters[task_id]:
            self._fleet.witness.forget(task_id)
        if task_id in self._placers and not self._placers[task_id]:
            self._fleet.witness.begin_anew(task_id)
        if task_id in self._tellers and not self._tellers[task_id]:
            self.untold.add(task_id)
        if task_id in self._holders and not self._holders[task_id]:
            self.excused.add(task_id)
            self._fleet.note("excused", task_id)


class Kept(NamedTuple):
    """What the store has of a task. A live record counts only in its section: nobody looks for it elsewhere."""

    record: bytes
    place: str


def contents(data: MemoryData) -> dict[str, Kept]:
    """Task id → its result, or else its live record."""
    hashes = sorted(data.hashes.items(), reverse=True)  # tasks before results
    return {
        task_id: Kept(record, name if name.startswith("tasks:") else "")
        for name, records in hashes
        for task_id, record in records.items()
    }
