"""Attempts that end without an end of their task, and without a failure: what runs of graphs may do.

A graph leaves a checkpoint at each step, so its task goes on from there, on any worker that has the same graph. It was
*moved* if its worker left in the middle of it, *put off* if it could not begin (somebody else has its thread, say), and
it *waits* if it asked somebody something. None of these counts as an attempt, or is charged to the budget of retries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from a2a_zmq import tasks
from a2a_zmq.clock import Now
from a2a_zmq.encoding import kept_json
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.tasks import TERMINAL, Record
from daemons.distributor.journal import Journal
from daemons.distributor.memory import WAITING, LiveTask, Memory, Parsed
from daemons.distributor.records import number
from daemons.distributor.turns import THREAD_BUSY, Turns
from daemons.distributor.workers import Worker
from daemons.runtime.contract import Send

if TYPE_CHECKING:
    from daemons.distributor.outcomes import Outcomes

# Delay of an attempt that is put off: as its worker asks, within these; doubled each time, up to GROWN_S.
LEAST_S: Final = 0.05
MOST_S: Final = 60.0
GROWN_S: Final = 5.0
# One that is behind the task that has its thread is told when that one ends. Should that not be enough: then.
TURN_S: Final = 60.0
# A task that is put off again and again is noted in the history no more often than this.
NOTE_EVERY_S: Final = 60.0
# Something was read or run: these attempts may have left checkpoints by the graph that they had.
BEGAN: Final = frozenset({"store", "model_busy"})


def bind(task: LiveTask, worker: Worker) -> None:
    """The worker gets this attempt: the task's checkpoints are of its graph from now on."""
    graph = worker.graphs.get(task.task_type)
    if graph and not task.graph:
        task.metadata["graph"] = graph
        task.metadata["graph_attempt"] = task.attempt


def unbind(task: LiveTask) -> None:
    """Its present attempt never began: if no earlier one did, any graph of that name will do."""
    if task.metadata.get("graph_attempt") == task.attempt:
        del task.metadata["graph_attempt"]
        task.metadata.pop("graph", None)


def answered(task: LiveTask) -> None:
    """It asks nothing any more: its next attempt goes on."""
    for name in ("interrupts", "asked", "put_off"):
        task.metadata.pop(name, None)


