"""The attempts that a worker holds: waiting, handed to an executor, running. Pure."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from daemons.runtime.exemplars import Exemplar
from daemons.worker.kinds import TaskKind, executor_of

HELD: Final = 0  # in our queue
HANDED: Final = 1  # with an executor that has not begun it
RUNNING: Final = 2
DONE: Final = 3

KINDS: Final = ("async", "thread", "process")


class Run:
    """One attempt of one task."""

    __slots__ = (
        "attempt",
        "call_id",
        "called_back",
        "fence",
        "graph",
        "kind",
        "metadata",
        "payload",
        "started_mono",
        "started_wall",
        "state",
        "stop_mono",
        "stop_reason",
        "task_id",
        "task_type",
        "timeout_s",
    )

    def __init__(  # noqa: PLR0917 - made for every task, and keywords cost
        self,
        task_id: str,
        attempt: int,
        task_type: str,
        payload: dict[str, Any],
        timeout_s: float | None,
        metadata: dict[str, Any],
        kind: str,
        fence: int,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.task_type = task_type
        self.payload = payload
        self.timeout_s = timeout_s
        self.metadata = metadata
        self.kind = kind
        self.graph = False
        self.fence = fence
        self.state = HELD
        self.started_mono = 0.0
        self.started_wall = 0.0
        self.stop_reason = ""
        self.stop_mono = 0.0
        self.called_back = False  # its executor was asked to let it go if it has not begun
        self.call_id: int | None = None  # a call of the in-process API waits for it

    def exemplar(self) -> Exemplar:
        """What to look at where its time is worth a look."""
        return Exemplar(self.metadata.get("traceparent"), self.task_id)


def parse(record: dict[str, Any], fence: int, kinds: Mapping[str, TaskKind]) -> Run:
    """A run from its record (a member of ``assign_tasks.tasks``); its ``kind`` is "" for an unknown task type.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: the record is not one.
    """
    task_id, task_type = record["task_id"], record["task_type"]
    metadata = record.get("metadata") or {}
    attempt = record.get("attempt") or metadata.get("attempt", 1)
    payload = record.get("payload")
    timeout_s = record.get("timeout_s") or metadata.get("timeout_s")
    if not (isinstance(task_id, str) and isinstance(task_type, str) and isinstance(attempt, int)):
        raise TypeError("task_id, task_type or attempt has the wrong type")
    kind = kinds.get(task_type)
    if timeout_s is None and kind is not None:
        timeout_s = kind.timeout_s
    run = Run(
        task_id,
        attempt,
        task_type,
        {} if payload is None else payload,
        None if timeout_s is None else float(timeout_s),
        metadata,
        "" if kind is None else executor_of(kind, metadata),
        fence,
    )
    run.graph = kind is not None and kind.graph != ""
    return run


class Queues:
    """One FIFO a kind, and how many of each kind may be with the executors."""

    def __init__(self, capacity: dict[str, int]) -> None:
        self._capacity = capacity
        self._queues: dict[str, deque[Run]] = {kind: deque() for kind in KINDS}
        self._handed = dict.fromkeys(KINDS, 0)
        self._forgotten = 0  # runs in the queues that are not wanted any more
        self.held = 0

    def allow(self, kind: str, capacity: int) -> None:
        self._capacity[kind] = capacity

    def room(self, kind: str) -> int:
        return self._capacity[kind] - self._handed[kind]

    def add(self, run: Run) -> None:
        self._queues[run.kind].append(run)
        self.held += 1

    def forget(self, run: Run) -> None:
        """A held run is not wanted any more. It leaves its queue when it comes to the front, or when most there are
        like it: a queue may stand still for hours behind long runs."""
        run.state = DONE
        self.held -= 1
        self._forgotten += 1
        if self._forgotten > 64 and self._forgotten > self.held:
            self._forgotten = 0
            for kind, queue in self._queues.items():
                self._queues[kind] = deque(each for each in queue if each.state == HELD)

    def ready(self) -> list[Run]:
        """Runs that may go to their executors now; they count as handed over."""
        if not self.held:
            return []
        out: list[Run] = []
        for kind, queue in self._queues.items():
            room = self._capacity[kind] - self._handed[kind]
            while queue and room > 0:
                run = queue.popleft()
                if run.state == HELD:
                    run.state = HANDED
                    room -= 1
                    out.append(run)
                else:
                    self._forgotten -= 1
            self._handed[kind] = self._capacity[kind] - room
        self.held -= len(out)
        return out

    def returned(self, run: Run) -> None:
        """A run that was handed over has ended."""
        self._handed[run.kind] -= 1

    def take_newest(self, count: int) -> list[Run]:
        """Take back up to ``count`` held runs, the latest of each queue first."""
        out: list[Run] = []
        for queue in self._queues.values():
            while queue and len(out) < count and queue[-1].call_id is None:
                run = queue.pop()
                if run.state == HELD:
                    run.state = DONE
                    self.held -= 1
                    out.append(run)
                else:
                    self._forgotten -= 1
        return out

    def take_all(self) -> list[Run]:
        """Empty the queues (drain)."""
        out = [run for queue in self._queues.values() for run in queue if run.state == HELD]
        for queue in self._queues.values():
            queue.clear()
        for run in out:
            run.state = DONE
        self.held = self._forgotten = 0
        return out


class Clockwork:
    """Which running attempts are to be reported as started, and which are out of time.

    Most runs end within milliseconds: they only pass through a FIFO (appended at start, dropped when they reach the
    front). Only those that are still running when their turn comes go to the heap of timeouts, so that the heap holds
    long runs and never a second's worth of finished ones.
    """

    def __init__(self, report_after_s: float) -> None:
        self._report_after_s = report_after_s
        self._young: deque[Run] = deque()
        self._timeouts: list[tuple[float, int, Run]] = []
        self._count = 0
        self._compact_above = 256

    def started(self, run: Run) -> None:
        self._young.append(run)
        if run.timeout_s is not None and run.timeout_s <= self._report_after_s:
            self._arm(run)

    def lasting(self, mono: float) -> list[Run]:
        """Runs that have become worth a report since the last call."""
        young = self._young
        due: list[Run] = []
        while young:
            run = young[0]
            if run.state == RUNNING:
                if run.started_mono + self._report_after_s > mono:
                    break
                due.append(run)
                if run.timeout_s is not None and run.timeout_s > self._report_after_s:
                    self._arm(run)
            young.popleft()
        return due

    def overdue(self, mono: float) -> list[Run]:
        """Runs whose time is up, each once."""
        heap = self._timeouts
        due: list[Run] = []
        while heap and (heap[0][0] <= mono or heap[0][2].state == DONE):
            run = heapq.heappop(heap)[2]
            if run.state == RUNNING:
                due.append(run)
        if len(heap) > self._compact_above:
            self._timeouts = [entry for entry in heap if entry[2].state != DONE]
            heapq.heapify(self._timeouts)
            self._compact_above = max(256, 2 * len(self._timeouts))
        return due

    def next_deadline(self) -> float:
        young = self._young
        while young and young[0].state == DONE:
            young.popleft()
        first = young[0].started_mono + self._report_after_s if young else math.inf
        return min(first, self._timeouts[0][0]) if self._timeouts else first

    def _arm(self, run: Run) -> None:
        self._count += 1
        assert run.timeout_s is not None
        heapq.heappush(self._timeouts, (run.started_mono + run.timeout_s, self._count, run))
