"""Reads of the store that a core waits for: asked as an effect, answered as an event, bounded in number and mostly in
time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from a2a_zmq.clock import Now
from daemons.runtime.contract import Query, QueryAnswer

# Called with the answer; its ``error`` says why the store could not be read.
Then = Callable[[QueryAnswer, Now], None]

# They read a whole section, so they take as long as it is large, and nobody can call them off: asked again they would
# only run beside each other, and each seizure raises a fence. No deadline is needed: the link gives up what is late,
# and the shell answers always.
WHOLE: Final = frozenset({"load", "register", "seize"})


class Questions:
    """Pending reads by tag. All that have a deadline have the same patience, so they expire in the order in which they
    were asked.
    """

    def __init__(self, timeout_s: float, limit: int) -> None:
        self._timeout_s = timeout_s
        self._limit = limit
        self._count = 0
        self._pending: dict[str, Then] = {}
        self._deadlines: deque[tuple[float, str]] = deque()

    def room(self) -> bool:
        return len(self._pending) < self._limit

    def ask(self, op: str, args: dict[str, object], then: Then, now: Now) -> Query:
        """Remember who wants to know; the caller emits the effect."""
        tag = self._remember(then) if op in WHOLE else self.expect(then, now)
        return Query(tag, op, args)

    def expect(self, then: Then, now: Now) -> str:
        """Remember who wants to know; the caller asks somebody else than the store, who repeats this tag."""
        tag = self._remember(then)
        self._deadlines.append((now.mono + self._timeout_s, tag))
        return tag

    def _remember(self, then: Then) -> str:
        self._count += 1
        tag = f"q{self._count}"
        self._pending[tag] = then
        return tag

    def pending(self, tag: str) -> bool:
        """Does somebody wait for this answer still?"""
        return tag in self._pending

    def answered(self, event: QueryAnswer, now: Now) -> bool:
        """Hand the answer on; False if nobody waits for it (any more)."""
        then = self._pending.pop(event.tag, None)
        if then is None:
            return False
        then(event, now)
        return True

    def expire(self, now: Now) -> None:
        while self._deadlines and (self._deadlines[0][1] not in self._pending or self._deadlines[0][0] <= now.mono):
            _, tag = self._deadlines.popleft()
            then = self._pending.pop(tag, None)
            if then is not None:
                then(QueryAnswer(tag, error="no answer in time"), now)

    def forget(self) -> None:
        self._pending.clear()
        self._deadlines.clear()

    def fail(self, error: str, now: Now) -> None:
        """Nobody will answer what is pending: whoever asked is told so, and so are those who wait for them."""
        pending, self._pending = self._pending, {}
        self._deadlines.clear()
        for tag, then in pending.items():
            then(QueryAnswer(tag, error=error), now)

    def next_deadline(self) -> float:
        """May be the deadline of one that is answered already: an early wake-up costs nothing."""
        return self._deadlines[0][0] if self._deadlines and self._pending else math.inf
