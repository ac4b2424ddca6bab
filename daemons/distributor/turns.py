"""Whose turn it is: tasks that were put off because another task has their thread, behind that one. Pure data.

When it ends, or waits for an answer, the one that was submitted first of those behind it is next, and the others wait
behind that one from then on. So each event costs as little as a place in a heap, however many wait.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Final

from daemons.distributor.memory import DELAYED, STORING, LiveTask

THREAD_BUSY: Final = "thread_busy"

Order = tuple[str, int]  # when it was submitted, and its number among those that were submitted together


class Turns:
    """See the module's text."""

    def __init__(self) -> None:
        self._behind: dict[str, list[tuple[Order, int, LiveTask]]] = {}
        self._count = count()  # tasks are not compared

    def wait(self, task: LiveTask, holder: str, order: Order) -> None:
        """It goes on behind the task that has its thread."""
        heappush(self._behind.setdefault(holder, []), (order, next(self._count), task))

    def over(self, holder: str) -> LiveTask | None:
        """This task's thread is free: who is next?"""
        waiting = self._behind.pop(holder, None) if self._behind else None
        while waiting:
            _, _, task = heappop(waiting)
            if not _waits(task):
                continue  # it was cancelled, say
            if waiting:
                later = self._behind.setdefault(task.task_id, waiting)
                if later is not waiting:
                    for each in waiting:
                        heappush(later, each)
            return task
        return None


def _waits(task: LiveTask) -> bool:
    """Is its next attempt put off still?"""
    put_off = task.metadata.get("put_off")
    busy = isinstance(put_off, dict) and put_off.get("kind") == THREAD_BUSY
    return busy and not task.cancelled and (task.phase is DELAYED or task.phase is STORING)
