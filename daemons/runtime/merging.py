"""Handing in what stood in the spool: as it is, or as far as nobody else has overtaken it.

*Replay* (we never stopped being the owner): rows of one section are joined, so that a minute's writes become a few
transactions; the versions go on as they were foretold. *Merge* (somebody may have written meanwhile: we were restarted,
Redis lost state, or another process led): task by task, by what the store says now.

- A result is recorded unless the task has one of this life (an operator's retry begins another one) or of a later
  attempt, or is live at a later attempt, in a later life, or elsewhere.
- A record is put unless the task has ended, is live elsewhere, or is live here at this or a later attempt or life.
  (For a distributor, elsewhere is where it lives at a later attempt: it was taken away while we were gone.)
- A removal is done if the task has ended, or has left the inbox for a distributor.

A record in the store that cannot be read is older than any other, and a result that cannot be read is none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

import orjson

from a2a_zmq.errors import Fenced, StateError, StateLost, StoreUnavailable
from a2a_zmq.interfaces import CANCELS, INBOX, Held, Mark, Section, SectionWrite, StateStore
from a2a_zmq.state.keys import section_name
from a2a_zmq.state.takeover import take_section
from a2a_zmq.state.yielding import age_of
from a2a_zmq.tasks import ends, read_object, read_record
from daemons.runtime.spool import Spool
from daemons.runtime.spool_rows import Kept, SpoolRefused

CHUNK_BYTES: Final = 1024 * 1024


@dataclass(slots=True)
class Group:
    """Rows of one section as one write, and the version that the last of them was to give it.

    Attributes:
        tried: it may have been applied, so what it puts must be looked at afterwards, too.
    """

    write: SectionWrite
    version: int
    tried: bool = False


def groups_of(rows: Iterable[Kept], *, alone: Collection[str] = ()) -> list[Group]:
    """Join rows by section; the inbox comes last, for it lets go of what the others take.

    Args:
        alone: mutation ids of writes that Redis may have carried out: those keep their id, and go as they are.
    """
    groups: list[Group] = []
    open_groups: dict[Section, Group] = {}
    for kept in rows:
        write = kept.write
        section = write.section
        group = open_groups.get(section)
        if group is None or write.mutation_id in alone:
            joined = SectionWrite(section, write.fence, write.mutation_id)
            # A distributor that was told of a task directly may have stored further attempts by now.
            joined.yields = section.writer == "coordinator" and section.distributor_id != INBOX
            group = Group(joined, kept.version)
            groups.append(group)
            open_groups[section] = group
        _absorb(group, kept)
        if write.mutation_id in alone:
            del open_groups[section]
    groups.sort(key=lambda each: each.write.section.distributor_id == INBOX)
    return groups


def _absorb(group: Group, kept: Kept) -> None:
    into, write = group.write, kept.write
    into.mutation_id = write.mutation_id
    group.version = kept.version
    into.header.update(write.header)
    dropped = dict.fromkeys(into.drop_tasks)
    for task_id, record in write.put_tasks.items():
        dropped.pop(task_id, None)
        into.put_tasks[task_id] = record
    for task_id in write.drop_tasks:
        into.put_tasks.pop(task_id, None)
        dropped[task_id] = None
    into.drop_tasks = list(dropped)
    into.results.update(write.results)
    into.history.extend(write.history)
    gone = set(write.drop_letters)
    into.letters = [*(each for each in into.letters if each not in gone), *write.letters]
    into.drop_letters = [*(each for each in into.drop_letters if each not in write.results), *write.drop_letters]


def _attempt(record: bytes) -> int:
    age = age_of(record)
    return age.attempt if age is not None else 0


def _age(record: bytes) -> tuple[int, int]:
    """How often it was sent around again, and its attempt."""
    age = age_of(record)
    return (age.retried, age.attempt) if age is not None else (-1, -1)


def _life(record: bytes) -> tuple[str, int]:
    """When the task was submitted, and how often it was sent around again: it ends once."""
    age = age_of(record)
    return (age.created_at, age.retried) if age is not None else ("", 0)


def outlived(record: bytes, result: bytes) -> bool:
    """Whether this result ends the task of this live record."""
    end = read_record(result)
    return end is not None and ends(end, read_record(record) or {})


async def outlived_puts(store: StateStore, write: SectionWrite, since: Mark = ()) -> list[str]:
    """Records of this write whose task has ended.

    A distributor that was told of a task directly may have recorded its result, and dropped the record, before the
    record comes here.

    Args:
        since: no result that counts is older.
    """
    return await outlived_of(store, write.section, write.put_tasks, write.put_tasks.keys(), since)


async def outlived_of(
    store: StateStore, section: Section, records: dict[str, bytes], task_ids: AbstractSet[str], since: Mark = ()
) -> list[str]:
    """Those of these tasks that have ended although there is a live record of them."""
    asked = [task_id for task_id in task_ids if task_id in records]
    results = await store.results(section.distributor_id, asked, since) if asked else {}
    return [task_id for task_id, result in results.items() if outlived(records[task_id], result)]


async def drop_outlived(
    store: StateStore, write: SectionWrite, new_id: Callable[[], str], since: Mark = ()
) -> int | None:
    """After records were put: take those out again whose task ended between our look and our write. If it ends later,
    the distributor drops the record itself; so looking afterwards misses nothing.

    Returns:
        the section's version, if anything was to be dropped.
    """
    section = write.section
    gone = await outlived_puts(store, write, since)
    if not gone:
        return None
    return await store.apply(SectionWrite(section, write.fence, new_id(), drop_tasks=gone))


class Merger:
    """One merge of a whole spool."""

    def __init__(
        self, store: StateStore, spool: Spool, section: Section, held: Held, new_id: Callable[[], str]
    ) -> None:
        """
        Args:
            store: Redis itself.
            section: whose lease is held.
            new_id: fresh mutation ids. What was in doubt when the spool was written is decided by what the store holds.
        """
        self.counts = {"writes": 0, "tasks": 0, "results": 0, "dropped": 0}
        self.ended: set[str] = set()  # tasks that the spool has results of
        self._store = store
        self._spool = spool
        self._section = section
        self._held = held
        self._new_id = new_id
        self._last: dict[tuple[str, str], int] = {}  # (distributor, task) → the row that says last where its record is
        self._headers: dict[Section, dict[str, str]] = {}  # as found, of sections that are taken
        self._distributors: list[str] = []

    async def run(self, renew: Callable[[], Awaitable[bool]]) -> None:
        """Hand in everything; the spool is empty afterwards.

        Args:
            renew: renews the lease; False if it is not ours any more.

        Raises:
            StateError: the store could not be read or written, lost its state, or the lease is not ours any more.
        """
        await self._own()
        async for rows in self._chunks():
            for kept in rows:
                where = kept.write.section.distributor_id
                self.ended.update(kept.write.results)
                for task_id in (*kept.write.put_tasks, *kept.write.drop_tasks):
                    self._last[where, task_id] = kept.seq
        self._distributors = await self._store.distributors()
        async for rows in self._chunks():
            for group in groups_of(rows):
                await self._hand_in(group.write, rows[-1].seq, renew)
            self.counts["writes"] += len(rows)
            await forget(self._spool, rows[-1].seq)
        if self._spool.rows:
            await self._spool.discard()

    async def _chunks(self) -> Any:
        after = 0
        while rows := await self._spool.read(after, CHUNK_BYTES):
            yield rows
            after = rows[-1].seq

    def _elsewhere(self, write: SectionWrite, live: dict[str, dict[str, bytes]]) -> set[str]:
        """Tasks that are somebody else's. A task that is in the inbox was on its way here; or it was taken away from
        here (and so may be with another distributor), then it has a later attempt there."""
        here = write.section.distributor_id
        if write.section.writer == "coordinator":
            return {
                task_id
                for place in live
                if place not in (here, INBOX)
                for task_id, record in live[place].items()
                if age_of(record) is not None
            }
        ours = {**write.put_tasks, **write.results}
        return {
            task_id
            for place in live
            if place != here
            for task_id, record in live[place].items()
            if _newer_than(record, ours.get(task_id))
        }

    async def _own(self) -> None:
        """Enter our own section, which has our fence since we took the lease. It must not get it by a write of ours: if
        it is not there any more the state was lost, and by that alone our next try notices."""
        self._store.rebase(self._section)
        found = await self._store.load(self._section)
        if found.fence < self._held.fence:
            raise StateLost(section_name(self._section), self._held.fence, found.fence, "its fence")
        if found.fence > self._held.fence:
            raise Fenced(self._held.fence, found.fence)
        self._headers[self._section] = found.header

    async def _hand_in(self, write: SectionWrite, end: int, renew: Callable[[], Awaitable[bool]]) -> None:
        section = write.section
        if section not in self._headers:
            # From here on nobody with a lower fence writes there, and what we read can only be changed by us (or by
            # the other role, whose changes the rules allow for).
            found = await take_section(self._store, section, self._held.fence, self._new_id())
            self._headers[section] = found.header
            await self._enter(section)
        fence = write.fence
        write.fence = self._held.fence
        write.mutation_id = self._new_id()
        await self._choose(write, end)
        # A section that was taken in a state which was lost before that looks like ours; the lease went with the state.
        # (If it is lost from now on, the store object knows that the section went back.)
        if not await renew():
            raise StateError("the lease was lost while the spool was handed in")
        if self._held.found_fence > fence:
            write.header = _joined_cancels(write.header, self._headers[section])  # another owner's is newer
        if write.header or write.put_tasks or write.drop_tasks or write.results or write.history:
            await self._store.apply(write)
            await drop_outlived(self._store, write, self._new_id)
        self.counts["tasks"] += len(write.put_tasks)
        self.counts["results"] += len(write.results)

    async def _enter(self, section: Section) -> None:
        """The registry may have been lost with the state: a leader loads only sections of distributors that it has."""
        known = section.distributor_id in (INBOX, *self._distributors)
        if section.writer == "coordinator" and not known:
            await self._store.register_distributor(section.distributor_id)
            self._distributors.append(section.distributor_id)

    async def _choose(self, write: SectionWrite, end: int) -> None:
        """Leave in the write only what the store's present contents allow."""
        here = write.section.distributor_id
        ids = list({**write.put_tasks, **write.results, **dict.fromkeys(write.drop_tasks)})
        if not ids:
            return
        # A task leaves the inbox when it is elsewhere; so it is seen if the inbox is looked at first.
        places = list(dict.fromkeys((here, INBOX, *self._distributors)))
        live = {place: await self._store.tasks(place, ids) for place in places}
        ended: dict[str, bytes] = {}
        for place in places:
            for task_id, result in (await self._store.results(place, ids)).items():
                if age_of(result) is not None:
                    ended[task_id] = max(ended.get(task_id, result), result, key=_attempt)
        elsewhere = self._elsewhere(write, live)
        before = len(write.put_tasks) + len(write.results)
        letters = set(write.letters)
        drops = [each for each in write.drop_tasks if self._last[here, each] <= end and each not in write.results]
        write.results = {
            task_id: result
            for task_id, result in write.results.items()
            if task_id not in elsewhere and _is_newer(result, ended.get(task_id), live[here].get(task_id))
        }
        puts = {
            task_id: record
            for task_id, record in write.put_tasks.items()
            if self._last[here, task_id] <= end
            and task_id not in elsewhere
            and not (task_id in ended and outlived(record, ended[task_id]))
            and (task_id not in live[here] or _age(record) > _age(live[here][task_id]))
        }
        write.letters = [task_id for task_id in write.results if task_id in letters]
        # What a later row puts or drops is no loss.
        later = sum(1 for each in write.put_tasks if self._last[here, each] > end)
        write.drop_tasks = [each for each in write.results if each not in puts]  # else it was sent around again
        # An earlier try may have come as far as to put a record whose task has ended.
        drops += [task_id for task_id in write.put_tasks if task_id not in puts and task_id in ended]
        for task_id in drops:
            record = live[here].get(task_id)
            moved = here == INBOX and task_id in elsewhere
            if record is not None and (moved or (task_id in ended and outlived(record, ended[task_id]))):
                write.drop_tasks.append(task_id)
        write.put_tasks = puts
        self.counts["dropped"] += before - later - len(write.put_tasks) - len(write.results)


