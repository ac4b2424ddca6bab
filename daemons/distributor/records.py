"""Building what is stored and sent: records, result records, items of messages, history lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from orjson import Fragment

from a2a_zmq import tasks
from a2a_zmq.clock import Now, iso
from a2a_zmq.encoding import kept_json
from a2a_zmq.tasks import COMPLETED, IN_PROGRESS, PENDING
from a2a_zmq.tracing.context import TRACEPARENT, TRACESTATE
from daemons.distributor.memory import RUNNING, WAITING, LiveTask

# Wall times outside of these are not times (year 1970 to 2100): a peer's nonsense must not raise here.
_WALL_MIN, _WALL_MAX = 0.0, 4_102_444_800.0


class Stamps:
    """ISO texts of wall times; the part up to the second is formatted once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""
        self._wall = -1.0
        self._text = ""

    def iso(self, wall: float) -> str:
        if wall == self._wall:  # asked for every task of a wake-up
            return self._text
        second, micros = divmod(int(wall * 1_000_000), 1_000_000)
        if second != self._second:
            self._second = second
            self._prefix = iso(second)[:-7]  # all before "000000Z"
        self._wall, self._text = wall, f"{self._prefix}{micros:06d}Z"
        return self._text

    def peer_iso(self, time: Any) -> str | None:
        """A time that a peer named: seconds or ISO text; None if it is neither."""
        if isinstance(time, (int, float)):
            return self.iso(time) if _WALL_MIN <= time < _WALL_MAX else None
        return time if isinstance(time, str) else None


# Earlier attempts that a record tells of, and how much of each one's error.
ATTEMPTS_KEPT = 10
ATTEMPT_ERROR_CHARS = 300


def held_s(task: LiveTask, now: Now) -> float | None:
    """Seconds since its dispatch; None if nobody has it."""
    return round(now.mono - task.dispatched_at, 6) if task.worker else None


def note_attempt(
    task: LiveTask,
    stamps: Stamps,
    now: Now,
    *,
    error: str,
    kind: str,
    item: dict[str, Any] | None = None,
    worker: str = "",
) -> None:
    """Add the present attempt, which failed, to those that the task's metadata tells of.

    Args:
        worker: who had it, where that is known from its record only.
    """
    given = item or {}
    detail = given.get("detail")
    told = {
        "attempt": task.attempt,
        "worker": task.worker or worker,
        "kind": kind,
        "error": error[:ATTEMPT_ERROR_CHARS],
        "started_at": stamps.peer_iso(given.get("started_at", task.started_at)),
        "ended_at": stamps.iso(now.wall),
        "execution_s": given.get("execution_s"),
        "held_s": held_s(task, now),
    }
    if isinstance(detail, dict):
        told |= {name: _brief(detail[name]) for name in ("signal", "exit_code") if name in detail}
    task.metadata["attempts"] = [*attempts_told(task)[1 - ATTEMPTS_KEPT :], told]


def attempts_told(task: LiveTask) -> list[dict[str, Any]]:
    """The earlier attempts that its metadata tells of, as far as that can be read."""
    told = task.metadata.get("attempts")
    return [each for each in told if isinstance(each, dict)] if isinstance(told, list) else []


def _brief(value: Any) -> Any:
    """An exit status is what a handler gives to ``sys.exit()``, which may be a text of any length."""
    return value if isinstance(value, int) else str(value)[:ATTEMPT_ERROR_CHARS]


def failed_before(task: LiveTask, kind: str) -> int:
    """How many of the attempts that its metadata tells of failed in that way, since an operator sent it around."""
    earlier = attempts_told(task)
    return sum(each.get("kind") == kind and number(each.get("attempt"), 0) > task.floor for each in earlier)


def forgiven(task: LiveTask) -> int:
    """Failures before an operator sent it around again: they do not count any more."""
    count = task.metadata.get("forgiven", 0)
    return count if isinstance(count, int) else 0


def process_died(item: dict[str, Any] | None) -> bool:
    """Does a worker's report say that the process of the run ended with it, which nobody had asked for?"""
    detail = (item or {}).get("detail")
    return isinstance(detail, dict) and detail.get("process_died") is True


def assign_item(task: LiveTask) -> bytes:
    """The task as it goes to a worker; its payload passes as it came."""
    item: dict[str, Any] = {
        "task_id": task.task_id,
        "task_type": task.task_type,
        "payload": task.record.get("payload") or {},
        "attempt": task.attempt,
        "metadata": task.metadata,
    }
    limit = task.metadata.get("timeout_s")
    if limit is not None:
        item["timeout_s"] = limit
    return kept_json(item)


