"""Which tasks the coordinator has to be asked about (``watch_tasks``), and which it was asked about. Pure."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Container, Iterator
from typing import Final

from a2a_zmq.client.entries import Outbound
from a2a_zmq.clock import Now

# Ids in one request: its answer carries the results of all of them.
MAX_WATCHED_IDS: Final = 128


class WatchTable:
    """Groups of task ids that wait to be sent, for an answer, or for the time at which they are asked again."""

    def __init__(self) -> None:
        self._waiting: deque[list[str]] = deque()
        self._asked: dict[str, list[str]] = {}
        self._delayed: list[tuple[float, int, list[str]]] = []
        self._delays = 0

    def add(self, task_id: str) -> None:
        if self._waiting and len(self._waiting[-1]) < MAX_WATCHED_IDS:
            self._waiting[-1].append(task_id)
        else:
            self._waiting.append([task_id])

    def restart(self, task_ids: list[str]) -> None:
        """Ask about all of these, and about nothing else."""
        self.clear()
        for start in range(0, len(task_ids), MAX_WATCHED_IDS):
            self._waiting.append(task_ids[start : start + MAX_WATCHED_IDS])

    def keep(self, known: Container[str]) -> None:
        """Only these are still waited for; what was asked stays until it is answered."""
        self._waiting = deque(ids for group in self._waiting if (ids := [each for each in group if each in known]))
        delayed = [(at, n, [each for each in ids if each in known]) for at, n, ids in self._delayed]
        self._delayed = [one for one in delayed if one[2]]
        heapq.heapify(self._delayed)

    def drop(self, task_id: str) -> None:
        """It is not asked about any more, and what an answer says of it does not count."""
        for ids in (*self._waiting, *self._asked.values(), *(ids for _, _, ids in self._delayed)):
            if task_id in ids:
                ids.remove(task_id)

    def clear(self) -> None:
        self._waiting.clear()
        self._asked.clear()
        self._delayed.clear()

    def __contains__(self, request_id: str) -> bool:
        """Whether this request is not answered."""
        return request_id in self._asked

    def idle(self) -> bool:
        return not (self._waiting or self._asked or self._delayed)

    def next(self, now: Now, request_id: str, known: Container[str]) -> Outbound | None:
        """The next message, under this request id, with those ids that somebody still waits for."""
        self.release(now)
        while self._waiting:
            ids = [task_id for task_id in self._waiting.popleft() if task_id in known]
            if ids:
                self._asked[request_id] = ids
                return Outbound({"action": "watch_tasks", "task_ids": ids}, request_id)
        return None

    def release(self, now: Now) -> None:
        """Delayed ids whose time has come wait to be sent from now on."""
        while self._delayed and self._delayed[0][0] <= now.mono:
            self._waiting.append(heapq.heappop(self._delayed)[2])

    def next_deadline(self) -> float:
        """When delayed ids want to be asked about again."""
        return self._delayed[0][0] if self._delayed else math.inf

    def unanswered(self, request_id: str) -> list[str]:
        """The ids that this request is about; none if it is none of these."""
        return self._asked.get(request_id, [])

    def answered(self, request_id: str) -> list[str] | None:
        """The ids that this request was about; None if it is none of these."""
        return self._asked.pop(request_id, None)

    def refused(self, request_id: str, code: str, again_at: float | None) -> list[str]:
        """A request was refused.

        Args:
            again_at: monotonic time at which it is asked again, None if the refusal is final.

        Returns:
            the ids that cannot be asked about.
        """
        ids = self._asked.pop(request_id, [])
        if code == "PAYLOAD_TOO_LARGE" and len(ids) > 1:
            # The results of that many tasks do not fit one answer: ask in smaller parts.
            half = len(ids) // 2
            self._waiting.extend((ids[:half], ids[half:]))
        elif ids and again_at is not None:
            self._delays += 1
            heapq.heappush(self._delayed, (again_at, self._delays, ids))
        else:
            return ids
        return []

    def ids(self) -> Iterator[str]:
        """All ids that are here."""
        for group in (*self._waiting, *self._asked.values(), *(ids for _, _, ids in self._delayed)):
            yield from group
