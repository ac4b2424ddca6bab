"""What a child process prints, by the runs that print it: the end of it is part of a failed run's record."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from daemons.worker.executors.surroundings import RUN_MARK

# Printed lines that are kept for a run: the end of what it said, small enough for its record.
LINES: Final = 20
LINE_CHARS: Final = 400
LOG_CHARS: Final = 4096
# Runs whose lines are kept: the one that runs, the one that just ended, and one to spare.
RINGS: Final = 3


def tail(lines: Sequence[str]) -> list[str]:
    """The last lines, as many as a record may hold."""
    room = LOG_CHARS
    kept: list[str] = []
    for line in reversed(lines[-LINES:]):
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    return kept[::-1]


class Printed:
    """The last lines of a child's last runs, and of what it says outside of them."""

    def __init__(self) -> None:
        self._rings: OrderedDict[str, deque[str]] = OrderedDict({"": deque(maxlen=LINES)})
        self._partial = b""

    def note(self, data: bytes) -> None:
        """It printed this."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_CHARS:
            lines.append(self._partial)
            self._partial = b""
        ring = self._rings[next(reversed(self._rings))]
        for line in lines:
            # The run before may have left its last line unfinished.
            said, mark, name = line.partition(RUN_MARK)
            if said or not mark:
                ring.append(said[:LINE_CHARS].decode(errors="replace"))
            if mark:
                ring = self._ring(name.decode(errors="replace"))

    def add(self, line: str) -> None:
        """Something of the child's own."""
        self._ring("").append(line)

    def _ring(self, name: str) -> deque[str]:
        ring = self._rings.get(name)
        if ring is None:
            ring = self._rings[name] = deque(maxlen=LINES)
            if len(self._rings) > RINGS:
                self._rings.popitem(last=False)
        return ring

    def lines_of(self, task_id: str, attempt: int) -> list[str]:
        """The last lines that this run printed; without an id, those of the child's own."""
        name = f"{task_id} {attempt}" if task_id else ""
        lines = list(self._rings.get(name, ()))
        if self._partial and name == next(reversed(self._rings)):
            lines.append(self._partial.decode(errors="replace"))
        return tail(lines)
