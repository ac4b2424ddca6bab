"""What waits to be made durable, section by section, and what waits for it.

The cut is the only place where staged things become a :class:`~daemons.runtime.contract.Batch`; one batch is in
flight at a time, so "everything cut so far is applied" is what :class:`~daemons.runtime.contract.BatchApplied` says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from a2a_zmq.clock import Now, iso
from a2a_zmq.encoding import kept_json
from a2a_zmq.interfaces import INBOX, Section, SectionWrite
from daemons.coordinator.records import DONE, MOVING, PLACED, Entry
from daemons.runtime.contract import Batch, Effect

INBOX_SECTION = Section(INBOX, "coordinator")
# Notable events that an agent's LocalAgentState shows.
RECENT_EVENTS = 100


def _in_inbox(entry: Entry) -> bool:
    return entry.home is None or entry.state == MOVING


class Staged:
    """Not yet cut writes to one section. ``entries`` are records to put; those that ended meanwhile are skipped.
    ``letters`` are ids that are no dead letters any more. ``yields``: a record may be older than what its distributor
    writes at the same time."""

    __slots__ = ("drops", "entries", "header", "history", "letters", "results", "yields")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.drops: list[str] = []
        self.letters: list[str] = []
        self.results: dict[str, bytes] = {}
        self.history: list[bytes] = []
        self.header: dict[str, str] = {}
        self.yields = False


class Staging:
    """See the module's text.

    Attributes:
        after: effects to perform once everything staged so far is durable.
        cuts, applied: number of the last batch that was cut, and of the last that is durable.
        unpersisted: staged task records that are not durable yet.
        recent: notable events of this process, newest last.
    """

    def __init__(self, new_id: Callable[[], str]) -> None:
        self.new_id = new_id
        self._sections: dict[Section, Staged] = {}
        self._in_flight: Batch | None = None
        self._in_flight_tasks = 0
        self._in_flight_entries: list[tuple[Section, list[Entry]]] = []
        self._moved: list[str] = []
        self._moved_cut: list[str] = []
        self.after: list[Effect] = []
        self.cuts = 0
        self.applied = 0
        self.unpersisted = 0
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT_EVENTS)

    def section(self, section: Section) -> Staged:
        staged = self._sections.get(section)
        if staged is None:
            staged = self._sections[section] = Staged()
        return staged

    def put(self, section: Section, entries: list[Entry]) -> None:
        self.section(section).entries.extend(entries)
        self.unpersisted += len(entries)

    def end(self, entry: Entry, section: Section, result: bytes) -> None:
        """The task ended here: its result goes where its record is; the record goes away if it was ever written."""
        staged = self.section(section)
        staged.results[entry.task_id] = result
        if entry.batch:
            staged.drops.append(entry.task_id)

    def moved(self, entry: Entry) -> None:
        """The task leaves the inbox for a distributor. The distributor's section is written first; the inbox lets go
        of it one batch later, so that a crash in between leaves it twice and not nowhere (loading resolves that)."""
        if entry.batch:
            self._moved.append(entry.task_id)

    def history(self, section: Section, now: Now, task_id: str, name: str, detail: dict[str, Any]) -> None:
        """Stage an event for the audit history."""
        stamp = iso(now.wall)
        self.section(section).history.append(kept_json([stamp, task_id, name, detail]))
        self.recent.append({"time": stamp, "task_id": task_id, "event": name, "detail": detail})

    def unrecorded(self, task_id: str) -> bytes | None:
        """The result of a task that ended here, as long as it is not durable."""
        for staged in self._sections.values():
            if task_id in staged.results:
                return staged.results[task_id]
        for write in self._in_flight.writes if self._in_flight is not None else ():
            if task_id in write.results:
                return write.results[task_id]
        return None

    def empty(self) -> bool:
        """Nothing waits to be cut or applied."""
        idle = not (self._sections or self.after or self._moved or self._moved_cut)
        return idle and self.cuts == self.applied

    def cut(self, fence: int, assign: Callable[[Section, list[Entry]], Iterable[Effect]]) -> Batch | None:
        """Everything staged, as one batch.

        Args:
            assign: called for each section with the entries that it puts; gives the messages that tell its distributor.
        """
        if self._moved_cut:
            self.section(INBOX_SECTION).drops.extend(self._moved_cut)
        self._moved_cut, self._moved = self._moved, []
        sections, self._sections = self._sections, {}
        after, self.after = self.after, []
        if not sections and not after:
            return None
        number = self.cuts + 1
        writes: list[SectionWrite] = []
        placed: list[tuple[Section, list[Entry]]] = []
        tasks = 0
        for section, staged in sections.items():
            entries = staged.entries
            inbox = section.distributor_id == INBOX
            # An entry may have ended since, or have been placed out of the inbox: then it is put elsewhere, or nowhere.
            kept = [each for each in entries if each.state != DONE and _in_inbox(each) is inbox]
            puts = {each.task_id: each.record for each in kept}
            for each in kept:
                each.batch = number
            tasks += len(entries)
            drops = staged.drops
            if puts and drops:  # an id that ended and was submitted again meanwhile
                drops = [task_id for task_id in drops if task_id not in puts]
            if puts or drops or staged.results or staged.history or staged.header or staged.letters:
                write = SectionWrite(section, fence, self.new_id())
                write.header, write.put_tasks, write.drop_tasks = staged.header, puts, drops
                write.results, write.history, write.drop_letters = staged.results, staged.history, staged.letters
                write.yields = staged.yields
                writes.append(write)
            told = [each for each in kept if each.state == PLACED]
            placed.append((section, told))
            after.extend(assign(section, told))
        batch = Batch(writes, after)
        if writes:
            # A batch without writes is performed at once and gets no BatchApplied.
            self.cuts = number
            self._in_flight = batch
            self._in_flight_tasks = tasks
            self._in_flight_entries = placed
        else:
            self.unpersisted -= tasks
        return batch

    def waiting(self) -> list[Effect]:
        """The effects that wait for the batch in flight."""
        return self._in_flight.after if self._in_flight is not None else []

    def batch_applied(self, versions: Mapping[Section, int]) -> dict[str, bytes]:
        """The batch in flight is durable, and its sections have these versions; returns what results it recorded."""
        for section, entries in self._in_flight_entries:
            for entry in entries:
                entry.version = versions[section]
        self._in_flight_entries = []
        results = {
            task_id: result
            for write in (self._in_flight.writes if self._in_flight is not None else ())
            for task_id, result in write.results.items()
        }
        self.applied = self.cuts
        self.unpersisted -= self._in_flight_tasks
        self._in_flight_tasks = 0
        self._in_flight = None
        return results

    def restart(self) -> list[Effect]:
        """The batch in flight is void (another load happened): stage again what it carried besides tasks.

        Returns:
            the effects that waited for it and for what was staged; the caller decides which of them still make sense.
        """
        waiting = self.after
        voided = self._in_flight
        self.after = []
        if voided is not None:
            waiting = [*voided.after, *waiting]
            for write in voided.writes:
                staged = self.section(write.section)
                staged.results = {**write.results, **staged.results}
                staged.drops = [*write.drop_tasks, *staged.drops]
                staged.letters = [*write.drop_letters, *staged.letters]
                staged.history = [*write.history, *staged.history]
                staged.header = {**write.header, **staged.header}
        for staged in self._sections.values():
            staged.entries = []
        # Whether a moved task is in its distributor's section is what the load tells.
        self._moved, self._moved_cut = [], []
        self._in_flight = None
        self._in_flight_tasks = 0
        self._in_flight_entries = []
        self.unpersisted = 0
        return waiting

    def ended(self) -> set[str]:
        """Ids that ended here, but not yet durably."""
        return {task_id for staged in self._sections.values() for task_id in staged.results}

    def clear(self) -> None:
        """We are no longer the owner: nothing staged may be written any more."""
        self._sections = {}
        self._in_flight = None
        self._in_flight_tasks = 0
        self._in_flight_entries = []
        self._moved, self._moved_cut = [], []
        self.after = []
        self.unpersisted = 0
        self.applied = self.cuts
