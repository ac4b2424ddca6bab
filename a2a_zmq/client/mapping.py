"""Bookkeeping of one ``map``: which tasks are under way, and which results may be handed out next."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from typing import Any

from a2a_zmq.client.entries import Entry
from a2a_zmq.client.submission import error_of
from a2a_zmq.errors import FleetError, TaskWaiting

# Tasks under way unless the caller says otherwise: enough that four full submissions are unanswered while as many run.
DEFAULT_IN_FLIGHT = 4096
# Payloads are taken from the caller's iterator in groups of up to this many …
CHUNK_TASKS = 512
# … or for this long: what a slow iterator gives is sent on without waiting for a group.
CHUNK_S = 0.004


class MapRun:
    """Sink of all tasks of one ``map``. Results come in on one thread and are taken on another one or the same.

    Only single dict and deque operations touch what both threads see, so no lock is needed.

    Args:
        ordered: hand results out in the order of the payloads.
        at_turn_end: registers a function to be called when all results of a turn are in.
        wake: tells the taker that something is ready.
        in_flight: bound of tasks that were submitted and whose results were not taken.
    """

    def __init__(
        self,
        *,
        ordered: bool,
        in_flight: int,
        at_turn_end: Callable[[Callable[[], None]], None],
        wake: Callable[[], None],
    ) -> None:
        if in_flight < 1:
            raise ValueError("in_flight must be at least 1")
        self.in_flight = in_flight
        self.chunk = max(1, min(CHUNK_TASKS, in_flight // 4))
        self.started = 0
        self.taken = 0
        self.waiting = False
        self._ordered = ordered
        self._at_turn_end = at_turn_end
        self._wake = wake
        self._settling = False
        self._by_index: dict[int, Entry] = {}
        self._arrived: deque[Entry] = deque()
        self._waits: set[int] = set()  # tasks that asked something: they count as ended here
        self.on_room: Callable[[], None] | None = None  # a feeder that wants to hear of room

    # ------------------------------------------------------------ sink

    def accepted(self, entry: Entry) -> None:
        """Only results matter to a map."""

    def asked(self, entry: Entry) -> None:
        """A map goes on to the end of all tasks, so one that waits for an answer counts as one that did not complete.
        What becomes of it later is nobody's business here."""
        if entry.asked is not None and entry.index not in self._waits:
            ended = Entry(entry.task_id, b"", self, index=entry.index)
            ended.outcome = TaskWaiting(entry.task_id, entry.asked.interrupts, entry.asked.attempt)
            self.finished(ended)
            self._waits.add(entry.index)

    def finished(self, entry: Entry) -> None:
        if self._waits and entry.index in self._waits:
            return
        if self._ordered:
            self._by_index[entry.index] = entry
        else:
            self._arrived.append(entry)
        if not self._settling:
            self._settling = True
            self._at_turn_end(self._settle)

    def _settle(self) -> None:
        self._settling = False
        if self.waiting and self.ready():
            self.waiting = False
            self._wake()

    # ------------------------------------------------------------ taker

    def ready(self) -> bool:
        return self.taken in self._by_index if self._ordered else bool(self._arrived)

    def may_hear_more(self) -> bool:
        """Whether anything may still come of what was submitted."""
        return self.outstanding() > 0 or bool(self._waits)

    def outstanding(self) -> int:
        return self.started - self.taken

    def wants_more(self) -> bool:
        """There is room for a group worth sending."""
        return self.started - self.taken <= self.in_flight - self.chunk

    def next_index(self) -> int:
        index = self.started
        self.started += 1
        return index

    def take(self) -> Entry | None:
        """The next result to hand out, if it is there."""
        if self._ordered:
            entry = self._by_index.pop(self.taken, None)
        else:
            entry = self._arrived.popleft() if self._arrived else None
        if entry is not None:
            self.taken += 1
            if self.on_room is not None and self.wants_more():
                self.on_room()
        return entry


def yielded(entry: Entry, *, records: bool, return_exceptions: bool) -> Any:
    """What ``map`` yields for a finished task.

    Raises:
        FleetError: the task did not complete, and neither records nor exceptions were asked for.
    """
    outcome = entry.outcome
    assert outcome is not None
    if isinstance(outcome, dict):
        if records:
            return outcome
        if outcome.get("status") == "completed":
            return outcome.get("result")
    error = error_of(entry.task_id, outcome)
    assert isinstance(error, FleetError)
    if return_exceptions:
        return error
    raise error


async def each(
    payloads: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
) -> AsyncIterator[Mapping[str, Any]]:
    """One after the other, of whichever kind."""
    if isinstance(payloads, AsyncIterable):
        async for payload in payloads:
            yield payload
    else:
        for payload in payloads:
            yield payload
