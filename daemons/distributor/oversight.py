"""The five steps of supervision: observe, detect, recover, reconcile, report.

They run beside the relay path, once an interval, and cost no more than a bounded slice of the live tasks each time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.models import LocalAgentState, Task
from a2a_zmq.tracing.context import task_fields
from daemons.distributor.dispatch import Dispatcher
from daemons.distributor.journal import Journal
from daemons.distributor.memory import DELAYED, ENDED, QUEUED, RESTORED, RUNNING, STORING, WAITING, LiveTask, Memory
from daemons.distributor.outcomes import Outcomes
from daemons.distributor.workers import Worker
from daemons.runtime.contract import Log
from daemons.runtime.sightings import forgotten

# Workers that are gone are shown as down until this many others are gone too, or their time is over (sightings.py).
MAX_DEPARTED = 64


class Oversight:
    """Looks after what no event tells: attempts without an end, workers that forgot, tasks without a holder."""

    def __init__(self, memory: Memory, journal: Journal, dispatcher: Dispatcher, outcomes: Outcomes) -> None:
        self._memory = memory
        self._journal = journal
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._watched: dict[str, LiveTask] = {}  # long runs: those that got their in_progress record
        self._overdue: list[tuple[LiveTask, int]] = []
        self._vanished: list[Worker] = []
        self._sweep: Iterator[str] = iter(())
        self._next_sweep = 0.0
        self._unserved: dict[str, int] = {}
        self._pending = 0
        self._running = 0
        self.repaired = 0
        self.odd = 0
        self._steps = {
            "observe": self._observe,
            "detect": self._detect,
            "recover": self._recover,
            "reconcile": self._reconcile,
            "report": self._report,
        }

    def step(self, name: str, now: Now) -> None:
        self._steps[name](now)

    def watch(self, task: LiveTask) -> None:
        """This attempt takes longer than a moment: see that it ends."""
        self._watched[task.task_id] = task

    # ------------------------------------------------------------ observe

    def _observe(self, now: Now) -> None:
        self._running = self._memory.running()
        self._pending = len(self._memory.live) - self._running - len(self._memory.waiting)

    # ------------------------------------------------------------ detect

    def _detect(self, now: Now) -> None:
        memory, config = self._memory, self._memory.config
        self._watched = {task_id: task for task_id, task in self._watched.items() if task.phase is RUNNING}
        longest = {worker.agent_id: _longest_limit(worker) for worker in memory.workers.values()}
        self._overdue = [
            (task, task.attempt)
            for task in self._watched.values()
            if now.mono > self._must_end_by(task, longest.get(task.worker, math.inf))
        ]
        self._vanished = [
            worker
            for worker in memory.workers.values()
            if worker.held
            and worker.idle_since
            and now.mono - worker.idle_since > config.vanished_s
            and all(task.dispatched_at < worker.idle_since for task in worker.held.values())
        ]
        for worker in memory.workers.values():
            forgotten = [key for key, since in worker.ghosts.items() if now.mono - since > config.vanished_s]
            for key in forgotten:
                del worker.ghosts[key]
        unserved = self._dispatcher.waiting_without_worker()
        for task_type in unserved.keys() - self._unserved.keys():
            fields = {"task_type": task_type, "waiting": unserved[task_type]}
            memory.out.append(Log("warning", "no_worker_for_task_type", fields))
            self._journal.note(now, "", "no_worker_for_task_type", fields)
        self._unserved = unserved

    def _must_end_by(self, task: LiveTask, longest: float) -> float:
        """When the worker must have reported this attempt (monotonic).

        One that has not begun waits behind what the worker runs: it is given the longest limit of all that the worker
        holds, from the worker's last sign of progress.
        """
        limit = task.timeout_s
        if limit is None:
            return math.inf
        slack = self._memory.config.overdue_slack_s
        if task.started_mono:
            return task.started_mono + limit + slack
        worker = self._memory.workers.get(task.worker)
        progress = worker.progress_at if worker is not None else 0.0
        return max(task.dispatched_at, progress) + longest + slack

    # ------------------------------------------------------------ recover

    def _recover(self, now: Now) -> None:
        memory = self._memory
        for task, attempt in self._overdue:
            if task.phase is not RUNNING or task.attempt != attempt:
                continue
            worker = memory.workers.get(task.worker)
            if worker is not None:
                worker.disown(task.task_id, attempt, now.mono)
            error = f"no result from worker {task.worker} long after the time limit"
            self._outcomes.fail(task, now, error=error, kind="timeout", retryable=True)
        self._overdue = []
        for worker in self._vanished:
            self._outcomes.losses.lost(worker, list(worker.held.values()), now, "vanished")
            worker.idle_since = 0.0
        self._vanished = []

    # ------------------------------------------------------------ reconcile

    def _reconcile(self, now: Now) -> None:
        """Check a slice of the live tasks; repair what has one right answer, count the rest."""
        memory = self._memory
        if not memory.owner:
            return
        part = list(islice(self._sweep, memory.config.sweep_slice))
        if not part and now.mono >= self._next_sweep:
            self._next_sweep = now.mono + memory.config.sweep_interval_s
            self._sweep = iter(list(memory.live))  # ids: what ends meanwhile is not to be held until it is met
            part = list(islice(self._sweep, memory.config.sweep_slice))
        for task in filter(None, map(memory.live.get, part)):
            if task.phase is ENDED or (why := self._misplaced(task)) == "":
                continue
            fields = {"task_id": task.task_id, "phase": task.phase.value, "why": why}
            told = {**task_fields(task.task_id, task.attempt, task.metadata), **fields}
            memory.out.append(Log("error", "inconsistent_task", told))
            self._journal.note(now, task.task_id, "inconsistent_task", fields)
            if self._mendable(task, why):
                self._mend(task, now)
            else:
                self.odd += 1

    def _mendable(self, task: LiveTask, why: str) -> bool:
        return task.phase is RUNNING and why == "no holder"

    def _mend(self, task: LiveTask, now: Now) -> None:
        self._outcomes.again(task, now, front=True)
        self.repaired += 1

    def _misplaced(self, task: LiveTask) -> str:
        """Why this live task is not where its phase says; "" if all is well. O(1) but for delayed ones."""
        memory = self._memory
        if memory.live.get(task.task_id) is not task:
            return "not live"
        if self._journal.holds_result(task.task_id):
            return "has a result"
        if task.phase is RUNNING:
            worker = memory.workers.get(task.worker)
            return "" if worker is not None and worker.held.get(task.task_id) is task else "no holder"
        if task.phase is QUEUED:
            return "" if task.lane is not None else "in no lane"
        if task.phase is RESTORED:
            return "" if memory.restored.get(task.task_id) is task else "not restored"
        if task.phase is WAITING:
            return "" if memory.waiting.get(task.task_id) is task and task.metadata.get("interrupts") else "not asked"
        return ""

    def audit(self, now: Now, *, repair: bool) -> list[dict[str, Any]]:
        """The whole memory at once, for ``a2actl doctor``; O(tasks).

        Returns:
            findings as the coordinator's ``audit`` has them; those that have one right answer were mended, if wanted.
        """
        rows: list[dict[str, Any]] = []
        for task in list(self._memory.live.values()):
            if task.phase is ENDED or (why := self._misplaced(task)) == "":
                continue
            mend = "run_again" if self._mendable(task, why) else ""
            if repair and mend:
                self._journal.note(now, task.task_id, "inconsistent_task", {"phase": task.phase.value, "why": why})
                self._mend(task, now)
            what = f"{task.phase.value}, but {why}"
            rows.append({"kind": "misplaced", "task_id": task.task_id, "what": what, "repair": mend,
                         "repaired": repair and bool(mend)})  # fmt: skip
        named = {row["task_id"] for row in rows}
        for line in self.violations():
            if line.partition(": ")[0] not in named:
                rows.append({"kind": "distributor_memory", "task_id": "", "what": line, "repair": ""})
        return rows

    def violations(self) -> list[str]:
        """Every broken invariant of the whole memory; O(tasks): for tests, simulations and ``a2actl doctor``."""
        memory, journal = self._memory, self._journal
        found = [f"{task.task_id}: {why}" for task in memory.live.values() if (why := self._misplaced(task))]
        storing = {*journal.puts, *(task.task_id for task in journal.backlog)}
        storing |= {task.task_id for task, _ in journal.flying_puts}
        delayed = self._outcomes.delays.waiting()
        counts = dict.fromkeys((QUEUED, RUNNING, RESTORED, WAITING), 0)
        for task in memory.live.values():
            if task.phase in counts:
                counts[task.phase] += 1
            if task.phase is STORING and task.task_id not in storing:
                found.append(f"{task.task_id}: storing, but not in the journal")
            if task.phase is DELAYED and task.task_id not in delayed:
                found.append(f"{task.task_id}: delayed, but nobody wakes it")
            if task.phase is ENDED:
                found.append(f"{task.task_id}: ended, but live")
        for worker in memory.workers.values():
            for task_id, task in worker.held.items():
                if memory.live.get(task_id) is not task or task.phase is not RUNNING or task.worker != worker.agent_id:
                    found.append(f"{worker.agent_id} holds {task_id} wrongly")
            in_slots = sum(task.slotted for task in worker.held.values())
            if in_slots != worker.in_slots:
                found.append(f"{in_slots} tasks of {worker.agent_id} take slots, it counts {worker.in_slots}")
        if counts[QUEUED] != self._dispatcher.queued:
            found.append(f"{counts[QUEUED]} tasks are queued, the lanes count {self._dispatcher.queued}")
        if counts[RUNNING] != memory.running():
            found.append(f"{counts[RUNNING]} tasks are running, workers hold {memory.running()}")
        if counts[RESTORED] != len(memory.restored):
            found.append(f"{counts[RESTORED]} tasks are restored, {len(memory.restored)} wait for their workers")
        if counts[WAITING] != len(memory.waiting):
            found.append(f"{counts[WAITING]} tasks wait for answers, {len(memory.waiting)} are known to")
        return found

    # ------------------------------------------------------------ report

    def _report(self, now: Now) -> None:
        memory, gauge = self._memory, self._memory.meter.gauge
        gauge("tasks", self._pending, status="pending")
        gauge("tasks", self._running, status="in_progress")
        gauge("tasks", len(memory.waiting), status="waiting")
        for status, total in memory.ended_total.items():
            gauge("tasks", total, status=status)
        held = self._dispatcher.waiting_without_graph()
        gauge("tasks_without_worker", held, reason="no_graph")
        gauge(
            "tasks_without_worker", sum(self._dispatcher.waiting_without_worker().values()) - held, reason="no_worker"
        )
        for worker_id, worker in list(memory.departed.items()):
            if len(memory.departed) > MAX_DEPARTED or forgotten(now.mono - worker.gone_at, left=worker.left):
                self._forget(worker_id)
            else:
                gauge("agent_up", 0, agent=worker_id, role="worker")
                gauge("clock_offset_seconds", 0, agent=worker_id)
        for worker in memory.workers.values():
            gauge("agent_up", 0 if worker.suspect else 1, agent=worker.agent_id, role="worker")
            gauge("clock_offset_seconds", worker.clock_off_s, agent=worker.agent_id)
        for coordinator_id, leads in memory.coordinators.items():
            gauge("agent_up", 0 if leads is None else 1, agent=coordinator_id, role="coordinator")
        gauge("leading", int(memory.owner))
        if memory.owner:
            self._journal.show(now, "status", memory.status().value, urgent=False)

    def _forget(self, worker_id: str) -> None:
        """Show this worker, which is gone, no more."""
        memory = self._memory
        del memory.departed[worker_id]
        memory.workers_changed = True
        memory.meter.forget("agent_up", agent=worker_id, role="worker")
        memory.meter.forget("clock_offset_seconds", agent=worker_id)

    def local_state(self, now: Now) -> LocalAgentState:
        """The specification's per-agent state; tasks are a bounded sample of what is running."""
        memory = self._memory
        held = (task for worker in memory.workers.values() for task in worker.held.values())
        running = memory.running()
        return LocalAgentState(
            agent_id=memory.agent_id,
            status=memory.status(),
            local_tasks=list(_as_tasks(islice(held, memory.config.local_tasks))),
            last_heartbeat=None
            if memory.coordinator_seen is None
            else datetime.fromtimestamp(memory.coordinator_seen, UTC),
            history=list(self._journal.lately),
            local_vars={
                "pending": len(memory.live) - running - len(memory.waiting),
                "in_progress": running,
                "waiting": len(memory.waiting),
                "unrecorded": self._journal.unrecorded(),
                "late_results": memory.late_results,
                "repaired": self.repaired,
                "inconsistent": self.odd,
                "workers": {
                    worker.agent_id: {"held": len(worker.held), "limit": worker.limit, "suspect": worker.suspect}
                    for worker in memory.workers.values()
                },
                "waiting_without_worker": dict(self._unserved),
            },
            metadata={
                "role": "distributor",
                "owner": memory.owner,
                "fence": memory.fence,
                "version": memory.version,
                "coordinator": memory.coordinator,
                "coordinator_up": memory.coordinator_up,
                "store_available": memory.store_available,
                "draining": memory.draining,
            },
        )


def _longest_limit(worker: Worker) -> float:
    """The longest time limit among the tasks it holds; inf if one of them has none."""
    return max((task.timeout_s or math.inf for task in worker.held.values()), default=math.inf)


def _as_tasks(held: Iterable[LiveTask]) -> Iterator[Task]:
    for task in held:
        record = {name: value for name, value in task.record.items() if name in Task.model_fields}
        record["status"] = task.status
        record["metadata"] = {**task.metadata, "attempt": task.attempt, "worker": task.worker}
        try:
            yield Task.model_validate(record)
        except ValueError:
            continue  # relayed without validation: a record that is no Task is for its worker to refuse
