"""Deadlines of many keys: arm, re-arm, and take what is due, each in O(log n)."""

from __future__ import annotations

import heapq
import math

Key = tuple[str, str]  # (kind, agent id)


class Timers:
    """One deadline a key. Re-arming leaves the old heap entry behind; it is skipped when it comes up."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, Key]] = []
        self._at: dict[Key, float] = {}

    def arm(self, key: Key, at: float) -> None:
        """Set the key's deadline, whatever it was."""
        if self._at.get(key) != at:
            self._at[key] = at
            heapq.heappush(self._heap, (at, key))

    def arm_sooner(self, key: Key, at: float) -> None:
        """Set the key's deadline unless it has an earlier one."""
        if at < self._at.get(key, math.inf):
            self.arm(key, at)

    def cancel(self, key: Key) -> None:
        self._at.pop(key, None)

    def pop_due(self, mono: float) -> Key | None:
        """A key whose deadline has come (it is disarmed), or None."""
        while self._heap and self._heap[0][0] <= mono:
            at, key = heapq.heappop(self._heap)
            if self._at.get(key) == at:
                del self._at[key]
                return key
        return None

    def next(self) -> float:
        """The earliest deadline, inf if there is none."""
        while self._heap:
            at, key = self._heap[0]
            if self._at.get(key) == at:
                return at
            heapq.heappop(self._heap)
        return math.inf

    def __len__(self) -> int:
        return len(self._at)
