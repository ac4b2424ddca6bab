"""The shared state in one process, for simulations: same semantics, same verdicts, no server.

:class:`MemoryStore`, :class:`MemoryLeases` and :class:`MemoryHints` are one client's view of a :class:`MemoryRedis`.
Their coroutines never wait (hints excepted), so a simulator may step them by hand and decides itself how long an
operation takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from a2a_zmq.errors import StateLost, StoreUnavailable
from a2a_zmq.interfaces import INBOX, Held, Loaded, Mark, Section, SectionWrite, Survey, Wanted
from a2a_zmq.models import SharedAgentState
from a2a_zmq.state import keys, yielding
from a2a_zmq.state.document import RECENT_RESULTS, DocumentParts, build_document, parse_task
from a2a_zmq.state.history import events_of
from a2a_zmq.state.lease_rules import decide, lease_value, parse_lease_value, safe_until
from a2a_zmq.state.letters import apply_in_memory
from a2a_zmq.state.memory_world import Hint, MemoryData, MemoryRedis
from a2a_zmq.state.newest import Newest
from a2a_zmq.state.section import (
    LEASED_AT,
    RESERVED,
    Buckets,
    Known,
    Plan,
    RetentionPolicy,
    Snapshot,
    check_not_lost,
    check_versions,
    judge,
    marks_results,
    plan_write,
)
from a2a_zmq.streams import Chunk, EventId

__all__ = ["MemoryHints", "MemoryLeases", "MemoryRedis", "MemoryStore"]

_CHUNKS_STEP: Final = 8
# Live records of one page.
_PAGE_STEP: Final = 500


class MemoryStore:
    """Implements :class:`a2a_zmq.interfaces.StateStore`."""

    def __init__(self, world: MemoryRedis, client: str = "", *, policy: RetentionPolicy | None = None) -> None:
        self._world = world
        self._client = client
        self._policy = policy or RetentionPolicy()
        self._known: dict[Section, Known] = {}
        self._floor: dict[Section, int] = {}
        self._marks: dict[Section, Mark] = {}

    async def apply(self, write: SectionWrite) -> int:
        keys.header(write.section)
        world = self._world
        data = world.data(self._client)
        found = world.snapshot(data, write.section)
        applied = judge(write, found, self._known.get(write.section))
        if applied is not None:
            self._remember(write.section, found)
            return applied
        fault = world.coming_fault(self._client)
        if fault is False:
            raise StoreUnavailable("timeout", "simulated: the write never arrived")
        plan = plan_write(
            write,
            found,
            floor=self._floor.get(write.section, 0),
            wall=world.clock().wall,
            policy=self._policy,
            new_epoch=world.new_epoch,
        )
        self._carry_out(data, write, plan)
        world.log.append((self._client, write.mutation_id, plan.version))
        world.publish(write.section, plan.version)
        if fault is True:
            raise StoreUnavailable("timeout", "simulated: the reply was lost")
        self._remember(write.section, plan.after)
        if marks_results(write.section):
            self._marks[write.section] = tuple(
                buckets.text() for buckets in self._results_of(data, write.section.distributor_id)
            )
        return plan.version

    def _carry_out(self, data: MemoryData, write: SectionWrite, plan: Plan) -> None:
        section = write.section
        data.headers.setdefault(keys.header(section), {}).update(plan.header)
        live = data.hashes.setdefault(keys.tasks(section.distributor_id), {})
        if write.yields:
            yielding.apply_in_memory(live, write)
        else:
            live.update(write.put_tasks)
        for task_id in write.drop_tasks:
            live.pop(task_id, None)
        if write.results:
            bucket = keys.results(section, plan.bucket)
            data.hashes.setdefault(bucket, {}).update(write.results)
            data.expiry.setdefault(bucket, self._world.clock().mono + plan.bucket_ttl_s)
        for number in plan.drop_buckets:
            data.hashes.pop(keys.results(section, number), None)
        if write.letters or write.drop_letters:
            letters = data.letters.setdefault(keys.letters(section.distributor_id), {})
            apply_in_memory(letters, write, self._policy, self._world.clock().wall)
        if write.history:
            stream = data.streams.setdefault(keys.history(section.distributor_id), deque())
            stream.append(b"[" + b",".join(write.history) + b"]")
            while len(stream) > plan.history_maxlen:
                stream.popleft()

    def _remember(self, section: Section, snapshot: Snapshot) -> None:
        self._known[section] = Known(snapshot.version, snapshot.fence, snapshot.epoch)
        self._floor[section] = max(self._floor.get(section, 0), snapshot.version)

    def rebase(self, section: Section) -> None:
        self._known.pop(section, None)

    def advance(self, section: Section, version: int) -> None:
        self._floor[section] = max(self._floor.get(section, 0), version)

    async def load(self, section: Section) -> Loaded:
        data = self._world.data(self._client)
        snapshot = self._world.snapshot(data, section)
        check_not_lost(keys.section_name(section), snapshot, self._known.get(section))
        self._remember(section, snapshot)
        header = data.headers.get(keys.header(section), {})
        return Loaded(
            snapshot.version,
            snapshot.fence,
            snapshot.epoch,
            {name: value for name, value in header.items() if name not in RESERVED},
            dict(data.hashes.get(keys.tasks(section.distributor_id), {})),
        )

    async def versions(self, distributor_id: str) -> tuple[int, int]:
        data = self._world.data(self._client)
        numbers = {section: self._world.snapshot(data, section).version for section in keys.sections(distributor_id)}
        check_versions(numbers, self._known, self._known)
        coordinator, distributor = (Section(distributor_id, each) for each in (keys.COORDINATOR, keys.DISTRIBUTOR))
        return numbers[coordinator], numbers.get(distributor, 0)

    def _results_of(self, data: MemoryData, distributor_id: str) -> list[Buckets]:
        headers = (data.headers.get(keys.header(section), {}) for section in keys.sections(distributor_id))
        return [Buckets.parse(header.get("results", "")) for header in headers]

    def _buckets(self, data: MemoryData, distributor_id: str, since: Mark = ()) -> list[dict[str, bytes]]:
        """Result buckets that are still there, newest first in each section."""
        found = []
        for place, (section, buckets) in enumerate(
            zip(keys.sections(distributor_id), self._results_of(data, distributor_id), strict=True)
        ):
            for number in buckets.newer_than(Buckets.parse(since[place])) if since else buckets.newest_first():
                found.append(data.hashes.get(keys.results(section, number), {}))
        return found

    def results_mark(self, section: Section) -> Mark:
        return self._marks.get(section, ())

    async def results(self, distributor_id: str, task_ids: list[str], since: Mark = ()) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        wanted = set(task_ids)
        for bucket in self._buckets(self._world.data(self._client), distributor_id, since):
            for task_id in wanted & bucket.keys():
                found.setdefault(task_id, bucket[task_id])
        return found

    async def newest_results(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        newest = Newest(wanted, limit)
        for bucket in self._buckets(self._world.data(self._client), distributor_id):
            newest.show(bucket.values())
        return newest.records()

    def _letters(self, distributor_id: str) -> dict[str, tuple[float, bytes]]:
        return self._world.data(self._client).letters.get(keys.letters(distributor_id), {})

    async def letters(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        letters = self._letters(distributor_id)
        return {task_id: letters[task_id][1] for task_id in task_ids if task_id in letters}

    async def newest_letters(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        newest = Newest(wanted, limit)
        newest.show(record for _, record in self._letters(distributor_id).values())
        return newest.records()

    async def count_letters(self, distributor_id: str) -> int:
        return len(self._letters(distributor_id))

    async def lease(self, distributor_id: str) -> tuple[str, int, int] | None:
        data, key = self._world.data(self._client), keys.lease(keys.sections(distributor_id)[0])
        if key not in data.leases:
            return None
        owner, fence = parse_lease_value(data.leases[key], key)
        return owner, fence, round((data.expiry[key] - self._world.clock().mono) * 1000)

    async def tasks(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        live = self._world.data(self._client).hashes.get(keys.tasks(distributor_id), {})
        return {task_id: live[task_id] for task_id in task_ids if task_id in live}

    async def page(self, distributor_id: str, cursor: str) -> tuple[str, dict[str, bytes]]:
        """Pages go by the ids' order, so that records that come and go between them move no others."""
        live = self._world.data(self._client).hashes.get(keys.tasks(distributor_id), {})
        ids = sorted(task_id for task_id in live if task_id > cursor)
        part = ids[:_PAGE_STEP]
        return (part[-1] if len(ids) > len(part) else ""), {task_id: live[task_id] for task_id in part}

    async def survey(self) -> Survey:
        return Survey(self._world.facts(self._client), whole=True)

    async def history(self, distributor_id: str, limit: int, task_id: str | None = None) -> list[bytes]:
        stream = self._world.data(self._client).streams.get(keys.history(distributor_id), deque())
        events: list[bytes] = []
        for entry in reversed(stream):
            if len(events) >= limit:
                break
            events.extend(events_of(entry, task_id))
        return events[: max(0, limit)]

    async def streams(self, wanted: list[tuple[str, EventId]]) -> list[tuple[list[Chunk], bool]]:
        told = self._world.data(self._client).told
        found = [
            [chunk for chunk in told.get(keys.stream(task_id), ()) if chunk.last > after] for task_id, after in wanted
        ]
        return [(chunks[:_CHUNKS_STEP], len(chunks) <= _CHUNKS_STEP) for chunks in found]

    async def document(self, distributor_id: str) -> SharedAgentState | None:
        data = self._world.data(self._client)
        owner = keys.sections(distributor_id)[0]
        versions = await self.versions(distributor_id)
        if versions == (0, 0) and distributor_id not in data.registry and distributor_id != INBOX:
            return None
        header = data.headers.get(keys.header(owner), {})
        lease_key = keys.lease(owner)
        lease = data.leases.get(lease_key)
        now = self._world.clock()
        records: dict[str, bytes] = {}
        for bucket in self._buckets(data, distributor_id):
            records |= bucket
        records = dict(list(records.items())[:RECENT_RESULTS]) | data.hashes.get(keys.tasks(distributor_id), {})
        parts = DocumentParts(
            versions=versions,
            status=_encoded(header.get("status")),
            assigned_workers=_encoded(header.get("assigned_workers")),
            leased_at=_encoded(header.get(LEASED_AT)),
            lease=_encoded(lease),
            lease_remaining_ms=round((data.expiry.get(lease_key, 0) - now.mono) * 1000),
            tasks=[task for record in records.values() if (task := parse_task(record)) is not None],
        )
        return build_document(parts, now.wall)

    async def distributors(self) -> list[str]:
        return sorted(self._world.data(self._client).registry)

    async def register_distributor(self, distributor_id: str) -> bool:
        registry = self._world.data(self._client).registry
        if distributor_id in registry:
            return False
        registry[distributor_id] = f"{self._world.clock().wall:.3f}"
        return True

    async def ping(self) -> None:
        self._world.data(self._client)

    async def close(self) -> None:
        return


