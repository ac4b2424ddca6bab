"""Everything that is read from the shared state, in bounded steps, so that neither Redis nor our event loop stalls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from a2a_zmq.interfaces import INBOX, Mark, Section, Wanted
from a2a_zmq.models import SharedAgentState, Task
from a2a_zmq.state import keys
from a2a_zmq.state.document import RECENT_RESULTS, DocumentParts, build_document, parse_task
from a2a_zmq.state.history import events_of
from a2a_zmq.state.lease_rules import parse_lease_value
from a2a_zmq.state.link import Link
from a2a_zmq.state.newest import Newest, steps
from a2a_zmq.state.section import FIELDS, RESERVED, Buckets, Snapshot, number
from a2a_zmq.state.wire import Command
from a2a_zmq.streams import OMITTED, START, Chunk, EventId, id_text, parse_id

# One step holds Redis for about a millisecond: 1,000 records of 0.5 KB, or 8,000 look-ups, as 1,000 ids in 8 buckets.
_SCAN_STEP: Final = 1000
_IDS_STEP: Final = 500
_LOOK_UPS_STEP: Final = 8000
_BUCKETS_STEP: Final = 8
_HISTORY_STEP: Final = 100
# Whoever pages does so beside work that must not wait for it.
_PAGE_STEP: Final = 500
_CHUNKS_STEP: Final = 8  # of 32 KiB mostly
_LETTERS_STEP: Final = 50  # they have their payloads


def _steps(ids: list[str], size: int) -> Iterator[list[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


class Reads:
    """Reading side of the Redis store; all over one connection, which other readers get between any two steps."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def _ask(self, commands: list[Command]) -> list[Any]:
        return await self.link.ask(commands, again=True)

    async def header(self, section: Section) -> tuple[Snapshot, dict[str, str]]:
        """The store's own members, and the role's."""
        (flat,) = await self._ask([("HGETALL", keys.header(section))])
        fields: dict[bytes, bytes] = dict(zip(flat[::2], flat[1::2], strict=True))
        snapshot = Snapshot.parse([fields.get(name.encode()) for name in FIELDS], keys.header(section))
        header = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
        return snapshot, {name: value for name, value in header.items() if name not in RESERVED}

    async def all_tasks(self, distributor_id: str) -> dict[str, bytes]:
        return await self._whole_hash(keys.tasks(distributor_id))

    async def _whole_hash(self, key: str, at_most: int | None = None) -> dict[str, bytes]:
        """All fields (or at least ``at_most`` of them, if there are as many); small hashes in one step."""
        (size,) = await self._ask([("HLEN", key)])
        found: dict[str, bytes] = {}
        if size <= _SCAN_STEP:
            (flat,) = await self._ask([("HGETALL", key)])
            return _pairs(flat)
        cursor = b"0"
        while True:
            ((cursor, flat),) = await self._ask([("HSCAN", key, cursor, "COUNT", _SCAN_STEP)])
            found.update(_pairs(flat))
            if cursor == b"0" or (at_most is not None and len(found) >= at_most):
                return found
            await asyncio.sleep(0)

    async def page(self, distributor_id: str, cursor: str) -> tuple[str, dict[str, bytes]]:
        """One step through the live records."""
        command: Command = ("HSCAN", keys.tasks(distributor_id), cursor or "0", "COUNT", _PAGE_STEP)
        ((following, flat),) = await self._ask([command])
        return ("" if following == b"0" else following.decode()), _pairs(flat)

    async def versions(self, distributor_id: str) -> tuple[int, int]:
        sections = keys.sections(distributor_id)
        headers = [keys.header(section) for section in sections]
        found = await self._ask([("HGET", header, "version") for header in headers])
        numbers = {
            section.writer: number(value, header, "version")
            for section, header, value in zip(sections, headers, found, strict=True)
        }
        return numbers[keys.COORDINATOR], numbers.get(keys.DISTRIBUTOR, 0)

    async def tasks(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for ids in _steps(task_ids, _IDS_STEP):
            (values,) = await self._ask([("HMGET", keys.tasks(distributor_id), *ids)])
            found.update(_present(ids, values))
        return found

    async def results(self, distributor_id: str, task_ids: list[str], since: Mark = ()) -> dict[str, bytes]:
        if not task_ids:
            return {}
        buckets = await self._result_buckets(distributor_id, since)
        found: dict[str, bytes] = {}
        if not buckets:
            return found
        for ids in _steps(task_ids, _LOOK_UPS_STEP // min(len(buckets), _BUCKETS_STEP)):
            found.update(await self._look_up(buckets, ids))
        return found

    async def _look_up(self, buckets: list[str], ids: list[str]) -> dict[str, bytes]:
        """Newest buckets first, a few at first: what is asked for has mostly just ended."""
        found: dict[str, bytes] = {}
        missing = ids
        start, width = 0, _BUCKETS_STEP
        while missing and start < len(buckets):
            commands: list[Command] = [("HMGET", bucket, *missing) for bucket in buckets[start : start + width]]
            start += width
            width = max(_BUCKETS_STEP, _LOOK_UPS_STEP // len(missing))
            for values in await self._ask(commands):
                for task_id, value in _present(missing, values).items():
                    found.setdefault(task_id, value)
            missing = [task_id for task_id in missing if task_id not in found]
        return found

    async def _result_buckets(self, distributor_id: str, since: Mark = ()) -> list[str]:
        """Keys of the result buckets, newest first (each section's own order; the owner's section leads)."""
        sections = keys.sections(distributor_id)
        headers = [keys.header(section) for section in sections]
        texts = await self._ask([("HGET", header, "results") for header in headers])
        found = [
            Buckets.parse((text or b"").decode(errors="replace"), header)
            for header, text in zip(headers, texts, strict=True)
        ]
        if since:
            ranges = [now.newer_than(Buckets.parse(then)) for now, then in zip(found, since, strict=True)]
        else:
            ranges = [each.newest_first() for each in found]
        listed: list[str] = []
        for place in range(max(map(len, ranges))):
            for section, numbers in zip(sections, ranges, strict=True):
                if place < len(numbers):
                    listed.append(keys.results(section, numbers[place]))
        return listed

    async def history(self, distributor_id: str, limit: int, task_id: str | None) -> list[bytes]:
        events: list[bytes] = []
        end = "+"
        step = 1  # the newest entry of a busy fleet often has all that is asked for
        while len(events) < limit:
            (entries,) = await self._ask([("XREVRANGE", keys.history(distributor_id), end, "-", "COUNT", step)])
            for _entry_id, fields in entries:
                events.extend(events_of(fields[1], task_id))
                if len(events) >= limit:
                    break
            if len(entries) < step:
                break
            end = "(" + entries[-1][0].decode()
            step = min(_HISTORY_STEP, step * 4)
        return events[: max(0, limit)]

    async def streams(self, wanted: list[tuple[str, EventId]]) -> list[tuple[list[Chunk], bool]]:
        commands: list[Command] = [
            ("XRANGE", keys.stream(task_id), f"({id_text(after)}", "+", "COUNT", _CHUNKS_STEP)
            for task_id, after in wanted
        ]
        found: list[tuple[list[Chunk], bool]] = []
        for entries in await self._ask(commands):
            found.append(([_chunk(name, fields) for name, fields in entries], len(entries) < _CHUNKS_STEP))
        return found

    async def newest_results(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        newest = Newest(wanted, limit)
        for place, bucket in enumerate(await self._result_buckets(distributor_id)):
            if place > 1 and newest.enough():  # the first two may be the heads of both writers
                break
            for step in steps((await self._whole_hash(bucket)).values()):
                newest.show(step)
                await asyncio.sleep(0)
        return newest.records()

    async def letters(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for ids in _steps(task_ids, _IDS_STEP):
            (values,) = await self._ask([("HMGET", keys.letters(distributor_id), *ids)])
            found.update(_present(ids, values))
        return found

    async def newest_letters(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        newest = Newest(wanted, limit)
        start = 0
        while not newest.enough():
            end = start + _LETTERS_STEP
            (ids,) = await self._ask([("ZREVRANGE", keys.dead(distributor_id), start, end - 1)])
            if not ids:
                break
            (values,) = await self._ask([("HMGET", keys.letters(distributor_id), *ids)])
            newest.show(value for value in values if value is not None)
            start = end
        return newest.records()

    async def count_letters(self, distributor_id: str) -> int:
        (count,) = await self._ask([("ZCARD", keys.dead(distributor_id))])
        return int(count)

    async def lease(self, distributor_id: str) -> tuple[str, int, int] | None:
        key = keys.lease(keys.sections(distributor_id)[0])
        value, remaining_ms = await self._ask([("GET", key), ("PTTL", key)])
        if value is None:
            return None
        owner, fence = parse_lease_value(value.decode(errors="replace"), key)
        return owner, fence, remaining_ms

    async def distributors(self) -> list[str]:
        (ids,) = await self._ask([("HKEYS", keys.registry())])
        return sorted(distributor_id.decode(errors="replace") for distributor_id in ids)

    async def document(self, distributor_id: str, wall: float) -> SharedAgentState | None:
        sections = keys.sections(distributor_id)
        owner = sections[0]
        versions = await self.versions(distributor_id)
        lease_key = keys.lease(owner)
        header, registered, lease, remaining_ms = await self._ask(
            [
                ("HMGET", keys.header(owner), "status", "assigned_workers", "leased_at"),
                ("HEXISTS", keys.registry(), distributor_id),
                ("GET", lease_key),
                ("PTTL", lease_key),
            ]
        )
        if versions == (0, 0) and not registered and distributor_id != INBOX:
            return None
        parts = DocumentParts(
            versions=versions,
            status=header[0],
            assigned_workers=header[1],
            leased_at=header[2],
            lease=lease,
            lease_remaining_ms=remaining_ms,
            tasks=await self._parsed_tasks(distributor_id),
        )
        return build_document(parts, wall)

    async def _parsed_tasks(self, distributor_id: str) -> list[Task]:
        # A task that was put back to live after it had ended (an operator's retry) is shown as live.
        records = await self._newest_results(distributor_id) | await self.all_tasks(distributor_id)
        tasks: list[Task] = []
        for place, record in enumerate(records.values()):
            if place % _SCAN_STEP == 0:
                await asyncio.sleep(0)
            task = parse_task(record)
            if task is not None:
                tasks.append(task)
        return tasks

    async def _newest_results(self, distributor_id: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for bucket in await self._result_buckets(distributor_id):
            if len(found) >= RECENT_RESULTS:
                break
            found |= await self._whole_hash(bucket, at_most=RECENT_RESULTS)
        return dict(list(found.items())[:RECENT_RESULTS])


def _chunk(name: bytes, fields: list[bytes]) -> Chunk:
    last = parse_id(name.decode()) or START
    if len(fields) < 4:  # of another writer than ours: readers go past it
        return Chunk(START, last, orjson.dumps([[id_text(last), OMITTED, [], None]]))
    return Chunk(parse_id(fields[1].decode(errors="replace")) or START, last, fields[3])


def _pairs(flat: list[bytes]) -> dict[str, bytes]:
    return {name.decode(errors="replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _present(ids: Iterable[str], values: Iterable[bytes | None]) -> dict[str, bytes]:
    return {task_id: value for task_id, value in zip(ids, values, strict=True) if value is not None}
