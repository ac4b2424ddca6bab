"""Submissions: tasks that wait to be sent, and messages of them that wait for an answer or for a better time. Pure."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Final

import orjson

from a2a_zmq.client.entries import QUEUED, SENT, Entry, Outbound
from a2a_zmq.clock import Now

# One message carries at most this many tasks and about this many bytes of them: large enough that signature and
# transaction cost nothing a task, small enough that a heartbeat never waits long behind one.
MAX_BATCH_TASKS: Final = 512
MAX_BATCH_BYTES: Final = 256 * 1024
# Unanswered submissions at a time. While these are under way new tasks gather, so messages grow with the load.
MAX_SUBMITS_IN_FLIGHT: Final = 4


class SubmitTable:
    """Entries in the order of their submission, and what was sent of them.

    Attributes:
        max_batch: tasks that the coordinator takes in one message.
    """

    def __init__(self) -> None:
        self.max_batch = MAX_BATCH_TASKS
        self._queue: deque[Entry] = deque()
        self._asked: dict[str, list[Entry]] = {}
        self._delayed: list[tuple[float, int, list[Entry]]] = []
        self._delays = 0
        self._resume_at = -math.inf

    def __len__(self) -> int:
        """How many tasks are not sent yet."""
        return len(self._queue)

    def add(self, entry: Entry) -> None:
        self._queue.append(entry)

    def restart(self) -> None:
        """Send again, first of all, what was not answered; the coordinator may know it."""
        again = [entry for batch in self._asked.values() for entry in batch if entry.phase == SENT]
        self._asked.clear()
        for entry in again:
            entry.phase = QUEUED
            entry.check = True
        self._queue.extendleft(reversed(again))

    def drop_ended(self) -> None:
        """Keep nothing for those who have given up: no place here, and no message that may be unanswered."""
        self._queue = deque(entry for entry in self._queue if entry.phase == QUEUED)
        self._asked = {
            request_id: batch
            for request_id, batch in self._asked.items()
            if any(entry.phase == SENT for entry in batch)
        }
        delayed = [(at, n, [e for e in batch if e.phase == QUEUED]) for at, n, batch in self._delayed]
        self._delayed = [one for one in delayed if one[2]]
        heapq.heapify(self._delayed)

    def clear(self) -> None:
        self._queue.clear()
        self._asked.clear()
        self._delayed.clear()

    # ------------------------------------------------------------ out

    def release(self, now: Now) -> None:
        """Put back what has waited long enough."""
        if now.mono >= self._resume_at:
            self._resume_at = -math.inf
        while self._delayed and self._delayed[0][0] <= now.mono:
            self._queue.extendleft(reversed(heapq.heappop(self._delayed)[2]))

    def next(self, now: Now, request_id: str) -> Outbound | None:
        """The next message, under this request id; None if there is none, or it must wait."""
        while self._queue and len(self._asked) < MAX_SUBMITS_IN_FLIGHT and now.mono >= self._resume_at:
            batch = self._cut()
            if batch:
                self._asked[request_id] = batch
                tasks = orjson.Fragment(b"[" + b",".join([entry.body for entry in batch]) + b"]")
                payload = {"action": "submit_tasks", "tasks": tasks, "check": batch[0].check}
                return Outbound(payload, request_id)
        return None

    def _cut(self) -> list[Entry]:
        """The next submission: tasks of the queue's head that agree about ``check``, within both bounds."""
        queue = self._queue
        batch: list[Entry] = []
        size = 0
        while queue and len(batch) < self.max_batch:
            entry = queue[0]
            if entry.phase != QUEUED:  # ended while it waited here
                queue.popleft()
                continue
            size += len(entry.body) + 1
            if batch and (size > MAX_BATCH_BYTES or entry.alone or entry.check is not batch[0].check):
                break
            queue.popleft()
            entry.phase = SENT
            batch.append(entry)
            if entry.alone:
                break
        return batch

    # ------------------------------------------------------------ answers

    def unanswered(self, request_id: str) -> list[Entry]:
        """The entries of this submission; none if it is none of these."""
        return self._asked.get(request_id, [])

    def answered(self, request_id: str) -> list[Entry] | None:
        """The entries of this submission, which is not unanswered any more; None if it is none of these."""
        return self._asked.pop(request_id, None)

    def part(self, batch: list[Entry]) -> None:
        """Send each of these again, first of all, in a message of its own."""
        for entry in batch:
            entry.phase = QUEUED
            entry.alone = True
        self._queue.extendleft(reversed(batch))

    def delay(self, batch: list[Entry], again_at: float, *, hold: bool = False) -> None:
        """These are to be sent again at this time (monotonic).

        Args:
            hold: nothing else is sent before either: a coordinator that takes nothing now would refuse that, too.
        """
        for entry in batch:
            entry.phase = QUEUED
        self._delays += 1
        heapq.heappush(self._delayed, (again_at, self._delays, batch))
        if hold:
            self._resume_at = max(self._resume_at, again_at)

    # ------------------------------------------------------------ looks

    def next_deadline(self) -> float:
        """When :meth:`release` has something to do."""
        resume_at = self._resume_at if self._queue and self._resume_at != -math.inf else math.inf
        return min(resume_at, self._delayed[0][0]) if self._delayed else resume_at

    def entries(self) -> Iterator[Entry]:
        """All that are here (some may have ended)."""
        return chain(self._queue, *self._asked.values(), *(batch for _, _, batch in self._delayed))
