"""Peers that come and go, whom of the coordinators we follow, and what workers report."""

from __future__ import annotations

import contextlib
from typing import Any

from a2a_zmq.clock import Now, parse_iso
from a2a_zmq.encoding import kept_json
from a2a_zmq.fences import obeyed_above
from a2a_zmq.protocol.message import Message, MessageType, Role
from a2a_zmq.protocol.ports import LEFT, PeerDown, PeerSuspect, PeerUp
from daemons.distributor.dispatch import Dispatcher
from daemons.distributor.journal import Journal
from daemons.distributor.losses import DEATHS, TORN
from daemons.distributor.memory import STRAY_S, LiveTask, Memory, as_pairs
from daemons.distributor.outcomes import Outcomes
from daemons.distributor.outgoing import Outgoing
from daemons.distributor.pauses import unbind
from daemons.distributor.recovery import Recovery
from daemons.distributor.workers import Worker
from daemons.runtime.contract import Log, Outranked, Send

# Ends of a session after which the worker counts as dead.
FAILURES = DEATHS | {TORN, "silence"}
# Our fence rises above the one that a worker obeyed in two round trips to Redis. If it takes longer than this (Redis is
# away), the worker is given work all the same.
RISE_S = 1.0


class Roster:
    """Connected workers, and the coordinator's session."""

    def __init__(
        self,
        memory: Memory,
        journal: Journal,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        *,
        recovery: Recovery,
        outgoing: Outgoing,
    ) -> None:
        self._memory = memory
        self._journal = journal
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._recovery = recovery
        self._outgoing = outgoing
        self._numbers = 0
        self._early: list[Message] = []

    # ------------------------------------------------------------ sessions

    def up(self, event: PeerUp, now: Now) -> None:
        peer = event.peer
        if peer.role is Role.WORKER:
            self._worker_up(event, now)
        elif peer.role is Role.COORDINATOR:
            memory = self._memory
            memory.coordinators[peer.agent_id] = None  # what it said in an earlier session counts no more
            memory.coordinator_boots[peer.agent_id] = peer.boot_id
            self.coordinator_says(peer.agent_id, peer.details, now)
            if memory.coordinator_up and memory.coordinator == peer.agent_id:
                self._outgoing.coordinator_back()
                self._tell_waiting()

    def _worker_up(self, event: PeerUp, now: Now) -> None:
        memory, peer = self._memory, event.peer
        worker = memory.workers.get(peer.agent_id)
        if worker is None:
            self._numbers += 1
            worker = memory.workers[peer.agent_id] = Worker(peer.agent_id, self._numbers)
        worker.describe(peer.details)
        worker.suspect = ""
        worker.blocked_until = 0.0
        if memory.owner and (fence := obeyed_above(peer.details, memory.fence, memory.epoch)):
            memory.out.append(Outranked(fence, memory.epoch, peer.agent_id))
            worker.blocked_until = now.mono + RISE_S  # it would refuse what we send
        worker.idle_since = 0.0
        worker.inventory = peer.details.get("running", [])
        worker.restarted = worker.restarted or peer.restarted
        before = memory.departed.pop(peer.agent_id, None)
        if before is not None and peer.restarted:
            self._outcomes.losses.proven_dead(before, now)
        self._dispatcher.worker_changed(memory.workers.values())
        self._recovery.worker_back(worker, now)
        self._journal.note(now, "", "worker_up", {"worker": peer.agent_id, "restarted": peer.restarted})
        memory.workers_changed = True
        self._journal.show_workers(now)

    def fence_moved(self) -> None:
        """Workers that obeyed a higher fence than ours listen to us now."""
        for worker in self._memory.workers.values():
            worker.blocked_until = 0.0

    def suspect(self, event: PeerSuspect, now: Now) -> None:
        worker = self._memory.workers.get(event.agent_id)
        if worker is not None:
            worker.suspect = event.reason

    def down(self, event: PeerDown, now: Now) -> None:
        memory = self._memory
        if event.role is Role.COORDINATOR:
            memory.coordinators[event.agent_id] = None
            memory.workers_changed = True
            self._unfollow(event.agent_id, now)
            return
        worker = memory.workers.get(event.agent_id)
        if worker is None:
            return
        failed = event.reason in FAILURES
        if failed:
            memory.meter.observe("failure_detection_seconds", event.silent_s, role="worker")
        held = list(worker.held.values())
        self._outcomes.losses.lost(worker, held, now, event.reason)
        del memory.workers[event.agent_id]
        self._dispatcher.worker_changed(memory.workers.values())
        self._dispatcher.unpin(event.agent_id, memory.workers.values())
        worker.gone_at, worker.left = now.mono, event.reason in LEFT
        memory.departed[event.agent_id] = worker
        fields = {
            "worker": event.agent_id,
            "reason": event.reason,
            "silent_s": round(event.silent_s, 3),
            "tasks": len(held),
        }
        memory.out.append(Log("warning" if failed else "info", "worker_down", fields))
        self._journal.note(now, "", "worker_down", fields)
        memory.workers_changed = True
        self._journal.show_workers(now)

    # ------------------------------------------------------------ coordinators

    def coordinator_says(self, agent_id: str, says: dict[str, Any], now: Now) -> None:
        """A welcome, a heartbeat or a resync of a coordinator: does it lead, and with which fence? (One of an earlier
        release does not say; it has no standbys.)"""
        memory = self._memory
        leads = says.get("leading") is not False
        if memory.coordinators.get(agent_id) is not leads:
            memory.coordinators[agent_id] = leads
            memory.workers_changed = True
        fence, epoch = says.get("fence", memory.coordinator_guard.fence), says.get("epoch", "")
        memory.coordinator_guard.hears(memory.coordinator_boots.get(agent_id, ""))
        if not leads:
            self._unfollow(agent_id, now)
        elif isinstance(fence, int) and isinstance(epoch, str) and memory.coordinator_guard.admits(fence, epoch):
            self._follow(agent_id)

    def _follow(self, agent_id: str) -> None:
        """Results go to this coordinator from now on, also those that could not be sent to another one."""
        memory = self._memory
        if memory.coordinator_up and memory.coordinator == agent_id:
            return
        if agent_id != memory.coordinator:
            fields = {"leader": agent_id, "before": memory.coordinator, "fence": memory.coordinator_guard.fence}
            memory.out.append(Log("info", "coordinator_changed", fields))
        memory.coordinator = agent_id
        memory.coordinator_up = memory.coordinator_was_up = True
        memory.workers_changed = True
        self._outgoing.coordinator_back()
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        """What was told in an earlier session, or to another coordinator, may be lost; no result will show it."""
        if self._memory.owner and self._memory.waiting:
            self._outcomes.pauses.tell(self._journal.stored_waiting())

    def _unfollow(self, agent_id: str, now: Now) -> None:
        memory = self._memory
        if memory.coordinator_up and memory.coordinator == agent_id:
            memory.coordinator_up = False
            self._recovery.coordinator_gone(now)

    def drain(self, agent: Any, now: Now) -> bool:
        """Have one of our workers leave; False if we have no such worker."""
        worker = self._memory.workers.get(agent) if isinstance(agent, str) else None
        if worker is None:
            return False
        worker.draining = True
        self._memory.out.append(Send(worker.agent_id, MessageType.REQUEST, {"action": "drain"}))
        self._journal.note(now, "", "worker_draining", {"worker": worker.agent_id})
        return True

    # ------------------------------------------------------------ reports of workers

    def owned(self, now: Now) -> None:
        """We own the section, and know its tasks: take what workers reported before."""
        early, self._early = self._early, []
        for message in early:
            (self.results if message.action == "task_results" else self.handback)(message, now)
        strays, self._memory.strays = self._memory.strays, {}
        for worker_id, item, came in strays.values():
            if (worker := self._memory.workers.get(worker_id)) is not None and now.mono - came < STRAY_S:
                self._outcomes.report(worker, item, now)

    def results(self, message: Message, now: Now) -> None:
        if not self._memory.owner:
            # As long as the tasks are not read, all would seem to be late; nothing is acknowledged meanwhile, so the
            # links' windows bound what waits here.
            self._early.append(message)
            return
        worker = self._sender(message)
        if worker is None:
            # Its session ended for us before this was handled; its tasks are elsewhere by now.
            return
        payload = message.payload
        worker.take_limit(payload)
        results = payload.get("results")
        if isinstance(results, list) and results:
            worker.progress_at = now.mono
            worker.idle_since = 0.0
            for item in results:
                self._outcomes.report(worker, item, now)

    def started(self, message: Message, now: Now) -> None:
        worker = self._sender(message)
        entries = message.payload.get("tasks")
        if worker is None or not isinstance(entries, list):
            return
        worker.progress_at = now.mono
        for entry in entries:
            if not isinstance(entry, list) or len(entry) != 3:
                continue
            task_id, attempt, started_at = entry
            task = worker.held.get(task_id) if isinstance(task_id, str) else None
            if task is not None and task.attempt == attempt:
                task.started_mono = now.mono
                task.started_at = started_at

    def events(self, message: Message, now: Now) -> None:
        """What runs tell passes through, once or not at all: whoever misses it finds it in the store. What an attempt
        tells that is not the current one does not."""
        worker = self._sender(message)
        items = message.payload.get("tasks")
        for item in items if worker is not None and isinstance(items, list) else ():
            task_id = item.get("task_id") if isinstance(item, dict) else None
            task = worker.held.get(task_id) if worker is not None and isinstance(task_id, str) else None
            if task is not None and task.attempt == item.get("attempt"):
                place = {"task_id": task_id, "prev": item.get("prev"), "last": item.get("last")}
                self._memory.told.add(place, kept_json(item.get("events")))

    def handback(self, message: Message, now: Now) -> None:
        """Tasks that the worker never started: they go elsewhere, uncounted.

        ``rest`` is its last word when it leaves: all that we left there and that it has not reported. It never began
        them, and those on their way to it now it will not even read.
        """
        if not self._memory.owner:
            self._early.append(message)
            return
        worker = self._sender(message)
        if worker is None:
            return
        back = self._held(worker, message.payload.get("tasks"))
        if message.payload.get("rest") is True:
            worker.draining = True
            back = [task for task in worker.held.values() if not task.started_mono]
        self._again(worker, back, now)

    @staticmethod
    def _held(worker: Worker, pairs: Any) -> list[LiveTask]:
        """Those of a peer's attempts that this worker holds as far as we know."""
        return [
            task
            for task_id, attempt in as_pairs(pairs)
            if (task := worker.held.get(task_id)) is not None and task.attempt == attempt
        ]

    def _again(self, worker: Worker, back: list[LiveTask], now: Now) -> None:
        """The worker never began these."""
        for task in reversed(back):
            if task.cancelled:
                self._outcomes.report(
                    worker, {"task_id": task.task_id, "attempt": task.attempt, "outcome": "abandoned"}, now
                )
            else:
                unbind(task)
                self._outcomes.again(task, now, front=True)

    def beat(self, message: Message, now: Now) -> None:
        worker = self._sender(message)
        if worker is None:
            return
        with contextlib.suppress(ValueError):  # its own affair; nothing depends on it
            worker.clock_off_s = parse_iso(message.metadata.timestamp) - now.wall
        payload = message.payload
        worker.take_limit(payload)
        running, held = payload.get("running"), payload.get("held")
        if isinstance(running, int) and isinstance(held, int):
            worker.running = running
            if running or held or not worker.held:
                worker.idle_since = 0.0
            elif not worker.idle_since:
                worker.idle_since = now.mono
        draining = payload.get("draining") is True
        worker.draining = worker.draining or draining

    def error(self, peer: str, message: Message, now: Now) -> None:
        """A peer refused something that we asked for."""
        payload = message.payload
        fields = {"peer": peer, **{name: str(payload.get(name, ""))[:200] for name in ("action", "code", "message")}}
        self._memory.out.append(Log("warning", "refused_by_peer", fields))
        self._journal.note(now, "", "refused_by_peer", fields)
        worker = self._memory.workers.get(peer)
        if worker is not None and self._memory.owner and payload.get("action") == "assign_tasks":
            # Our fence moved after this was sealed (we were frozen for the time of our lease): it was not begun.
            self._again(worker, self._held(worker, payload.get("tasks")), now)

    def _sender(self, message: Message) -> Worker | None:
        worker = self._memory.workers.get(message.sender)
        if worker is not None and worker.suspect in ("silence", "unroutable"):
            worker.suspect = ""  # it was only slow; after a broken connection a new session has to come first
        return worker
