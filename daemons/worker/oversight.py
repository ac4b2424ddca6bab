"""The steps of the worker's supervision graph: what is looked at once an interval. Pure."""

from __future__ import annotations

from typing import Final

from a2a_zmq.clock import Now
from a2a_zmq.tracing.context import task_fields
from daemons.runtime.contract import Effect, Log, Meter
from daemons.worker.board import Board
from daemons.worker.config import WorkerConfig
from daemons.worker.uplink import Uplink

# A run that has not ended this many times the graces after it was told to is a fault of its executor.
STUCK_FACTOR: Final = 5.0


class Oversight:
    """Looks after the board and the uplink."""

    def __init__(self, board: Board, uplink: Uplink, config: WorkerConfig, meter: Meter) -> None:
        self._board = board
        self._uplink = uplink
        self._config = config
        self._meter = meter

    def step(self, step: str, now: Now, *, limit: int, leaving: bool) -> list[Effect]:
        """One step; ``limit`` is the present credit, ``leaving`` True while the worker drains."""
        if step == "observe":
            board = self._board
            self._meter.gauge("tasks", len(board) - board.running, status="pending")
            self._meter.gauge("tasks", board.running, status="in_progress")
            self._uplink.prune(now.mono)
        elif step == "detect":
            return self._stuck(now)
        elif step == "recover" and not leaving:
            self._give_back_excess(limit)
        elif step == "reconcile":
            repaired = self._board.repair()
            if repaired is not None:
                return [Log("error", "counts_repaired", {"counted": repaired[0], "true": repaired[1]})]
        return []

    def _stuck(self, now: Now) -> list[Effect]:
        """Runs that their executor did not end although it was told to."""
        since = now.mono - STUCK_FACTOR * (self._config.stop_grace_s + self._config.kill_grace_s)
        return [
            Log("error", "run_does_not_stop", task_fields(run.task_id, run.attempt, run.metadata))
            for run in self._board.all()
            if run.stop_reason and run.stop_mono < since
        ]

    def _give_back_excess(self, limit: int) -> None:
        """Short tasks were fetched ahead, then long ones came: what is far beyond the credit goes elsewhere."""
        excess = len(self._board) - 2 * max(limit, 2 * self._config.slots + 2)
        for run in self._board.take_newest(excess):
            self._uplink.hand_back((run.task_id, run.attempt))
