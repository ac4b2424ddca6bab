"""Asking the user's own retry policy: a graph that decides on failed attempts, a batch at a time.

What would be done without it is done at once: the next attempt is stored, and waits. So whoever dies, and whenever,
nothing is lost, and where the policy is late, fails or rests that attempt goes out. A good answer moves it: earlier or
later, away from some workers, before other tasks, or the task is given up. One question is open at a time; what fails
meanwhile is the next batch, and waits for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from a2a_zmq.clock import Now
from a2a_zmq.tasks import FAILED
from daemons.distributor.journal import Journal
from daemons.distributor.memory import DELAYED, STORING, LiveTask, Memory
from daemons.distributor.records import attempts_told, forgiven, number
from daemons.distributor.workers import Worker
from daemons.runtime.advice import Adviser
from daemons.runtime.consults import Consulted
from daemons.runtime.contract import Log

if TYPE_CHECKING:
    from daemons.distributor.outcomes import Outcomes

# error_kind of a task that the policy gave up.
GIVEN_UP = "given_up"
MAX_AFTER_S = 86_400.0
MAX_PRIORITY = 1_000
MAX_AVOIDED = 100
REASON_CHARS = 500


@dataclass(slots=True)
class Retry:
    """A task whose attempt failed, and what becomes of it if the policy does not say otherwise.

    Attributes:
        attempt: the next one, which waits.
        due: when it goes out by the built-in rules (monotonic).
        earliest: the budget of retries does not let it go out before.
        known: ids of workers that may be named.
    """

    task: LiveTask
    attempt: int
    due: float
    earliest: float
    known: frozenset[str] = frozenset()


@dataclass(slots=True, frozen=True)
class Decision:
    """A policy's word on one task; None and empty: it says nothing of that."""

    after_s: float | None = None
    avoid: tuple[str, ...] = ()
    priority: int | None = None
    give_up: str = ""


class RetryPolicy:
    """See the module's text."""

    def __init__(self, memory: Memory, journal: Journal, outcomes: Outcomes) -> None:
        self._memory = memory
        self._journal = journal
        self._outcomes = outcomes
        self._adviser = Adviser(
            "retry",
            "retries",
            timeout_s=memory.config.policy_timeout_s,
            rest_s=memory.config.policy_rest_s,
            meter=memory.meter,
            log=self._log,
        )
        self._pending: list[Retry] = []
        self._open: list[Retry] = []

    def allow(self, timeout_s: float) -> None:
        """It gets so long from now on."""
        self._adviser.allow(timeout_s)

    def consider(self, task: LiveTask, due: float, earliest: float, now: Now) -> float:
        """The next attempt of this task is to go out at ``due``: when it does if the policy has something to say."""
        adviser, memory = self._adviser, self._memory
        if not adviser:
            return due
        rests = adviser.rests(now.mono) or memory.draining or not memory.owner
        if rests or len(self._pending) >= memory.config.policy_batch:
            adviser.fell_back("not_asked", 1)
            return due
        self._pending.append(Retry(task, task.attempt + 1, due, earliest))
        asked_at = now.mono if adviser.since is None else max(now.mono, adviser.deadline())
        return max(due, asked_at + adviser.wait_s)

    def asks_about(self, task: LiveTask) -> bool:
        """Whether it waits for the policy. O(tasks asked about), for whoever wants to know of one task."""
        return any(_current(each) and each.task is task for each in (*self._pending, *self._open))

    def settle(self, now: Now) -> None:
        """Give up what is late; ask about what has failed."""
        if not self._adviser:
            return
        if self._adviser.gives_up(now):
            self._conclude({}, now)
        if self._pending and self._adviser.since is None:
            pending, self._pending = self._pending, []
            self._open = [each for each in pending if self._memory.owner and self._waits(each)]
            if self._open:
                self._memory.out.append(self._adviser.ask(self._facts(now), now.mono))

    def next_deadline(self) -> float:
        return self._adviser.deadline()

    def _log(self, line: Log) -> None:
        self._memory.out.append(line)

    # ------------------------------------------------------------ asking

    def _waits(self, each: Retry) -> bool:
        """Whether its next attempt is not out yet; it is no more where somebody cancelled or finished the task."""
        return self._memory.live.get(each.task.task_id) is each.task and _current(each)

    def _facts(self, now: Now) -> dict[str, Any]:
        workers = list(self._memory.workers.values())
        present = frozenset(worker.agent_id for worker in workers)
        able: dict[tuple[str, str, str], list[str]] = {}
        tasks: list[dict[str, Any]] = []
        for each in self._open:
            task = each.task
            labels = _labels(task)
            key = (task.task_type, task.graph, repr(labels))
            if key not in able:
                able[key] = [w.agent_id for w in workers if w.serves(task.task_type, labels, "", task.graph)]
            told = attempts_told(task) or [{}]
            each.known = present.union(str(attempt.get("worker")) for attempt in told)
            tasks.append(self._fact(each, told, able[key], now))
        return {"tasks": tasks, "workers": [_worker(worker) for worker in workers]}

    def _fact(self, each: Retry, told: list[dict[str, Any]], candidates: list[str], now: Now) -> dict[str, Any]:
        task, failed = each.task, told[-1]
        return {
            "task_id": task.task_id,
            "task_type": task.task_type,
            "priority": task.priority,
            "labels": _labels(task),
            "client": task.metadata.get("client"),
            "created_at": task.record.get("created_at"),
            "attempt": failed.get("attempt"),
            "failures": task.failures - forgiven(task),
            "max_attempts": self._outcomes.most_attempts(task),
            "kind": failed.get("kind"),
            "error": failed.get("error"),
            "worker": failed.get("worker"),
            "execution_s": failed.get("execution_s"),
            "earlier": [{"worker": one.get("worker"), "kind": one.get("kind")} for one in told[:-1]],
            "delay_s": round(max(0.0, each.due - now.mono), 3),
            "least_s": round(max(0.0, each.earliest - now.mono), 3),
            "candidates": candidates,
        }

    # ------------------------------------------------------------ answers

    def answered(self, event: Consulted, now: Now) -> None:
        """The answer, or that there is none; one to a question that was given up says nothing any more."""
        choice = self._adviser.hear(event, now)
        if choice is not None:
            self._conclude(choice, now)

    def _conclude(self, choice: dict[Any, Any], now: Now) -> None:
        """Do as it says with what still waits; tasks that it does not name go the built-in way."""
        asked, self._open = self._open, []
        for each in asked:
            if not (self._memory.owner and self._waits(each)):
                continue
            decision = judge(choice.get(each.task.task_id), each.known)
            if isinstance(decision, str):
                self._adviser.wrong(decision, now)
                decision = None
            if decision is None:
                self._outcomes.delays.reschedule(each.task, each.due, now)
            else:
                self._obey(each, decision, now)

    def _obey(self, each: Retry, decision: Decision, now: Now) -> None:
        task = each.task
        if decision.give_up:
            error = f"given up by the retry policy: {decision.give_up}; the last attempt: {task.record.get('error')}"
            self._outcomes.finish(task, FAILED, now, error=error, kind=GIVEN_UP)
            return
        due, kept = each.due, dict[str, Any]()
        if decision.after_s is not None:
            due = max(now.mono + decision.after_s, each.earliest)
            if due > now.mono:  # for whoever owns the section then
                kept |= {"until": round(now.wall + due - now.mono, 3), "after_s": round(due - now.mono, 3)}
        if decision.avoid:
            kept["avoid"] = list(decision.avoid)
        if decision.priority is not None and decision.priority != task.priority:
            task.priority = task.metadata["priority"] = kept["priority"] = decision.priority
        if kept:
            task.metadata["decided"] = kept
            self._journal.put(task)
        self._outcomes.delays.reschedule(task, due, now)
        fields = {"attempt": task.attempt, "delay_s": round(max(0.0, due - now.mono), 3)}
        self._journal.note(now, task.task_id, "retry_policy", {**kept, **fields})


