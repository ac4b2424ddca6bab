"""The worker's messages and documents as values: encoded results, refusals, answers, its state. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from a2a_zmq.clock import iso
from a2a_zmq.encoding import kept_json
from a2a_zmq.models import Task, TaskStatus
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.streams import id_text
from daemons.runtime.contract import RunEvents, RunFinished, Send
from daemons.worker.outgoing import Entry
from daemons.worker.runs import RUNNING, Run

# LocalAgentState is for people: more than this many tasks nobody reads.
SHOWN_TASKS: Final = 100
BLOCKED: Final = "it blocked the handler loop of its worker, where all async handlers run, until that had to leave"
# The part of a time that stays the same for a second; formatting it anew for every result would cost more than the
# result.
_second: list[tuple[int, str]] = [(-1, "")]


def stamp(wall: float) -> str:
    """:func:`a2a_zmq.clock.iso`, quick where many times fall into the same second."""
    second = int(wall)
    known, text = _second[0]
    if known != second:
        text = iso(second)[:-7]
        _second[0] = (second, text)
    return f"{text}{int((wall - second) * 1e6):06d}Z"


def encode(event: RunFinished) -> bytes:
    """The member of ``task_results.results`` for an ended run."""
    if event.outcome == "completed" and event.started_at and not event.detail:
        # Nearly all are such: put together from parts at two thirds of a dict's cost. The parts are orjson's, because a
        # reader that finds a number written in another way has to look for duplicate keys, which is slow.
        return b'{"task_id":%b,"attempt":%d,"outcome":"completed","started_at":"%b","execution_s":%b,"result":%b}' % (
            orjson.dumps(event.task_id),
            event.attempt,
            stamp(event.started_at).encode(),
            orjson.dumps(round(event.execution_s, 6)),
            event.result,
        )
    entry: dict[str, Any] = {
        "task_id": event.task_id,
        "attempt": event.attempt,
        "outcome": event.outcome,
        "started_at": stamp(event.started_at) if event.started_at else None,
        "execution_s": round(event.execution_s, 6),
    }
    if event.outcome == "completed":
        entry["result"] = orjson.Fragment(event.result)
    elif event.outcome == "waiting":
        entry["interrupts"] = orjson.Fragment(event.result)
    else:
        entry["error"] = event.error
        entry["error_kind"] = event.error_kind
        entry["retryable"] = event.retryable
    if event.detail:
        entry["detail"] = event.detail
    return kept_json(entry)


def place(event: RunEvents) -> dict[str, Any]:
    """Whose events these are, for ``task_events``."""
    prev, last, _ = event.chunk
    return {"task_id": event.task_id, "attempt": event.attempt, "prev": id_text(prev), "last": id_text(last)}


def unsendable(task_id: str, attempt: int) -> bytes:
    """What is reported instead of a result that no message can carry."""
    error = "the result is too large for a message"
    return encode(RunFinished(task_id, attempt, "failed", b"null", error, "unserializable", False, 0.0, 0.0))


def named(record: Any) -> tuple[Any, Any]:
    """The task and the attempt that an assignment seems to be about."""
    return (record.get("task_id"), record.get("attempt", 1)) if isinstance(record, dict) else (None, None)


def unreadable(task_id: str, attempt: int, why: str) -> bytes:
    """What is reported of an assignment that is not one. It would be none at another worker either."""
    error = f"its assignment cannot be read: {why}"
    return encode(RunFinished(task_id, attempt, "failed", b"null", error, "invalid_input", False, 0.0, 0.0))


@dataclass(slots=True)
class SendResults(Send):
    """A ``task_results`` message that knows which results it has."""

    entries: list[Entry] = field(default_factory=list)


def results(to: str, batch: list[Entry], credit: dict[str, int]) -> SendResults:
    """One message of results; what is encoded already is not encoded again."""
    array = orjson.Fragment(b"[" + b",".join([entry.encoded for entry in batch]) + b"]")
    payload = {"action": "task_results", "results": array, **credit}
    return SendResults(to, MessageType.EVENT, payload, entries=batch)


def no_handler(run: Run, agent_id: str, wall: float) -> RunFinished:
    """The end of a run that cannot begin here."""
    error = f"worker {agent_id} has no handler of task type {run.task_type!r}"
    return RunFinished(run.task_id, run.attempt, "failed", b"null", error, "unknown_task_type", False, wall, 0.0)


def refusal(to: str, message: Message, code: str, text: str) -> Send:
    """The ERROR answer to a request."""
    payload = {"action": message.action, "code": code, "message": text}
    return Send(to, MessageType.ERROR, payload, reply_to=message.metadata.request_id)


def stale(to: str, message: Message) -> Send:
    """The refusal of a request with a fence that was replaced.

    It names assigned attempts, for they never began: an owner whose fence has moved may have sealed this before that,
    and would wait for them.
    """
    answer = refusal(to, message, "FORBIDDEN", "stale fence")
    tasks = message.payload.get("tasks")
    if message.action == "assign_tasks" and isinstance(tasks, list):
        records = [record for record in tasks if isinstance(record, dict)]
        answer.payload["tasks"] = [[record.get("task_id"), record.get("attempt")] for record in records]
    return answer


def local_answer(event: RunFinished) -> dict[str, Any]:
    """What the in-process ``execute_task`` returns."""
    completed = event.outcome == "completed"
    return {
        "task_id": event.task_id,
        "status": event.outcome,
        "result": orjson.loads(event.result) if completed else None,
        "error": None if completed else event.error,
        "error_kind": event.error_kind,
        "execution_s": event.execution_s,
    }


def local_failure(error: str) -> dict[str, Any]:
    """The same for a call that ran nothing."""
    return {"status": "failed", "result": None, "error": error}


def shown(runs: Iterable[Run], wall: float, at_most: int = SHOWN_TASKS) -> list[Task]:
    """Some runs as the specification's tasks, without payloads."""
    now = datetime.fromtimestamp(wall, UTC)
    tasks: list[Task] = []
    for run in runs:
        if len(tasks) == at_most:
            break
        started = run.state == RUNNING
        tasks.append(
            Task(
                task_id=run.task_id,
                task_type=run.task_type,
                status=TaskStatus.IN_PROGRESS if started else TaskStatus.PENDING,
                created_at=now,
                updated_at=now,
                started_at=datetime.fromtimestamp(run.started_wall, UTC) if started else None,
                metadata={"attempt": run.attempt, "timeout_s": run.timeout_s},
            )
        )
    return tasks
