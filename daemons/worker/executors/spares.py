"""When a pool has one child more than it needs: so that a run that follows a killed one begins at once.

Starting a child and importing what a handler needs takes from 60 ms to many seconds; a killed run is to go on within
milliseconds. So beside busy children one that is free is kept, which has imported the handlers. In a pool that is kept
warm there is one also while nothing runs: the killed run may have been another worker's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from daemons.worker.executors import fitting
from daemons.worker.executors.process_child import ChildProcess

# A spare is started when no child has been free for this long: short runs leave theirs to the next one, and the first
# of a pool needs the processor itself.
SPARE_AFTER_S: Final = 0.05
# A spare that could not start, or died without a run: pause before the next one.
SPARE_PAUSE_S: Final = 5.0


class Spares:
    """Decides only; the pool acts.

    Attributes:
        start_at: monotonic time at which one is to be started, inf for never.
    """

    def __init__(self, count: int) -> None:
        """
        Args:
            count: free children that are kept beside busy ones.
        """
        self.start_at = math.inf
        self._count = count
        self._not_before = 0.0
        self._owed = False
        self._warm = False  # one is kept also while nothing runs
        self._always: list[str] = []
        self._seen: dict[str, None] = {}  # handlers that this pool runs
        self._deadly: set[str] = set()  # those of which a child died as it imported them

    def keep_warm(self, references: Iterable[str]) -> None:
        """From now on keep one that has imported these handlers, also while nothing runs."""
        if self._count:
            self._warm = True
            self._always = list(references)
            self._seen |= dict.fromkeys(self._always)

    def ran(self, child: ChildProcess, reference: str) -> None:
        """This child has this handler now."""
        self._seen[reference] = None
        child.knows.add(reference)

    def started(self, child: ChildProcess) -> None:
        child.knows |= self._deadly

    def failed(self, child: ChildProcess, now: float) -> None:
        """A child ended that nobody waited for."""
        self.pause(now)
        if child.loading:
            self._deadly.add(child.loading)

    def lost(self) -> None:
        """A child was killed with its run: the pool, which has grown by need, gets back to its size before it is
        needed again."""
        self._owed = True

    def pause(self, now: float) -> None:
        self._not_before = now + SPARE_PAUSE_S

    def forget(self) -> None:
        """The pool is not in use any more."""
        self._seen = dict.fromkeys(self._always)
        self._deadly.clear()

    def wanted(self, children: Sequence[ChildProcess], now: float, *, busy: bool, room: bool) -> bool:
        """Whether to start one now; ``start_at`` says when to ask again.

        Args:
            busy: something runs or waits.
            room: there may be one more child.
        """
        possible = room and (busy or self._warm)
        enough = sum(child.spare for child in children) >= self._count and not (self._owed and self._count)
        if not possible or enough:
            self.start_at = math.inf
            self._owed = False
        elif self.start_at == math.inf:
            self.start_at = max(now + SPARE_AFTER_S, self._not_before)
        elif now >= self.start_at:
            self.start_at = math.inf
            self._owed = False
            return True
        return False

    def may_go(self, child: ChildProcess, children: Sequence[ChildProcess], *, busy: bool) -> bool:
        """Whether this child is not needed. One that ran something goes when nothing runs, with what that has left in
        its memory; if it was the last one a new one takes its place."""
        if not child.free:
            return False
        idle = not busy and (child.used or not self._warm)
        return idle or sum(each.free for each in children) > self._count

    def to_import(self, children: Sequence[ChildProcess]) -> tuple[ChildProcess, str] | None:
        """A free child, and a handler that it is to import."""
        return fitting.to_import(children, self._seen) if self._count else None
