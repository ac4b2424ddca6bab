"""The specification's models: Task, LocalAgentState, SharedAgentState, Lease.

These are the documents that users and operators see. The relay path works on plain task records (dicts of
the same members, see :mod:`a2a_zmq.tasks`) because a validated model a task and hop costs more than the hop.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def _now() -> datetime:
    return datetime.now(UTC)


class TaskStatus(StrEnum):
    """Life of a task; :data:`a2a_zmq.tasks.TRANSITIONS` has the moves."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    ABANDONED = "abandoned"


class AgentStatus(StrEnum):
    """What an agent says of itself."""

    IDLE = "idle"
    BUSY = "busy"
    ERROR = "error"
    RECOVERING = "recovering"


class Task(BaseModel):
    """One unit of work, as the specification writes it.

    ``metadata`` carries what the fleet adds: ``client``, ``priority`` (higher first), ``timeout_s`` (per attempt),
    ``max_attempts``, ``attempt`` (the current one, from 1), ``worker``, ``distributor`` (pinned), ``error_kind``,
    ``traceparent``. ``retry_count`` counts attempts that failed.
    """

    model_config = ConfigDict(extra="forbid")

    task_id: str
    task_type: str
    payload: dict[str, Any] = Field(default_factory=dict)
    status: TaskStatus = TaskStatus.PENDING
    created_at: datetime = Field(default_factory=_now)
    updated_at: datetime = Field(default_factory=_now)
    started_at: datetime | None = None
    completed_at: datetime | None = None
    result: Any = None
    error: str | None = None
    retry_count: int = 0
    metadata: dict[str, Any] = Field(default_factory=dict)


class LocalAgentState(BaseModel):
    """What one agent knows of itself (specification, "LocalAgentState (Per-Agent)"); ``history`` is bounded."""

    agent_id: str
    status: AgentStatus = AgentStatus.IDLE
    local_tasks: list[Task] = Field(default_factory=list)
    last_heartbeat: datetime | None = None
    local_vars: dict[str, Any] = Field(default_factory=dict)
    history: list[dict[str, Any]] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: datetime = Field(default_factory=_now)
    updated_at: datetime = Field(default_factory=_now)


class Lease(BaseModel):
    """Who may write a section, until when."""

    owner: str
    acquired_at: datetime
    expires_at: datetime


class SharedAgentState(BaseModel):
    """The document at ``shared:distributor:{distributor_id}`` (coordinator ↔ distributor in Redis)."""

    coordinator_version: str = "v0"
    distributor_version: str = "v0"
    status: AgentStatus = AgentStatus.IDLE
    assigned_workers: list[str] = Field(default_factory=list)
    tasks: list[Task] = Field(default_factory=list)
    lease: Lease | None = None