def live_record(task: LiveTask, stamps: Stamps, wall: float) -> bytes:
    """The record of a live task, as it stands now, for the live task hash."""
    record, metadata = task.record, task.metadata
    metadata["attempt"] = task.attempt
    record["updated_at"] = stamps.iso(wall)
    if task.phase is RUNNING:
        record["status"] = IN_PROGRESS
        metadata["worker"] = task.worker
        started = stamps.peer_iso(task.started_at)
        if started is not None:
            record["started_at"] = started
    else:
        record["status"] = tasks.WAITING if task.phase is WAITING else PENDING
        metadata.pop("worker", None)
        record.pop("started_at", None)
    return kept_json(record)


def waiting_item(task: LiveTask) -> bytes:
    """What the coordinator is told of a task that waits for answers."""
    interrupts = task.metadata.get("interrupts") or []
    return kept_json({"task_id": task.task_id, "attempt": task.asked, "interrupts": interrupts})


def completed_record(
    task: LiveTask,
    distributor_id: str,
    item: dict[str, Any],
    *,
    started_at: str | None,
    completed_at: str,
    held_s: float | None,
) -> bytes:
    """The result record of a task that a worker's report ``item`` completed."""
    metadata: dict[str, Any] = {
        "attempt": task.attempt,
        "worker": task.worker,
        "distributor": distributor_id,
        "client": task.metadata.get("client"),
        "execution_s": item.get("execution_s"),
        "held_s": held_s,
    }
    if "attempts" in task.metadata:
        metadata["attempts"] = task.metadata["attempts"]
    if "resumed" in task.metadata:
        metadata["resumed"] = task.metadata["resumed"]
    if "retried" in task.metadata:
        metadata["retried"] = task.metadata["retried"]  # tells which of its lives has ended
    if TRACEPARENT in task.metadata:
        metadata |= {name: task.metadata[name] for name in (TRACEPARENT, TRACESTATE) if name in task.metadata}
    if "detail" in item:
        metadata["detail"] = item["detail"]
    return kept_json(
        {
            "task_id": task.task_id,
            "task_type": task.task_type,
            "status": COMPLETED,
            "result": item.get("result"),
            "error": None,
            "created_at": task.record.get("created_at"),
            "started_at": started_at,
            "completed_at": completed_at,
            "retry_count": task.record.get("retry_count", 0),
            "metadata": metadata,
        }
    )


def unfinished_record(
    task: LiveTask,
    distributor_id: str,
    status: str,
    *,
    error: str,
    error_kind: str,
    started_at: str | None,
    completed_at: str,
    failures: int,
    execution_s: Any,
    held_s: float | None,
    detail: Any,
) -> bytes:
    """The result record of a task that ended otherwise. It keeps payload and all metadata, so that an operator can look
    at it and run it again."""
    metadata = {**task.metadata, "attempt": task.attempt, "distributor": distributor_id, "error_kind": error_kind}
    if task.metadata.get("distributor"):
        metadata["pinned"] = True  # else whoever retries it could not tell a wish from where it ran
    if task.worker:
        metadata["worker"] = task.worker
    if execution_s is not None:
        metadata["execution_s"] = execution_s
    if held_s is not None:
        metadata["held_s"] = held_s
    if detail:
        metadata["detail"] = detail
    return kept_json(
        {
            "task_id": task.task_id,
            "task_type": task.task_type,
            "status": status,
            "result": None,
            "error": error,
            "created_at": task.record.get("created_at"),
            "started_at": started_at,
            "completed_at": completed_at,
            "retry_count": failures,
            "metadata": metadata,
            "payload": task.record.get("payload") or {},
        }
    )


def number(value: Any, default: float) -> float:
    """A number of a record or a peer; the default if it is none."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else default


def history_line(time: str, task_id: str, name: str, detail: dict[str, Any]) -> bytes:
    return kept_json([time, task_id, name, detail])


def split(encoded: Sequence[bytes], limit: int) -> Iterator[list[Fragment]]:
    """Cut a list of encoded members into parts of no more than ``limit`` bytes (a larger member goes alone)."""
    part: list[Fragment] = []
    size = 0
    for raw in encoded:
        if part and size + len(raw) > limit:
            yield part
            part, size = [], 0
        part.append(Fragment(raw))
        size += len(raw)
    if part:
        yield part
