"""A client's core, and a coordinator whose answers the test writes."""

from __future__ import annotations

from typing import Any

import orjson

from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.entries import Call, Entry, Outbound
from a2a_zmq.client.submission import TaskForm
from a2a_zmq.clock import Now
from a2a_zmq.ids import make_id_factory
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import PeerDown, PeerInfo, PeerUp, Received


class Sink:
    """Entries here are only looked at, never delivered."""

    def accepted(self, entry: Entry) -> None: ...

    def asked(self, entry: Entry) -> None: ...

    def finished(self, entry: Entry) -> None: ...


class Scripted:
    """A core, and a coordinator whose answers the test writes."""

    def __init__(self) -> None:
        self.core = ClientCore(make_id_factory(bytes), lambda: 0.0)
        self.mono = 100.0
        self.sink = Sink()
        self.form = TaskForm("noop")

    @property
    def now(self) -> Now:
        return Now(self.mono, self.mono)

    def up(self, boot_id: str = "boot-1", **details: Any) -> None:
        peer = PeerInfo("coordinator-1", Role.COORDINATOR, boot_id=boot_id, details=details)
        self.core.handle(PeerUp(peer), self.now)

    def down(self, reason: str = "disconnect") -> None:
        self.core.handle(PeerDown("coordinator-1", Role.COORDINATOR, reason, 0.2), self.now)

    def entry(self, task_id: str, *, check: bool = False, deadline: float = float("inf"), size: int = 0) -> Entry:
        body = self.form.body(task_id, orjson.dumps({"x": "y" * size}))
        entry = Entry(task_id, body, self.sink, check=check, deadline=deadline)
        self.core.submit(entry, self.now)
        return entry

    def flush(self, room: int = 1000) -> list[Outbound]:
        return self.core.flush(self.now, room)

    def answer(self, sent: Outbound, type_: MessageType = MessageType.RESPONSE, **payload: Any) -> None:
        payload = {"action": sent.payload["action"], **payload}
        metadata = Metadata("coordinator-1", parent_request_id=sent.request_id)
        self.receive(Message(type_, "coordinator-1", "client~1", payload, metadata))

    def results(self, *task_ids: str, status: str = "completed", **members: Any) -> None:
        records = [{"task_id": task_id, "status": status, "result": task_id.upper(), **members} for task_id in task_ids]
        payload = {"action": "task_results", "results": records}
        self.receive(Message(MessageType.EVENT, "coordinator-1", "client~1", payload, Metadata("coordinator-1")))

    def receive(self, message: Message) -> None:
        self.core.handle(Received("coordinator-1", Role.COORDINATOR, message), self.now)

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.core.tick(self.now)


def ids_of(sent: Outbound) -> list[str]:
    return [task["task_id"] for task in orjson.loads(orjson.dumps(sent.payload["tasks"]))]


def names(entries: list[Entry]) -> list[str]:
    return [entry.task_id for entry in entries]


def no_one(call: Call) -> None:
    """Calls here are only looked at."""
