"""What runs tell on its way up: in messages of a bounded size, each sent once or not at all. Pure.

It is in the tasks' streams in Redis already, where whoever misses it finds it. So nothing is kept here, and what the
link does not take now is let go: a reader that is slow, or many that read much, cost nobody on the way anything.
"""

from __future__ import annotations

from typing import Any

import orjson

from a2a_zmq.protocol.message import MessageType
from daemons.runtime.contract import Effect, Send


class Relay:
    """What was told since the last wake-up."""

    def __init__(self, message_bytes: int) -> None:
        self._message_bytes = message_bytes
        self._told: list[tuple[dict[str, Any], bytes]] = []

    def add(self, place: dict[str, Any], events: bytes) -> None:
        """Some events of a task, and whose they are."""
        self._told.append((place, events))

    def sends(self, to: str) -> list[Effect]:
        """All of it; to nobody: forget it."""
        if not self._told:
            return []
        told, self._told = self._told, []
        sends: list[Effect] = []
        items: list[dict[str, Any]] = []
        size = 0
        for place, events in told if to else ():
            if items and size + len(events) > self._message_bytes:
                sends.append(_message(to, items))
                items, size = [], 0
            items.append({**place, "events": orjson.Fragment(events)})
            size += len(events)
        if items:
            sends.append(_message(to, items))
        return sends


def _message(to: str, items: list[dict[str, Any]]) -> Send:
    return Send(to, MessageType.EVENT, {"action": "task_events", "tasks": items}, reliable=False, bulk=True)
