"""Adaptive credit: how many unfinished tasks the distributor may leave with this worker. Pure.

Short tasks are fetched ahead, so that the way to the distributor and back is hidden; long ones hardly, so that they
go to whoever is free and little is lost with a worker that dies. The measure is time: work for ``horizon_s`` is held
ready.
"""

from __future__ import annotations

import math

# The rate follows a change of load within a few of these; shorter would follow single batches.
RATE_TAU_S = 0.1
# Completions are gathered for this long before they change the rate: bursts within it are one batch.
RATE_STEP_S = 0.002


class Credit:
    """Completion rate and the limit that follows from it."""

    __slots__ = ("_cap", "_finished", "_horizon_s", "_last", "_rate", "_slots")

    def __init__(self, slots: int, cap: int, horizon_s: float) -> None:
        self._slots = slots
        self._cap = max(cap, slots + 1)
        self._horizon_s = horizon_s
        self._rate = 0.0
        self._finished = 0
        self._last = -math.inf

    @property
    def rate(self) -> float:
        """Completions per second, lately."""
        return self._rate

    def finished(self) -> None:
        """One more run has ended."""
        self._finished += 1

    def advance(self, mono: float) -> None:
        """Let time pass."""
        if self._last == -math.inf:
            self._last = mono
            return
        passed = mono - self._last
        if passed < RATE_STEP_S:
            return
        share = 1.0 - math.exp(-passed / RATE_TAU_S)
        self._rate += (self._finished / passed - self._rate) * share
        self._finished = 0
        self._last = mono

    def limit(self, running: int, waiting: int, room: int) -> int:
        """Tasks that the distributor may leave here unfinished.

        Args:
            running: tasks that run now.
            waiting: tasks held that have not started: some executor is full.
            room: further async runs that could start at once.

        Returns:
            between slots + 1 and the cap.
        """
        # With nothing waiting, what runs has shown to need no slot of its own (it awaits something): grow
        # geometrically.
        more = 1 if waiting else max(self._slots - running, min(running, room))
        limit = max(running + more, self._slots + int(self._rate * self._horizon_s))
        return max(self._slots + 1, min(self._cap, limit))
