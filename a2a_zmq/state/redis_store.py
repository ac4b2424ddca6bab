"""The shared state on Redis or Valkey.

*Writes.* Each section has a connection of its own, on which its header stays WATCHed between writes: the round trip
that carries ``MULTI … EXEC`` also carries the ``WATCH`` and ``HMGET`` for the next write. What was read under the
WATCH stands as long as nobody else writes the header; if somebody does, EXEC does nothing, and the same round trip
has brought the new header. So the first write of a section costs two round trips, and every later one a single one.

*Doubtful outcomes.* If the reply of an EXEC is lost, the header is read again on a new connection. Our mutation id is
there: it was applied. It is not there: trying again is safe even if the lost EXEC should still run, because both
attempts WATCH the header and both change it, so at most one of them can succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import Fenced, StateError, StateLost, StoreUnavailable, VersionConflict
from a2a_zmq.interfaces import Loaded, Mark, Section, SectionWrite, Survey, Wanted
from a2a_zmq.models import SharedAgentState
from a2a_zmq.state import keys, letters, yielding
from a2a_zmq.state.link import Link, named
from a2a_zmq.state.reads import Reads
from a2a_zmq.state.section import (
    FIELDS,
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
from a2a_zmq.state.survey import survey
from a2a_zmq.state.wire import Command, first_error, to_state_error
from a2a_zmq.streams import Chunk, EventId

# A conflict means that another writer got in between; with a handful of writers eight attempts always suffice,
# and a caller that still conflicts wants to know.
_ATTEMPTS: Final = 8
_PAUSE_S: Final = 0.002
_PAUSE_MAX_S: Final = 0.05
# After the third lost reply in a row the caller's own, longer backoff takes over; the mutation id keeps it safe.
_REPLIES_LOST_MAX: Final = 3
_MULTI: Final = ("MULTI",)
# Connections kept for writing. A coordinator of more distributors closes the one that was idle longest.
_CHANNELS_MAX: Final = 64


@dataclass(slots=True)
class StoreStats:
    """Counters since the store object was made; whoever owns it turns them into metrics.

    Attributes:
        conflicts: EXECs that did nothing because the header had changed.
        doubtful: EXECs without a reply.
        resolved: writes found applied when the header was read again.
    """

    conflicts: int = 0
    doubtful: int = 0
    resolved: int = 0


@dataclass(slots=True)
class _Channel:
    """The connection of one section.

    Attributes:
        watched: the header as read under a WATCH, or None.
        watched_on: the connection on which that WATCH stands.
    """

    link: Link
    watched: Snapshot | None = None
    watched_on: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class _ReplyLost(Exception):
    """An exchange ended without all its replies; another connection will tell what became of it."""

    def __init__(self, cause: StoreUnavailable) -> None:
        super().__init__(str(cause))
        self.cause = cause


class RedisStore:
    """Implements :class:`a2a_zmq.interfaces.StateStore`. Made for one event loop; open nothing until first used."""

    def __init__(
        self,
        config: RedisConfig,
        *,
        name: str = "",
        policy: RetentionPolicy | None = None,
        wall: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        new_epoch: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """
        Args:
            name: of the agent, shown by ``CLIENT LIST``.
            rng: uniform in [0, 1), for jitter.
        """
        self._config = config
        self._name = name
        self._policy = policy or RetentionPolicy()
        self._wall = wall
        self._rng = rng
        self._new_epoch = new_epoch
        self._channels: dict[Section, _Channel] = {}  # least recently used first
        self._known: dict[Section, Known] = {}
        self._floor: dict[Section, int] = {}
        self._marks: dict[Section, Mark] = {}
        self._reads = Reads(Link(config, f"{name}:read" if name else ""))
        self.stats = StoreStats()

    # ------------------------------------------------------------ writing

    async def apply(self, write: SectionWrite) -> int:
        channel = await self._channel(write.section)
        async with channel.turn:
            return await self._apply(channel, write)

    async def _apply(self, channel: _Channel, write: SectionWrite) -> int:
        section = write.section
        lost: StoreUnavailable | None = None
        replies_lost = 0
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(_PAUSE_MAX_S, _PAUSE_S * 2**attempt) * self._rng())
            try:
                found, applied = await self._look(channel, write)
                if applied is not None:
                    self.stats.resolved += 1
                    self._remember(section, found)
                    return applied
                plan = self._plan(write, found)
                version = await self._execute(channel, write, plan)
            except _ReplyLost as error:
                lost = error.cause
                replies_lost += 1
                if replies_lost >= _REPLIES_LOST_MAX:
                    break
                continue
            if version is not None:
                return version
            lost = None
        if lost is not None:
            raise lost
        raise VersionConflict(f"section {keys.section_name(section)}: {_ATTEMPTS} attempts met another writer")

    async def _execute(self, channel: _Channel, write: SectionWrite, plan: Plan) -> int | None:
        """One ``MULTI … EXEC``; None if the header had changed since it was watched."""
        commands = self._commands(write, plan)
        channel.watched = None  # EXEC ends the WATCH, and so does a connection that breaks or a cancellation
        try:
            replies = await channel.link.exchange(commands, only_on=channel.watched_on)
        except StoreUnavailable as error:
            self.stats.doubtful += 1
            raise _ReplyLost(error) from error
        if not self._executed(channel, commands, replies, keys.header(write.section)):
            self.stats.conflicts += 1
            return None
        self._remember(write.section, plan.after)
        if marks_results(write.section):
            self._marks[write.section] = ((replies[0] or b"").decode(), plan.after.buckets.text())
        return plan.version

    async def _look(self, channel: _Channel, write: SectionWrite) -> tuple[Snapshot, int | None]:
        """The header under a WATCH, and the verdict on it (see :func:`judge`)."""
        section = write.section
        if channel.watched is not None and channel.watched_on == channel.link.generation:
            try:
                return channel.watched, judge(write, channel.watched, self._known.get(section))
            except (Fenced, StateLost):
                # What stands may be old by now. That cannot do harm where the verdict is to write, for EXEC would
                # do nothing; a refusal is pronounced on what is there now only.
                channel.watched = None
        channel.watched = await self._watch(channel, section)
        return channel.watched, judge(write, channel.watched, self._known.get(section))

    async def _watch(self, channel: _Channel, section: Section) -> Snapshot:
        # UNWATCH first: a WATCH that stands from before, on a header changed since, would make EXEC do nothing.
        key = keys.header(section)
        channel.watched = None
        reused = channel.link.generation > 0
        try:
            replies = await channel.link.ask([("UNWATCH",), ("WATCH", key), ("HMGET", key, *FIELDS)])
        except StoreUnavailable as error:
            if reused and channel.link.generation == 0:  # it may have been cut long ago: worth one fresh connection
                raise _ReplyLost(error) from error
            raise
        channel.watched_on = channel.link.generation
        return Snapshot.parse(replies[2], key)

    def _plan(self, write: SectionWrite, found: Snapshot) -> Plan:
        floor = self._floor.get(write.section, 0)
        return plan_write(write, found, floor=floor, wall=self._wall(), policy=self._policy, new_epoch=self._new_epoch)

    def _commands(self, write: SectionWrite, plan: Plan) -> list[Command]:
        section = write.section
        header, live = keys.header(section), keys.tasks(section.distributor_id)
        commands: list[Command] = []
        if marks_results(section):
            commands.append(("HGET", keys.header(keys.sections(section.distributor_id)[0]), "results"))
        commands += [_MULTI, ("HSET", header, *chain.from_iterable(plan.header.items()))]
        if write.put_tasks and write.yields:
            commands.append(yielding.command(write))
        elif write.put_tasks:
            commands.append(("HSET", live, *chain.from_iterable(write.put_tasks.items())))
        if write.drop_tasks:
            commands.append(("HDEL", live, *write.drop_tasks))
        if write.results:
            bucket = keys.results(section, plan.bucket)
            commands.append(("HSET", bucket, *chain.from_iterable(write.results.items())))
            commands.append(("EXPIRE", bucket, plan.bucket_ttl_s, "NX"))
        if plan.drop_buckets:
            commands.append(("UNLINK", *(keys.results(section, number) for number in plan.drop_buckets)))
        if write.letters or write.drop_letters:
            commands.append(letters.command(write, self._policy))
        if write.history:
            entry = b"[" + b",".join(write.history) + b"]"
            stream = keys.history(section.distributor_id)
            commands.append(("XADD", stream, "MAXLEN", "~", plan.history_maxlen, "*", "e", entry))
        commands.append(("PUBLISH", keys.events(section.distributor_id), f"{section.writer}:{plan.version}"))
        commands.append(("EXEC",))
        commands.append(("WATCH", header))
        commands.append(("HMGET", header, *FIELDS))
        return commands

    def _executed(self, channel: _Channel, commands: Sequence[Command], replies: list[Any], header_key: str) -> bool:
        """Whether EXEC was carried out; keeps the header that came with the replies.

        Raises:
            StateError: Redis refused a command. Nothing was written, unless EXEC itself reports the error.
        """
        *mine, outcome, watched, header = replies
        error = first_error([*mine, outcome])
        if error is not None:
            raise to_state_error(error) from error
        # What was asked ahead for the next write may be refused (a fail-over in between), or be a foreign text: that
        # one asks again, and says so.
        if first_error([watched, header]) is None:
            with contextlib.suppress(StateError):
                channel.watched = Snapshot.parse(header, header_key)
        if outcome is None:
            return False
        error = first_error(outcome)
        if error is not None:
            command = commands[commands.index(_MULTI) + 1 + outcome.index(error)]
            raise StateError(f"a key of the shared state has a foreign type: {named(error, command)}") from error
        return True

    async def _channel(self, section: Section) -> _Channel:
        channel = self._channels.pop(section, None)
        if channel is None:
            keys.header(section)  # raises ValueError for a section that cannot be
            name = f"{self._name}:{keys.section_name(section)}" if self._name else ""
            channel = _Channel(Link(self._config, name))
        self._channels[section] = channel
        if len(self._channels) > _CHANNELS_MAX:
            await self._close_idle_channel()
        return channel

    async def _close_idle_channel(self) -> None:
        idle = next((section for section, channel in self._channels.items() if not channel.turn.locked()), None)
        if idle is not None:
            await self._channels.pop(idle).link.close()

    def _remember(self, section: Section, snapshot: Snapshot) -> None:
        self._known[section] = Known(snapshot.version, snapshot.fence, snapshot.epoch)
        self._floor[section] = max(self._floor.get(section, 0), snapshot.version)

    def rebase(self, section: Section) -> None:
        self._known.pop(section, None)

    def advance(self, section: Section, version: int) -> None:
        self._floor[section] = max(self._floor.get(section, 0), version)

    # ------------------------------------------------------------ reading

    async def load(self, section: Section) -> Loaded:
        # A write of ours may be carried out while we read: what we read is older than that then, not lost.
        known = self._known.get(section)
        snapshot, header = await self._reads.header(section)
        check_not_lost(keys.section_name(section), snapshot, known)
        tasks = await self._reads.all_tasks(section.distributor_id)
        if self._known.get(section) is known:
            self._remember(section, snapshot)
        return Loaded(snapshot.version, snapshot.fence, snapshot.epoch, header, tasks)

    async def versions(self, distributor_id: str) -> tuple[int, int]:
        before = dict(self._known)
        coordinator, distributor = await self._reads.versions(distributor_id)
        found = {
            Section(distributor_id, keys.COORDINATOR): coordinator,
            Section(distributor_id, keys.DISTRIBUTOR): distributor,
        }
        check_versions(found, before, self._known)
        return coordinator, distributor

    def results_mark(self, section: Section) -> Mark:
        return self._marks.get(section, ())

    async def results(self, distributor_id: str, task_ids: list[str], since: Mark = ()) -> dict[str, bytes]:
        return await self._reads.results(distributor_id, task_ids, since)

    async def newest_results(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        return await self._reads.newest_results(distributor_id, wanted, limit)

    async def letters(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        return await self._reads.letters(distributor_id, task_ids)

    async def newest_letters(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        return await self._reads.newest_letters(distributor_id, wanted, limit)

    async def count_letters(self, distributor_id: str) -> int:
        return await self._reads.count_letters(distributor_id)

    async def lease(self, distributor_id: str) -> tuple[str, int, int] | None:
        return await self._reads.lease(distributor_id)

    async def tasks(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        return await self._reads.tasks(distributor_id, task_ids)

    async def page(self, distributor_id: str, cursor: str) -> tuple[str, dict[str, bytes]]:
        return await self._reads.page(distributor_id, cursor)

    async def survey(self) -> Survey:
        return await survey(self._reads.link)

    async def history(self, distributor_id: str, limit: int, task_id: str | None = None) -> list[bytes]:
        return await self._reads.history(distributor_id, limit, task_id)

    async def streams(self, wanted: list[tuple[str, EventId]]) -> list[tuple[list[Chunk], bool]]:
        return await self._reads.streams(wanted)

    async def document(self, distributor_id: str) -> SharedAgentState | None:
        return await self._reads.document(distributor_id, self._wall())

    async def distributors(self) -> list[str]:
        return await self._reads.distributors()

    async def register_distributor(self, distributor_id: str) -> bool:
        # A doubtful outcome needs no care here: registering twice leaves one entry.
        replies = await self._reads.link.ask(
            [("HSETNX", keys.registry(), distributor_id, f"{self._wall():.3f}")], again=True
        )
        return bool(replies[0])

    async def ping(self) -> None:
        await self._reads.link.ask([("PING",)], again=True)

    async def close(self) -> None:
        """Close every connection; the store may be used again afterwards."""
        for channel in self._channels.values():
            await channel.link.close()
        self._channels.clear()
        await self._reads.link.close()
