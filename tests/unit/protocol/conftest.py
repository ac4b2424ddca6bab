"""An in-memory pipe between one hub and its spokes, with a clock of its own and faults on demand."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from a2a_zmq.clock import Now
from a2a_zmq.ids import make_id_factory
from a2a_zmq.protocol import (
    BootInfo,
    Hub,
    KeySource,
    PeerDown,
    PeerUp,
    PortConfig,
    PortEvent,
    Received,
    Refusal,
    Role,
    Spoke,
    StaticKeys,
)

SECRET = "a secret for tests"
START = Now(1000.0, 1_764_325_800.0)


class Entropy:
    """Random-looking bytes that are the same in every run."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode()
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_128(self._seed + b"%d" % self._drawn).digest(size)


@dataclass
class End:
    """One port and what its owner saw."""

    port: Any
    seen: list[PortEvent] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)  # payloads of everything received but heartbeats
    beats: int = 0

    def take(self) -> None:
        events, self.port.events = self.port.events, []
        self.seen += events
        for event in events:
            if isinstance(event, Received):
                if event.message.type == "heartbeat":
                    self.beats += 1
                else:
                    self.got.append(event.message.payload)

    def of(self, kind: type) -> list[Any]:
        self.take()
        return [event for event in self.seen if isinstance(event, kind)]

    def reasons(self) -> list[str]:
        return [event.reason for event in self.of(Refusal)]

    def downs(self) -> list[str]:
        return [event.reason for event in self.of(PeerDown)]

    def ups(self) -> int:
        return len(self.of(PeerUp))


Fault = Callable[[list[bytes]], list[bytes]]


class Pipe:
    """Carries frames. Routes are given out anew for every connection, as ROUTER does."""

    def __init__(self, hub: Hub, *spokes: Spoke) -> None:
        self.now = START
        self.hub = End(hub)
        self.spokes = {spoke.agent_id: End(spoke) for spoke in spokes}
        self.route: dict[str, bytes] = {}
        self.durable = True  # whether owners acknowledge what they took
        self.upward: Fault = lambda frames: frames
        self.downward: Fault = lambda frames: frames
        self.tap: list[tuple[str, bytes]] = []  # every frame sent: ("up" | "down", frame)
        self.stopped: set[str] = set()  # agents that are frozen
        self._inbox: dict[str, deque[bytes]] = {spoke.agent_id: deque() for spoke in spokes}
        self._count = 0

    @property
    def spoke(self) -> End:
        return next(iter(self.spokes.values()))

    def connect(self, agent_id: str | None = None) -> None:
        for name in [agent_id] if agent_id is not None else list(self.spokes):
            self._count += 1
            self.route[name] = b"route-%d" % self._count
            self.spokes[name].port.connected(self.now)
        self.pump()

    def disconnect(self, agent_id: str | None = None, *, hub_sees: bool = True) -> None:
        for name in [agent_id] if agent_id is not None else list(self.spokes):
            route = self.route.pop(name, None)
            self._inbox[name].clear()
            self.spokes[name].port.outgoing.clear()
            if route is not None and name not in self.stopped:
                self.spokes[name].port.disconnected(b"", self.now)
            if route is not None and hub_sees:
                self.hub.port.disconnected(route, self.now)
        self.pump()

    def pump(self) -> None:
        """Carry frames until nobody has any more."""
        for _ in range(1000):
            if not self._carry():
                return
        raise AssertionError("the ports never come to rest")

    def _carry(self) -> bool:
        moved = False
        for name, end in self.spokes.items():
            sent, end.port.outgoing[:] = [frame for _, frame in end.port.outgoing], []
            self.tap += [("up", frame) for frame in sent]
            for frame in self.upward(sent):
                moved = True
                if name in self.route:
                    self.hub.port.receive(self.route[name], [frame], self.now)
            self._owner(end)
        by_route: dict[bytes, list[bytes]] = {}
        for route, frame in self.hub.port.outgoing:
            by_route.setdefault(route, []).append(frame)
        self.hub.port.outgoing.clear()
        for route, frames in by_route.items():
            self.tap += [("down", frame) for frame in frames]
            for name, known in self.route.items():
                if known == route:
                    self._inbox[name].extend(self.downward(frames))
        for name, inbox in self._inbox.items():
            while inbox and name not in self.stopped:
                moved = True
                self.spokes[name].port.receive(b"", [inbox.popleft()], self.now)
            self._owner(self.spokes[name])
        self._owner(self.hub)
        return moved or bool(self.hub.port.outgoing) or any(end.port.outgoing for end in self.spokes.values())

    def _owner(self, end: End) -> None:
        end.take()
        if self.durable:
            end.port.acknowledge(end.port.marks(), self.now)

    def advance(self, seconds: float) -> None:
        """Let time pass, driving every port at its deadlines."""
        until = self.now.mono + seconds
        while True:
            awake = [self.hub, *(end for name, end in self.spokes.items() if name not in self.stopped)]
            due = min(end.port.next_deadline() for end in awake)
            if due > until:
                break
            self.jump(max(0.0, due - self.now.mono))
            for end in awake:
                end.port.tick(self.now)
            self.pump()
        self.jump(until - self.now.mono)

    def jump(self, seconds: float) -> None:
        """Let time pass without anybody being driven."""
        self.now = Now(self.now.mono + seconds, self.now.wall + seconds)


@dataclass
class Kit:
    """Makes ports."""

    config: PortConfig = field(default_factory=PortConfig)

    def keys(self, agent_id: str, role: Role, secret: str = SECRET) -> StaticKeys:
        return StaticKeys(agent_id, role, secret)

    def hub(
        self,
        agent_id: str = "distributor-1",
        role: Role = Role.DISTRIBUTOR,
        *,
        boot: str = "hub-boot",
        host: str = "host-a",
        keys: KeySource | None = None,
        closed: Callable[[], str] = lambda: "",
    ) -> Hub:
        entropy = Entropy(agent_id + boot)
        return Hub(
            keys or self.keys(agent_id, role),
            boot=BootInfo(boot, host, 11, 111),
            new_id=make_id_factory(entropy),
            random_bytes=entropy,
            config=self.config,
            welcome=lambda peer, now: {"hello": peer},
            heartbeat=lambda peer, now: {"load": 1},
            closed=closed,
        )

    def spoke(
        self,
        agent_id: str = "worker-1",
        role: Role = Role.WORKER,
        *,
        peer: str = "distributor-1",
        boot: str = "spoke-boot",
        host: str = "host-b",
        keys: KeySource | None = None,
        claim: Callable[[], int | None] = lambda: 0,
    ) -> Spoke:
        entropy = Entropy(agent_id + boot)
        return Spoke(
            keys or self.keys(agent_id, role),
            peer,
            boot=BootInfo(boot, host, 22, 222),
            new_id=make_id_factory(entropy),
            random_bytes=entropy,
            config=self.config,
            announce=lambda now: {"task_types": ["noop"]},
            heartbeat=lambda peer, now: {"limit": 4},
            claim=claim,
        )

    def pipe(self, *, connect: bool = True, **spoke: Any) -> Pipe:
        """A distributor and a worker, connected."""
        pipe = Pipe(self.hub(), self.spoke(**spoke))
        if connect:
            pipe.connect()
        return pipe


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture
def make_kit() -> Callable[..., Kit]:
    return lambda **settings: Kit(PortConfig(**settings))


@pytest.fixture
def make_pipe() -> Callable[..., Pipe]:
    return Pipe


@pytest.fixture
def pipe(kit: Kit) -> Pipe:
    return kit.pipe()
