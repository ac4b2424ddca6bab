"""A history entry holds all events of one write, as a JSON array.

An event is ``[iso time, task id or "", event name, detail object]``.
"""

from __future__ import annotations

from typing import Any

import orjson


def events_of(entry: bytes, task_id: str | None) -> list[bytes]:
    """The events of one history entry, newest first, only those of a task if one is named."""
    if task_id is not None and task_id.encode() not in entry:  # spares parsing nearly all of a long history
        return []
    events: list[list[Any]] = orjson.loads(entry)
    return [orjson.dumps(event) for event in reversed(events) if task_id is None or event[1] == task_id]
