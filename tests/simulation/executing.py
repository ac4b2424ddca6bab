"""Executors and supervision of simulated processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from a2a_zmq.clock import Now
from daemons.runtime.consults import Consult, Consulted
from daemons.runtime.contract import Effect, RunFinished, RunStarted, StartRun, StopRun
from daemons.runtime.supervision import run_plain

if TYPE_CHECKING:
    from tests.simulation.agent import Agent


class Plain:
    """The supervision steps without a graph."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def run(self, core: Any, now: Callable[[], Now]) -> list[Effect]:
        await self._agent.awake()
        return run_plain(core, now)


def question_of(run: StartRun) -> str:
    """Id of what its graph asks where it stands."""
    return f"{run.task_id} asks"


class SimPolicy:
    """A user's policy, of placement or of retries: it answers well, with what was not asked, with nonsense, late or
    never; or it dies, and is away for a while."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._shell = agent.shell
        self._away_until = 0.0

    def ask(self, consult: Consult) -> None:
        fleet, number = self._agent.fleet, consult.question_id
        rng, tasks = fleet.rng, consult.facts["tasks"]
        fleet.note("policy", self._agent.place, number, len(tasks))
        kind = rng.choice(("good", "good", "good", "good", "some", "wrong", "nonsense", "raised", "died", "never"))
        decide = self._retry if consult.answer == "retries" else self._place
        chosen = {each["task_id"]: decide(each) for each in tasks}
        if kind == "some":
            chosen = {task_id: choice for task_id, choice in chosen.items() if rng.random() < 0.5}
        elif kind == "wrong":
            chosen = {task_id: rng.choice((choice, "nobody", 7)) for task_id, choice in chosen.items()}
        told = Consulted(number, "?" if kind == "nonsense" else chosen)
        if fleet.loop.time() < self._away_until:
            told = Consulted(number, reason="busy", why="it starts")
        elif kind in ("raised", "died"):
            told = Consulted(number, reason=kind, why="ValueError: no")
            self._away_until = fleet.loop.time() + (kind == "died")
        if kind != "never":
            fleet.loop.call_later(rng.choice((0.0, 0.002, 0.02, 0.09, 0.3)), self._tell, told)

    def _place(self, task: dict[str, Any]) -> Any:
        return self._agent.fleet.rng.choice(task["candidates"])

    def _retry(self, task: dict[str, Any]) -> Any:
        fleet = self._agent.fleet
        rng = fleet.rng
        kind = rng.choice(("now", "later", "elsewhere", "before others", "nothing", "given up"))
        if kind == "given up":
            fleet.given_up.add(task["task_id"])
            return {"give_up": "simulated"}
        decision = {
            "now": {"after_s": 0},
            "later": {"after_s": rng.choice((0.01, 0.2, 3.0))},
            "elsewhere": {"avoid": [each for each in task["candidates"] if rng.random() < 0.6]},
            "before others": {"priority": rng.choice((1, 9)), "after_s": 0.05},
        }
        return decision.get(kind, {})

    def _tell(self, told: Consulted) -> None:
        if self._agent.shell is self._shell:
            self._agent.event(told)


class SimRunner:
    """A run takes virtual time, and may fail or hang as its payload says. A result names the attempt that made it.

    ``pauses`` makes it a graph: at each of these it stops as named, and leaves a checkpoint that says how far it came.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._shell = agent.shell
        self._runs: dict[tuple[str, int], asyncio.TimerHandle | None] = {}

    def start(self, run: StartRun) -> None:
        fleet = self._agent.fleet
        fleet.note("run", self._agent.place, run.task_id, run.attempt)
        fleet.witness.begun(run.task_id, run.attempt)
        loop, key = fleet.loop, (run.task_id, run.attempt)
        started = fleet.now().wall
        self._agent.event(RunStarted(run.task_id, run.attempt, started))
        if fleet.telling is not None:
            fleet.telling.begins(self._agent, run)
        if run.payload.get("hang"):
            self._runs[key] = None
            return
        self._runs[key] = loop.call_later(float(run.payload.get("seconds", 0.001)), self._finish, run, started)

    def _finish(self, run: StartRun, started: float) -> None:
        if self._runs.pop((run.task_id, run.attempt), 0) == 0 or self._agent.shell is not self._shell:
            return
        spent = self._agent.fleet.now().wall - started
        if (telling := self._agent.fleet.telling) is not None:
            telling.tell(self._agent, run, 2)
        failing = int(run.payload.get("fail_times", 0)) >= run.attempt
        result = b"null" if failing else orjson.dumps({**run.payload, "attempt": run.attempt})
        outcome, error, kind = ("failed", "simulated", "raised") if failing else ("completed", "", "")
        detail: dict[str, Any] = {}
        pause = "" if failing else self._pause(run)
        if pause:
            outcome, error, kind = pause, "simulated", pause
            detail = {"delay_s": 0.05} if pause == "put_off" else {}
            result = orjson.dumps([{"id": question_of(run), "value": self._at(run)}]) if pause == "waiting" else b"null"
        self._agent.event(
            RunFinished(run.task_id, run.attempt, outcome, result, error, kind, True, started, spent, detail)
        )

    def _at(self, run: StartRun) -> int:
        return self._agent.fleet.checkpoints.get(run.task_id, 0)

    def _pause(self, run: StartRun) -> str:
        """Where its graph stops now, "" if it comes to its end."""
        reached, pauses = self._agent.fleet.checkpoints, run.payload.get("pauses") or ()
        while (at := reached.get(run.task_id, 0)) < len(pauses):
            if pauses[at] != "waiting":
                reached[run.task_id] = at + 1
                return str(pauses[at])
            if (run.metadata.get("resume") or {}).get(question_of(run)) != at:
                return "waiting"
            reached[run.task_id] = at + 1
        return ""

    def stop(self, stop: StopRun) -> None:
        key = (stop.task_id, stop.attempt)
        if key not in self._runs or (stop.at_step and self._runs[key] is None):
            return
        timer = self._runs.pop(key)
        if timer is not None:
            timer.cancel()
        if stop.at_step:
            wall = self._agent.fleet.now().wall
            self._agent.event(
                RunFinished(stop.task_id, stop.attempt, "moved", b"null", "drain", "drain", True, wall, 0.0)
            )
            return
        cancelled = stop.reason == "cancelled"
        outcome, wall = "abandoned" if cancelled else "failed", self._agent.fleet.now().wall
        self._agent.event(
            RunFinished(
                stop.task_id, stop.attempt, outcome, b"null", stop.reason, stop.reason, not cancelled, wall, 0.0
            )
        )
