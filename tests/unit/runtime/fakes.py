"""A scripted core, a port without a protocol, and what else an engine and a shell stand between."""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.errors import Busy, MalformedMessage, Refused
from a2a_zmq.interfaces import INBOX, Loaded, Section, SectionWrite
from a2a_zmq.models import LocalAgentState
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import Marks, PeerDown, PeerInfo, PeerSuspect, PeerUp, PortEvent, Received, Refusal
from daemons.runtime.contract import Batch, Effect, OwnershipGained, Send
from daemons.runtime.exemplars import Exemplar

SECTION = Section("d1", "distributor")
INBOX_SECTION = Section(INBOX, "coordinator")
WALL = 1764324000.0
_mutations = itertools.count(1)  # never the same twice, as a store requires


def at(mono: float) -> Now:
    """The time ``mono`` seconds after the start of the test's world."""
    return Now(mono, WALL + mono)


def gained(fence: int, *, state_lost: bool = False) -> OwnershipGained:
    """The event of a new owner that found nothing."""
    return OwnershipGained(fence, "epoch1", {SECTION: Loaded(0, fence, "epoch1", {}, {})}, state_lost=state_lost)


def tell(to: str, text: str, *, reliable: bool = True) -> Send:
    """A message to send."""
    return Send(to, MessageType.EVENT, {"action": "note", "text": text}, reliable=reliable)


class ScriptedCore:
    """Does what the test says: :attr:`react` answers an event, :meth:`stage` waits to be made durable.

    Attributes:
        handled: every event, in order.
        settling: effects of the next settle.
    """

    agent_id = "agent-1"

    def __init__(self) -> None:
        self.handled: list[Any] = []
        self.react: Callable[[Any], list[Effect]] = lambda event: []
        self.settling: list[Effect] = []
        self.cuts = 0
        self.deadline = math.inf
        self.readiness = (True, "")
        self.steps: list[str] = []
        self._writes: dict[Section, SectionWrite] = {}
        self._after: list[Effect] = []

    def stage(self, *task_ids: str, section: Section = SECTION, after: list[Effect] | None = None) -> list[Effect]:
        """These records, and then these effects, wait for the next cut. Returns what is to be done at once: nothing."""
        write = self._writes.get(section)
        if write is None:
            write = self._writes[section] = SectionWrite(section, 0, f"m{next(_mutations)}")
        write.put_tasks |= dict.fromkeys(task_ids, b"{}")
        self._after += after or []
        return []

    def after(self, *effects: Effect) -> None:
        """Effects for the next cut that need no write."""
        self._after += effects

    def of(self, kind: type) -> list[Any]:
        """The events of this kind so far."""
        return [event for event in self.handled if type(event) is kind]

    # ------------------------------------------------------------ Core

    def handle(self, event: Any, now: Now) -> list[Effect]:
        self.handled.append(event)
        return self.react(event)

    def settle(self, now: Now) -> list[Effect]:
        effects, self.settling = self.settling, []
        return effects

    def cut(self, now: Now) -> Batch | None:
        self.cuts += 1
        if not self._writes and not self._after:
            return None
        batch = Batch(list(self._writes.values()), self._after)
        self._writes, self._after = {}, []
        return batch

    def supervise(self, step: str, now: Now) -> list[Effect]:
        self.steps.append(step)
        return []

    def announce(self, now: Now) -> dict[str, Any]:
        return {}

    def welcome(self, peer: str, now: Now) -> dict[str, Any]:
        return {}

    def heartbeat(self, peer: str, now: Now) -> dict[str, Any]:
        return {}

    def local_state(self, now: Now) -> LocalAgentState:
        return LocalAgentState(agent_id=self.agent_id)

    def ready(self) -> tuple[bool, str]:
        return self.readiness

    def next_deadline(self) -> float:
        return self.deadline


