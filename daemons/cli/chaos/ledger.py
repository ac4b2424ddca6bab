"""What ran, where, when, and how often, as the handlers wrote it down."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Run:
    """One run of a handler; times are of the monotonic clock, which all processes of a host share."""

    task_id: str
    attempt: int
    worker: str
    pid: int
    task_type: str
    begun: float
    ended: float = 0.0


class Ledger:
    """Follows the file; call :meth:`read` to know what is new in it.

    Attributes:
        runs: by task id, in the order in which they began.
        order: all of them, in that order.
        running: those that did not end, by task id and attempt.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[str, list[Run]] = defaultdict(list)
        self.order: list[Run] = []
        self.running: dict[tuple[str, int], Run] = {}
        self._at = 0
        self._rest = b""

    def read(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            event, task_id, attempt, worker, pid, task_type, at = line.decode().split()
            key = (task_id, int(attempt))
            if event == "b":
                run = Run(task_id, key[1], worker, int(pid), task_type, float(at))
                self.runs[task_id].append(run)
                self.order.append(run)
                self.running[key] = run
            elif (ended := self.running.pop(key, None)) is not None:
                ended.ended = float(at)

    def forget(self, runs: list[Run]) -> None:
        """These will never end: who ran them is dead."""
        for run in runs:
            self.running.pop((run.task_id, run.attempt), None)

    def begun_since(self, moment: float) -> list[Run]:
        """Runs that began after that moment."""
        found: list[Run] = []
        for run in reversed(self.order):
            if run.begun < moment - 1.0:  # lines of different processes may be a little out of order
                break
            if run.begun > moment:
                found.append(run)
        return found[::-1]

    def next_run(self, run: Run) -> Run | None:
        """The first run of the same task that began after this one, with a higher attempt."""
        later = [each for each in self.runs[run.task_id] if each.attempt > run.attempt]
        return min(later, key=lambda each: each.begun, default=None)

    def doubles(self) -> list[tuple[str, int]]:
        """(task id, attempt) of what began more than once."""
        return [
            (task_id, attempt)
            for task_id, runs in self.runs.items()
            if len(runs) > 1
            for attempt in {run.attempt for run in runs}
            if sum(run.attempt == attempt for run in runs) > 1
        ]
