"""A Redis that is a handful of dicts: the world that all clients of an in-memory shared state have in common.

Faults are injected here, for one client or for all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final

from a2a_zmq.clock import Now
from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import KeyFact, Section
from a2a_zmq.state import keys
from a2a_zmq.state.section import FIELDS, Snapshot
from a2a_zmq.streams import Chunk

Hint = tuple[str, str, int]
# What a subscriber that does not read may have waiting; Redis would cut its connection at some point, too.
_HINTS_MAX: Final = 10_000


@dataclass(slots=True)
class MemoryData:
    """Everything that a Redis would hold, by key name."""

    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    hashes: dict[str, dict[str, bytes]] = field(default_factory=dict)  # live tasks and result buckets
    expiry: dict[str, float] = field(default_factory=dict)  # key → monotonic time of its end
    streams: dict[str, deque[bytes]] = field(default_factory=dict)
    told: dict[str, deque[Chunk]] = field(default_factory=dict)  # what runs of graphs tell
    letters: dict[str, dict[str, tuple[float, bytes]]] = field(default_factory=dict)  # oldest first
    leases: dict[str, str] = field(default_factory=dict)
    registry: dict[str, str] = field(default_factory=dict)


class MemoryRedis:
    """The world that clients share, and its faults.

    Attributes:
        log: (client, mutation id, version) of every write that was applied, for invariant checks.
    """

    def __init__(self, clock: Callable[[], Now]) -> None:
        """
        Args:
            clock: the simulation's time; leases and result buckets expire by its monotonic reading.
        """
        self.clock = clock
        self.log: list[tuple[str, str, int]] = []
        self._data = MemoryData()
        self._epochs = 0
        self._away: dict[str, str] = {}  # client ("" for all) → reason
        self._fail_next: dict[str, deque[bool]] = {}  # client → for each coming write: carried out before it fails?
        self._subscribers: list[tuple[frozenset[str], deque[Hint], asyncio.Event]] = []
        self._callbacks: list[Callable[[Hint], None]] = []

    # ---------------------------------------------------------------- faults

    def take_away(self, client: str = "", reason: str = "connection") -> None:
        """From now on every operation of this client (of all clients) raises StoreUnavailable."""
        self._away[client] = reason

    def give_back(self, client: str = "") -> None:
        """End :meth:`take_away`; subscribers are told to read everything again."""
        self._away.pop(client, None)
        self.resubscribe()

    def lose_replies(self, client: str, count: int = 1, *, applied: bool) -> None:
        """The next ``count`` writes or acquisitions of the client raise StoreUnavailable(``timeout``).

        Args:
            applied: after they were carried out, or instead.
        """
        self._fail_next.setdefault(client, deque()).extend([applied] * count)

    def wipe(self) -> None:
        """FLUSHALL, or a restart without persistence."""
        self._data = MemoryData()
        self.resubscribe()

    def copy(self) -> object:
        """What a replica would hold now; for :meth:`restore`."""
        return deepcopy(self._data)

    def restore(self, copy: object) -> None:
        """Fail over to a copy that was taken earlier: everything since is lost."""
        assert isinstance(copy, MemoryData)
        self._data = deepcopy(copy)
        self.resubscribe()

    # ---------------------------------------------------------------- what clients use

    def data(self, client: str) -> MemoryData:
        """
        Raises:
            StoreUnavailable: a fault is in force.
        """
        reason = self._away.get("") or self._away.get(client)
        if reason is not None:
            raise StoreUnavailable(reason, "simulated", fatal=reason == "noauth")
        return self.peek()

    def peek(self) -> MemoryData:
        """What is in it now, whatever faults are in force; for checks."""
        now = self.clock().mono
        for key in [key for key, end in self._data.expiry.items() if end <= now]:
            self._forget(key)
        return self._data

    def _forget(self, key: str) -> None:
        for kind in (self._data.hashes, self._data.leases, self._data.expiry):
            kind.pop(key, None)

    def coming_fault(self, client: str) -> bool | None:
        """None: the write goes well. True: it is carried out and its reply lost. False: it never arrives."""
        queue = self._fail_next.get(client)
        return queue.popleft() if queue else None

    def new_epoch(self) -> str:
        self._epochs += 1
        return f"epoch{self._epochs}"

    def snapshot(self, data: MemoryData, section: Section) -> Snapshot:
        header = data.headers.get(keys.header(section), {})
        return Snapshot.parse([header[name].encode() if name in header else None for name in FIELDS])

    def facts(self, client: str) -> list[KeyFact]:
        """What a look at all keys finds."""
        data, now = self.data(client), self.clock().mono
        found: list[KeyFact] = []

        def add(key: str, type_: str, *, lease: str = "", size: int = 0) -> None:
            end = data.expiry.get(key)
            found.append(KeyFact(key, type_, -1 if end is None else round((end - now) * 1000), lease, size))

        for key in data.headers:
            add(key, "hash")
        for key, members in data.hashes.items():
            kind = keys.classify(key)
            if members:  # Redis has no empty hashes
                add(key, "hash", size=len(members) if kind is not None and kind.name == "tasks" else 0)
        for key in data.streams:
            add(key, "stream")
        for key, value in data.leases.items():
            add(key, "string", lease=value)
        if data.registry:
            add(keys.registry(), "hash")
        return found

    # ---------------------------------------------------------------- hints

    def on_hint(self, callback: Callable[[Hint], None]) -> None:
        """Call back at every notification, also ``("", "", 0)`` after a fault; for simulators."""
        self._callbacks.append(callback)

    def publish(self, section: Section, version: int) -> None:
        hint = (section.distributor_id, section.writer, version)
        for distributor_ids, queue, wake in self._subscribers:
            if section.distributor_id in distributor_ids:
                _offer(queue, hint, wake)
        for callback in self._callbacks:
            callback(hint)

    def resubscribe(self) -> None:
        """As if every subscriber's connection had been cut and made again: what it had not read is lost."""
        for _, queue, wake in self._subscribers:
            queue.clear()
            _offer(queue, ("", "", 0), wake)
        for callback in self._callbacks:
            callback(("", "", 0))

    def subscribe(self, distributor_ids: list[str]) -> tuple[deque[Hint], asyncio.Event]:
        queue: deque[Hint] = deque([("", "", 0)], maxlen=_HINTS_MAX)
        wake = asyncio.Event()
        self._subscribers.append((frozenset(distributor_ids), queue, wake))
        return queue, wake

    def unsubscribe(self, queue: deque[Hint]) -> None:
        self._subscribers = [entry for entry in self._subscribers if entry[1] is not queue]


def _offer(queue: deque[Hint], hint: Hint, wake: asyncio.Event) -> None:
    queue.append(hint)
    wake.set()
