"""What a worker tells of its past: the part of its local state that is not what it holds now. Pure."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

from a2a_zmq.clock import Now, iso
from a2a_zmq.models import AgentStatus, LocalAgentState, Task

HISTORY: Final = 100


class Story:
    """Events, its last heartbeat, and the specification's document with them."""

    def __init__(self, agent_id: str) -> None:
        self._agent_id = agent_id
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._created_at: datetime | None = None
        self._last_heartbeat: datetime | None = None

    def note(self, now: Now, event: str, **detail: Any) -> None:
        self._history.append({"at": iso(now.wall), "event": event, **detail})

    def beat(self, now: Now) -> None:
        self._last_heartbeat = datetime.fromtimestamp(now.wall, UTC)

    def state(
        self, now: Now, status: AgentStatus, tasks: list[Task], facts: dict[str, Any], metadata: dict[str, Any]
    ) -> LocalAgentState:
        self._created_at = self._created_at or datetime.fromtimestamp(now.wall, UTC)
        return LocalAgentState(
            agent_id=self._agent_id,
            status=status,
            local_tasks=tasks,
            last_heartbeat=self._last_heartbeat,
            local_vars=facts,
            history=list(self._history),
            metadata=metadata,
            created_at=self._created_at,
            updated_at=datetime.fromtimestamp(now.wall, UTC),
        )
