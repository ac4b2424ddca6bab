"""Choosing the newest of stored records."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Final

from a2a_zmq.interfaces import Wanted
from a2a_zmq.tasks import read_record

# What one look for the newest results goes through at most: some 0.2 s of a core, in steps.
SCAN_MAX: Final = 20_000
# Records that are parsed in one go: under a millisecond for small ones.
PARSE_STEP: Final = 100


class Newest:
    """Keeps the newest wanted records of those that are shown to it; what cannot be read is left out.

    Attributes:
        seen: how many were shown.
    """

    def __init__(self, wanted: Wanted, limit: int) -> None:
        self._wanted = wanted
        self._limit = limit
        self._heap: list[tuple[str, str, bytes]] = []
        self.seen = 0

    def show(self, records: Iterable[bytes]) -> None:
        for record in records:
            self.seen += 1
            found = read_record(record)
            if found is None or not self._wanted(found):
                continue
            item = (str(found.get("completed_at") or ""), str(found.get("task_id")), record)
            if len(self._heap) < self._limit:
                heapq.heappush(self._heap, item)
            else:
                heapq.heappushpop(self._heap, item)

    def enough(self) -> bool:
        """Whether older records can be left aside."""
        return len(self._heap) >= self._limit or self.seen >= SCAN_MAX

    def records(self) -> list[bytes]:
        """Newest first."""
        return [record for _, _, record in sorted(self._heap, reverse=True)]


def steps(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Parts that are short enough to be parsed in one go."""
    step: list[bytes] = []
    for record in records:
        step.append(record)
        if len(step) == PARSE_STEP:
            yield step
            step = []
    yield step
