"""``a2actl explain``: a task's story in sentences, from its record and the audit history."""

from __future__ import annotations

from typing import Any

from a2a_zmq.client.requests import HistoryEvent
from a2a_zmq.tasks import ABANDONED, COMPLETED, FAILED, IN_PROGRESS, WAITING, Record
from daemons.cli.output import local_time, seconds_between, short


def explanation(record: Record, events: list[HistoryEvent], fleet: dict[str, Any]) -> list[str]:
    """Lines, oldest first, ending with what holds now and what could be done."""
    metadata = record.get("metadata") or {}
    client = metadata.get("client") or "an unknown client"
    what = f"Task {record.get('task_id')} of type {record.get('task_type')!r}"
    lines = [f"{what}, submitted by {client} at {local_time(record.get('created_at'))}."]
    wishes = _wishes(metadata)
    if wishes:
        lines.append(f"It asks for {wishes}.")
    lines.extend(_event_line(event) for event in reversed(events))
    lines.append(_now(record, metadata, fleet))
    return lines


def _wishes(metadata: dict[str, Any]) -> str:
    found = []
    if metadata.get("priority"):
        found.append(f"priority {metadata['priority']}")
    if metadata.get("timeout_s"):
        found.append(f"at most {metadata['timeout_s']:g} s an attempt")
    if metadata.get("max_attempts"):
        found.append(f"at most {metadata['max_attempts']} attempts")
    if metadata.get("labels"):
        found.append("a worker with " + ", ".join(f"{k}={v}" for k, v in metadata["labels"].items()))
    return ", ".join(found)


def _event_line(event: HistoryEvent) -> str:
    detail = ", ".join(f"{name} {short(value, 120)}" for name, value in event.detail.items() if value not in ("", None))
    return f"{local_time(event.time)}  {event.name.replace('_', ' ')}{': ' + detail if detail else ''}"


def _now(record: Record, metadata: dict[str, Any], fleet: dict[str, Any]) -> str:
    status = record.get("status", "pending")
    where = metadata.get("worker") or "a worker"
    failures = record.get("retry_count") or 0
    attempts = f", attempt {metadata['attempt']}" if metadata.get("attempt") else ""
    if status == COMPLETED:
        took = metadata.get("execution_s")
        whole = seconds_between(record.get("created_at"), record.get("completed_at"))
        run = f" It ran {took:.3f} s" if isinstance(took, int | float) else ""
        total = f", {whole:.3f} s after it was submitted." if run and whole is not None else ("." if run else "")
        again = f" {failures} earlier attempts failed." if failures else ""
        return f"It completed on {where}{attempts}.{run}{total}{again}"
    if status in (FAILED, ABANDONED):
        kind = metadata.get("error_kind") or "error"
        advice = "" if kind == "cancelled" else " `a2actl retry ID` runs it anew."
        return f"It {status} on {where}{attempts} ({kind}): {short(record.get('error'), 300)}.{advice}"
    if status == IN_PROGRESS:
        since = f" since {local_time(record['started_at'])}" if record.get("started_at") else ""
        return f"It is running on {where}{attempts}{since}."
    if status == WAITING:
        return "It waits for a person's input; no worker is held meanwhile."
    return _why_pending(record, metadata, fleet, failures)


def _why_pending(record: Record, metadata: dict[str, Any], fleet: dict[str, Any], failures: int) -> str:
    """The most likely reason why nobody runs it yet, from what the fleet says of itself."""
    again = f" {failures} attempts failed so far." if failures else ""
    distributors = fleet.get("distributors") or []
    up = [one for one in distributors if one.get("up")]
    if not up:
        return f"It waits: no distributor is connected.{again}"
    pinned = metadata.get("distributor")
    if pinned and pinned not in [one.get("id") for one in up]:
        return f"It waits for distributor {pinned}, which is not connected.{again}"
    workers = [worker for one in up for worker in one.get("workers") or () if worker.get("up")]
    if not workers:
        return f"It waits: no worker is connected.{again}"
    able = [worker for worker in workers if record.get("task_type") in (worker.get("task_types") or ())]
    if not able:
        return f"It waits: none of the {len(workers)} connected workers handles {record.get('task_type')!r}.{again}"
    pending = sum(int(one.get("pending") or 0) for one in up)
    return f"It waits for a free slot: {pending} tasks are queued for {len(able)} workers that handle its type.{again}"
