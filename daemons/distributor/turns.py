"""Whose turn it is: tasks whose thread another task has wait behind that one. Pure data.

A new task whose payload names a thread waits behind the one that came before it; any other is put behind the one that
has its thread when a worker says so. When that one ends, or waits for an answer, the one that was submitted first of
those behind it is next, and the others wait behind that one from then on. So each event costs as little as a place in a
heap, however many wait.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Final

from daemons.distributor.memory import DELAYED, STORING, WAITING, LiveTask

THREAD_BUSY: Final = "thread_busy"
GRAPH: Final = "graph:"  # how the types of tasks begin that have threads

Order = tuple[str, int]  # when it was submitted, and its number among those that were submitted together


class _Line:
    """Who waits behind one task, each once: behind one that runs for days a task is put off every minute."""

    __slots__ = ("_tasks", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[Order, int, LiveTask]] = []
        self._tasks: set[LiveTask] = set()

    def push(self, order: Order, number: int, task: LiveTask) -> None:
        if task not in self._tasks:
            self._tasks.add(task)
            heappush(self.heap, (order, number, task))

    def pop(self) -> LiveTask:
        task = heappop(self.heap)[2]
        self._tasks.discard(task)
        return task


class Turns:
    """See the module's text."""

    def __init__(self) -> None:
        self._behind: dict[str, _Line] = {}
        self._count = count()  # tasks are not compared
        self._heads: dict[str, LiveTask] = {}  # by thread: whose turn it is

    def head(self, task: LiveTask, live: dict[str, LiveTask]) -> LiveTask | None:
        """The task that a new one comes behind; None if it is its own turn."""
        thread = _thread(task)
        if not thread:
            return None
        head = self._heads.get(thread)
        if head is not None and live.get(head.task_id) is head and head.phase is not WAITING:
            return head
        self._heads[thread] = task
        return None

    def wait(self, task: LiveTask, holder: str, order: Order) -> None:
        """It goes on behind the task that has its thread."""
        self._behind.setdefault(holder, _Line()).push(order, next(self._count), task)

    def over(self, holder: LiveTask) -> LiveTask | None:
        """This task's thread is free: who is next?"""
        following = self._following(holder.task_id) if self._behind else None
        thread = _thread(holder) if self._heads else ""
        if thread and self._heads.get(thread) is holder:
            if following is None:
                del self._heads[thread]
            else:
                self._heads[thread] = following
        return following

    def _following(self, holder: str) -> LiveTask | None:
        waiting = self._behind.pop(holder, None)
        while waiting is not None and waiting.heap:
            task = waiting.pop()
            if not _waits(task):
                continue  # it was cancelled, say
            if waiting.heap:
                later = self._behind.setdefault(task.task_id, waiting)
                if later is not waiting:
                    for each in waiting.heap:
                        later.push(*each)
            return task
        return None


def _thread(task: LiveTask) -> str:
    if not task.task_type.startswith(GRAPH):
        return ""
    payload = task.record.get("payload")
    thread = payload.get("thread_id") if isinstance(payload, dict) else None
    return thread if isinstance(thread, str) else ""


def _waits(task: LiveTask) -> bool:
    """Is its next attempt put off still?"""
    put_off = task.metadata.get("put_off")
    busy = isinstance(put_off, dict) and put_off.get("kind") == THREAD_BUSY
    return busy and not task.cancelled and (task.phase is DELAYED or task.phase is STORING)
