"""What waits to be made durable, and what is on its way to the store.

Three kinds, by urgency: results and new attempts go with the next batch, all of them, because messages are acknowledged
when it is applied; records of a re-queued backlog go in slices, so that a restart does not hold up results; history
lines and a changed status are lazy: they ride along, or go alone after a while.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from orjson import dumps, loads

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Section, SectionWrite
from a2a_zmq.protocol.message import MessageType
from daemons.distributor.config import DistributorConfig
from daemons.distributor.memory import STORING, WAITING, LiveTask, Memory
from daemons.distributor.records import Stamps, history_line, live_record, split, waiting_item
from daemons.runtime.calls import LocalAnswer
from daemons.runtime.contract import Batch, Effect, Send
from daemons.runtime.shortening import sendable


class Journal:
    """Stages writes, cuts them into batches, and tells what a batch made durable."""

    def __init__(self, memory: Memory, stamps: Stamps, new_id: Callable[[], str]) -> None:
        self._memory = memory
        self._stamps = stamps
        self._new_id = new_id
        self.section = Section(memory.agent_id, "distributor")
        self._config: DistributorConfig = memory.config
        self.puts: dict[str, LiveTask] = {}
        self.backlog: deque[LiveTask] = deque()
        self.results: dict[str, bytes] = {}
        self._letters: set[str] = set()  # ids in ``results`` that are dead letters
        self._flying_letters: set[str] = set()
        self.after: list[Effect] = []  # to be done when what is staged now is durable
        self._flying_after: list[Effect] = []
        self.answers: dict[str, int] = {}  # task id → call that waits until its record is stored
        self.flying_puts: list[tuple[LiveTask, int]] = []
        self.flying_results: dict[str, bytes] = {}
        self.flying = False
        self._spooled: dict[str, None] = {}  # ids of the tasks whose results went there
        self._bytes = 0
        self._flying_bytes = 0
        self._reports: list[tuple[dict[str, Any], int]] = []  # payloads in flight, and how many writes follow theirs
        self._header: dict[str, str] = {}
        self._shown: dict[str, str] = {}  # header as last written or staged
        self._header_urgent = False
        self.lately: deque[dict[str, Any]] = deque(maxlen=50)  # for the local state
        self._history: list[bytes] = []
        self._history_dropped = 0
        self._lazy_since = math.inf
        self._finished = {"completed": 0, "failed": 0, "abandoned": 0}

    # ------------------------------------------------------------ staging

    def put(self, task: LiveTask) -> None:
        """Write the task's record as it stands when the batch is cut."""
        self.puts[task.task_id] = task

    def hurry(self, task: LiveTask) -> None:
        """A former attempt of it was reported. That is acknowledged with the next batch: by then the attempt that
        replaces it must be stored, even if it waits in the backlog."""
        if self.backlog and task.phase is STORING:
            self.put(task)

    def end(self, task_id: str, status: str, raw: bytes, *, dead: bool = False) -> None:
        """Write this result record and drop the live record. A ``dead`` one is kept as a dead letter, too."""
        self.puts.pop(task_id, None)
        if dead:
            self._letters.add(task_id)
        elif self._letters:
            self._letters.discard(task_id)
        self.results[task_id] = raw
        self._bytes += len(raw)
        self._finished[status] += 1

    def note(self, now: Now, task_id: str, name: str, detail: dict[str, Any]) -> None:
        """Add a history line."""
        time = self._stamps.iso(now.wall)
        self.lately.append({"time": time, "task_id": task_id, "event": name, **detail})
        if len(self._history) >= self._config.history_per_cut:
            self._history_dropped += 1
            return
        self._history.append(history_line(time, task_id, name, detail))
        self._lazy_since = min(self._lazy_since, now.mono)

    def show(self, now: Now, name: str, value: str, *, urgent: bool) -> None:
        """Set a header member if it differs from what was written last."""
        if self._shown.get(name) == value:
            return
        self._shown[name] = value
        self._header[name] = value
        self._header_urgent = self._header_urgent or urgent
        self._lazy_since = min(self._lazy_since, now.mono)

    def show_workers(self, now: Now) -> None:
        """Keep the header's list of workers: a successor waits for those that are on it."""
        memory = self._memory
        if memory.owner:
            self.show(now, "assigned_workers", dumps(memory.assigned_workers()).decode(), urgent=True)
            self.show(now, "status", memory.status().value, urgent=False)

    # ------------------------------------------------------------ looking

    def unrecorded(self) -> int:
        return len(self.results) + len(self.flying_results)

    def crowded(self) -> bool:
        """So many results wait for the store that no more work should be begun."""
        config = self._config
        return (
            self.unrecorded() >= config.max_unrecorded
            or self._bytes + self._flying_bytes >= config.max_unrecorded_bytes
        )

    def holds_result(self, task_id: str) -> bool:
        return task_id in self.results or task_id in self.flying_results

    def spooled(self, task_id: str) -> bool:
        """Whether its result is, or was, in the spool, where the coordinator could not find it."""
        return task_id in self._spooled

    def empty(self) -> bool:
        """Nothing that must not be lost waits or is on its way."""
        return not (self.results or self.puts or self.backlog or self.flying or self.after)

    def next_deadline(self) -> float:
        """When lazy lines are due (inf while a batch is in flight: what it leaves is looked at afterwards)."""
        return math.inf if self.flying else self._lazy_since + self._config.lazy_flush_s

    # ------------------------------------------------------------ batches

    def cut(self, now: Now) -> Batch | None:
        """Everything that waits, as one batch; None if there is nothing to write yet."""
        urgent = self.results or self.puts or self.backlog or self._header_urgent or self.after
        if not urgent and now.mono < self._lazy_since + self._config.lazy_flush_s:
            return None
        puts = self._cut_puts(now)
        self._summarise(now)
        self.flying = True
        self.flying_results, self.results = self.results, {}
        self._flying_letters, self._letters = self._letters, set()
        self._flying_bytes, self._bytes = self._bytes, 0
        writes = self._writes(puts, self.flying_results, now)
        after, self.after = self.after, []
        if not writes:  # only tasks that ended meanwhile were in the backlog
            self.flying = False
            return Batch([], after) if after else None
        self._flying_after = list(after)
        for index, write in enumerate(writes):
            for send in self._report(write, self._memory.version + index + 1):
                after.append(send)
                self._reports.append((send.payload, len(writes) - 1 - index))
        waiting = [task for task, _ in self.flying_puts if task.phase is WAITING]
        for send in self.tell_waiting(waiting) if waiting else ():
            after.append(send)
            self._reports.append((send.payload, 0))
        self._header_urgent = False
        self._lazy_since = math.inf
        return Batch(writes, after)

    def applied(self, version: int) -> list[LiveTask]:
        """The batch in flight is durable, in this version of the section.

        Returns:
            the tasks whose new attempt may be sent now.
        """
        # The reports go out after this. Each write raised the version by one, so that of the others is known too.
        for payload, writes_behind in self._reports:
            payload["version"] = version - writes_behind
        self._reports = []
        self._flying_after = []
        self._flying_letters = set()
        if self._memory.spooling:
            self.note_spooled(self.flying_results)
        released: list[LiveTask] = []
        for task, attempt in self.flying_puts:
            if task.attempt == attempt:
                task.recorded = attempt
                if task.phase is STORING:
                    released.append(task)
        if self.answers:
            for task, _ in self.flying_puts:
                call_id = self.answers.pop(task.task_id, None)
                if call_id is not None:
                    self._memory.out.append(LocalAnswer(call_id, value=True))
        self.flying = False
        self.flying_puts = []
        self.flying_results = {}
        self._flying_bytes = 0
        return released

    def note_spooled(self, task_ids: Iterable[str]) -> None:
        """The results of these tasks stand, or stood, in the spool."""
        self._spooled.update(dict.fromkeys(task_ids))
        while len(self._spooled) > self._config.recent_ids:
            del self._spooled[next(iter(self._spooled))]

    def ground(self) -> None:
        """The batch in flight is void (ownership moved): what was in it is staged again."""
        for task, attempt in self.flying_puts:
            if task.attempt == attempt and self._memory.live.get(task.task_id) is task:
                self.puts.setdefault(task.task_id, task)
        self.after = [*self._flying_after, *self.after]
        self._flying_after = []
        self._letters |= self._flying_letters.difference(self.results)
        self._flying_letters = set()
        self.results = {**self.flying_results, **self.results}
        self._bytes += self._flying_bytes
        self.flying = False
        self.flying_puts = []
        self.flying_results = {}
        self._flying_bytes = 0
        self._reports = []
        self._shown.clear()

    def keep_results_of(self, attempts: dict[str, int]) -> int:
        """Forget staged results of tasks that are no longer live in the store, for somebody else recorded them, and of
        attempts that another owner replaced.

        Args:
            attempts: of the live tasks, as stored.

        Returns:
            how many were forgotten.
        """
        gone = [
            task_id
            for task_id, raw in self.results.items()
            if loads(raw)["metadata"]["attempt"] < attempts.get(task_id, math.inf)
        ]
        for task_id in gone:
            self._bytes -= len(self.results.pop(task_id))
            self._letters.discard(task_id)
        return len(gone)

    def _cut_puts(self, now: Now) -> dict[str, bytes]:
        if not self.puts and not self.backlog:
            return {}
        stamps, wall = self._stamps, now.wall
        taken, self.puts = self.puts, {}
        encoded = {task_id: live_record(task, stamps, wall) for task_id, task in taken.items()}
        self.flying_puts = [(task, task.attempt) for task in taken.values()]
        size, count = 0, 0
        while self.backlog and count < self._config.backlog_slice and size < self._config.write_bytes:
            task = self.backlog.popleft()
            if task.phase is not STORING or task.task_id in encoded:
                continue  # ended meanwhile
            raw = encoded[task.task_id] = live_record(task, stamps, wall)
            self.flying_puts.append((task, task.attempt))
            size += len(raw)
            count += 1
        return encoded

    def _summarise(self, now: Now) -> None:
        """One line says what was accepted and finished since the last write."""
        memory = self._memory
        counts = {name: count for name, count in self._finished.items() if count}
        if memory.accepted:
            counts["accepted"] = memory.accepted
        if self._history_dropped:
            counts["lines_dropped"] = self._history_dropped
        if not counts:
            return
        task_id = next(iter(self.results)) if len(self.results) == 1 else ""
        self._history.append(history_line(self._stamps.iso(now.wall), task_id, "progress", counts))
        memory.accepted = 0
        self._history_dropped = 0
        self._finished = dict.fromkeys(self._finished, 0)

    def _writes(self, puts: dict[str, bytes], results: dict[str, bytes], now: Now) -> list[SectionWrite]:
        header, self._header = self._header, {}
        history, self._history = self._history, []
        writes: list[SectionWrite] = []
        for some_puts, some_results in self._portions(puts, results):
            write = SectionWrite(self.section, self._memory.fence, self._new_id())
            write.put_tasks = some_puts
            write.results = some_results
            write.drop_tasks = list(some_results)
            if self._flying_letters:
                write.letters = [task_id for task_id in some_results if task_id in self._flying_letters]
            writes.append(write)
        if not writes and (header or history):
            writes.append(SectionWrite(self.section, self._memory.fence, self._new_id()))
        if writes:
            writes[0].header = header
            writes[0].history = history
        return writes

    def _portions(
        self, puts: dict[str, bytes], results: dict[str, bytes]
    ) -> Iterator[tuple[dict[str, bytes], dict[str, bytes]]]:
        """Cut by bytes; nearly always there is one portion."""
        limit = self._config.write_bytes
        if self._flying_bytes + sum(map(len, puts.values())) <= limit:
            if puts or results:
                yield puts, results
            return
        for some in _by_bytes(results, limit):
            yield {}, some
        for some in _by_bytes(puts, limit):
            yield some, {}

    def _report(self, write: SectionWrite, version: int) -> Iterator[Send]:
        """The messages that tell the coordinator of this write's results. ``version`` is what is to be expected; it is
        set to the true one when the batch is applied."""
        # While nobody leads it goes to nobody, comes back, and waits: one that stands by may be connected, but it
        # acknowledges nothing, and what it has been sent is not told to the one that will lead.
        to = self._memory.coordinator if self._memory.coordinator_up else ""
        for part in split([sendable(raw) for raw in write.results.values()], self._config.message_bytes):
            payload = {"action": "task_results", "results": part, "version": version}
            yield Send(to, MessageType.EVENT, payload)

    def stored_waiting(self) -> list[LiveTask]:
        """Tasks that wait, and whose records say so; of the others the coordinator is told when theirs do."""
        storing = {*self.puts, *(task.task_id for task, _ in self.flying_puts)}
        return [task for task in self._memory.waiting.values() if task.task_id not in storing]

    def tell_waiting(self, tasks: Iterable[LiveTask]) -> Iterator[Send]:
        """The messages that tell the coordinator of tasks that wait for answers, and of the questions."""
        to = self._memory.coordinator if self._memory.coordinator_up else ""
        for part in split([waiting_item(task) for task in tasks], self._config.message_bytes):
            yield Send(
                to, MessageType.EVENT, {"action": "task_waiting", "tasks": part, "version": self._memory.version}
            )


def _by_bytes(items: dict[str, bytes], limit: int) -> Iterator[dict[str, bytes]]:
    part: dict[str, bytes] = {}
    size = 0
    for key, raw in items.items():
        if part and size + len(raw) > limit:
            yield part
            part, size = {}, 0
        part[key] = raw
        size += len(raw)
    if part:
        yield part
