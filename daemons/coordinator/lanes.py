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


class PriorityLanes:
    """A lane for each priority that occurs; higher ones are served first."""

    __slots__ = ("_lanes", "_order", "size")

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}
        self._order: list[int] = []  # negated priorities, so that the highest is first
        self.size = 0

    def _lane(self, priority: int) -> Lane:
        lane = self._lanes.get(priority)
        if lane is None:
            lane = self._lanes[priority] = Lane()
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
