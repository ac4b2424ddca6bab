"""Adaptive credit: how many unfinished tasks the distributor may leave with this worker. Pure.

Short tasks are fetched ahead, so that the way to the distributor and back is hidden; long ones hardly, so that they
go to whoever is free and little is lost with a worker that dies. The measure is time: work for ``horizon_s`` is held
ready. What takes a slot has a limit of its own, for it is in nobody else's way while it waits.
"""

from __future__ import annotations

import math

from daemons.worker.board import Board

# The rate follows a change of load within a few of these; shorter would follow single batches.
RATE_TAU_S = 0.1
# Completions are gathered for this long before they change the rate: bursts within it are one batch.
RATE_STEP_S = 0.002


class Credit:
    """Completion rates and the limits that follow from them.

    Attributes:
        rate: completions per second, lately.
        slots_ready: child processes that run something or could at once; None if nobody has told.
    """

    __slots__ = (
        "_board",
        "_cap",
        "_finished",
        "_horizon_s",
        "_last",
        "_slot_rate",
        "_slots",
        "_slots_finished",
        "rate",
        "slots_ready",
    )

    def __init__(self, board: Board, slots: int, cap: int, horizon_s: float) -> None:
        self._board = board
        self._slots = slots
        self._cap = max(cap, slots + 1)
        self._horizon_s = horizon_s
        self.rate = self._slot_rate = 0.0
        self._finished = self._slots_finished = 0
        self._last = -math.inf
        self.slots_ready: int | None = None

    def allow(self, cap: int) -> None:
        """Unfinished tasks that may be here at most, from now on."""
        self._cap = max(cap, self._slots + 1)

    def finished(self, *, slotted: bool) -> None:
        """One more run has ended; one that took a slot?"""
        self._finished += 1
        self._slots_finished += slotted

    def advance(self, mono: float) -> None:
        """Let time pass."""
        if self._last == -math.inf:
            self._last = mono
            return
        passed = mono - self._last
        if passed < RATE_STEP_S:
            return
        share = 1.0 - math.exp(-passed / RATE_TAU_S)
        self.rate += (self._finished / passed - self.rate) * share
        self._slot_rate += (self._slots_finished / passed - self._slot_rate) * share
        self._finished = self._slots_finished = 0
        self._last = mono

    def _bounded(self, limit: int) -> int:
        return max(self._slots + 1, min(self._cap, limit))

    def slot_limit(self) -> int:
        """Unfinished tasks that take a slot, which the distributor may leave here: from slots + 1 to the cap."""
        return self._bounded(self._slots + int(self._slot_rate * self._horizon_s))

    def slots(self) -> dict[str, int]:
        """What the distributor is told of the slots."""
        ready = {} if self.slots_ready is None else {"slots_ready": self.slots_ready}
        return {"slot_limit": self.slot_limit(), **ready}

    def limit(self) -> int:
        """Unfinished tasks in all that it may leave here: from slots + 1 to the cap."""
        board = self._board
        # With nothing waiting, what runs has shown to need no slot of its own (it awaits something): grow
        # geometrically, by no more than the async runs that could begin at once.
        held = board.running + board.slots_waiting
        if board.waiting > board.slots_waiting:
            more = 1
        else:
            more = max(self._slots - board.running, min(board.running, board.async_room))
        return self._bounded(max(held + more, self._slots + int(self.rate * self._horizon_s)))

    def due(self) -> int:
        """The limit, without those who wait for a slot and would not be here by the present limit for these."""
        return self.limit() - max(0, self._board.slots_waiting - (self.slot_limit() - self._slots))
