"""Ends of tasks, and their lives after those: what a result record tells, and what an operator makes of it."""

from __future__ import annotations

from typing import Any, Final

import orjson

from a2a_zmq.clock import Now, iso
from a2a_zmq.encoding import kept_json
from a2a_zmq.tasks import ABANDONED, CHECKPOINT_GONE, IN_PROGRESS, PENDING, WAITING, Record, attempt_of, dead_letter
from daemons.coordinator.records import GRAPH_MEMBERS, PAST_MEMBERS, RESERVED, Entry, count_of

# Attempts of a former life that the record of a retried task tells of, and how much of each one's error.
ATTEMPTS_KEPT: Final = 10
ATTEMPT_ERROR_CHARS: Final = 300
# A distributor that nobody hears of tries a task less often than this.
ATTEMPTS_A_MOVE: Final = 1_000


def cancelled_record(entry: Entry, by: str, now: Now) -> Record:
    """The result record of a task that ended here, before any distributor ran it.

    It keeps the payload, which a later ``retry_tasks`` needs.
    """
    record: Record = orjson.loads(entry.record)
    metadata = dict(record.get("metadata") or {})
    metadata["error_kind"] = "cancelled"
    metadata["execution_s"] = 0.0
    if metadata.get("distributor"):
        metadata["pinned"] = True  # else whoever retries it could not tell a wish from where it was
    if entry.home is not None:
        metadata["distributor"] = entry.home.agent_id
    if isinstance(floor := metadata.get("floor"), int):
        # Whatever says a lower number is taken for the result of the life before.
        metadata["attempt"] = max(attempt_of(record), floor + 1)
    stamp = iso(now.wall)
    record.update(
        status=ABANDONED, result=None, error=f"cancelled by {by} before it ran", started_at=None,
        updated_at=stamp, completed_at=stamp, metadata=metadata,
    )  # fmt: skip
    record.setdefault("retry_count", 0)
    return record


def life_of(record: bytes) -> str:
    """Tells the lives of a task apart that used its id one after the other."""
    found = orjson.loads(record)
    return f"{found.get('created_at')} {(found.get('metadata') or {}).get('retried') or 0}"


def attempts_of(record: Record) -> list[dict[str, Any]]:
    """All attempts that a result record of a task that did not complete tells of, the last one among them."""
    metadata = record.get("metadata") or {}
    earlier = metadata.get("attempts")
    detail = metadata.get("detail")
    last = {
        "attempt": metadata.get("attempt"),
        "worker": metadata.get("worker") or "",
        "kind": metadata.get("error_kind"),
        "error": str(record.get("error") or "")[:ATTEMPT_ERROR_CHARS],
        "started_at": record.get("started_at"),
        "ended_at": record.get("completed_at"),
        "execution_s": metadata.get("execution_s"),
        "held_s": metadata.get("held_s"),
    }
    if isinstance(detail, dict):
        last |= {name: detail[name] for name in ("signal", "exit_code") if name in detail}
    return [*(earlier if isinstance(earlier, list) else []), last]


def moved_record(record: Record, distributor_id: str, now: Now) -> bytes:
    """The record of a task that is taken away from a distributor which stays away.

    Its attempts go on in the next thousand. What ran there, or runs there yet without our knowing, or stands on that
    host's disk, has a lower number, however often it was tried there meanwhile; so it is late.
    """
    metadata = dict(record.get("metadata") or {})
    attempt, worker = attempt_of(record), metadata.pop("worker", None)
    if record.get("status") == IN_PROGRESS:
        earlier = metadata.get("attempts")
        lost = {"attempt": attempt, "worker": worker or "", "kind": "distributor_lost", "ended_at": iso(now.wall)}
        lost |= {"error": f"{distributor_id} stayed away", "started_at": record.get("started_at")}
        metadata["attempts"] = [*(earlier if isinstance(earlier, list) else []), lost][-ATTEMPTS_KEPT:]
    metadata["attempt"] = _beyond(attempt)
    metadata["moved"] = count_of(metadata.get("moved")) + 1
    found = {name: value for name, value in record.items() if name != "started_at"}
    status = WAITING if record.get("status") == WAITING else PENDING
    return kept_json({**found, "status": status, "updated_at": iso(now.wall), "metadata": metadata})


def _beyond(attempt: int) -> int:
    """An attempt's number above all that a distributor that nobody hears of may have given since."""
    return (attempt // ATTEMPTS_A_MOVE + 1) * ATTEMPTS_A_MOVE


def revived_record(result: Record, now: Now) -> bytes:
    """The record of a finished task that an operator sends around once more; attempts go on counting.

    Args:
        result: its result record, with the payload.
    """
    last = result.get("metadata") or {}
    # A graph goes on where it was, with the answers that it got; unless its checkpoints are gone, then it begins anew.
    kept = PAST_MEMBERS if last.get("error_kind") == CHECKPOINT_GONE else GRAPH_MEMBERS | PAST_MEMBERS
    metadata = {key: value for key, value in last.items() if key not in RESERVED or key in kept}
    if not last.get("pinned"):
        metadata.pop("distributor", None)  # it says where the task was, which may be gone, and no wish of its client
    metadata["client"] = last.get("client") or ""
    metadata["attempt"] = metadata["floor"] = attempt_of(result)
    if last.get("error_kind") == "cancelled" and last.get("distributor") and not last.get("pinned"):
        # We may have ended it in the place of a distributor that was away: how often that one began it is not known.
        metadata["attempt"] = _beyond(attempt_of(result))
    metadata["retried"] = count_of(last.get("retried")) + 1
    metadata["letter"] = last.get("distributor") if dead_letter(result) else ""
    metadata["attempts"] = attempts_of(result)[-ATTEMPTS_KEPT:]
    if last.get("moved"):
        metadata["moved"] = last["moved"]  # lives are told apart by how often either happened
    fresh = {
        "task_id": result["task_id"],
        "task_type": result["task_type"],
        "status": "pending",
        "created_at": result.get("created_at") or iso(now.wall),
        "updated_at": iso(now.wall),
        "retry_count": result.get("retry_count") or 0,
        "metadata": metadata,
        "payload": result.get("payload") or {},
    }
    return kept_json(fresh)
