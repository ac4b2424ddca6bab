"""A coordinator for client tests: the real hub on a real socket, with behaviour that the test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from a2a_zmq.client.connection import read_clock
from a2a_zmq.clock import Now
from a2a_zmq.ids import make_id_factory
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.hub import Hub
from a2a_zmq.protocol.message import Message, MessageType, Role
from a2a_zmq.protocol.ports import PeerUp, Received
from a2a_zmq.security.identity import SecretIdentity
from a2a_zmq.transport.context import TransportContext
from a2a_zmq.transport.router import CurveServer, RouterSocket

SECRET = "a secret of more than sixteen bytes"

Fault = dict[str, Any] | None


class FleetInAThread:
    """Accepts tasks and completes them at once, unless told otherwise. State outlives :meth:`restart`, as Redis would.

    Args:
        secret: of its fleet.
        skew_s: how far its clock is ahead.

    Attributes:
        held: while True, tasks are accepted and not completed.
        fault: called with the action of a request; a dict is sent as ERROR payload, None answers normally.
        mute: actions that are not answered at all.
        requests: (action, payload) of every request, in order.
    """

    def __init__(self, secret: str = SECRET, *, skew_s: float = 0.0) -> None:
        self._secret = secret
        self._skew_s = skew_s
        self.tasks: dict[str, dict[str, Any]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, Any] = {}  # of tasks of type "graph:asks", which wait until they have one
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.held = False
        self.fault: Callable[[str], Fault] = lambda action: None
        self.mute: set[str] = set()
        self.address = "tcp://127.0.0.1:*"
        self.clients: list[str] = []
        self._start()

    # ------------------------------------------------------------ life

    def _start(self) -> None:
        self._started = threading.Event()
        self._stop_wanted: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(5)

    def stop(self) -> None:
        if self._thread.is_alive() and self._stop_wanted is not None:
            self._loop.call_soon_threadsafe(self._stop_wanted.set)
            self._thread.join(5)

    def restart(self) -> None:
        """Die without a word and come back as another process at the same address."""
        self.stop()
        self._start()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_wanted = asyncio.Event()
        context = TransportContext()
        identity = SecretIdentity("coordinator-1", Role.COORDINATOR, self._secret)
        self._hub = Hub(
            identity,
            boot=BootInfo(secrets.token_hex(8)),
            new_id=make_id_factory(os.urandom),
            random_bytes=os.urandom,
            config=PortConfig(),
            welcome=lambda peer, now: {"task_types": ["noop"], "max_payload_bytes": 1000, "max_batch": 512},
            heartbeat=lambda peer, now: {},
        )
        self._socket = RouterSocket(
            context,
            on_frames=self._frames,
            on_disconnected=lambda route: self._hub.disconnected(route, self._now()),
            curve=CurveServer(identity.server_pair(), "coordinator-1", identity.allow),
        )
        self.address = self._socket.bind(self.address)
        self._started.set()
        try:
            while not self._stop_wanted.is_set():
                self._hub.tick(self._now())
                self._transmit()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop_wanted.wait(), 0.05)
        finally:
            self._socket.close()
            context.close()

    def _now(self) -> Now:
        mono, wall = read_clock()
        return Now(mono, wall + self._skew_s)

    # ------------------------------------------------------------ behaviour, on the thread

    def _frames(self, batch: list[tuple[bytes, list[bytes], str]]) -> None:
        now = self._now()
        for route, frames, user_id in batch:
            self._hub.receive(route, frames, now, user_id)
        events, self._hub.events = self._hub.events, []
        for event in events:
            if isinstance(event, PeerUp):
                self.clients.append(event.peer.agent_id)
            if isinstance(event, Received) and event.message.type is MessageType.REQUEST:
                self._request(event.peer, event.message)
        self._hub.acknowledge(self._hub.marks(), now)
        self._transmit()

    def _transmit(self) -> None:
        outgoing, self._hub.outgoing = self._hub.outgoing, []
        for route, frame in outgoing:
            self._socket.send(route, frame)

    def _request(self, client: str, message: Message) -> None:
        action, payload = message.action, message.payload
        self.requests.append((action, payload))
        if action in self.mute:
            return
        fault = self.fault(action)
        answer = fault if fault is not None else getattr(self, f"_on_{action}", self._on_other)(client, payload)
        type_ = MessageType.RESPONSE if fault is None else MessageType.ERROR
        request_id = message.metadata.request_id
        self._hub.send(client, type_, {"action": action, **answer}, self._now(), reply_to=request_id)
        if action == "submit_tasks" and fault is None:
            self._complete(client, [task["task_id"] for task in payload["tasks"]])

    def _on_submit_tasks(self, client: str, payload: dict[str, Any]) -> dict[str, Any]:
        duplicates, rejected = [], []
        for task in payload["tasks"]:
            if task["task_type"] == "unknown":
                rejected.append(
                    {"task_id": task["task_id"], "code": "UNKNOWN_TASK_TYPE", "message": "never heard of it"}
                )
            elif task["task_id"] in self.tasks:
                duplicates.append(task["task_id"])
            else:
                self.tasks[task["task_id"]] = task
        accepted = len(payload["tasks"]) - len(duplicates) - len(rejected)
        return {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}

    def _on_watch_tasks(self, client: str, payload: dict[str, Any]) -> dict[str, Any]:
        ids = payload["task_ids"]
        return {
            "results": [self.results[task_id] for task_id in ids if task_id in self.results],
            "live": [[t, "pending"] for t in ids if t in self.tasks and t not in self.results],
            "unknown": [task_id for task_id in ids if task_id not in self.tasks],
        }

    def _on_get_task(self, client: str, payload: dict[str, Any]) -> dict[str, Any]:
        task_id = payload["task_id"]
        found = self.results.get(task_id) or self.tasks.get(task_id)
        return {"task": {"status": "pending", **found} if found else None}

    def _on_list_tasks(self, client: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {"tasks": [{"task_id": task_id} for task_id in self.tasks][: payload["limit"]], "total": len(self.tasks)}

    def _on_resume_task(self, client: str, payload: dict[str, Any]) -> dict[str, Any]:
        task_id = payload["task_id"]
        self.answers[task_id] = payload.get("answers", payload.get("value"))
        self._tell_waiting(client, task_id, [])
        self._complete(client, [task_id])
        return {"task_id": task_id, "resumed": True}

    def _tell_waiting(self, client: str, task_id: str, interrupts: list[dict[str, Any]]) -> None:
        item = {"task_id": task_id, "attempt": 1, "interrupts": interrupts}
        self._hub.send(client, MessageType.EVENT, {"action": "task_waiting", "tasks": [item]}, self._now())

    def _on_other(self, client: str, payload: dict[str, Any]) -> dict[str, Any]:
        return {
            "echo": payload.get("task_ids") or [],
            "events": [["2026-01-01T00:00:00Z", "a", "submitted", {"by": "x"}]],
        }

    def _complete(self, client: str, task_ids: list[str]) -> None:
        if self.held:
            return
        done = []
        for task_id in task_ids:
            task = self.tasks.get(task_id)
            if task is None:
                continue
            if task["task_type"] == "graph:asks" and task_id not in self.answers:
                self._tell_waiting(client, task_id, [{"id": "i1", "value": task["payload"]["input"]}])
                continue
            record = self.results.get(task_id) or self._record(task)
            self.results[task_id] = record
            done.append(record)
        if done:
            results = orjson.Fragment(orjson.dumps(done))
            self._hub.send(client, MessageType.EVENT, {"action": "task_results", "results": results}, self._now())

    def _record(self, task: dict[str, Any]) -> dict[str, Any]:
        record = {"task_id": task["task_id"], "task_type": task["task_type"], "metadata": {"worker": "worker-1"}}
        if task["task_type"] == "fails":
            return {**record, "status": "failed", "error": "boom", "metadata": {"error_kind": "raised"}}
        if task["task_type"] == "cancelled":
            return {**record, "status": "abandoned", "metadata": {"error_kind": "cancelled"}}
        return {**record, "status": "completed", "result": task["payload"]}

    # ------------------------------------------------------------ from the test's thread

    def release(self, *, tell: bool = True) -> None:
        """Complete what was held; ``tell=False`` loses the messages about it."""
        done = threading.Event()

        def work() -> None:
            self.held = False
            for task_id, task in self.tasks.items():
                if task["task_type"] != "graph:asks":
                    self.results[task_id] = self._record(task)
            if tell and self.clients:
                self._complete(self.clients[-1], list(self.tasks))
            self._transmit()
            done.set()

        self._loop.call_soon_threadsafe(work)
        assert done.wait(5)


@pytest.fixture
def coordinator() -> Iterator[FleetInAThread]:
    fleet = FleetInAThread()
    yield fleet
    fleet.stop()


@pytest.fixture
def arguments(coordinator: FleetInAThread) -> dict[str, Any]:
    """Arguments of a client of that coordinator."""
    return {"addresses": coordinator.address, "token_secret": SECRET}
