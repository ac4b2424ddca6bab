"""What becomes of an attempt: a result, another attempt, or the end of the task.

An attempt's report counts only if it is the task's current one and the task is live; a late one changes nothing.
Retries happen here and at no other layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.tasks import ABANDONED, COMPLETED, FAILED, IN_PROGRESS, check_move
from a2a_zmq.tracing.context import task_fields
from daemons.distributor.budgets import RetryBudgets
from daemons.distributor.consulting import RetryPolicy
from daemons.distributor.delays import Delays
from daemons.distributor.dispatch import Dispatcher
from daemons.distributor.journal import Journal
from daemons.distributor.losses import Losses
from daemons.distributor.memory import (
    ENDED,
    QUEUED,
    RESTORED,
    RUNNING,
    STORING,
    STRAY_S,
    WAITING,
    LiveTask,
    Memory,
)
from daemons.distributor.pauses import Pauses, answered, bind
from daemons.distributor.records import (
    Stamps,
    completed_record,
    failed_before,
    forgiven,
    held_s,
    note_attempt,
    process_died,
    unfinished_record,
)
from daemons.distributor.workers import Worker

# A report without an error text still has to say something to a user.
_NO_ERROR = "the worker gave no reason"
KILLED = "killed"  # error_kind: its process died by a signal
# Of a pause; by then it is at its bound whatever that is, and 2.0 ** 1024 is no number any more.
MAX_DOUBLINGS = 64


class Outcomes:
    """Moves tasks out of their phase when something happened to them.

    Attributes:
        budgets: of retries, by task type.
        delays: attempts that are stored, and when they are due.
        losses: what becomes of the attempts of workers that are lost.
        pauses: attempts that end, while their task neither ends nor failed.
        policy: the user's, of failed attempts.
    """

    def __init__(
        self, memory: Memory, journal: Journal, dispatcher: Dispatcher, stamps: Stamps, rng: Callable[[], float]
    ) -> None:
        self._memory = memory
        self._journal = journal
        self._dispatcher = dispatcher
        self._stamps = stamps
        self._rng = rng
        self.budgets = RetryBudgets(memory.config)
        self.delays = Delays(memory, dispatcher)
        self.losses = Losses(memory, journal, stamps, self)
        self.pauses = Pauses(memory, journal, self)
        self.policy = RetryPolicy(memory, journal, self)
        self._paused: dict[str, Callable[[LiveTask, dict[str, Any], Now], None]] = {
            "moved": self.pauses.moved,
            "put_off": self.pauses.put_off,
            "waiting": self.pauses.wait,
        }

    # ------------------------------------------------------------ reports of workers

    def report(self, worker: Worker, item: Any, now: Now) -> None:
        """One entry of a worker's ``task_results``."""
        if not isinstance(item, dict):
            return
        memory = self._memory
        task_id, attempt = item.get("task_id"), item.get("attempt")
        task = memory.live.get(task_id) if isinstance(task_id, str) else None
        if task is None or not (
            (task.attempt == attempt and task.phase is RUNNING and task.worker == worker.agent_id)
            or self._claims(worker, task, attempt, now)
        ):
            if task is None and isinstance(task_id, str) and isinstance(attempt, int):
                memory.stranger(task_id, attempt)
            elif task is not None:
                self._journal.hurry(task)
            worker.ghosts.pop((str(task_id), attempt if isinstance(attempt, int) else 0), None)
            if task is None and isinstance(task_id, str) and task_id not in memory.recent:
                memory.stray(worker, item, now.mono)
            memory.late_results += 1
            memory.meter.count("late_results_total")
            return
        outcome = item.get("outcome")
        worker.ran(outcome, item.get("execution_s"), now.mono - task.dispatched_at)
        if outcome == COMPLETED:
            self._complete(task, item, now)
        elif outcome == ABANDONED or task.cancelled:
            self._abandon(task, item, now)
        elif isinstance(outcome, str) and outcome in self._paused:
            self._paused[outcome](task, item, now)
        else:
            self._failed(task, item, now)

    def reported_before(self, task: LiveTask, now: Now) -> bool:
        """Whether a worker reported a result of this task, which is new to us, before we knew it, and that counts."""
        memory, phase = self._memory, task.phase
        worker_id, item, came = memory.strays.pop(task.task_id, ("", None, 0.0))
        if (worker := memory.workers.get(worker_id)) is None or now.mono - came >= STRAY_S:
            return False
        task.phase = RESTORED
        self.report(worker, item, now)
        if task.phase is not RESTORED or memory.live.get(task.task_id) is not task:
            return True
        task.phase = phase
        return False

    def _claims(self, worker: Worker, task: LiveTask, attempt: Any, now: Now) -> bool:
        """A result may come for a restored task that the worker finished while we were away: it was held there. The
        same goes for one that waits, which an earlier owner sent without our knowing."""
        if task.phase is QUEUED and task.attempt == attempt:
            self.hold(task, worker, attempt, now)
            return True
        if task.phase is not RESTORED or not isinstance(attempt, int):
            return False
        if not max(task.recorded, task.floor + 1) <= attempt <= task.recorded + 1:
            return False
        self.hold(task, worker, attempt, now)
        return True

    def hold(self, task: LiveTask, worker: Worker, attempt: int, now: Now) -> None:
        """This worker has this attempt: it is current from now on (adoption of a restored task)."""
        self._release(task)
        task.phase = RUNNING
        task.attempt = attempt
        task.worker = worker.agent_id
        answered(task)
        bind(task, worker)
        task.dispatched_at = now.mono
        worker.take(task)
        self._memory.adopted.append(task)

    def _complete(self, task: LiveTask, item: dict[str, Any], now: Now) -> None:
        stamps = self._stamps
        started, took = item.get("started_at"), item.get("execution_s")
        begun = stamps.peer_iso(started)
        completed_at = None
        if isinstance(started, (int, float)) and isinstance(took, (int, float)):
            completed_at = stamps.peer_iso(started + took)  # both by the worker's clock: their difference is true
        completed_at = completed_at or stamps.iso(now.wall)
        # Not rounded: that would cost more than its digits, and nearly all tasks come this way.
        agent_id, held = self._memory.agent_id, now.mono - task.dispatched_at
        raw = completed_record(task, agent_id, item, started_at=begun, completed_at=completed_at, held_s=held)
        if self.budgets:
            self.budgets.completed(task.task_type, now.mono)
        if self._memory.spans is not None:
            self._memory.spans.finished(task, now, COMPLETED, item=item)
        self.end(task, COMPLETED, raw)

    def _abandon(self, task: LiveTask, item: dict[str, Any], now: Now) -> None:
        """A run was stopped. Also without a wish known here it is taken for one if the worker says so: an earlier owner
        may have passed it on. A run stopped for another reason is a failed attempt, so that it is bounded."""
        if task.cancelled or item.get("error_kind") == "cancelled":
            self.finish(task, ABANDONED, now, error="cancelled", kind="cancelled", item=item)
        elif item.get("error_kind") == "replaced":
            # An earlier owner did not live to store the attempt that replaces it.
            self.again(task, now, front=True, why="replaced")
        else:
            self._failed(task, {"error_kind": "stopped", **item}, now)

    def _failed(self, task: LiveTask, item: dict[str, Any], now: Now) -> None:
        kind = item.get("error_kind")
        error = item.get("error")
        self.fail(
            task,
            now,
            error=error if isinstance(error, str) and error else _NO_ERROR,
            kind=kind if isinstance(kind, str) and kind else "raised",
            retryable=item.get("retryable") is not False,
            item=item,
        )

    # ------------------------------------------------------------ verdicts

    def fail(
        self, task: LiveTask, now: Now, *, error: str, kind: str, retryable: bool, item: dict[str, Any] | None = None
    ) -> None:
        """An attempt failed: another one after a backoff, or the end.

        The first time that the process of a task is killed the backoff is left out, and grows from the second on: as
        when a worker dies, it is most likely not the task's doing (and nothing that passes with time), and what ran
        should run on at once. But too many retries at a time are put off, whatever failed.
        """
        failures = task.failures + 1
        self._memory.meter.count("task_failures_total", reason=kind)
        if task.apart and process_died(item):
            self._convict(task, now, error=error, kind=kind, item=item)
            return
        if not retryable or self.exhausted(task, failures):
            self.finish(task, FAILED, now, error=error, kind=kind, failures=failures, item=item)
            return
        if self._memory.spans is not None:
            self._memory.spans.ended(task, now, FAILED, kind=kind, error=error, item=item)
        config = self._memory.config
        # Full jitter above a base: repeated at different times, so that what failed together is not repeated together.
        earlier = failed_before(task, KILLED) if kind == KILLED else failures - forgiven(task)
        most = min(config.retry_cap_s, config.retry_base_s * 2.0 ** min(earlier, MAX_DOUBLINGS))
        delay = config.retry_base_s + self._rng() * max(0.0, most - config.retry_base_s) if earlier else 0.0
        put_off_s = self.budgets.charge(task.task_type, now.mono)
        if put_off_s:
            delay += put_off_s
            self._memory.meter.count("task_retries_put_off_total")
        task.metadata["error_kind"] = kind
        task.metadata.pop("decided", None)
        note_attempt(task, self._stamps, now, error=error, kind=kind, item=item)
        not_before = self.policy.consider(task, now.mono + delay, now.mono + put_off_s, now)
        self._retry(task, now, error, failures, not_before=not_before)
        self._journal.note(
            now, task.task_id, "retry", {"attempt": task.attempt, "kind": kind, "delay_s": round(delay, 3)}
        )

    def _convict(self, task: LiveTask, now: Now, *, error: str, kind: str, item: dict[str, Any] | None) -> None:
        """Workers died while they ran it, and now a process that ran nothing else: it gets no further one."""
        self._memory.meter.count("tasks_quarantined_total")
        given = item or {}
        given = {**given, "detail": {**given.get("detail", {}), "worker_deaths": task.deaths}}
        error = f"{task.deaths} workers died while they ran it, and then a process that ran nothing else: {error}"
        self.finish(task, FAILED, now, error=error, kind=kind, failures=task.failures + 1, item=given)

    def again(self, task: LiveTask, now: Now, *, front: bool, not_before: float = 0.0, why: str = "") -> None:
        """Another attempt, uncounted; persisted before it is sent, as every attempt after the first."""
        if self._memory.spans is not None:
            self._memory.spans.ended(task, now, why or "handed_back")
        self._retry(task, now, None, task.failures, front=front, not_before=not_before)

    def _retry(
        self,
        task: LiveTask,
        now: Now,
        error: str | None,
        failures: int,
        *,
        not_before: float = 0.0,
        front: bool = False,
    ) -> None:
        self._memory.meter.count("task_retries_total")
        if error is not None:
            task.record["error"] = error
        task.record["retry_count"] = failures
        self._release(task)
        self.store_next(task, task.attempt + 1, not_before=not_before, front=front)
        self._journal.put(task)

    def met_before(self, task: LiveTask) -> bool:
        """A worker was given this task, which is new to us, by an earlier owner. That attempt's number is used up: the
        next one is staged, and sent when it is stored."""
        attempt = self._memory.strangers.pop(task.task_id, 0)
        if attempt <= task.recorded:
            return False
        self.store_next(task, attempt + 1)
        self._journal.put(task)
        return True

    def store_next(self, task: LiveTask, attempt: int, *, not_before: float = 0.0, front: bool = False) -> None:
        """Give the task its next attempt, which the caller stages; it is sent when it is stored."""
        self._clear(task)
        task.phase = STORING
        task.attempt = attempt
        answered(task)
        task.not_before = not_before
        task.front = front
        task.pin = ""  # whoever was asked for had its chance

    def stand_still(self, task: LiveTask) -> None:
        """Nobody has it, and it is not to be sent; the caller gives it its phase."""
        self._release(task)
        self._clear(task)
        answered(task)

    def out_of_sight(self, task: LiveTask, now: Now) -> None:
        """No worker has this restored task any more. If it ran, as its record says, that attempt has ended somehow: it
        is told of, and counts as no failure."""
        if task.record.get("status") != IN_PROGRESS:
            return
        worker, started_at = str(task.metadata.get("worker") or ""), task.record.get("started_at")
        task.attempt = task.recorded
        error = f"{self._memory.agent_id} took over, and no worker had it any more"
        item = {"started_at": started_at}
        note_attempt(task, self._stamps, now, error=error, kind="worker_lost", item=item, worker=worker)

    @staticmethod
    def _clear(task: LiveTask) -> None:
        """Forget what was of an attempt that is over."""
        task.worker = ""
        task.shown = False
        task.started_at = None
        task.started_mono = 0.0

    def finish(
        self,
        task: LiveTask,
        status: str,
        now: Now,
        *,
        error: str,
        kind: str,
        failures: int | None = None,
        item: dict[str, Any] | None = None,
    ) -> None:
        """The task ends without a result: ``failed`` (a dead letter) or ``abandoned``."""
        given = item or {}
        if self._memory.spans is not None:
            self._memory.spans.finished(task, now, status, kind=kind, error=error, item=item)
        check_move(task.task_id, task.status, status)
        self.end(
            task,
            status,
            dead=status == FAILED or kind != "cancelled",
            raw=unfinished_record(
                task,
                self._memory.agent_id,
                status,
                error=error,
                error_kind=kind,
                started_at=self._stamps.peer_iso(given.get("started_at", task.started_at)),
                completed_at=self._stamps.iso(now.wall),
                failures=task.failures if failures is None else failures,
                execution_s=given.get("execution_s"),
                held_s=held_s(task, now),
                detail=given.get("detail"),
            ),
        )
        memory = self._memory
        name, fields = "abandoned", {"kind": kind, "attempt": task.attempt}
        if status == FAILED:
            name, fields = "dead_letter", {**fields, "error": error[:200]}
            memory.meter.count("dead_letters_total", reason=kind)
            memory.dead_letters += 1
            if memory.dead_letters == 1:
                memory.first_dead_letter = {**task_fields(task.task_id, task.attempt, task.metadata), **fields}
        self._journal.note(now, task.task_id, name, fields)

    def drop(self, task: LiveTask, now: Now) -> None:
        """Somebody else finished it: forget it."""
        if task.phase is RUNNING:
            worker = self._memory.workers.get(task.worker)
            if worker is not None:
                worker.disown(task.task_id, task.attempt, now.mono)
        self._release(task)
        self._journal.puts.pop(task.task_id, None)
        task.phase = ENDED
        del self._memory.live[task.task_id]
        self.pauses.turn_over(task)

    # ------------------------------------------------------------ phases

    def end(self, task: LiveTask, status: str, raw: bytes, *, dead: bool = False) -> None:
        """The task ends with this result record; a ``dead`` one is kept as a dead letter, too."""
        memory = self._memory
        self._release(task)
        task.phase = ENDED
        del memory.live[task.task_id]
        memory.recent.add(task.record)
        memory.ended_total[status] += 1
        self._journal.end(task.task_id, status, raw, dead=dead)
        self.pauses.turn_over(task)

    def _release(self, task: LiveTask) -> None:
        """Take the task from whoever holds it in its present phase."""
        phase = task.phase
        if phase is RUNNING:
            worker = self._memory.workers.get(task.worker)
            if worker is not None:
                worker.drop(task)
        elif phase is QUEUED:
            self._dispatcher.discard(task)
        elif phase is RESTORED:
            self._memory.restored.pop(task.task_id, None)
        elif phase is WAITING:
            self._memory.waiting.pop(task.task_id, None)
        # STORING and DELAYED: the journal and the heap skip tasks that have left these phases.

    def exhausted(self, task: LiveTask, failures: int) -> bool:
        """No attempt is left after so many failures."""
        return failures - forgiven(task) >= self.most_attempts(task)

    def most_attempts(self, task: LiveTask) -> int:
        """How many attempts it may have."""
        most = task.metadata.get("max_attempts")
        return most if isinstance(most, int) and most > 0 else self._memory.config.max_attempts
