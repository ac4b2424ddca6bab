"""Which task goes to which worker next.

Waiting tasks are kept in *lanes*: one for each client and set of workers that may serve them (task type, required
labels, pinned worker, graph, workers to avoid). A lane holds a deque for each priority, so every operation is O(1), and
a task that nobody here can run waits in a lane of its own and is in nobody's way. Among lanes the higher priority goes
first, then the lower number. A task's number is one above its client's last one, or above that of the task served last
if that is higher: so clients take turns, and whoever comes with few tasks does not wait behind another's thousands.
A task goes to the worker with the fewest tasks for each of its slots; one that takes a slot, to a worker that can begin
it at once, then to the one with the fewest of those. Suspects (tasks in whose company several workers have died) have
lanes of their own, from which a worker gets one at a time, if they do not run apart.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any

from daemons.distributor.config import DistributorConfig
from daemons.distributor.memory import QUEUED, RUNNING, LiveTask
from daemons.distributor.workers import Worker

Rank = tuple[int, int]  # (−priority, seq): the lesser goes first
Pool = list[tuple[float, int, int, Worker]]

# Empty lanes are kept for their list of workers, up to about this many: there are few task types, but a client may ask
# for any combination of labels.
MAX_EMPTY_LANES = 256
# Clients' last numbers are looked through for outdated ones when there are twice as many as after the last time.
MIN_NUMBERED = 256


class Lane:
    """Waiting tasks that the same workers may serve."""

    __slots__ = (
        "_buckets",
        "_dead",
        "_order",
        "apart",
        "avoid",
        "graph",
        "key",
        "labels",
        "number",
        "pin",
        "size",
        "slotted",
        "suspects",
        "task_type",
        "workers",
    )

    def __init__(
        self,
        key: object,
        number: int,
        task_type: str,
        labels: dict[str, Any],
        pin: str,
        *,
        graph: str,
        suspects: bool,
        apart: bool,
        avoid: frozenset[str],
    ) -> None:
        self.key = key
        self.number = number
        self.task_type = task_type
        self.labels = labels
        self.pin = pin
        self.graph = graph
        self.suspects = suspects
        self.apart = apart
        self.avoid = avoid
        self.size = 0
        self.workers: list[Worker] = []
        self.slotted = False  # its tasks take a slot of some worker
        self._buckets: dict[int, deque[LiveTask]] = {}
        self._order: list[int] = []  # −priority of each bucket, ascending
        self._dead = 0  # entries of tasks that were taken out: skipped when met

    def offer(self, workers: Iterable[Worker]) -> None:
        """Take those of the workers that may serve it; those to avoid only where there are no others."""
        able = [w for w in workers if w.serves(self.task_type, self.labels, self.pin, self.graph)]
        self.workers = [w for w in able if w.agent_id not in self.avoid] or able
        self.slotted = self.apart or any(self.task_type in w.slot_types for w in self.workers)

    def _bucket(self, priority: int) -> deque[LiveTask]:
        bucket = self._buckets.get(-priority)
        if bucket is None:
            bucket = self._buckets[-priority] = deque()
            insort(self._order, -priority)
        return bucket

    def push(self, task: LiveTask) -> None:
        self._bucket(task.priority).append(task)
        self.size += 1

    def push_front(self, task: LiveTask) -> None:
        self._bucket(task.priority).appendleft(task)
        self.size += 1

    def head(self) -> LiveTask | None:
        """The next task, left where it is."""
        while self._order:
            first = self._order[0]
            bucket = self._buckets[first]
            while bucket:
                task = bucket[0]
                if task.phase is QUEUED and task.lane is self:
                    return task
                bucket.popleft()
                self._dead -= 1
            del self._buckets[first]
            del self._order[0]
        return None

    def ahead(self, task: LiveTask) -> int:
        """How many of this lane go before one of its tasks. O(lane), for whoever asks about one task."""
        count = 0
        for negative in self._order:
            for each in self._buckets[negative]:
                if each is task:
                    return count
                count += each.phase is QUEUED and each.lane is self
        return count

    def pop(self) -> None:
        """Take out the task that :meth:`head` has just shown."""
        self._buckets[self._order[0]].popleft()
        self.size -= 1

    def discard(self) -> None:
        """One of our tasks is no longer QUEUED. Its entry goes when it is met, or when half of the entries are dead."""
        self.size -= 1
        self._dead += 1
        if self._dead > 64 and self._dead > self.size:
            for negative in list(self._buckets):
                # Each once: one that came back here before its dead entry was met has two that look alive.
                alive = (t for t in self._buckets[negative] if t.phase is QUEUED and t.lane is self)
                self._buckets[negative] = deque(dict.fromkeys(alive))
            self._dead = 0


class Dispatcher:
    """All lanes.

    Attributes:
        queued: waiting tasks.
        trial_ends: monotonic time at which a suspect may be given to a worker that has one (inf: none waits for that);
            true after :meth:`fill`.
    """

    def __init__(self, config: DistributorConfig) -> None:
        self._config = config
        self.queued = 0
        self.trial_ends = math.inf
        self._lanes: dict[object, Lane] = {}
        self._active: dict[object, Lane] = {}  # those with tasks and with workers
        self._served: dict[int, int] = {}  # priority → number of the task served last
        self._last: dict[tuple[object, int], int] = {}  # (client, priority) → number of its last task
        self._forget_at = MIN_NUMBERED
        self._front = 0
        self._numbers = 0
        self._prune_at = MAX_EMPTY_LANES

    # ------------------------------------------------------------ workers

    def worker_changed(self, workers: Iterable[Worker]) -> None:
        """Workers came, went, or offer something else: O(lanes · workers), on such events only."""
        present = list(workers)
        for key, lane in list(self._lanes.items()):
            if lane.size == 0 and len(self._lanes) > MAX_EMPTY_LANES:
                del self._lanes[key]
                continue
            lane.offer(present)
            if lane.size and lane.workers:
                self._active[key] = lane
            else:
                self._active.pop(key, None)

    # ------------------------------------------------------------ tasks

    def _lane(self, task: LiveTask, workers: Iterable[Worker]) -> Lane:
        labels = task.metadata.get("labels")
        suspect = task.deaths >= self._config.max_worker_deaths and not task.apart
        key: object = (task.metadata.get("client"), task.task_type)
        graph, avoid = task.graph, task.avoid
        if task.pin or labels or suspect or task.apart or graph or avoid:
            wanted = labels if isinstance(labels, dict) else {}
            named = tuple(sorted((name, repr(value)) for name, value in wanted.items()))
            key = (key, task.pin, named, suspect, task.apart, graph, avoid)
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) >= self._prune_at:
                self._lanes = {each: lane for each, lane in self._lanes.items() if lane.size}
                self._prune_at = 2 * len(self._lanes) + MAX_EMPTY_LANES
            self._numbers += 1
            wanted = labels if isinstance(labels, dict) else {}
            lane = Lane(
                key,
                self._numbers,
                task.task_type,
                wanted,
                task.pin,
                graph=graph,
                suspects=suspect,
                apart=task.apart,
                avoid=avoid,
            )
            self._lanes[key] = lane
            lane.offer(workers)
        return lane

    def add(self, task: LiveTask, workers: Iterable[Worker]) -> None:
        """Queue a task behind those of its priority, or before them if it is marked ``front``."""
        lane = self._lane(task, workers)
        task.phase = QUEUED
        task.lane = lane
        if task.front:
            task.front = False
            self._front -= 1
            task.seq = self._front
            lane.push_front(task)
        else:
            task.seq = self._number(task)
            lane.push(task)
        self.queued += 1
        if lane.size == 1 and lane.workers:
            self._active[lane.key] = lane

    def _number(self, task: LiveTask) -> int:
        who = (task.metadata.get("client"), task.priority)
        number = max(self._last.get(who, 0), self._served.get(task.priority, 0)) + 1
        self._last[who] = number
        if len(self._last) > self._forget_at:
            served = self._served
            self._last = {each: last for each, last in self._last.items() if last > served.get(each[1], 0)}
            self._forget_at = max(MIN_NUMBERED, 2 * len(self._last))
        return number

    def discard(self, task: LiveTask) -> None:
        """Take a QUEUED task out; the caller gives it another phase."""
        lane: Lane = task.lane
        task.lane = None
        lane.discard()
        self._taken(lane)

    def _taken(self, lane: Lane) -> None:
        self.queued -= 1
        if lane.size == 0:
            self._active.pop(lane.key, None)

    def unpin(self, worker_id: str, workers: Iterable[Worker]) -> None:
        """That worker is gone: what waited for it alone may go to any other."""
        for key, lane in list(self._lanes.items()):
            if lane.pin != worker_id:
                continue
            del self._lanes[key]
            while (task := lane.head()) is not None:
                lane.pop()
                self._taken(lane)
                task.pin = ""
                self.add(task, workers)

    def waiting_without_worker(self) -> dict[str, int]:
        """Task type → waiting tasks, for lanes that no connected worker serves."""
        out: dict[str, int] = {}
        for lane in self._lanes.values():
            if lane.size and not lane.workers:
                out[lane.task_type] = out.get(lane.task_type, 0) + lane.size
        return out

    def waiting_without_graph(self) -> int:
        """Of these, runs that began with a version of their graph which no connected worker has."""
        return sum(lane.size for lane in self._lanes.values() if lane.graph and not lane.workers)

    # ------------------------------------------------------------ choice

    def fill(self, mono: float) -> dict[str, list[LiveTask]]:
        """Give waiting tasks to workers with credit; O(tasks given + lanes with work + workers).

        Returns:
            worker id → tasks, which are RUNNING there from now on.
        """
        picks: dict[str, list[LiveTask]] = {}
        heads: list[tuple[Rank, int, Lane, Pool]] = []
        self.trial_ends = math.inf
        for lane in self._active.values():
            free = lane.workers if not lane.suspects else [w for w in lane.workers if self._may_try(w, mono)]
            slotted = lane.slotted
            kind, apart = lane.task_type, lane.apart
            free = [w for w in free if (w.takes(kind, mono, apart=apart) if slotted else w.open(mono))]
            pool = [(w.burden() if slotted else w.load(), w.given, w.number, w) for w in free]
            if pool:
                heapify(pool)
                heads.append((_rank(lane), lane.number, lane, pool))
        heapify(heads)
        while heads:
            _, number, lane, pool = heappop(heads)
            self._serve(lane, pool, heads[0][0] if heads else None, picks, mono)
            if pool and lane.size:
                heappush(heads, (_rank(lane), number, lane, pool))
        return picks

    def _may_try(self, worker: Worker, mono: float) -> bool:
        """Is there no trial on this worker? (If there is, its end is noted.)"""
        trial = worker.on_trial(mono, self._config.trial_s, self._config.max_worker_deaths)
        if trial is not None:
            self.trial_ends = min(self.trial_ends, trial[1])
        return trial is None

    def _serve(self, lane: Lane, pool: Pool, bound: Rank | None, picks: dict[str, list[LiveTask]], mono: float) -> None:
        """Hand out tasks of one lane until it is empty, its workers are full, or another lane's head goes first."""
        given = 0
        slotted = lane.slotted
        last: LiveTask | None = None
        while pool and (task := lane.head()) is not None:
            if bound is not None and (-task.priority, task.seq) > bound:
                break
            burden, _, number, worker = pool[0]
            held, ghosts = worker.held, len(worker.ghosts)
            count = len(held) + ghosts
            if (
                count >= worker.limit
                or (slotted and worker.full_for(lane.task_type, apart=lane.apart))
                or (lane.suspects and not self._may_try(worker, mono))
            ):
                heappop(pool)
                continue
            real = worker.burden() if slotted else count / worker.slots
            if real != burden:  # another lane gave it something meanwhile
                heapreplace(pool, (real, worker.given, number, worker))
                continue
            lane.pop()
            last = task
            given += 1
            worker_id = worker.agent_id
            task.lane = None
            task.phase = RUNNING
            task.worker = worker_id
            task.dispatched_at = mono
            held[task.task_id] = task  # as Worker.take()
            worker.given += 1
            task.slotted = slotted and worker.slots_for(task)
            worker.in_slots += task.slotted
            if lane.suspects:
                worker.trial = task
            if worker_id in picks:
                picks[worker_id].append(task)
            else:
                picks[worker_id] = [task]
            real = worker.burden() if slotted else (count + 1) / worker.slots
            heapreplace(pool, (real, worker.given, number, worker))
        if last is not None:
            self._served[last.priority] = max(self._served.get(last.priority, 0), last.seq)
        self.queued -= given
        if lane.size == 0:
            self._active.pop(lane.key, None)


def _rank(lane: Lane) -> Rank:
    task = lane.head()
    assert task is not None, "a lane with tasks has a head"
    return (-task.priority, task.seq)
