"""Streams of what a graph's run tells while it runs: names of events, and their order. Pure.

An event's id is ``ATTEMPT-NUMBER``: numbers run 1, 2, 3 … within an attempt, and a later attempt's events sort after an
earlier one's. They travel and are stored in *chunks*, each of which says which event it follows, so that who has one
chunk knows whether the next one it sees is the next one there is.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

EventId = tuple[int, int]

START: Final[EventId] = (0, 0)  # before every event
_TEXT: Final = re.compile(r"(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,17})\Z")

# What LangGraph can stream; the first three are what somebody who watches a run wants.
STREAM_MODES: Final = ("updates", "custom", "messages", "values", "tasks", "checkpoints", "debug")
DEFAULT_STREAM_MODES: Final = STREAM_MODES[:3]

# Types of events beside the modes.
METADATA: Final = "metadata"  # an attempt begins
OMITTED: Final = "omitted"  # an event that cannot be carried
GAP: Final = "gap"  # what was between is not kept any more
WAITING: Final = "waiting"  # the task asks something


def parse_id(text: object) -> EventId | None:
    """An id from its text; None if it is none."""
    match = _TEXT.match(text) if isinstance(text, str) else None
    return (int(match[1]), int(match[2])) if match is not None else None


def id_text(event_id: EventId) -> str:
    return f"{event_id[0]}-{event_id[1]}"


class Chunk(NamedTuple):
    """Events of one task that follow each other.

    Attributes:
        prev: the event before them.
        last: the last of them.
        events: a JSON array of ``[id, type, namespace, data]``.
    """

    prev: EventId
    last: EventId
    events: bytes


def joined(parts: list[bytes]) -> bytes:
    """JSON arrays that are not empty, as one."""
    return b"[" + b",".join(part[1:-1] for part in parts) + b"]"


class StreamEvent(NamedTuple):
    """What a graph's run tells while it runs.

    Attributes:
        id: its place in the task's stream; :meth:`FleetClient.stream` goes on after it.
        type: LangGraph's stream mode (``updates``, ``custom``, ``messages`` …); ``metadata`` as an attempt begins,
            ``waiting`` where the task asks something, ``gap`` for events that are not kept any more, ``omitted`` for
            one that could not be carried.
        data: of the mode.
        ns: namespace of the subgraph that it comes from, empty for the graph itself.
    """

    id: str
    type: str
    data: Any
    ns: tuple[str, ...] = ()

    @property
    def attempt(self) -> int:
        """Of which attempt of the task it is."""
        found = parse_id(self.id)
        return found[0] if found is not None else 0
