"""Attempts whose records are durable: they are queued for workers at once, or wait for their time.

A task is in the heap once for each time that it was given; those that are not its time any more are skipped.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

from a2a_zmq.clock import Now
from daemons.distributor.dispatch import Dispatcher
from daemons.distributor.memory import DELAYED, LiveTask, Memory


class Delays:
    """See the module's text."""

    def __init__(self, memory: Memory, dispatcher: Dispatcher) -> None:
        self._memory = memory
        self._dispatcher = dispatcher
        self._heap: list[tuple[float, int, LiveTask]] = []
        self._count = 0  # tasks are not compared

    def stored(self, task: LiveTask, now: Now) -> None:
        """The record of its attempt is durable: it may be sent, or wait for its backoff."""
        if task.not_before > now.mono:
            task.phase = DELAYED
            self._count += 1
            heappush(self._heap, (task.not_before, self._count, task))
        else:
            self._queue(task)

    def reschedule(self, task: LiveTask, not_before: float, now: Now) -> None:
        """The next attempt, which is stored or waits for that, is due then instead."""
        moved, task.not_before = task.not_before != not_before, not_before
        if moved and task.phase is DELAYED:
            self.stored(task, now)

    def due(self, task: LiveTask) -> None:
        """Its next attempt, which is stored or waits for that, is due now, before all others."""
        task.not_before, task.front = 0.0, True
        if task.phase is DELAYED:
            self._queue(task)

    def wake(self, now: Now) -> None:
        """Queue attempts whose time has come."""
        heap = self._heap
        while heap and heap[0][0] <= now.mono:
            due, _, task = heappop(heap)
            if task.phase is DELAYED and task.not_before == due:
                self._queue(task)

    def next_wake(self) -> float:
        """Monotonic time of the first attempt that waits (inf for none)."""
        return self._heap[0][0] if self._heap else math.inf

    def waiting(self) -> set[str]:
        """Ids of the tasks that wait for their time (for checks)."""
        return {task.task_id for due, _, task in self._heap if task.phase is DELAYED and task.not_before == due}

    def _queue(self, task: LiveTask) -> None:
        self._dispatcher.add(task, self._memory.workers.values())
