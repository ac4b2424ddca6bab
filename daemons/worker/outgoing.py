"""Finished results on their way up: batched, split, kept for a distributor that restarts. Pure.

A link delivers what it took, also across reconnects; but a distributor process that dies may take results with it
that it had not recorded. So sent results are kept for a while and sent again to its successor, which ignores those it
knows.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import NamedTuple

Key = tuple[str, int]  # (task id, attempt)


class Entry(NamedTuple):
    """One encoded result (a member of ``task_results.results``)."""

    key: Key
    encoded: bytes


class Outgoing:
    """Results that wait to be sent, and those sent lately."""

    def __init__(self, message_bytes: int, keep: int, keep_bytes: int, keep_s: float) -> None:
        self._message_bytes = message_bytes
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._keep_s = keep_s
        self._unsent: deque[Entry] = deque()
        self._sent: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()
        self._sent_bytes = 0

    def __len__(self) -> int:
        """Results that wait to be sent."""
        return len(self._unsent)

    def add(self, key: Key, encoded: bytes) -> None:
        self._unsent.append(Entry(key, encoded))

    def take(self, mono: float) -> Iterator[list[Entry]]:
        """Everything that waits, in messages of about ``message_bytes``; from here on it counts as sent."""
        while self._unsent:
            batch: list[Entry] = []
            size = 0
            while self._unsent and (not batch or size + len(self._unsent[0].encoded) < self._message_bytes):
                entry = self._unsent.popleft()
                size += len(entry.encoded) + 1
                batch.append(entry)
                self._remember(entry, mono)
            yield batch
        self.prune(mono)

    def again(self, keys: list[Key]) -> int:
        """Send these results again if they are still kept, before whatever waits; returns how many are."""
        found = [Entry(key, self._forget(key)) for key in keys if key in self._sent]
        self._unsent.extendleft(reversed(found))
        return len(found)

    def again_all(self) -> int:
        """Send every kept result again; returns how many."""
        return self.again(list(self._sent))

    def put_back(self, entries: list[Entry]) -> None:
        """These were taken and could not be sent: they wait again, first of all. (What is kept of the sent ones is
        bounded, so they may be gone from there; nobody else has them.)"""
        for entry in entries:
            if entry.key in self._sent:
                self._forget(entry.key)
        self._unsent.extendleft(reversed(entries))

    def prune(self, mono: float) -> None:
        """Forget what is too old or too much."""
        sent = self._sent
        while sent:
            key, (at, _) = next(iter(sent.items()))
            if len(sent) <= self._keep and self._sent_bytes <= self._keep_bytes and at > mono - self._keep_s:
                return
            self._forget(key)

    def _remember(self, entry: Entry, mono: float) -> None:
        if entry.key in self._sent:
            self._forget(entry.key)
        self._sent[entry.key] = (mono, entry.encoded)
        self._sent_bytes += len(entry.encoded)

    def _forget(self, key: Key) -> bytes:
        _, encoded = self._sent.pop(key)
        self._sent_bytes -= len(encoded)
        return encoded
