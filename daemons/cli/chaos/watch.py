"""What the fleet itself noticed: who was taken for dead, and when."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import redis

from a2a_zmq.client.sync import FleetClient
from a2a_zmq.clock import parse_iso
from a2a_zmq.errors import FleetError

DOWN = {"worker_down": "worker", "distributor_down": "distributor"}
# Who leaves says so; that is no death.
DEATHS = frozenset(("exited", "disconnect", "silence"))
EVENTS = 1000
# The same death in a log and in the history; nobody dies twice within this time.
SAME_S = 0.05


@dataclass(frozen=True, slots=True)
class Death:
    """Somebody was taken for dead; ``wall`` is the wall clock of who found it."""

    wall: float
    agent: str
    reason: str


class Watch(ABC):
    """Call :meth:`poll` to know what is new.

    Attributes:
        deaths: so far, in the order in which they became known.
        killed: wall time at which the history says that the process of a task was killed, by task id.
    """

    def __init__(self) -> None:
        self.deaths: list[Death] = []
        self.killed: dict[str, float] = {}

    @abstractmethod
    def poll(self) -> None: ...

    def first_death(self, agent: str, since: float) -> Death | None:
        """The first one of this agent from that wall time on."""
        found = [death for death in self.deaths if death.agent == agent and death.wall >= since]
        return min(found, key=lambda death: death.wall, default=None)

    def _note(self, name: str, time: str, fields: Mapping[str, Any]) -> None:
        role = DOWN.get(name)
        if role is None or fields.get("reason") not in DEATHS:
            return
        death = Death(parse_iso(time), str(fields.get(role)), str(fields.get("reason")))
        known = (other for other in self.deaths if other.agent == death.agent)
        if not any(abs(other.wall - death.wall) < SAME_S for other in known):
            self.deaths.append(death)


def as_bytes(key: bytes | str) -> bytes:
    return key if isinstance(key, bytes) else key.encode()


class OwnWatch(Watch):
    """Reads the logs of our own daemons, which outlive a wiped Redis but leave out what repeats too often, and the
    history in Redis, which is complete as long as Redis is there.

    Attributes:
        errors: lines of level error and critical, by their event: how many.
    """

    def __init__(self, logs: Path, store: redis.Redis) -> None:
        super().__init__()
        self.errors: dict[str, int] = {}
        self._logs = logs
        self._read: dict[Path, int] = {}
        self._store = store
        self._last: dict[bytes, bytes] = {}  # stream → its newest entry that was read

    def close(self) -> None:
        self._store.close()

    def poll(self) -> None:
        self._poll_logs()
        with contextlib.suppress(redis.RedisError, OSError):  # it is away on purpose, perhaps: next time then
            for key in self._store.keys("history:*"):
                self._poll_stream(as_bytes(key))

    def _poll_stream(self, key: bytes) -> None:
        while True:
            last = self._last.get(key)
            entries: Any = self._store.xrange(key, b"(" + last if last else b"-", count=EVENTS)
            for entry_id, fields in entries:
                self._last[key] = entry_id
                for time, task_id, name, detail in orjson.loads(fields[b"e"]):
                    self._note(name, time, detail)
                    if name == "retry" and detail.get("kind") == "killed":
                        self.killed[task_id] = parse_iso(time)
            if len(entries) < EVENTS:
                return

    def _poll_logs(self) -> None:
        for path in self._logs.glob("*.log"):
            at = self._read.get(path, 0)
            if path.stat().st_size <= at:
                continue
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
            data = data[: data.rfind(b"\n") + 1]
            self._read[path] = at + len(data)
            for line in data.splitlines():
                if line.startswith(b"{"):
                    self._line(path.stem, line)

    def _line(self, name: str, line: bytes) -> None:
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            return  # the half line of a daemon that was killed while it wrote
        self._note(event.get("event", ""), event.get("timestamp", ""), event)
        if event.get("level") in ("error", "critical"):
            key = f"{name.rpartition('-')[0]}: {event.get('event')}"
            self.errors[key] = self.errors.get(key, 0) + 1


class HistoryWatch(Watch):
    """Asks a fleet for its history."""

    def __init__(self, client: FleetClient, since: float) -> None:
        super().__init__()
        self._client = client
        self._since = since

    def poll(self) -> None:
        try:
            events = self._client.history(limit=EVENTS)
        except FleetError:
            return  # it is asked again
        for event in events:
            if parse_iso(event.time) >= self._since:
                self._note(event.name, event.time, event.detail)