class Pauses:
    """See the module's text."""

    def __init__(self, memory: Memory, journal: Journal, outcomes: Outcomes) -> None:
        self._memory = memory
        self._journal = journal
        self._outcomes = outcomes
        self._turns = Turns()

    # ------------------------------------------------------------ reports of workers

    def moved(self, task: LiveTask, item: dict[str, Any], now: Now) -> None:
        """Stopped because its worker leaves, a graph at the end of a step: it goes on elsewhere, before all others."""
        fields = {"worker": task.worker, "attempt": task.attempt}
        self._memory.meter.count("task_pauses_total", reason="moved")
        self._outcomes.again(task, now, front=True, why="moved")
        self._journal.note(now, task.task_id, "moved", fields)

    def put_off(self, task: LiveTask, item: dict[str, Any], now: Now) -> None:
        """It could not begin: again later, and later each time; when its turn comes where another task of ours has its
        thread, and soon where one of another distributor has."""
        kind, why = str(item.get("error_kind") or "")[:64], str(item.get("error") or "")[:200]
        before = task.metadata.get("put_off")
        before = before if isinstance(before, dict) else {}
        times = number(before.get("times"), 0.0) + 1
        wanted = item.get("detail")
        wanted = wanted if isinstance(wanted, dict) else {}
        asked_s = min(max(number(wanted.get("delay_s"), LEAST_S), LEAST_S), MOST_S)
        holder = wanted.get("holder") if kind == THREAD_BUSY else None
        behind = isinstance(holder, str) and holder != task.task_id and holder in self._memory.live
        ended = isinstance(holder, str) and holder in self._memory.recent
        if ended:  # just now, so its thread may be free any moment; or it died, and has the thread for a minute
            asked_s = LEAST_S
        delay_s = max(asked_s, min(GROWN_S, asked_s * 2.0 ** min(times - 1, 20)))
        if behind:
            delay_s = TURN_S
        elif kind == THREAD_BUSY and not ended:
            delay_s = asked_s
        order = int(number(before.get("order"), task.seq))
        if kind not in BEGAN:
            unbind(task)
        self._memory.meter.count("task_pauses_total", reason="put_off")
        self._outcomes.again(task, now, front=False, not_before=now.mono + delay_s, why="put_off")
        noted = number(before.get("noted"), -math.inf)
        if not 0 <= now.wall - noted < NOTE_EVERY_S:
            noted = now.wall
            fields = {"attempt": task.attempt, "kind": kind, "why": why, "delay_s": round(delay_s, 3)}
            self._journal.note(now, task.task_id, "put_off", fields)
        task.metadata["put_off"] = {"times": int(times), "kind": kind, "why": why, "noted": noted, "order": order}
        if behind:
            task.metadata["put_off"]["behind"] = holder
            self._turns.wait(task, str(holder), (_submitted(task), order))

    def queue_up(self, task: LiveTask, now: Now) -> None:
        """It is new: if a task that came before it has its thread, or waits for it, it comes after that one."""
        head = self._turns.head(task, self._memory.live)
        if head is not None:
            why = f"task {head.task_id} has its thread, or is before it"
            task.metadata["put_off"] = {"times": 0, "kind": THREAD_BUSY, "why": why, "behind": head.task_id}
            task.not_before = max(task.not_before, now.mono + TURN_S)
            self._turns.wait(task, head.task_id, (_submitted(task), 0))

    def turn_over(self, task: LiveTask) -> None:
        """It ended, or waits for an answer: its thread is free."""
        following = self._turns.over(task)
        if following is not None:
            del following.metadata["put_off"]
            self._outcomes.delays.due(following)

    def wait(self, task: LiveTask, item: dict[str, Any], now: Now) -> None:
        """It asked something, and nobody holds it until it is answered. The coordinator is told when that is stored."""
        interrupts = _questions(item.get("interrupts"))
        if not interrupts:
            error = "its run waits for an answer, but asks nothing"
            self._outcomes.fail(task, now, error=error, kind="raised", retryable=False, item=item)
            return
        fields = {"worker": task.worker, "attempt": task.attempt, "questions": len(interrupts)}
        if self._memory.spans is not None:
            self._memory.spans.ended(task, now, "waiting")
        self._outcomes.stand_still(task)
        task.metadata["interrupts"], task.metadata["asked"] = interrupts, task.attempt
        self.park(task)
        self._journal.put(task)
        self.turn_over(task)
        self._memory.meter.count("task_pauses_total", reason="waiting")
        self._journal.note(now, task.task_id, "waiting", fields)

    # ------------------------------------------------------------ tasks that wait

    def take(self, parsed: Parsed) -> LiveTask | None:
        """The task of a stored record that says that it waits; None if it says something else."""
        record, metadata, attempt = parsed
        if not stands(record):
            return None
        task = self._memory.live[record["task_id"]] = LiveTask(record, metadata, attempt, attempt, WAITING)
        self.park(task)
        return task

    def park(self, task: LiveTask) -> None:
        """Its record says, or will say, that it waits."""
        task.phase = WAITING
        self._memory.waiting[task.task_id] = task

    def tell(self, waiting: Iterable[LiveTask]) -> None:
        """Tell the coordinator of tasks whose waiting is stored, again if need be."""
        self._memory.out.extend(self._journal.tell_waiting(waiting))

    def resume(self, message: Message, now: Now) -> None:
        """``resume_tasks``: these have been answered. What is said of each is said when it is durable.

        ``unknown`` is said of what we may read yet, too.
        """
        entries = message.payload.get("tasks")
        verdicts = [
            [entry[0], self._resume(entry, now)]
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, list) and len(entry) in (2, 3) and isinstance(entry[0], str)
        ]
        answer = {"action": message.action, "tag": message.payload.get("tag"), "tasks": verdicts}
        reply_to = message.metadata.request_id
        self._journal.after.append(Send(message.sender, MessageType.RESPONSE, answer, reply_to=reply_to))

    def _resume(self, entry: list[Any], now: Now) -> str:
        """``[task_id, {interrupt id: answer}, attempt that asked]``; without an attempt the one that waits is meant."""
        task = self._memory.live.get(entry[0]) if self._memory.owner else None
        answers = entry[1] if isinstance(entry[1], dict) else {}
        asked = entry[2] if len(entry) == 3 else None
        if task is None:
            return "unknown"
        metadata = task.metadata
        if task.phase is not WAITING or asked not in (None, task.asked):
            same = metadata.get("resume") == answers and asked in (None, metadata.get("resumed"))
            return "resumed" if answers and same else "not_waiting"
        if not answers or not answers.keys() <= {each["id"] for each in _questions(metadata.get("interrupts"))}:
            return "not_waiting"
        metadata["resume"], metadata["resumed"] = answers, task.asked
        self._outcomes.again(task, now, front=True)
        self._journal.note(now, task.task_id, "resumed", {"attempt": task.attempt, "answers": len(answers)})
        return "resumed"

    def end(self, message: Message, now: Now) -> None:
        """``end_waiting``: the store lost state, and these wait again, though the coordinator still has their results.

        Whoever knows that a task has ended will not answer it again, so the result is recorded once more.
        """
        results = message.payload.get("results")
        for result in results if isinstance(results, list) else ():
            if not (isinstance(result, dict) and isinstance(result.get("metadata"), dict)):
                continue
            task_id, status = result.get("task_id"), result.get("status")
            task = self._memory.live.get(task_id) if isinstance(task_id, str) and self._memory.owner else None
            if task is None or task.phase is not WAITING or not isinstance(status, str) or status not in TERMINAL:
                continue
            if tasks.attempt_of(result) >= task.attempt and tasks.ends(result, task.record):
                # What did not complete is stored with its payload, for a retry.
                more = {} if status == tasks.COMPLETED else {"payload": task.record.get("payload") or {}}
                self._outcomes.end(task, status, kept_json({**result, **more}), dead=tasks.dead_letter(result))
                self._journal.note(now, task.task_id, "ended_again", {"attempt": task.attempt})


def stands(record: Record) -> bool:
    """Does this live record say that its task waits, and for what?"""
    return record.get("status") == tasks.WAITING and bool(_questions(record["metadata"].get("interrupts")))


def missed(task: LiveTask, stored: Parsed) -> bool:
    """Has a worker told another owner that this attempt waits, and not us?"""
    return task.phase is not WAITING and stored[2] == task.attempt and stands(stored[0])


def forgotten(task: LiveTask, stored: Parsed) -> bool:
    """Does a store that lost state not know any more that this attempt waits?"""
    return task.phase is WAITING and stored[2] <= task.attempt and not stands(stored[0])


def _submitted(task: LiveTask) -> str:
    return str(task.record.get("created_at") or "")


def _questions(value: Any) -> list[dict[str, Any]]:
    """The well-formed ones of a report."""
    return [
        {"id": each["id"], "value": each.get("value")}
        for each in (value if isinstance(value, list) else ())
        if isinstance(each, dict) and isinstance(each.get("id"), str)
    ]
