"""What leaves at the end of a wake-up: assignments, cancels, news for the coordinator; and what comes back unsent."""

from __future__ import annotations

import math
from collections import deque

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.tasks import FAILED
from daemons.distributor.dispatch import Dispatcher
from daemons.distributor.journal import Journal
from daemons.distributor.memory import RUNNING, LiveTask, Memory
from daemons.distributor.outcomes import Outcomes
from daemons.distributor.oversight import Oversight
from daemons.distributor.pauses import bind, unbind
from daemons.distributor.records import assign_item, split
from daemons.distributor.workers import Worker
from daemons.runtime.contract import Exit, Log, Send, Undelivered

Sent = tuple[float, Send | None, list[LiveTask]]


class Outgoing:
    """Dispatches, and keeps what must be said until it can be said."""

    def __init__(
        self, memory: Memory, journal: Journal, dispatcher: Dispatcher, outcomes: Outcomes, oversight: Oversight
    ) -> None:
        self._memory = memory
        self._journal = journal
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._oversight = oversight
        # Assignments of the last moment, oldest first: from here long runs get their in_progress record, and here
        # the tasks of a message that could not be sent are found.
        self._recent: deque[Sent] = deque()
        self._unreported: deque[Send] = deque()
        self._blocked_until = 0.0  # the coordinator's outbox was full
        self._wake_at = math.inf
        self._leave_at = math.inf
        self._left = False

    def settle(self, now: Now) -> None:
        memory = self._memory
        if now.mono >= self._wake_at:
            self._wake_at = math.inf
        self._show_long_runs(now)
        if memory.dead_letters:
            # One line for all of a wake-up: thousands may fail together, and each has its history line and its record.
            count, memory.dead_letters = memory.dead_letters, 0
            memory.out.append(Log("warning", "tasks_failed", {"count": count, "first": memory.first_dead_letter}))
        if self._dispatcher.queued and memory.owner and not memory.draining and not self._journal.crowded():
            self._dispatch(now)
        for worker in memory.workers.values():
            if worker.cancels:
                self._send_cancels(worker, now)
        if not memory.coordinator_up:
            memory.told.sends("")
            return
        memory.out += memory.told.sends(memory.coordinator)
        if now.mono < self._blocked_until:
            if memory.workers_changed or self._unreported:
                self._wake_at = min(self._wake_at, self._blocked_until)
        else:
            if memory.workers_changed:
                memory.workers_changed = False
                self._send_workers()
            while self._unreported:
                send = self._unreported.popleft()
                send.to = memory.coordinator  # whoever that is by now
                memory.out.append(send)

    def next_deadline(self) -> float:
        deadline = self._wake_at
        if self._recent:
            deadline = min(deadline, self._recent[0][0] + self._memory.config.in_progress_after_s)
        return min(deadline, self._leave_at)

    # ------------------------------------------------------------ assignments

    def _dispatch(self, now: Now) -> None:
        memory, limit = self._memory, self._memory.config.message_bytes
        for worker_id, tasks in self._dispatcher.fill(now.mono).items():
            worker = memory.workers[worker_id]
            for task in tasks if worker.graphs else ():
                bind(task, worker)
            alone = [task for task in tasks if task.alone]
            for task in alone:
                self._send_tasks(worker_id, [task], limit, now)
            self._send_tasks(worker_id, [task for task in tasks if not task.alone] if alone else tasks, limit, now)
        if self._dispatcher.queued and memory.workers:
            # Workers whose outbox was full are tried again, if nothing else wakes us before.
            until = min(
                (w.blocked_until for w in memory.workers.values() if w.blocked_until > now.mono), default=math.inf
            )
            self._wake_at = min(self._wake_at, until, self._dispatcher.trial_ends)

    def _send_tasks(self, worker_id: str, tasks: list[LiveTask], limit: int, now: Now) -> None:
        start = 0
        for part in split([assign_item(task) for task in tasks], limit):
            fence, epoch = self._memory.fence, self._memory.epoch
            payload = {"action": "assign_tasks", "fence": fence, "epoch": epoch, "tasks": part}
            send = Send(worker_id, MessageType.REQUEST, payload)
            self._memory.out.append(send)
            self._recent.append((now.mono, send, tasks[start : start + len(part)]))
            start += len(part)

    def _show_long_runs(self, now: Now) -> None:
        """Tasks that still run a moment after they were sent get their in_progress record, and are watched."""
        recent, memory = self._recent, self._memory
        if memory.adopted:  # as if they had been sent now
            recent.append((now.mono, None, memory.adopted))
            memory.adopted = []
        while recent and recent[0][0] + memory.config.in_progress_after_s <= now.mono:
            sent_at, _, tasks = recent.popleft()
            for task in tasks:
                if task.phase is RUNNING and not task.shown and task.dispatched_at <= sent_at:
                    task.shown = True
                    self._journal.put(task)
                    self._oversight.watch(task)

    def _send_cancels(self, worker: Worker, now: Now) -> None:
        if now.mono < worker.blocked_until:
            self._wake_at = min(self._wake_at, worker.blocked_until)
            return
        tasks = [[*pair, "replaced"] if replaced else list(pair) for pair, replaced in worker.cancels.items()]
        payload = {"action": "cancel_tasks", "tasks": tasks, "fence": self._memory.fence, "epoch": self._memory.epoch}
        worker.cancels = {}
        self._memory.out.append(Send(worker.agent_id, MessageType.REQUEST, payload))

    # ------------------------------------------------------------ news for the coordinator

    def _send_workers(self) -> None:
        memory = self._memory
        here = [
            {
                "id": worker.agent_id,
                "up": True,
                "slots": worker.slots,
                "task_types": sorted(worker.task_types),
                "labels": worker.labels,
                "version": worker.version,
                **worker.whereabouts,
            }
            for worker in memory.workers.values()
        ]
        gone = [
            {
                "id": worker_id,
                "up": False,
                "slots": worker.slots,
                "task_types": sorted(worker.task_types),
                **worker.whereabouts,
            }
            for worker_id, worker in memory.departed.items()
        ]
        payload = {
            "action": "workers_changed",
            "workers": here + gone,
            "task_types": memory.task_types(),
            "draining": bool(memory.draining),
            "coordinators": [[name, leads] for name, leads in memory.coordinators.items() if leads is not None],
        }
        memory.out.append(Send(memory.coordinator, MessageType.EVENT, payload))

    def coordinator_back(self) -> None:
        """A session with the coordinator is up: what could not be sent goes to it."""
        self._blocked_until = 0.0

    # ------------------------------------------------------------ what could not be sent

    def undelivered(self, event: Undelivered, now: Now) -> None:
        effect, action = event.effect, event.effect.payload.get("action")
        if effect.bulk:
            return
        worker = self._memory.workers.get(effect.to)
        if event.reason == "busy":
            until = now.mono + self._memory.config.blocked_s
            self._wake_at = min(self._wake_at, until)
            if worker is not None:
                worker.blocked_until = until
            else:
                self._blocked_until = until
        if action == "assign_tasks":
            self._take_back(effect, worker, event.reason, now)
        elif action == "cancel_tasks" and worker is not None and event.reason != "malformed":
            for task_id, attempt, *why in effect.payload["tasks"]:
                worker.cancel(task_id, attempt, replaced=bool(why))
            worker.suspect = worker.suspect or ("" if event.reason == "busy" else "unroutable")
        elif action == "workers_changed":
            self._memory.workers_changed = True
        elif action in ("task_results", "task_unknown", "task_waiting") and event.reason != "malformed":
            self._keep(effect)

    def _keep(self, effect: Send) -> None:
        """Say it later. The oldest go if there are too many: the coordinator, who is told so, finds results in the
        store, too."""
        self._unreported.append(effect)
        if len(self._unreported) > self._memory.config.max_unreported:
            self._unreported.popleft()
            self._memory.reports_dropped += 1

    def _take_back(self, effect: Send, worker: Worker | None, reason: str, now: Now) -> None:
        """The assignment never left us: its tasks go back with the same attempt."""
        for index in range(len(self._recent) - 1, -1, -1):
            if self._recent[index][1] is effect:
                tasks = self._recent[index][2]
                del self._recent[index]
                break
        else:
            self._memory.out.append(Log("error", "unsent_assignment_unknown", {"worker": effect.to}))
            return
        if worker is not None and reason not in ("busy", "malformed"):
            worker.suspect = worker.suspect or "unroutable"
        self._wake_at = now.mono  # another worker may have room
        for task in reversed(tasks):
            if task.phase is not RUNNING or task.worker != effect.to:
                continue
            if reason == "malformed" and len(tasks) == 1:
                error = "the task cannot be sent to a worker: it is too large for a message or not JSON"
                self._outcomes.finish(task, FAILED, now, error=error, kind="invalid_input")
                continue
            task.alone = task.alone or reason == "malformed"  # one of them is to blame: send each by itself
            if worker is not None:
                worker.drop(task)
            task.worker = ""
            unbind(task)
            task.front = True
            self._dispatcher.add(task, self._memory.workers.values())

    # ------------------------------------------------------------ drain

    def begin_drain(self, reason: str, deadline_s: float, now: Now) -> None:
        """Begin nothing new. What waits stays in the store for whoever comes after us; what runs may end."""
        memory = self._memory
        memory.drain_until = min(memory.drain_until, now.mono + deadline_s)
        self._leave_at = min(self._leave_at, memory.drain_until)
        if memory.draining:
            return
        memory.draining = reason or "asked to"
        memory.workers_changed = True
        fields = {
            "reason": memory.draining,
            "running": memory.running(),
            "waiting": len(memory.live) - memory.running(),
        }
        memory.out.append(Log("info", "draining", fields))
        self._journal.note(now, "", "draining", fields)

    def leave_if_done(self, now: Now) -> None:
        memory = self._memory
        if self._left:
            return
        running, recorded = memory.running(), self._journal.empty()
        late = now.mono >= memory.drain_until
        end = memory.drain_until + memory.config.drain_flush_s
        if late:
            self._leave_at = end  # the store's return wakes us before
        if not (recorded and (late or not running)) and now.mono < end:
            return
        self._left = True
        self._leave_at = math.inf
        fields = {"running": running, "unrecorded": self._journal.unrecorded(), "waiting": len(memory.live) - running}
        memory.out.append(Log("info", "drained", fields))
        memory.out.append(Exit(0, memory.draining))
