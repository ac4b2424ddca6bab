"""What becomes of the attempts of a worker that is lost, and which of them is to blame for it.

A task that runs inside of a worker's process can kill it. That a task was running in several workers as they died
makes it a *suspect*. That is no proof: somebody else may have killed all of these workers. So it runs in a process of
its own from then on (``apart``). If it kills that one too it is set aside, with what that process left behind; if a
worker dies meanwhile, that is not its doing. Where many tasks are suspects there are not as many processes: each is
*tried* first, as the only suspect of a worker, and only one whose worker dies in its trial runs apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from a2a_zmq.clock import Now
from a2a_zmq.tasks import ABANDONED, FAILED
from daemons.distributor.journal import Journal
from daemons.distributor.memory import LiveTask, Memory
from daemons.distributor.records import Stamps, note_attempt
from daemons.distributor.workers import Worker, trial_end

if TYPE_CHECKING:
    from daemons.distributor.outcomes import Outcomes

# Ends of a worker's session: its process is dead, for certain; its connection was lost, and it may live on.
DEATHS, TORN = frozenset({"exited", "restarted"}), "disconnect"


class Losses:
    """Counts, and decides who runs again, when and how."""

    def __init__(self, memory: Memory, journal: Journal, stamps: Stamps, outcomes: Outcomes) -> None:
        self._memory = memory
        self._journal = journal
        self._stamps = stamps
        self._outcomes = outcomes

    def lost(self, worker: Worker, tasks: Iterable[LiveTask], now: Now, reason: str) -> None:
        """A worker no longer has these attempts.

        Those that may have been running count as failed, and if it died, its death is held against them; if one of them
        was on trial, against that one alone, and as a suspicion against what came no earlier. Those that were only held
        ready for it are given back to the queue and counted as nothing.
        """
        maybe_running = worker.may_be_running()
        config = self._memory.config
        trial = worker.on_trial(now.mono, config.trial_s, config.max_worker_deaths)
        tried = trial[0] if trial is not None and trial[0].task_id in maybe_running else None
        # What runs in a child process is hardly the cause: it clears nobody of what it is suspected of itself.
        cause = tried if tried is not None and not tried.slotted else None
        died = reason in DEATHS
        again: list[LiveTask] = []
        for task in tasks:
            if task.cancelled:
                self._outcomes.finish(task, ABANDONED, now, error="cancelled", kind="cancelled")
                continue
            begun = task.task_id in maybe_running or task.started_mono
            beyond = died and task.slotted and now.mono < trial_end(task, config.trial_s, config.max_worker_deaths)
            if begun and cause in (None, task):
                if died:
                    self._blame(task)
                elif reason == TORN:
                    worker.torn.append((task, task is cause))
            elif died and cause is not None and self._outcomes.most_attempts(task) > 1:
                if begun and not task.slotted and task.dispatched_at >= cause.dispatched_at:
                    self._blame(task)  # else it could kill one worker after the other beside trials of others
                begun = False  # another one has killed it
            if not begun or self._survives(task, now, worker, reason, beyond=beyond, caused=task is cause):
                again.append(task)
        # Each goes to the front: the first one last. Of suspects the youngest is tried first: most killers kill soon.
        suspects = [task for task in again if task.deaths >= config.max_worker_deaths]
        if died:
            self._part(suspects, cause, worker, now)
        for task in reversed(again):
            if task.deaths < config.max_worker_deaths:
                self._outcomes.again(task, now, front=True)
        for task in suspects:
            self._outcomes.again(task, now, front=True, not_before=now.mono + config.trial_delay_s)

    def proven_dead(self, worker: Worker, now: Now) -> None:
        """The connection to this worker was lost; now its next process is there: it was dead. A task that has not ended
        meanwhile is a suspect from its next attempt on, if this makes it one."""
        torn = [(task, caused) for task, caused in worker.torn if self._memory.live.get(task.task_id) is task]
        for task, _ in torn:
            self._blame(task)
        suspects = [task for task, _ in torn if task.deaths >= self._memory.config.max_worker_deaths]
        self._part(suspects, next((task for task, caused in torn if caused), None), worker, now)
        worker.torn.clear()

    @staticmethod
    def _blame(task: LiveTask) -> None:
        """A worker died that may have been running it: one more."""
        task.metadata["worker_deaths"] = task.deaths + 1

    def _part(self, suspects: list[LiveTask], cause: LiveTask | None, worker: Worker, now: Now) -> None:
        """Have some run in processes of their own from their next attempt on: the one that was on trial in the process
        that died, or all suspects, if they are no more than a worker has slots for."""
        few = len(suspects) <= worker.slots
        for task in suspects:
            if few or task is cause:
                self._apart(task, now)

    def _apart(self, task: LiveTask, now: Now) -> None:
        if not task.slotted and not task.apart:
            task.metadata["apart"] = True
            self._journal.note(now, task.task_id, "runs_apart", {"worker_deaths": task.deaths})

    def _survives(
        self, task: LiveTask, now: Now, worker: Worker, reason: str, *, beyond: bool, caused: bool = False
    ) -> bool:
        """Count a failed attempt; False if it was the last one.

        Args:
            beyond: it ran in a child process, and its worker died as if in its trial.
            caused: its worker was lost in its trial. That proves nothing: somebody else may have killed it. So one more
                run, apart, is to come even if no attempt is left, where they were enough to get it to its trial.
        """
        failures, deaths = task.failures + 1, task.deaths
        task.metadata["error_kind"] = "worker_lost"
        error = f"worker {worker.agent_id} was lost ({reason})"
        self._memory.meter.count("task_failures_total", reason="worker_lost")
        deadly = beyond and deaths >= self._memory.config.most_worker_deaths
        spent = self._outcomes.exhausted(task, failures)
        most = self._outcomes.most_attempts(task)
        if spent and caused and reason in (*DEATHS, TORN) and most > self._memory.config.max_worker_deaths:
            self._apart(task, now)
            spent = False
        if deadly or spent:
            if deadly:
                error = f"{deaths} workers died while they ran it, the last one was {worker.agent_id} ({reason})"
            detail = {"detail": {"reason": reason, "worker_deaths": deaths}}
            self._outcomes.finish(task, FAILED, now, error=error, kind="worker_lost", failures=failures, item=detail)
            return False
        if self._memory.spans is not None:
            self._memory.spans.ended(task, now, "worker_lost", kind="worker_lost", error=error)
        note_attempt(task, self._stamps, now, error=error, kind="worker_lost")
        task.record["retry_count"] = failures
        task.record["error"] = error
        fields = {"worker": worker.agent_id, "attempt": task.attempt, "reason": reason}
        self._journal.note(now, task.task_id, "worker_lost", fields)
        return True
