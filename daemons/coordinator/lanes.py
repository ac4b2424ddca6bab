"""Queues from which anything can be removed in O(1)."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemons.coordinator.records import Entry

# Removed entries stay in the deque until there are so many of them and they are the majority: a compaction then costs
# no more than the removals that it follows.
COMPACT_FROM = 64


class Lane:
    """First in, first out. An entry is in at most one lane, which ``entry.lane`` names; a stale place in the deque is
    skipped.
    """

    __slots__ = ("_entries", "size")

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self.size = 0

    def push(self, entry: Entry) -> None:
        entry.lane = self
        self._entries.append(entry)
        self.size += 1

    def push_front(self, entry: Entry) -> None:
        entry.lane = self
        self._entries.appendleft(entry)
        self.size += 1

    def discard(self, entry: Entry) -> None:
        """Remove an entry that is in this lane."""
        entry.lane = None
        self.size -= 1
        entries = self._entries
        if len(entries) > COMPACT_FROM and len(entries) > 2 * self.size:
            self._entries = deque([each for each in entries if each.lane is self])

    def pop(self) -> Entry | None:
        entries = self._entries
        while entries:
            entry = entries.popleft()
            if entry.lane is self:
                entry.lane = None
                self.size -= 1
                return entry
        return None

    def first(self) -> Entry | None:
        """The oldest entry, left in place."""
        entries = self._entries
        while entries:
            if entries[0].lane is self:
                return entries[0]
            entries.popleft()
        return None

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self._entries if entry.lane is self)


class SharedLane:
    """A lane for each owner of tasks, served in turn: whoever waits with few tasks does not wait behind a flood."""

    __slots__ = ("_lanes", "_turns")

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._turns: deque[str] = deque()  # owners with a lane, the next one first

    def _lane(self, owner: str) -> Lane:
        lane = self._lanes.get(owner)
        if lane is None:
            lane = self._lanes[owner] = Lane()
            self._turns.append(owner)
        return lane

    def push(self, entry: Entry) -> None:
        self._lane(entry.owner).push(entry)

    def push_front(self, entry: Entry) -> None:
        """Before all others of its owner."""
        self._lane(entry.owner).push_front(entry)

    def pop(self) -> Entry | None:
        turns = self._turns
        while turns:
            owner = turns[0]
            entry = self._lanes[owner].pop()
            if entry is not None:
                if len(turns) > 1:
                    turns.rotate(-1)
                return entry
            del self._lanes[owner]
            turns.popleft()
        return None


class PriorityLanes:
    """A lane for each priority that occurs; higher ones are served first."""

    __slots__ = ("_lanes", "_order", "size")

    def __init__(self) -> None:
        self._lanes: dict[int, SharedLane] = {}
        self._order: list[int] = []  # negated priorities, so that the highest is first
        self.size = 0

    def _lane(self, priority: int) -> SharedLane:
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = SharedLane()
            insort(self._order, -priority)
        return lane

    def push(self, entry: Entry) -> None:
        self._lane(entry.need.priority).push(entry)
        self.size += 1

    def push_front(self, entry: Entry) -> None:
        self._lane(entry.need.priority).push_front(entry)
        self.size += 1

    def discard(self, entry: Entry) -> None:
        lane = entry.lane
        if lane is not None:
            lane.discard(entry)
            self.size -= 1

    def pop(self) -> Entry | None:
        while self._order:
            priority = -self._order[0]
            entry = self._lanes[priority].pop()
            if entry is not None:
                self.size -= 1
                return entry
            del self._lanes[priority]
            del self._order[0]
        return None
