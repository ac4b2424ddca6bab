"""Who uses a simulated fleet: the real client, with one program behind it that submits, cancels and retries."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from a2a_zmq.client.connection import Connection
from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.entries import Asked, Call, Entry
from a2a_zmq.client.sockets import Link
from a2a_zmq.errors import RequestRefused
from a2a_zmq.ids import make_id_factory
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.crypto import StaticKeys
from a2a_zmq.protocol.message import Role
from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.tasks import WAITING
from tests.simulation.network import SpokeSocket

if TYPE_CHECKING:
    from tests.simulation.fleet import Fleet

NAME = "client~1"
PLACE = "client"
# How often an operator looks for questions that nobody answers.
LOOK_EVERY_S = 5.0


@dataclass
class _Opener:
    open: Callable[[str, Any], Link]

    def close(self) -> None:
        """There is no context to close."""


class Nobody:
    """Submits a task once more and does not wait for it."""

    def accepted(self, entry: Entry) -> None: ...

    def asked(self, entry: Entry) -> None: ...

    def finished(self, entry: Entry) -> None: ...


class User:
    """
    Attributes:
        accepted: task ids that the client was told are durable.
        finished: task id → outcomes that the client was told (must become exactly one).
        cancelled, hanging: ids that the client wanted ended; of tasks that never end by themselves.
        stopping: ids that the client was told are being stopped.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._connection: Connection | None = None
        self.submitted: set[str] = set()
        self.accepted_ids: set[str] = set()
        self.outcomes: dict[str, list[Any]] = {}
        self.cancelled: set[str] = set()
        self.stopping: set[str] = set()
        self.hanging: set[str] = set()
        self.role = Role.OPERATOR
        self._looked: dict[tuple[str, int], float] = {}

    # ------------------------------------------------------------ where the client's results go

    def accepted(self, entry: Entry) -> None:
        self.accepted_ids.add(entry.task_id)
        self._fleet.note("accepted", entry.task_id)
        self._fleet.witness.accepted(entry.task_id)
        if self._fleet.telling is not None:
            self._fleet.telling.read(entry.task_id)

    def asked(self, entry: Entry) -> None:
        """Somebody answers a little later; perhaps the next question is there by then."""
        asked = entry.asked
        if asked is None:
            self._fleet.note("goes on", entry.task_id)
            return
        self._fleet.note("asks", entry.task_id, asked.attempt)
        delay = self._fleet.rng.choice((0.0, 0.01, 0.3))
        self._fleet.loop.call_later(delay, self._answer, entry.task_id, asked)

    def _answer(self, task_id: str, asked: Asked) -> None:
        if self._connection is None or self._fleet.over:
            return
        answers = {each["id"]: each["value"] for each in asked.interrupts}
        payload = {"task_id": task_id, "answers": answers, "attempt": asked.attempt}
        self._fleet.witness.answered(task_id, asked.attempt)
        self._connection.request(Call("resume_task", payload, self._answered))

    def answer_waiting(self, records: list[dict[str, Any]]) -> None:
        """Answer what these records ask, now and then, for their coordinator may find them only when it audits."""
        for record in records:
            metadata, now = record["metadata"], self._fleet.loop.time()
            if record["status"] != WAITING:
                continue
            question = (record["task_id"], metadata["asked"])
            if now - self._looked.get(question, -math.inf) > LOOK_EVERY_S:
                self._looked[question] = now
                self._answer(record["task_id"], Asked(metadata["asked"], metadata["interrupts"]))

    def finished(self, entry: Entry) -> None:
        self.outcomes.setdefault(entry.task_id, []).append(entry.outcome)
        self._fleet.note("finished", entry.task_id, type(entry.outcome).__name__)

    # ------------------------------------------------------------ the connection

    def connect(self) -> None:
        fleet = self._fleet
        core = ClientCore(make_id_factory(fleet.rng.randbytes), fleet.rng.random)
        self._connection = Connection(core, list(fleet.coordinators), _Opener(self._open_link), fleet.now)

    @property
    def connection(self) -> Connection:
        assert self._connection is not None
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    def _open_link(self, address: str, callbacks: Any) -> Link:
        fleet = self._fleet
        socket = SpokeSocket(fleet.network, address, PLACE, NAME)
        port = Spoke(
            StaticKeys(NAME, self.role, "simulated fleet, sixteen bytes and more"),
            address,
            boot=BootInfo("boot-client", "elsewhere"),
            new_id=make_id_factory(fleet.rng.randbytes),
            random_bytes=fleet.rng.randbytes,
            config=PortConfig(),
            announce=lambda now: {},
            heartbeat=lambda peer, now: {},
        )
        socket.on_frames, socket.on_connected = callbacks.on_frames, callbacks.on_connected
        socket.on_disconnected = callbacks.on_disconnected
        return Link(port, socket)

    # ------------------------------------------------------------ requests

    def submit(self, task_id: str, *, metadata: dict[str, Any] | None = None, **payload: Any) -> None:
        """Submit a task and wait for it; what fails is tried often enough."""
        assert self._connection is not None
        metadata = {"max_attempts": 20} if metadata is None else metadata
        task = {"task_id": task_id, "task_type": "work", "payload": payload, "metadata": metadata}
        self.submitted.add(task_id)
        if payload.get("hang"):
            self.hanging.add(task_id)
        self._connection.submit([Entry(task_id, orjson.dumps(task), self)])

    def submit_again(self, task_id: str) -> None:
        assert self._connection is not None
        body = orjson.dumps({"task_id": task_id, "task_type": "work", "payload": {"seconds": 0.01}, "metadata": {}})
        self._connection.submit([Entry(task_id, body, Nobody(), check=True)])

    def cancel(self, ids: list[str]) -> None:
        self.cancelled.update(ids)
        self._ask("cancel_tasks", ids)

    def retry(self, ids: list[str]) -> None:
        self._fleet.witness.retried.update(ids)
        self._ask("retry_tasks", ids)

    def fail_over(self, name: str) -> None:
        assert self._connection is not None
        self._connection.request(Call("failover", {"agent_id": name}, lambda call: None))

    def _ask(self, action: str, ids: list[str]) -> None:
        assert self._connection is not None
        self._fleet.note(action, *ids)
        repeatable = action != "retry_tasks"
        self._connection.request(Call(action, {"task_ids": ids}, self._answered, repeatable=repeatable))

    def _answered(self, call: Call) -> None:
        if call.action == "resume_task":
            end = call.answer.code if isinstance(call.answer, RequestRefused) else type(call.answer).__name__
            self._fleet.note("answered", call.payload["task_id"], call.payload["attempt"], end)
        if call.action == "cancel_tasks" and isinstance(call.answer, dict):
            self.stopping.update(call.answer["requested"])