class MemoryLeases:
    """Implements :class:`a2a_zmq.interfaces.LeaseStore`."""

    def __init__(self, world: MemoryRedis, client: str = "") -> None:
        self._world = world
        self._client = client

    async def acquire(
        self,
        section: Section,
        owner: str,
        ttl_ms: int,
        *,
        steal_from: str | None = None,
        min_fence: int = 0,
        new_epoch: bool = False,
        expect_fence: int = 0,
    ) -> Held | None:
        world, key = self._world, keys.lease(section)
        data, now = world.data(self._client), world.clock()
        found = world.snapshot(data, section)
        grant = decide(
            data.leases.get(key),
            found.fence,
            owner,
            steal_from=steal_from,
            min_fence=min_fence,
            new_epoch=new_epoch,
            key=key,
        )
        if grant is None:
            return None
        if key not in data.leases and found.fence < expect_fence:
            raise StateLost(keys.section_name(section), expect_fence, found.fence, "its fence")
        fault = world.coming_fault(self._client)
        if fault is False:
            raise StoreUnavailable("timeout", "simulated: the request never arrived")
        data.expiry[key] = now.mono + ttl_ms / 1000
        if grant.write:
            data.leases[key] = lease_value(owner, grant.fence)
            header = data.headers.setdefault(keys.header(section), {})
            header["fence"] = str(grant.fence)
            header[LEASED_AT] = f"{now.wall:.3f}"
            if new_epoch or not found.epoch:
                header["epoch"] = world.new_epoch()
        if fault is True:
            raise StoreUnavailable("timeout", "simulated: the reply was lost")
        return Held(key, owner, grant.fence, safe_until(now.mono, ttl_ms), found.fence)

    async def holder(self, section: Section) -> tuple[str, int, int] | None:
        keys.lease(section)  # raises ValueError for a section that has none
        return await MemoryStore(self._world, self._client).lease(section.distributor_id)

    async def renew(self, section: Section, held: Held, ttl_ms: int) -> bool:
        data, key, now = self._world.data(self._client), keys.lease(section), self._world.clock()
        if data.leases.get(key) != lease_value(held.owner, held.fence):
            return False
        data.expiry[key] = now.mono + ttl_ms / 1000
        held.safe_until = max(held.safe_until, safe_until(now.mono, ttl_ms))
        return True

    async def release(self, section: Section, held: Held) -> bool:
        data, key = self._world.data(self._client), keys.lease(section)
        if data.leases.get(key) != lease_value(held.owner, held.fence):
            return False
        del data.leases[key]
        data.expiry.pop(key, None)
        return True

    async def close(self) -> None:
        return


class MemoryHints:
    """Implements :class:`a2a_zmq.interfaces.Hints`; it waits, so simulators use ``MemoryRedis.on_hint`` instead."""

    def __init__(self, world: MemoryRedis) -> None:
        self._world = world

    async def listen(self, distributor_ids: list[str]) -> AsyncIterator[Hint]:
        if not distributor_ids:
            raise ValueError("no distributor to listen to")
        queue, wake = self._world.subscribe(distributor_ids)
        try:
            while True:
                while queue:
                    yield queue.popleft()
                wake.clear()
                await wake.wait()
        finally:
            self._world.unsubscribe(queue)


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()
