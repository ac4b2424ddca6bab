"""What an observation of a histogram is an example of: a trace where there is one, else a task. Pure."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from a2a_zmq.protocol.message import Message

# version-traceid-spanid-flags (W3C trace context); ids of zeros are none.
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
# OpenMetrics takes this many characters for an exemplar's label names and values together.
MAX_CHARS: Final = 128
# Members of a payload that hold tasks or their results, the first of which stands for all of a batch.
_BATCHES: Final = ("tasks", "results")


class Exemplar(NamedTuple):
    """Handed to :meth:`daemons.runtime.contract.Meter.observe`; nothing is worked out unless it is kept.

    Attributes:
        traceparent: W3C trace context of what was observed.
        task_id: which task it was about.
    """

    traceparent: Any = None
    task_id: Any = ""

    def labels(self) -> dict[str, str]:
        """Labels for Prometheus; none if there is nothing to name."""
        if isinstance(self.traceparent, str) and (found := _TRACEPARENT.match(self.traceparent)):
            return {"trace_id": found[1], "span_id": found[2]}
        if isinstance(self.task_id, str) and 0 < len(self.task_id) <= MAX_CHARS - len("task_id"):
            return {"task_id": self.task_id}
        return {}


def exemplar_of(message: Message) -> Exemplar:
    """The trace that a message belongs to, or the first task that it names."""
    payload = message.payload
    task_id = payload.get("task_id")
    for name in _BATCHES:
        batch = payload.get(name)
        if isinstance(batch, list) and batch:
            first = batch[0]
            if isinstance(first, dict):
                task_id = first.get("task_id")
            elif isinstance(first, list) and first:
                task_id = first[0]
            break
    return Exemplar(message.metadata.traceparent, task_id)
