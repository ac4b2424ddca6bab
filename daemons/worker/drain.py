"""Leaving in order: no new work, unstarted work back, running work to its end or the deadline, then exit. Pure."""

from __future__ import annotations

import math


class Drain:
    """Where a worker is on its way out.

    Attributes:
        reason: why it leaves, "" while it stays.
        deadline: monotonic time at which running work is stopped.
        stopped: running work was told to stop.
        exited: the Exit effect was given.
    """

    __slots__ = ("_look_again_at", "_looked_late", "deadline", "exited", "reason", "stopped")

    def __init__(self) -> None:
        self.reason = ""
        self.deadline = math.inf
        self.stopped = False
        self.exited = False
        self._look_again_at = math.inf
        self._looked_late = False

    def begin(self, reason: str, deadline: float) -> bool:
        """Start, or bring the deadline forward; True the first time."""
        if not self.exited:
            self.deadline = min(self.deadline, deadline)
        if self.reason:
            return False
        self.reason = reason
        return True

    def must_stop_runs(self, mono: float) -> bool:
        """True once: the deadline has passed."""
        if self.stopped or mono < self.deadline:
            return False
        self.stopped = True
        return True

    def may_exit(self, mono: float, *, runs: int, unsent: int, just_sent: bool) -> bool:
        """True once, when nothing is left to do, or to wait for.

        Args:
            runs: runs that have not ended.
            unsent: reports that no outbox has taken.
            just_sent: reports were given to the outbox a moment ago. What it refuses comes back before the next
                settle, so that is when to look again.
        """
        self._look_again_at = math.inf
        if self.exited or runs:
            return False
        late = mono >= self.deadline
        if just_sent and not self._looked_late:
            self._look_again_at = mono
            self._looked_late = late
            return False
        if unsent and not late:
            return False
        self.exited = True
        return True

    def next_deadline(self, runs: int) -> float:
        if not self.reason:
            return math.inf
        if self.exited:
            return self.deadline
        if self.stopped and runs:
            return math.inf  # their executors end them
        return min(self.deadline, self._look_again_at)
