"""How a worker leaves: because it was asked to, or because its executors do not run what they are given. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from a2a_zmq.clock import Now
from daemons.runtime.calls import LocalAnswer
from daemons.runtime.contract import Effect, Exit, Log, StopRun
from daemons.worker import reports
from daemons.worker.board import Board
from daemons.worker.drain import Drain
from daemons.worker.outgoing import Key
from daemons.worker.runs import HANDED
from daemons.worker.story import Story
from daemons.worker.uplink import Uplink

# What hangs for longer than this hardly ends by itself; a new process takes a second.
UNFIT_S: Final = 30.0
# As for Redis that stays away at the start: a supervisor starts the worker anew.
EX_TEMPFAIL: Final = 75


class Leaving:
    """The way out, and what leads to it.

    Attributes:
        drain: where the worker is on its way.
        problem: why runs cannot be relied on to run, "" if they can.
        blocker: the run that holds up the others of its executor, where that is known.
    """

    def __init__(self, board: Board, uplink: Uplink, story: Story, beat: Callable[[Now], list[Effect]]) -> None:
        self.drain = Drain()
        self.problem = ""
        self.blocker: Key | None = None
        self._board = board
        self._uplink = uplink
        self._story = story
        self._beat = beat
        self._stuck: frozenset[str] = frozenset()
        self._told = False  # of the present problem
        self._stuck_since = math.inf
        self._status = 0

    @property
    def closed(self) -> str:
        """Why nothing more is begun here, "" if it is."""
        return f"the worker is draining: {self.drain.reason}" if self.drain.reason else self.problem

    def health(self, problem: str, stuck: Iterable[str], blocker: Key | None) -> None:
        """How the executors are now; of those ``stuck`` nothing begins until something there ends."""
        self.problem, self._stuck, self.blocker = problem, frozenset(stuck), blocker

    def begin(self, reason: str, deadline_s: float, now: Now, status: int = 0) -> list[Effect]:
        """Leave, with this exit status; asked again, not later than then."""
        if not self.drain.begin(reason, now.mono + deadline_s):
            return []
        self._status = status
        self._story.note(now, "draining", reason=reason)
        effects = self._let_go("the worker is draining")
        # A graph goes on elsewhere from its last step: no need to wait for its end.
        effects += [
            StopRun(run.task_id, run.attempt, "drain", at_step=True)
            for run in self._board.all()
            if run.graph and not run.stop_reason
        ]
        fields = {"reason": reason, "running": len(self._board), "unsent": self._uplink.unsent}
        # Told at once, so that nothing more is sent here just to be handed back.
        return [*effects, *self._beat(now), Log("info", "draining", fields)]

    def look(self, now: Now, deadline_s: float) -> list[Effect]:
        """What has not begun here can begin elsewhere. And where it stays so the worker leaves: hung threads and a
        blocked loop end with their process only. (Child processes that do not start are tried again here.)"""
        if not self.problem:
            if self._told:
                self._told = False
                self._story.note(now, "fit_again")
            self._stuck_since = math.inf
            return []
        effects = self._let_go(self.problem)
        for run in self._board.all() if self._stuck else ():
            # (Of async runs only their executor knows whether they have begun.)
            waits = run.state == HANDED or run.kind == "async"
            if waits and run.kind in self._stuck and not run.called_back and not run.stop_reason:
                run.called_back = True
                effects.append(StopRun(run.task_id, run.attempt, "drain", unbegun=True))
        if not self._told:
            self._told = True
            self._story.note(now, "unfit", why=self.problem)
            effects += [*self._beat(now), Log("error", "unfit", {"why": self.problem, "running": len(self._board)})]
        self._stuck_since = min(self._stuck_since, now.mono) if self._stuck else math.inf
        if now.mono >= self._stuck_since + UNFIT_S:
            effects += self.begin(f"for {UNFIT_S:g} s {self.problem}", deadline_s, now, EX_TEMPFAIL)
        return effects

    def _let_go(self, why: str) -> list[Effect]:
        """What no executor has goes back."""
        answers: list[Effect] = []
        for run in self._board.take_held():
            if run.call_id is None:
                self._uplink.hand_back((run.task_id, run.attempt))
            else:
                answers.append(LocalAnswer(run.call_id, reports.local_failure(why)))
        return answers

    def step(self, now: Now, stop: Callable[[], None], *, just_sent: bool) -> list[Effect]:
        """Go on leaving: at the deadline what runs is told to ``stop``, and when all is told the worker exits."""
        if not self.drain.reason:
            return []
        if self.drain.must_stop_runs(now.mono):
            stop()
        unsent, runs = self._uplink.unsent, len(self._board)
        effects = [] if runs else self._uplink.rest()
        if self.drain.may_exit(now.mono, runs=runs, unsent=unsent, just_sent=just_sent or bool(effects)):
            if unsent:
                effects.append(Log("warning", "left_unreported", {"results": unsent}))
            # What is not acknowledged may not even have left: closing would lose it, and its tasks count as lost.
            effects.append(Exit(self._status, f"drained ({self.drain.reason})", until=self.drain.deadline))
        return effects

    def next_deadline(self) -> float:
        leave_at = math.inf if self.drain.reason else self._stuck_since + UNFIT_S
        return min(self.drain.next_deadline(len(self._board)), leave_at)
