"""Cost of one message on its way: sealing, opening, parsing; and the same with everything that a port does besides."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import orjson

from a2a_zmq.clock import Now, iso
from a2a_zmq.ids import make_id_factory
from a2a_zmq.protocol import BootInfo, Hub, PortConfig, Role, Spoke, StaticKeys
from a2a_zmq.protocol.crypto import Mac
from a2a_zmq.protocol.message import Message, MessageType, Metadata
from a2a_zmq.protocol.ports import Received
from a2a_zmq.protocol.wire import open_frame, parse_message, seal
from benchmarks.common import Effort, call_us

MAC = Mac(bytes(range(32)), b"1|coordinator-1>distributor-1|1-1|session")
SECRET = "a secret for benchmarks"
ROUTE = b"route"


def records(count: int) -> list[dict[str, Any]]:
    """Task records as a coordinator passes them on."""
    created = iso(time.time())
    return [
        {
            "task_id": f"7d5fd1c0{number:016x}",
            "task_type": "noop",
            "payload": {"n": number},
            "status": "pending",
            "created_at": created,
            "updated_at": created,
            "metadata": {"client": "client", "attempt": 0},
        }
        for number in range(count)
    ]


def wire_us(count: int, effort: Effort) -> dict[str, float]:
    """Microseconds for a message of so many tasks, and its size."""
    payload = {"action": "assign_tasks", "fence": 1, "tasks": records(count)}
    metadata = Metadata(
        "coordinator-1", timestamp=iso(time.time()), request_id="1f0c", sequence_number=1, session="5e55"
    )
    message = Message(MessageType.REQUEST, "coordinator-1", "distributor-1", payload, metadata)
    frame = seal(message, MAC)
    body = open_frame(frame, MAC)
    assert body is not None
    return {
        "bytes": len(frame),
        "seal_us": call_us(lambda: seal(message, MAC), effort),
        "open_us": call_us(lambda: open_frame(frame, MAC), effort),
        "parse_us": call_us(lambda: parse_message(body), effort),
    }


class Pair:
    """A hub and a spoke with a session between them."""

    def __init__(self) -> None:
        config = PortConfig()
        new_id = make_id_factory(os.urandom)
        self.hub = Hub(
            StaticKeys("coordinator-1", Role.COORDINATOR, SECRET),
            boot=BootInfo("boot-1"),
            new_id=new_id,
            random_bytes=os.urandom,
            config=config,
            welcome=lambda _peer, _now: {},
            heartbeat=lambda _peer, _now: {"action": "heartbeat"},
        )
        self.spoke = Spoke(
            StaticKeys("distributor-1", Role.DISTRIBUTOR, SECRET),
            "coordinator-1",
            boot=BootInfo("boot-2"),
            new_id=new_id,
            random_bytes=os.urandom,
            config=config,
            announce=lambda _now: {},
            heartbeat=lambda _peer, _now: {"action": "heartbeat"},
        )
        self.received = 0
        self._sent = itertools.count(1)
        self.spoke.connected(self._now())
        for _ in range(4):
            self.carry()

    def carry(self) -> None:
        """What both want to transmit reaches the other, and is acknowledged."""
        at = self._now()
        outgoing, self.spoke.outgoing = self.spoke.outgoing, []
        for _, frame in outgoing:
            self.hub.receive(ROUTE, [frame], at)
        outgoing, self.hub.outgoing = self.hub.outgoing, []
        for _, frame in outgoing:
            self.spoke.receive(b"", [frame], at)
        for port in (self.hub, self.spoke):
            events, port.events = port.events, []
            self.received += sum(isinstance(event, Received) for event in events)
            port.acknowledge(port.marks(), at)

    def send(self, payload: dict[str, Any]) -> None:
        self.hub.send("distributor-1", MessageType.REQUEST, payload, self._now())
        self.carry()
        self.spoke.tick(self._now())  # its acknowledgement, when it is due

    def _now(self) -> Now:
        return Now(time.monotonic(), time.time())


def ports_us(count: int, effort: Effort) -> float:
    """Microseconds from send to receipt with sessions, windows, acknowledgements and outbox, both ends together."""
    pair = Pair()
    payload = {
        "action": "assign_tasks",
        "fence": 1,
        "tasks": [orjson.Fragment(orjson.dumps(r)) for r in records(count)],
    }
    spent = call_us(lambda: pair.send(payload), effort)
    if not pair.received:
        raise AssertionError("no message was received")
    return spent


def measure(effort: Effort) -> dict[str, Any]:
    """Tasks a message → microseconds of its steps."""
    return {str(count): {**wire_us(count, effort), "ports_us": ports_us(count, effort)} for count in (1, 50, 200)}
