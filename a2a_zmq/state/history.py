"""A history entry holds all events of one write, as a JSON array.

An event is ``[iso time, task id or "", event name, detail object]``.
"""

from __future__ import annotations

from typing import Any

import orjson


def events_of(entry: bytes, task_id: str | None) -> list[bytes]:
    """The events of one history entry, newest first, only those of a task if one is named. What is none is left out."""
    if task_id is not None and task_id.encode() not in entry:  # spares parsing nearly all of a long history
        return []
    try:
        found = orjson.loads(entry)
    except orjson.JSONDecodeError:
        return []
    events = [event for event in found if _is_event(event)] if isinstance(found, list) else []
    return [orjson.dumps(event) for event in reversed(events) if task_id is None or event[1] == task_id]


def _is_event(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(text, str) for text in value[:3])
