"""What the ports refused, for the audit history."""

from __future__ import annotations

import math

from a2a_zmq.clock import Now
from a2a_zmq.protocol.ports import Refusal
from daemons.coordinator.desk import Desk
from daemons.coordinator.staging import INBOX_SECTION


class Refusals:
    """Notes refusals at a bounded rate (``audit_per_s``): whoever is refused must not be able to fill the history."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tokens = desk.config.audit_per_s
        self._noted_at = -math.inf

    def note(self, event: Refusal, now: Now) -> None:
        if not self._desk.leading:
            return
        rate = self._desk.config.audit_per_s
        elapsed_s = now.mono - self._noted_at
        self._tokens = min(rate, self._tokens + (elapsed_s if math.isfinite(elapsed_s) else 0.0) * rate)
        self._noted_at = now.mono
        if self._tokens >= 1:
            self._tokens -= 1
            detail = {"kind": event.kind, "reason": event.reason, "agent": event.agent_id}
            self._desk.staging.history(INBOX_SECTION, now, "", "refused", detail)