def _newer_than(record: bytes, ours: bytes | None) -> bool:
    return ours is not None and _attempt(record) > _attempt(ours)


def _joined_cancels(ours: dict[str, str], found: dict[str, str]) -> dict[str, str]:
    """What of our header counts beside a newer one: a wish that a task be cancelled was acknowledged."""
    if CANCELS not in ours:
        return {}
    both = {**(read_object(ours[CANCELS]) or {}), **(read_object(found.get(CANCELS, "{}")) or {})}
    return {CANCELS: orjson.dumps(both).decode()}


def _is_newer(result: bytes, ended: bytes | None, live: bytes | None) -> bool:
    attempt = _attempt(result)
    if ended is not None and (_life(ended) == _life(result) or _attempt(ended) >= attempt):
        return False
    return live is None or (_attempt(live) <= attempt and outlived(live, result))


async def forget(spool: Spool, upto: int, *, own: bool = False) -> bool:
    """Remove rows that are handed in; False if the disk is too full even for that (they are handed in all the same)."""
    try:
        await spool.remove(upto, own=own)
    except SpoolRefused:
        return False
    return True


async def read_own(spool: Spool, after: int, max_bytes: int) -> list[Kept]:
    """The next rows of this process. What another one of this agent kept there waits until it is merged.

    Raises:
        StoreUnavailable: they cannot be read now.
    """
    try:
        return await spool.read(after, max_bytes, own=True)
    except SpoolRefused as error:
        raise StoreUnavailable("spool", str(error)) from error
