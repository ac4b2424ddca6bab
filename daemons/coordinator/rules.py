"""What type and metadata of a task may be: of one that is submitted, and of a live record that somebody else may have
written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from a2a_zmq.ids import valid_agent_id
from a2a_zmq.tasks import Record
from a2a_zmq.tracing.context import MAX_STATE_CHARS, TRACEPARENT, TRACESTATE

MAX_TYPE_CHARS: Final = 128
# Priorities are few classes, each with a queue of its own, so their number is bounded.
MAX_PRIORITY: Final = 1_000
MAX_ATTEMPTS: Final = 100
MAX_TIMEOUT_S: Final = 30 * 86_400.0
MAX_LABELS: Final = 16
# Of its metadata, what a task is placed by.
PLACING: Final = ("priority", "distributor", "labels")


def check_type(task_type: Any) -> str | None:
    if not isinstance(task_type, str) or not 0 < len(task_type) <= MAX_TYPE_CHARS:
        return f"task_type must be a text of 1 to {MAX_TYPE_CHARS} characters"
    return None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _labels(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_LABELS
        and all(isinstance(key, str) and isinstance(text, str) for key, text in value.items())
    )


# Member → (check, what it must be). Members that are not here are the user's own and travel along.
METADATA: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "priority": (
        lambda v: _integer(v) and -MAX_PRIORITY <= v <= MAX_PRIORITY,
        f"a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}",
    ),
    "timeout_s": (lambda v: _number(v) and 0 < v <= MAX_TIMEOUT_S, "a positive number of seconds, at most 30 days"),
    "max_attempts": (lambda v: _integer(v) and 1 <= v <= MAX_ATTEMPTS, f"a whole number from 1 to {MAX_ATTEMPTS}"),
    "distributor": (valid_agent_id, "an agent id"),
    "labels": (_labels, f"an object of at most {MAX_LABELS} texts"),
    TRACEPARENT: (lambda v: isinstance(v, str) and len(v) <= 64, "a W3C trace context"),
    TRACESTATE: (lambda v: isinstance(v, str) and len(v) <= MAX_STATE_CHARS, "a W3C trace state"),
}


def check_metadata(metadata: Any, max_bytes: int) -> str | None:
    """What is wrong with a task's metadata; None if nothing is."""
    if not isinstance(metadata, dict):
        return f"metadata must be a JSON object, not {type(metadata).__name__}"
    for name, value in metadata.items():
        rule = METADATA.get(name)
        if rule is not None and value is not None and not rule[0](value):
            return f"metadata.{name} must be {rule[1]}"
    try:
        size = len(orjson.dumps(metadata))
    except TypeError as error:
        return f"metadata cannot be written as JSON: {error}"
    if size > max_bytes:
        return f"metadata of {size} bytes, the limit is {max_bytes}"
    return None


def sound(record: Record) -> bool:
    """Whether a live record, which can be read, can be worked with, too: by us, and by a distributor (whose tasks are
    sorted by client and time)."""
    metadata = record.get("metadata") or {}
    return (
        isinstance(record.get("task_type"), str)
        and isinstance(record.get("created_at"), str | None)
        and isinstance(metadata.get("client"), str | None)
        and all(metadata.get(name) is None or METADATA[name][0](metadata[name]) for name in PLACING)
    )
