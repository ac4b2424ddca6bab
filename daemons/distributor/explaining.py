"""Where a task stands here, and why: the answer to the coordinator's ``explain``."""

from __future__ import annotations

from typing import Any

from a2a_zmq.clock import Now, iso
from a2a_zmq.protocol.message import Message, MessageType
from daemons.distributor.budgets import RetryBudgets
from daemons.distributor.consulting import RetryPolicy
from daemons.distributor.journal import Journal
from daemons.distributor.memory import DELAYED, QUEUED, RESTORED, RUNNING, WAITING, LiveTask, Memory
from daemons.distributor.records import Stamps
from daemons.distributor.workers import Worker
from daemons.runtime.contract import Send

# Workers, labels and the like that one sentence names.
NAMED = 5


class Explaining:
    """Looks only; costs nothing unless somebody asks."""

    def __init__(
        self, memory: Memory, journal: Journal, stamps: Stamps, budgets: RetryBudgets, policy: RetryPolicy
    ) -> None:
        self._memory = memory
        self._policy = policy
        self._budgets = budgets
        self._journal = journal
        self._stamps = stamps

    def explain(self, message: Message, now: Now) -> None:
        task_id = message.payload.get("task_id")
        answer = {"action": "explain", "tag": message.payload.get("tag"), **self.view(str(task_id), now)}
        self._memory.out.append(
            Send(message.sender, MessageType.RESPONSE, answer, reply_to=message.metadata.request_id)
        )

    def view(self, task_id: str, now: Now) -> dict[str, Any]:
        """``phase`` (of :class:`~daemons.distributor.memory.Phase`; ``recording``: its result waits for the store;
        ``unknown``), ``why`` it does not run yet, its attempt, and who we are.
        """
        memory = self._memory
        view: dict[str, Any] = {
            "id": memory.agent_id,
            "owner": memory.owner,
            "fence": memory.fence,
            "epoch": memory.epoch,
            "version": memory.version,
            "store_available": memory.store_available,
            "draining": bool(memory.draining),
            "why": [],
        }
        task = memory.live.get(task_id)
        if task is None:
            recording = self._journal.holds_result(task_id)
            view["phase"] = "recording" if recording else "unknown"
            if recording:
                view["why"] = ["its result is being written to the store" + self._store_away()]
            return view
        view |= self._facts(task, now)
        view["why"] = self._why(task, now)
        return view

    def _facts(self, task: LiveTask, now: Now) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "phase": task.phase.value,
            "attempt": task.attempt,
            "recorded_attempt": task.recorded,
            "failures": task.failures,
            "cancelled": task.cancelled,
            "attempts": task.metadata.get("attempts") or [],
        }
        if task.phase is RUNNING:
            facts["worker"] = task.worker
            facts["dispatched_at"] = iso(now.wall - (now.mono - task.dispatched_at))
            facts["started_at"] = self._stamps.peer_iso(task.started_at)
        elif task.phase is DELAYED:
            facts["not_before"] = iso(now.wall + (task.not_before - now.mono))
        elif task.phase is QUEUED:
            facts["ahead"] = task.lane.ahead(task)
        elif task.phase is WAITING:
            facts["interrupts"] = task.metadata.get("interrupts") or []
        if task.graph:
            facts["graph"] = task.graph
        return facts

    def _why(self, task: LiveTask, now: Now) -> list[str]:
        if task.phase is RUNNING:
            return self._why_running(task)
        if task.phase is QUEUED:
            return self._why_queued(task, now)
        if task.phase is DELAYED:
            pause_s = task.not_before - now.mono
            put_off = task.metadata.get("put_off")
            if isinstance(put_off, dict):
                times, behind = put_off.get("times"), put_off.get("behind")
                if isinstance(behind, str):
                    return [f"it could not begin: {put_off.get('why')}; again when {behind} has ended"]
                return [f"it could not begin ({times} times now): {put_off.get('why')}; again in {pause_s:.1f} s"]
            why = [f"after {task.failures} failed attempts it pauses; attempt {task.attempt} begins in {pause_s:.1f} s"]
            if self._policy.asks_about(task):
                return ["the retry policy is asked what becomes of it; " + why[0] + " at the latest"]
            if isinstance(task.metadata.get("decided"), dict):
                return ["as the retry policy decided, " + why[0]]
            if self._budgets.exceeded(task.task_type, now.mono):
                why.append(f"too many attempts of {task.task_type!r} fail, so they are repeated more slowly")
            return why
        if task.phase is WAITING:
            count = len(task.metadata.get("interrupts") or ())
            what = "an answer" if count == 1 else f"answers to {count} questions"
            return [f"it waits for {what}; nothing of it runs, and nobody holds it, until it is resumed"]
        if task.phase is RESTORED:
            names = ", ".join(sorted(self._memory.awaited)[:NAMED])
            text = "it was read from the store after a change of owner; a worker may still be running it"
            return [f"{text}, so it waits a moment for the workers to come back" + (f" ({names})" if names else "")]
        return [f"attempt {task.attempt} is sent when the store has it" + self._store_away()]

    def _store_away(self) -> str:
        return "" if self._memory.store_available else ", which is away"

    def _why_running(self, task: LiveTask) -> list[str]:
        worker = self._memory.workers.get(task.worker)
        if worker is None:
            return [f"its worker {task.worker} is gone"]
        why = []
        if task.cancelled:
            why.append(f"{task.worker} was told to stop it")
        if worker.suspect:
            why.append(f"{task.worker} may be dead ({worker.suspect}); if it is, the task runs elsewhere in a moment")
        if not task.started_mono:
            before = list(worker.held).index(task.task_id)
            if before >= worker.slots:
                why.append(f"{task.worker} has it, but {before} tasks came to that worker before it")
        return why

    def _why_queued(self, task: LiveTask, now: Now) -> list[str]:
        memory = self._memory
        why = []
        if not memory.owner:
            why.append(f"{memory.agent_id} does not hold the lease of its section, so it may not dispatch")
        if memory.draining:
            why.append(f"{memory.agent_id} is draining: what waits stays for the process after it")
        if self._journal.crowded():
            why.append("too many results wait for the store" + self._store_away() + ": nothing more is begun")
        workers: list[Worker] = task.lane.workers
        if not workers:
            why.append(self._nobody(task))
        elif not any(worker.takes(task.task_type, now.mono, apart=task.apart) for worker in workers):
            shown = ", ".join(_state(worker, task, now) for worker in workers[:NAMED])
            more = f" and {len(workers) - NAMED} more" if len(workers) > NAMED else ""
            why.append(f"no worker that can run it takes more now: {shown}{more}")
        avoided = task.avoid - {worker.agent_id for worker in workers}
        if avoided:
            why.append(f"as the retry policy decided, it is kept away from {', '.join(sorted(avoided)[:NAMED])}")
        ahead = task.lane.ahead(task)
        if ahead:
            why.append(f"{ahead} tasks of its kind go before it")
        return why

    def _nobody(self, task: LiveTask) -> str:
        """Why no connected worker may have it."""
        memory = self._memory
        workers = list(memory.workers.values())
        if not workers:
            return f"no worker is connected to {memory.agent_id}"
        if task.pin:
            return f"only worker {task.pin} may have it"
        able = [worker for worker in workers if worker.serves(task.task_type, {}, "")]
        if not able:
            return f"none of the {len(workers)} workers of {memory.agent_id} handles {task.task_type!r}"
        if task.graph and not any(worker.serves(task.task_type, {}, "", task.graph) for worker in able):
            has = ", ".join(sorted({worker.graphs.get(task.task_type, "none") for worker in able})[:NAMED])
            return f"its run began with graph {task.graph}, which no worker of {memory.agent_id} has (they have {has})"
        labels = task.lane.labels.items()
        missing = [f"{name}={value}" for name, value in labels if all(w.labels.get(name) != value for w in able)]
        if missing:
            return f"no worker of {memory.agent_id} that handles {task.task_type!r} has {' or '.join(missing[:NAMED])}"
        return (
            f"no single worker of {memory.agent_id} that handles {task.task_type!r} has all the labels that it asks for"
        )


def _state(worker: Worker, task: LiveTask, now: Now) -> str:
    """Why a worker takes no more."""
    if worker.suspect:
        return f"{worker.agent_id} may be dead ({worker.suspect})"
    if worker.draining:
        return f"{worker.agent_id} is draining"
    if now.mono < worker.blocked_until:
        return f"{worker.agent_id} does not read its messages fast enough"
    if not worker.limit:  # it grants nothing: an async handler that blocks all others, say
        return f"{worker.agent_id} takes nothing at present; /readyz of its metrics port says why"
    if worker.full_for(task.task_type, apart=task.apart):
        return f"{worker.agent_id} holds {worker.in_slots} for its {worker.slots} slots"
    return f"{worker.agent_id} holds {len(worker.held) + len(worker.ghosts)} of {worker.limit}"