def _current(each: Retry) -> bool:
    return each.task.attempt == each.attempt and each.task.phase in (STORING, DELAYED)


def judge(value: Any, known: frozenset[str]) -> Decision | str | None:
    """What a policy says of one task, strictly read. None: nothing; a text: why it cannot be used.

    Args:
        known: ids of workers that may be named.
    """
    if value is None or value == {}:
        return None
    if not isinstance(value, dict):
        return f"{_shown(value)} is no decision"
    strange = value.keys() - {"after_s", "avoid", "priority", "give_up"}
    if strange:
        return f"a decision has no {_shown(next(iter(strange)))}"
    if "give_up" in value:
        reason = value["give_up"]
        if len(value) > 1:
            return "a task that is given up gets no other attempt"
        if not isinstance(reason, str) or not reason.strip():
            return "give_up needs a reason"
        return Decision(give_up=" ".join(reason.split())[:REASON_CHARS])
    after_s, avoid, priority = value.get("after_s"), value.get("avoid") or [], value.get("priority")
    if after_s is not None and not 0 <= number(after_s, -1.0) <= MAX_AFTER_S:
        return f"after_s is {_shown(after_s)}, not from 0 to {MAX_AFTER_S:.0f}"
    if not isinstance(avoid, list) or len(avoid) > MAX_AVOIDED or not all(isinstance(name, str) for name in avoid):
        return f"avoid is {_shown(avoid)}, not a list of ids of workers"
    if not known.issuperset(avoid):
        return f"no worker {_shown(next(name for name in avoid if name not in known))} is known"
    if priority is not None and (type(priority) is not int or abs(priority) > MAX_PRIORITY):
        return f"priority is {_shown(priority)}, not a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}"
    return Decision(None if after_s is None else float(after_s), tuple(sorted(set(avoid))), priority)


def waits_s(task: LiveTask, wall: float) -> float:
    """Seconds until the attempt that is stored goes out, as an earlier owner's policy decided; 0: at once."""
    decided = task.metadata.get("decided")
    if not isinstance(decided, dict):
        return 0.0
    left = number(decided.get("until"), -math.inf) - wall
    return max(0.0, min(left, number(decided.get("after_s"), 0.0), MAX_AFTER_S))


def _labels(task: LiveTask) -> dict[str, Any]:
    labels = task.metadata.get("labels")
    return labels if isinstance(labels, dict) else {}


def _worker(worker: Worker) -> dict[str, Any]:
    return {
        "id": worker.agent_id,
        "load": len(worker.held) + len(worker.ghosts),
        "limit": worker.limit,
        "slots": worker.slots,
        "suspect": bool(worker.suspect),
        "draining": worker.draining,
        "task_types": sorted(worker.task_types),
        "labels": dict(worker.labels),
    }


def _shown(value: Any) -> str:
    return repr(value)[:100]
