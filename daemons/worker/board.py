"""Every attempt a worker holds, and how many are in which state. Pure."""

from __future__ import annotations

from a2a_zmq.clock import Now
from daemons.worker.config import WorkerConfig
from daemons.worker.kinds import PROCESS
from daemons.worker.runs import DONE, HANDED, HELD, RUNNING, Clockwork, Queues, Run


class Board:
    """The table of runs.

    Attributes:
        runs: task id → its highest attempt here that has not ended.
        replaced: lower attempts that were told to stop and have not ended.
        running: how many run.
        slots_waiting: runs that have not begun and need a slot (a child process) for it.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self.runs: dict[str, Run] = {}
        self.replaced: dict[tuple[str, int], Run] = {}
        self.running = 0
        self.slots_waiting = 0
        self._handed = 0  # with an executor, not begun
        # Twice the child processes may be handed over: a child that ends a run has the next one at hand.
        capacity = {"async": config.async_slots, "thread": config.thread_slots, "process": 2 * config.slots}
        self._queues = Queues(capacity)
        self._clockwork = Clockwork(config.started_after_s)

    def __len__(self) -> int:
        """All runs that have not ended."""
        return len(self.runs) + len(self.replaced)

    def allow(self, async_slots: int) -> None:
        """So many async runs at a time from now on; what runs goes on."""
        self._queues.allow("async", async_slots)

    @property
    def waiting(self) -> int:
        """Runs that have not begun."""
        return self._queues.held + self._handed

    @property
    def async_room(self) -> int:
        """Async runs that could begin at once."""
        return self._queues.room("async")

    def all(self) -> list[Run]:
        return [*self.runs.values(), *self.replaced.values()]

    def get(self, task_id: str, attempt: int) -> Run | None:
        run = self.runs.get(task_id)
        if run is None or run.attempt != attempt:
            run = self.replaced.get((task_id, attempt))
        return run

    def add(self, run: Run) -> None:
        self.runs[run.task_id] = run
        self._queues.add(run)
        self.slots_waiting += run.kind == PROCESS

    def drop_held(self, run: Run) -> bool:
        """Forget a run that no executor has; False if one has it, who must end it first."""
        if run.state != HELD:
            return False
        self._queues.forget(run)
        self._forgotten(run)
        return True

    def set_aside(self, run: Run) -> None:
        """Its place is taken by a higher attempt."""
        del self.runs[run.task_id]
        self.replaced[(run.task_id, run.attempt)] = run

    def take_held(self) -> list[Run]:
        """Forget all runs that no executor has; returns them."""
        held = self._queues.take_all()
        for run in held:
            self._forgotten(run)
        return held

    def take_newest(self, count: int) -> list[Run]:
        """Forget up to ``count`` runs that no executor has, the latest first; returns them."""
        taken = self._queues.take_newest(count)
        for run in taken:
            self._forgotten(run)
        return taken

    def _forgotten(self, run: Run) -> None:
        self.slots_waiting -= run.kind == PROCESS
        del self.runs[run.task_id]

    def to_start(self, now: Now) -> list[Run]:
        """Runs whose executor has room. Async ones begin with it; of the others their executor says when they do."""
        ready = self._queues.ready()
        for run in ready:
            self._handed += 1
            if run.kind == "async":
                self.begun(run, now.mono, now.wall)
        return ready

    def begun(self, run: Run, mono: float, wall: float) -> None:
        if run.state == HANDED:
            run.state, run.started_mono, run.started_wall = RUNNING, mono, wall
            self._handed -= 1
            self.slots_waiting -= run.kind == PROCESS
            self.running += 1
            self._clockwork.started(run)

    def ended(self, task_id: str, attempt: int) -> Run | None:
        """An executor is done with this run; None if it is not known."""
        run = self.runs.get(task_id)
        if run is not None and run.attempt == attempt:
            del self.runs[task_id]
        else:
            run = self.replaced.pop((task_id, attempt), None)
            if run is None:
                return None
        if run.state == RUNNING:
            self.running -= 1
        else:
            self._handed -= 1
            self.slots_waiting -= run.kind == PROCESS
        run.state = DONE
        self._queues.returned(run)
        return run

    def lasting(self, mono: float) -> list[Run]:
        """Runs that have run long enough for a report, each once."""
        return self._clockwork.lasting(mono)

    def overdue(self, mono: float) -> list[Run]:
        """Runs whose time limit has passed, each once."""
        return self._clockwork.overdue(mono)

    def next_deadline(self) -> float:
        return self._clockwork.next_deadline()

    def repair(self) -> tuple[list[int], list[int]] | None:
        """Compare the counters with what they count; returns (counted, true) if they had to be set right."""
        true = [sum(run.state == state for run in self.all()) for state in (HELD, HANDED, RUNNING)]
        true.append(sum(run.kind == PROCESS and run.state != RUNNING for run in self.all()))
        counted = [self._queues.held, self._handed, self.running, self.slots_waiting]
        if true == counted:
            return None
        self._queues.held, self._handed, self.running, self.slots_waiting = true
        return counted, true