class PlainPort:
    """A port whose frames are bare JSON: what the engine asks of it is noted, nothing is decided.

    Attributes:
        sent: (peer, text) of every message that was taken.
        refusing: peer → error that sending to it raises.
        acknowledged: the numbers that were acknowledged, by peer, in order.
        failed: (route, frame, reason) that could not be delivered.
        owed: a peer has something to acknowledge.
    """

    def __init__(self) -> None:
        self.outgoing: list[tuple[bytes, bytes]] = []
        self.events: list[PortEvent] = []
        self.sent: list[tuple[str, str]] = []
        self.refusing: dict[str, Busy | Refused | MalformedMessage] = {}
        self.acknowledged: dict[str, list[int]] = {}
        self.failed: list[tuple[bytes, bytes, str]] = []
        self.ticks: list[float] = []
        self.deadline = math.inf
        self.probes: list[tuple[str, bool]] = []
        self.closed = False
        self.owed = False
        self.breaks_on = b""
        self._taken: dict[str, int] = {}

    def up(self, peer: str, role: Role = Role.WORKER) -> None:
        """A session with this peer was made."""
        self.events.append(PeerUp(PeerInfo(peer, role)))

    def down(self, peer: str, reason: str = "disconnect") -> None:
        self.events.append(PeerDown(peer, Role.WORKER, reason, 0.1))

    def arrive(self, peer: str, text: str, type_: MessageType = MessageType.EVENT) -> None:
        """A message of this peer came."""
        number = self._taken[peer] = self._taken.get(peer, 0) + 1
        metadata = Metadata(peer, timestamp="2025-11-28T10:00:00Z", request_id=f"{peer}-{number}")
        metadata.sequence_number = number
        payload = {"action": "note", "text": text}
        self.events.append(Received(peer, Role.WORKER, Message(type_, peer, "agent-1", payload, metadata)))

    def refuse(self, kind: str, reason: str, peer: str = "", detail: str = "") -> None:
        self.events.append(Refusal(kind, reason, peer, detail))

    # ------------------------------------------------------------ Port

    def receive(self, route: bytes, frames: list[bytes], now: Now, user_id: str = "") -> None:
        if frames[0] == self.breaks_on:
            raise KeyError("a bug in a port")
        self.arrive(route.decode() or "hub", frames[0].decode())

    def connected(self, now: Now) -> None:
        self.up("hub")

    def disconnected(self, route: bytes, now: Now) -> None:
        self.events.append(PeerSuspect(route.decode() or "hub", "disconnect"))

    def undeliverable(self, route: bytes, frame: bytes, reason: str, now: Now) -> None:
        self.failed.append((route, frame, reason))
        if reason == "unroutable":
            self.disconnected(route, now)

    def probed(self, agent_id: str, *, gone: bool, now: Now) -> None:
        self.probes.append((agent_id, gone))

    def exited(self, agent_id: str, boot_id: str, now: Now) -> None:
        self.events.append(PeerDown(agent_id, Role.WORKER, "exited", 0.1))

    def send(
        self,
        peer: str,
        type_: MessageType,
        payload: dict[str, Any],
        now: Now,
        *,
        reply_to: str | None = None,
        reliable: bool = True,
        bulk: bool = False,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> str:
        error = self.refusing.get(peer)
        if error is not None:
            raise error
        self.sent.append((peer, payload["text"]))
        self.outgoing.append((peer.encode(), orjson.dumps(payload["text"])))
        return request_id or f"r{len(self.sent)}"

    def room(self, peer: str) -> int:
        return 1

    def unacknowledged(self) -> bool:
        return self.owed

    def marks(self) -> Marks:
        assert not any(isinstance(event, Received) for event in self.events), "marks before everything was handed over"
        return {peer: ("session", number) for peer, number in self._taken.items()}

    def acknowledge(self, marks: Marks, now: Now) -> None:
        for peer, (_, number) in marks.items():
            numbers = self.acknowledged.setdefault(peer, [])
            if not numbers or number > numbers[-1]:
                numbers.append(number)

    def tick(self, now: Now) -> None:
        self.ticks.append(now.mono)
        if now.mono >= self.deadline:
            self.deadline = math.inf

    def next_deadline(self) -> float:
        return self.deadline

    def close(self, now: Now) -> None:
        self.closed = True
        self.outgoing.append((b"everybody", b"goodbye"))


class PlainSocket:
    """Takes frames, unless :attr:`answers` says otherwise for the next ones of a route."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bytes]] = []
        self.tried: Counter[bytes] = Counter()
        self.answers: dict[bytes, deque[str]] = {}
        self.closed = False

    def say(self, route: bytes, *answers: str) -> None:
        """What the socket answers to the next frames of this route, before it takes them again."""
        self.answers.setdefault(route, deque()).extend(answers)

    def send(self, route: bytes, frame: bytes) -> str:
        self.tried[route] += 1
        waiting = self.answers.get(route)
        answer = waiting.popleft() if waiting else "ok"
        if answer == "ok":
            self.sent.append((route, frame))
        return answer

    def close(self) -> None:
        self.closed = True


class Counts:
    """A meter that can be asked."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.observed: dict[str, list[float]] = {}
        self.gauges: dict[str, float] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counts[" ".join((name, *labels.values()))] += int(amount)

    def observe(self, name: str, value: float, exemplar: Exemplar | None = None, **labels: str) -> None:
        self.observed.setdefault(name, []).append(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        self.gauges[name] = value

    def forget(self, name: str, **labels: str) -> None:
        self.gauges.pop(name, None)
