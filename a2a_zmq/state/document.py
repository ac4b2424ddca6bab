"""Puts the specification's SharedAgentState together from the parts in which it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import orjson
from pydantic import ValidationError

from a2a_zmq.errors import StateError
from a2a_zmq.models import AgentStatus, Lease, SharedAgentState, Task
from a2a_zmq.tasks import TERMINAL

# The document shows ended tasks too, as the specification's example does, but not the whole past.
RECENT_RESULTS: Final = 1000


@dataclass(frozen=True, slots=True)
class DocumentParts:
    """What was read; bytes as stored, None where there is nothing.

    Attributes:
        versions: of the coordinator's and the distributor's section.
        lease: the lease key's text ``owner|fence``.
        leased_at: Unix seconds as text.
        lease_remaining_ms: until the lease ends.
        tasks: live and newest ended ones, as :func:`parse_task` gives them.
    """

    versions: tuple[int, int]
    status: bytes | None
    assigned_workers: bytes | None
    leased_at: bytes | None
    lease: bytes | None
    lease_remaining_ms: int
    tasks: list[Task]


def build_document(parts: DocumentParts, wall: float) -> SharedAgentState:
    """
    Args:
        wall: Unix seconds, from which the lease's end is reckoned.

    Raises:
        StateError: a header member is not what the model allows.
    """
    try:
        return SharedAgentState(
            coordinator_version=f"v{parts.versions[0]}",
            distributor_version=f"v{parts.versions[1]}",
            status=_status(parts),
            assigned_workers=orjson.loads(parts.assigned_workers or b"[]"),
            tasks=sorted(parts.tasks, key=_by_age),
            lease=_lease(parts, wall),
        )
    except (ValidationError, ValueError) as error:
        raise StateError(f"the header holds what the model does not allow: {error}") from error


def parse_task(record: bytes) -> Task | None:
    """None if the record is not a task: the document shows the others all the same."""
    try:
        task = Task.model_validate_json(record)
    except ValidationError:
        return None
    if "updated_at" not in task.model_fields_set:  # of an ended task only its end is stored, which was its last change
        task.updated_at = task.completed_at or task.created_at
    return task


def _status(parts: DocumentParts) -> AgentStatus:
    """What the distributor wrote last may be a moment old; and it cannot write that it is gone."""
    if parts.status is None:
        return AgentStatus.IDLE
    if parts.lease is None or parts.lease_remaining_ms <= 0:
        return AgentStatus.ERROR
    status = AgentStatus(parts.status.decode())
    if status in (AgentStatus.IDLE, AgentStatus.BUSY):
        status = AgentStatus.IDLE if all(task.status in TERMINAL for task in parts.tasks) else AgentStatus.BUSY
    return status


def _by_age(task: Task) -> tuple[datetime, str]:
    created = task.created_at
    return created if created.tzinfo else created.replace(tzinfo=UTC), task.task_id


def _lease(parts: DocumentParts, wall: float) -> Lease | None:
    if parts.lease is None or parts.lease_remaining_ms <= 0:
        return None
    owner = parts.lease.decode(errors="replace").partition("|")[0]
    acquired = float(parts.leased_at or wall)
    expires = wall + parts.lease_remaining_ms / 1000
    return Lease(
        owner=owner,
        acquired_at=datetime.fromtimestamp(acquired, UTC),
        expires_at=datetime.fromtimestamp(expires, UTC),
    )
