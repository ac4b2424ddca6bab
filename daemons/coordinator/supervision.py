"""The coordinator's supervision: observe → detect → recover → reconcile → report, once a heartbeat interval."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now, iso
from a2a_zmq.models import AgentStatus, LocalAgentState, Task
from daemons.coordinator.desk import Desk
from daemons.coordinator.failover import Failover
from daemons.coordinator.reconciler import Reconciler
from daemons.coordinator.records import Need
from daemons.coordinator.sync import Sync
from daemons.runtime.contract import QueryAnswer

# Tasks that the LocalAgentState shows: it is built every interval.
SHOWN_TASKS = 20
# Needs in the inbox that are looked at in one interval; where there are more, it takes several.
LOOKS: Final = 4_000
# The same trouble is reported again after so long (seconds).
REPORT_AGAIN_S = 60.0
# Dead letters expire and get pushed out in the store: they are counted there again after so long (seconds).
COUNT_LETTERS_S = 30.0


class Supervision:
    """See the module's text. Each step is O(distributors + kinds of waiting tasks), never O(tasks)."""

    def __init__(self, desk: Desk, sync: Sync, failover: Failover) -> None:
        self._desk = desk
        self._sync = sync
        self._failover = failover
        self.reconciler = Reconciler(desk, sync)
        self._reported: dict[str, float] = {}
        self._unseen: deque[Need] = deque()  # needs in the inbox that detect has not come to in this round
        self._started: Now | None = None
        self._count_at = -math.inf
        self.steps: dict[str, Callable[[Now], None]] = {
            "observe": self.observe,
            "detect": self.detect,
            "recover": self.recover,
            "reconcile": self.reconcile,
            "report": self.report,
        }

    def _once(self, what: str, now: Now) -> bool:
        """True at most once in REPORT_AGAIN_S for the same trouble."""
        if now.mono < self._reported.get(what, float("-inf")):
            return False
        if len(self._reported) > 1_000:
            self._reported.clear()
        self._reported[what] = now.mono + REPORT_AGAIN_S
        return True

    def observe(self, now: Now) -> None:
        """Time passes for what waits for answers."""
        if self._started is None:
            self._started = now
        self._desk.questions.expire(now)
        self.reconciler.tick(now)

    def detect(self, now: Now) -> None:
        """Distributors that stay away with work, and tasks that nobody can take."""
        desk = self._desk
        if not desk.leading:
            return
        for home in desk.ledger.distributors.values():
            away_s = now.mono - max(home.changed_at, desk.leading_since)
            absent = not home.up and home.live and away_s > desk.config.distributor_absent_s
            if absent and self._once(f"absent {home.agent_id}", now):
                desk.log(
                    "error", "distributor_absent", distributor=home.agent_id, tasks=home.live, away_s=round(away_s, 1)
                )
        if not self._unseen:
            self._unseen.extend(desk.ledger.held)
        for _ in range(min(len(self._unseen), LOOKS)):
            need = self._unseen.popleft()
            lane = desk.ledger.held.get(need)
            oldest = lane.first() if lane is not None else None
            if lane is None or oldest is None or now.mono - oldest.since < desk.config.inbox_overdue_s:
                continue
            if self._once(f"overdue {need.task_type} {need.pinned}", now):
                desk.log(
                    "warning",
                    "no_capable_distributor",
                    task_type=need.task_type,
                    distributor=need.pinned,
                    tasks=lane.size,
                    oldest_s=round(now.mono - oldest.since, 1),
                )

    def recover(self, now: Now) -> None:
        """Try again what failed for want of the store, and to place what waits in the inbox; move the tasks of
        distributors that stay away; tell what could not be read of tasks that wait for answers.
        """
        desk = self._desk
        if not desk.leading:
            return
        if desk.store_available and not desk.spooling:
            for home in desk.ledger.distributors.values():
                if home.up and (home.needs_sync or not home.registered) and not home.reconciling:
                    self._sync.meet(home, now)
            if not desk.inbox_checked and not self._sync.inbox.checking:
                self._sync.inbox.check(now)
            self._failover.tick(now)
            desk.rejoin()
        desk.look_held = True
        for home in desk.ledger.distributors.values():
            desk.trim_cancels(home)

    def reconcile(self, now: Now) -> None:
        """Compare with the store where results seem lost; check that our own counts agree, and set them right if
        not.
        """
        desk = self._desk
        if not desk.leading:
            return
        config = desk.config
        for home in desk.ledger.distributors.values():
            rested = now.mono - home.reconciled_at > config.reconcile_pause_s
            readable = desk.store_available and not desk.spooling and not home.reconciling
            if rested and readable and home.lags(now.mono, config.version_lag_s):
                desk.log(
                    "warning",
                    "tasks_missing",
                    distributor=home.agent_id,
                    held=home.pending + home.in_progress,
                    sent=home.sent,
                )
                home.needs_sync = True
                self._sync.meet(home, now)
        desk.ledger.count_waiting()
        problems = desk.ledger.audit()
        if problems:
            desk.log("error", "counts_disagree", problems=problems[:10])
            desk.ledger.recount()

    def report(self, now: Now) -> None:
        desk = self._desk
        gauge = desk.meter.gauge
        for status, count in self.counts().items():
            gauge("tasks", count, status=status)
        gauge("tasks_limit", desk.config.max_live_tasks)
        gauge("task_bytes", desk.ledger.live_bytes)
        gauge("task_bytes_limit", desk.config.max_live_bytes)
        gauge("tasks_without_worker", desk.ledger.held_count, reason="no_worker")
        gauge("dead_letters_kept", desk.letters)
        gauge("leading", int(desk.leading))
        gauge("agent_up", 1, agent=desk.agent_id, role="coordinator")
        for home in desk.ledger.distributors.values():
            if home.forgotten(now.mono):
                desk.meter.forget("agent_up", agent=home.agent_id, role="distributor")
                desk.meter.forget("clock_offset_seconds", agent=home.agent_id)
                continue
            gauge("agent_up", 1 if home.up else 0, agent=home.agent_id, role="distributor")
            gauge("clock_offset_seconds", home.clock_off_s if home.up else 0, agent=home.agent_id)
        if desk.leading and desk.store_available and now.mono >= self._count_at:
            self._count_at = now.mono + COUNT_LETTERS_S
            desk.ask("count_letters", {"distributor_ids": desk.everywhere()}, self._counted, now)

    def _counted(self, answer: QueryAnswer, now: Now) -> None:
        if answer.error is None:
            self._desk.letters = answer.value

    # ------------------------------------------------------------ what others ask

    def started(self, now: Now) -> Now:
        """Since when this process counts."""
        return self._started or now

    def counts(self) -> dict[str, int]:
        """Tasks by status: live ones by the distributors' heartbeats, ended ones since this process started."""
        ledger = self._desk.ledger
        running = sum(
            min(home.in_progress, home.sent - home.waiting) for home in ledger.distributors.values() if home.up
        )
        pending, waiting = len(ledger.live) - running - ledger.waiting, ledger.waiting
        return {"pending": pending, "in_progress": running, "waiting": waiting, **self._desk.finished}

    def fleet_status(self, now: Now) -> dict[str, Any]:
        desk = self._desk
        ledger = desk.ledger
        started = self._started or now
        return {
            "coordinator": {
                "id": desk.agent_id,
                "leading": desk.leading,
                "leader": desk.leader,
                "draining": desk.draining is not None,
                "fence": desk.fence,
                "epoch": desk.epoch,
                "time": iso(now.wall),
                "uptime_s": round(now.mono - started.mono, 1),
                "clients": len(desk.clients.connected),
                "inbox": ledger.held_count,
                "live": len(ledger.live),
                "dead_letters": desk.letters,
                "late_results": desk.late,
                "task_types": sorted(desk.known_types),
            },
            "standbys": self._standbys(),
            "distributors": [
                {
                    "id": home.agent_id,
                    "up": home.up,
                    "status": ("draining" if home.draining else home.status) if home.up else "down",
                    "version": home.held_version,
                    "suite": home.suite,
                    "clock_off_s": round(home.clock_off_s, 3),
                    "workers": home.workers,
                    "pending": home.live - home.waiting - min(home.in_progress, home.sent - home.waiting),
                    "in_progress": min(home.in_progress, home.sent - home.waiting),
                    "waiting": home.waiting,
                    "slots": home.slots if any(each.get("up", True) for each in home.workers) else 0,
                    **self._failover.about(home, now),
                    "task_types": sorted(home.task_types),
                }
                for home in ledger.distributors.values()
            ],
            "tasks": self.counts(),
            "store": {
                "available": desk.store_available and not desk.spooling,
                "spooling": desk.spooling and desk.store_available,
                "reason": desk.store_reason,
                "spool_off": desk.spool_off,
                "unpersisted": desk.staging.unpersisted,
                "batches": desk.staging.applied,
            },
        }

    def _standbys(self) -> list[dict[str, Any]]:
        """Further coordinators, as the distributors see them: each has a session with all that it was told of."""
        seen: dict[str, int] = {}
        homes = [home for home in self._desk.ledger.distributors.values() if home.up]
        for home in homes:
            for agent_id, _ in home.coordinators:
                seen[agent_id] = seen.get(agent_id, 0) + 1
        seen.pop(self._desk.agent_id, None)
        return [{"id": agent_id, "distributors": count} for agent_id, count in sorted(seen.items())]

    def status(self) -> AgentStatus:
        desk = self._desk
        if not desk.store_available:
            return AgentStatus.ERROR
        if (
            not desk.leading
            or not desk.inbox_checked
            or any(each.reconciling for each in desk.ledger.distributors.values())
        ):
            return AgentStatus.RECOVERING
        return AgentStatus.BUSY if desk.ledger.live else AgentStatus.IDLE

    def local_state(self, now: Now) -> LocalAgentState:
        """The specification's document; it shows a bounded number of tasks and events."""
        desk = self._desk
        started = self._started or now
        tasks: list[Task] = []
        for entry in desk.ledger.live.values():
            if len(tasks) == SHOWN_TASKS:
                break
            with contextlib.suppress(ValueError):  # somebody else wrote it: what we do not need may be anything
                tasks.append(Task.model_validate(orjson.loads(entry.record)))
        return LocalAgentState(
            agent_id=desk.agent_id,
            status=self.status(),
            local_tasks=tasks,
            last_heartbeat=datetime.fromtimestamp(now.wall, UTC),
            local_vars={
                "tasks": self.counts(),
                "inbox": desk.ledger.held_count,
                "clients": len(desk.clients.connected),
            },
            history=list(desk.staging.recent),
            metadata={"role": "coordinator", "leading": desk.leading, "fence": desk.fence, "epoch": desk.epoch},
            created_at=datetime.fromtimestamp(started.wall, UTC),
            updated_at=datetime.fromtimestamp(now.wall, UTC),
        )
