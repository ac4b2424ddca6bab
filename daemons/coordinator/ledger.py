"""All unfinished tasks, and how many of them are where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from a2a_zmq.tasks import attempt_of
from daemons.coordinator.asking import Wait, wait_of
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.lanes import Lane
from daemons.coordinator.records import DONE, FRESH, HELD, MOVING, PLACED, QUEUED, SENT, Entry, Floor, Need, Needs

# Entry.batch of a task that was read from the store: durable, by no cut of ours.
LOADED = -1


class Ledger:
    """The one place where entries change state, so that the counts agree.

    Attributes:
        live: every unfinished task.
        fresh: accepted in this wake-up, to be placed in ``settle``.
        held: the inbox, one queue for each need; ``held_count`` entries in all.
        distributors: all that are known, up or not.
        owners, owner_bytes: unfinished tasks by client identity, and the bytes of their records.
        live_bytes: of all records.
        waits: of tasks that asked something, answered or not; ``waiting`` counts those that are not.
        floors: former lives of retried tasks; late copies of their old results do not count.
    """

    def __init__(self) -> None:
        self.live: dict[str, Entry] = {}
        self.fresh: list[Entry] = []
        self.held: dict[Need, Lane] = {}
        self.held_count = 0
        self.distributors: dict[str, Distributor] = {}
        self.owners: dict[str, int] = {}
        self.owner_bytes: dict[str, int] = {}
        self.live_bytes = 0
        self.needs = Needs()
        self.waits: dict[str, Wait] = {}
        self.waiting = 0
        self.floors: dict[str, Floor] = {}

    def clear(self) -> None:
        """Forget all tasks; what is known of the distributors stays."""
        self.live = {}
        self.fresh = []
        self.held = {}
        self.held_count = 0
        self.owners = {}
        self.owner_bytes = {}
        self.live_bytes = 0
        self.waits = {}
        self.waiting = 0
        self.floors = {}
        for distributor in self.distributors.values():
            distributor.forget_tasks()

    def distributor(self, agent_id: str) -> Distributor:
        found = self.distributors.get(agent_id)
        if found is None:
            found = self.distributors[agent_id] = Distributor(agent_id)
        return found

    # ------------------------------------------------------------ in

    def _add(self, entry: Entry) -> None:
        self.live[entry.task_id] = entry
        owner, size = entry.owner, len(entry.record)
        self.live_bytes += size
        self.owners[owner] = self.owners.get(owner, 0) + 1
        self.owner_bytes[owner] = self.owner_bytes.get(owner, 0) + size

    def accept(self, entry: Entry) -> None:
        """A new task, to be placed with the next ``settle``."""
        self._add(entry)
        self.fresh.append(entry)

    def adopt(self, entry: Entry, home: Distributor) -> None:
        """A task loaded from a distributor's section; it reads that too, so it counts as sent."""
        self._add(entry)
        entry.batch, entry.version = LOADED, 0
        entry.home = home
        entry.state = SENT
        home.live += 1
        home.sent += 1
        self._know_wait(entry)

    def adopt_held(self, entry: Entry) -> None:
        """A task loaded from the inbox."""
        self._add(entry)
        entry.batch = LOADED
        self.hold(entry)
        self._know_wait(entry)

    def adopt_moving(self, entry: Entry, record: bytes) -> bool:
        """A task loaded from a distributor's section that has this record in the inbox, too. Whether it was on its way
        there: only then the inbox has a later attempt."""
        if attempt_of(orjson.loads(record)) <= attempt_of(orjson.loads(entry.record)):
            return False
        self.move(entry, record)
        entry.batch = LOADED
        return True

    # ------------------------------------------------------------ moves

    def hold(self, entry: Entry) -> None:
        """Nobody can take it now: into the inbox."""
        lane = self.held.get(entry.need)
        if lane is None:
            lane = self.held[entry.need] = Lane()
        lane.push(entry)
        self.held_count += 1
        entry.state = HELD

    def take_held(self, need: Need, count: int) -> list[Entry]:
        """The oldest of those with this need, out of the inbox and back to FRESH."""
        lane = self.held[need]
        taken: list[Entry] = []
        while len(taken) < count:
            entry = lane.pop()
            if entry is None:
                break
            entry.state = FRESH
            taken.append(entry)
        self.held_count -= len(taken)
        if not lane.size:
            del self.held[need]
        return taken

    def place(self, entries: list[Entry], home: Distributor) -> None:
        """FRESH entries get their distributor; their write is staged by the caller."""
        for entry in entries:
            entry.home = home
            entry.state = PLACED
            entry.batch = entry.version = 0
            home.waiting += self._open(entry)
        home.live += len(entries)

    def queue(self, entry: Entry, *, front: bool = False) -> None:
        """Placed (or sent in vain): wait for the distributor's window."""
        home = entry.home
        assert home is not None
        if entry.state == SENT:
            home.sent -= 1
        entry.state = QUEUED
        if front:
            home.queue.push_front(entry)
        else:
            home.queue.push(entry)

    def sent_all(self, entries: list[Entry], home: Distributor) -> None:
        """PLACED or popped from the queue: the distributor is told of them now."""
        for entry in entries:
            entry.state = SENT
        home.sent += len(entries)

    def unsend(self, entry: Entry) -> None:
        """The store has lost it: back to PLACED; its write is staged again by the caller."""
        home = entry.home
        assert home is not None
        if entry.state == SENT:
            home.sent -= 1
        elif entry.state == QUEUED:
            home.queue.discard(entry)
        entry.state = PLACED
        entry.batch = entry.version = 0

    def move(self, entry: Entry, record: bytes) -> None:
        """Its distributor stays away: this record of it goes to the inbox, then the old one goes away there."""
        home = entry.home
        assert home is not None
        self.unsend(entry)
        entry.state = MOVING
        home.moving[entry.task_id] = entry
        self.rewrite(entry, record)

    def moved(self, entry: Entry) -> None:
        """Only the inbox has it now."""
        home = entry.home
        assert home is not None
        del home.moving[entry.task_id]
        home.live -= 1
        home.waiting -= self._open(entry)
        entry.home = None
        self.hold(entry)

    def leave(self, entry: Entry) -> None:
        """It stays with its distributor, which is back and has read it."""
        home = entry.home
        assert home is not None
        del home.moving[entry.task_id]
        entry.batch = LOADED
        self.sent_all([entry], home)

    def rewrite(self, entry: Entry, record: bytes) -> None:
        """Its record is another one from now on; its write is staged by the caller."""
        more = len(record) - len(entry.record)
        self.live_bytes += more
        self.owner_bytes[entry.owner] += more
        entry.record = record

    # ------------------------------------------------------------ waiting

    def wait(self, entry: Entry, attempt: int, questions: list[dict[str, Any]]) -> bool:
        """This attempt of it asked something; False if that is no news.

        After a loss of state attempts may be counted anew, so a lower number is no older one.
        """
        known = self.waits.get(entry.task_id)
        if known is not None and known.open and known.attempt == attempt:
            return False
        if known is None or not known.open:
            self._waits(entry, 1)
        self.waits[entry.task_id] = Wait(attempt, orjson.dumps(questions))
        return True

    def goes_on(self, entry: Entry, attempt: int) -> bool:
        """What this attempt of it asked is answered; False if that is no news."""
        known = self.waits.get(entry.task_id)
        if known is None or not known.open or known.attempt != attempt:
            return False
        known.open = False
        self._waits(entry, -1)
        return True

    def asks(self, task_id: str) -> int | None:
        """The attempt that asked what this task waits for; None if it does not wait."""
        wait = self.waits.get(task_id)
        return wait.attempt if wait is not None and wait.open else None

    def _open(self, entry: Entry) -> bool:
        return bool(self.waiting) and self.asks(entry.task_id) is not None

    def _know_wait(self, entry: Entry) -> None:
        """Of a task that was loaded."""
        wait = wait_of(entry.record)
        if wait is not None:
            self.waits[entry.task_id] = wait
            self._waits(entry, 1)

    def _waits(self, entry: Entry, more: int) -> None:
        self.waiting += more
        if entry.home is not None:
            entry.home.waiting += more

    def count_waiting(self) -> None:
        """Count again what waits at each distributor, for a task may have come to another one. O(waiting)."""
        for home in self.distributors.values():
            home.waiting = 0
        for task_id, wait in self.waits.items():
            home_of = self.live[task_id].home if wait.open else None
            if home_of is not None:
                home_of.waiting += 1

    # ------------------------------------------------------------ out

    def remove(self, entry: Entry) -> None:
        """The task is finished (or was never to be)."""
        del self.live[entry.task_id]
        self.live_bytes -= len(entry.record)
        left = self.owners[entry.owner] - 1
        if left:
            self.owners[entry.owner] = left
            self.owner_bytes[entry.owner] -= len(entry.record)
        else:
            del self.owners[entry.owner], self.owner_bytes[entry.owner]
        if self.waits and (wait := self.waits.pop(entry.task_id, None)) is not None and wait.open:
            self._waits(entry, -1)
        home = entry.home
        state = entry.state
        if home is not None:
            home.live -= 1
            if state == SENT:
                home.sent -= 1
            elif state == QUEUED:
                home.queue.discard(entry)
                entry.record = b""  # its place in the queue may outlive it
            elif state == MOVING:
                del home.moving[entry.task_id]
            if home.cancels:
                home.cancels.pop(entry.task_id, None)
        elif state == HELD:
            self._unhold(entry)
        if self.floors:
            self.floors.pop(entry.task_id, None)
        entry.state = DONE

    def _unhold(self, entry: Entry) -> None:
        lane = self.held[entry.need]
        lane.discard(entry)
        self.held_count -= 1
        if not lane.size:
            del self.held[entry.need]
        entry.record = b""  # its place in the queue may outlive it

    # ------------------------------------------------------------ looks

    def of(self, home: Distributor) -> Iterator[Entry]:
        """The unfinished tasks of one distributor. O(all): only for what follows a restart."""
        return (entry for entry in self.live.values() if entry.home is home)

    def audit(self) -> list[str]:
        """Invariants that do not hold, one line each; O(distributors + needs)."""
        problems = []
        placed = sum(each.live for each in self.distributors.values())
        if placed + self.held_count + sum(1 for each in self.fresh if each.state == FRESH) != len(self.live):
            problems.append(f"{len(self.live)} live, but {placed} placed and {self.held_count} held")
        if sum(self.owner_bytes.values()) != self.live_bytes:
            problems.append(f"{self.live_bytes} bytes, but {sum(self.owner_bytes.values())} owned")
        if sum(wait.open for wait in self.waits.values()) != self.waiting or not self.waits.keys() <= self.live.keys():
            problems.append(f"{self.waiting} are counted as waiting, of {len(self.waits)} that asked something")
        if sum(self.owners.values()) != len(self.live):
            problems.append(f"{len(self.live)} live, but {sum(self.owners.values())} owned")
        if sum(lane.size for lane in self.held.values()) != self.held_count:
            problems.append("the inbox's queues do not add up")
        problems.extend(
            f"{each.agent_id}: {each.sent} sent and {each.queue.size} queued of {each.live}"
            for each in self.distributors.values()
            if each.sent < 0 or each.sent + each.queue.size > each.live
        )
        return problems

    def deep_audit(self) -> list[str]:
        """The same counted one by one, O(tasks): for tests and for the repair after :meth:`audit` found something."""
        problems = self.audit()
        for home in self.distributors.values():
            entries = list(self.of(home))
            if len(entries) != home.live:
                problems.append(f"{home.agent_id}: counts {home.live}, has {len(entries)}")
            if sum(1 for each in entries if each.state == SENT) != home.sent:
                problems.append(f"{home.agent_id}: counts {home.sent} sent")
            if sum(1 for each in entries if each.state == QUEUED) != home.queue.size:
                problems.append(f"{home.agent_id}: counts {home.queue.size} queued")
        if sum(len(each.record) for each in self.live.values()) != self.live_bytes:
            problems.append("bytes do not add up")
        problems.extend(
            f"{entry.task_id}: state {entry.state} with home {entry.home}"
            for entry in self.live.values()
            if (entry.home is None) != (entry.state in (FRESH, HELD)) or entry.state == DONE
        )
        return problems

    def recount(self) -> None:
        """Set the counts from the entries, which are the truth. O(tasks)."""
        self.live_bytes = sum(len(each.record) for each in self.live.values())
        self.owners, self.owner_bytes = {}, {}
        for home in self.distributors.values():
            home.live = home.sent = 0
        for entry in self.live.values():
            self.owners[entry.owner] = self.owners.get(entry.owner, 0) + 1
            self.owner_bytes[entry.owner] = self.owner_bytes.get(entry.owner, 0) + len(entry.record)
            if entry.home is not None:
                entry.home.live += 1
                entry.home.sent += entry.state == SENT
        self.held_count = sum(lane.size for lane in self.held.values())
        self.waits = {task_id: wait for task_id, wait in self.waits.items() if task_id in self.live}
        self.waiting = sum(wait.open for wait in self.waits.values())
        self.count_waiting()
