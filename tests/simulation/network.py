"""A simulated network: connections between spoke and hub sockets that delay, drop, duplicate, reorder and break.

It has the same face as the real sockets (``send``, ``close`` and the callbacks), and TCP's promises only as long as no
fault is switched on: frames of a connection arrive in order, once.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

FrameBatch = list[tuple[bytes, list[bytes], str]]


@dataclass(slots=True)
class Faults:
    """Chances for each frame, and delays in seconds."""

    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    tamper: float = 0.0
    delay_min_s: float = 0.0001
    delay_max_s: float = 0.002


class Network:
    """All connections of a world; hubs are found by their address."""

    # A connection attempt is repeated this often, as the real socket's RECONNECT_IVL.
    RECONNECT_S = 0.1
    # Silence in a partition ends a connection after this long, as the real socket's heartbeat timeout.
    BREAK_AFTER_S = 0.6

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = Faults()
        self.routes = itertools.count(1)
        self.sent: Callable[[Connection, str, bytes], None] = lambda connection, direction, frame: None
        self._hubs: dict[str, list[HubSocket]] = {}
        self._cuts: Counter[tuple[str, str]] = Counter()

    # ------------------------------------------------------------ addresses

    def listen(self, hub: HubSocket) -> None:
        """From now on this hub is found under its address; an earlier one keeps the connections that it has."""
        self._hubs.setdefault(hub.address, []).append(hub)

    def unlisten(self, hub: HubSocket) -> None:
        hubs = self._hubs.get(hub.address, [])
        if hub in hubs:
            hubs.remove(hub)

    def hub_at(self, address: str) -> HubSocket | None:
        hubs = self._hubs.get(address)
        return hubs[-1] if hubs else None

    def point(self, address: str, host: str) -> None:
        """The address leads to the hub on this host, of all that listen there; connections to others end."""
        hubs = self._hubs.get(address, [])
        hubs.sort(key=lambda hub: hub.host == host)
        for hub in hubs[:-1]:
            for connection in list(hub.connections.values()):
                connection.close()

    # ------------------------------------------------------------ partitions

    def is_cut(self, source: str, target: str) -> bool:
        """Whether frames from one host to the other vanish."""
        return bool(self._cuts) and self._cuts[source, target] > 0

    def cut(self, source: str, target: str) -> None:
        """Frames in this direction vanish; connections between the two break when the silence is noticed. Cuts add
        up: each is ended by a :meth:`mend` of its own."""
        self._cuts[source, target] += 1

    def mend(self, source: str, target: str) -> None:
        self._cuts[source, target] -= 1


class Connection:
    """One TCP connection between a spoke and a hub."""

    def __init__(self, network: Network, spoke: SpokeSocket, hub: HubSocket) -> None:
        self.network = network
        self.spoke = spoke
        self.hub = hub
        self.route = b"\0" + next(network.routes).to_bytes(4, "big")
        self.open = True
        self._last = {"up": 0.0, "down": 0.0}
        self._break_timer: asyncio.TimerHandle | None = None
        hub.connections[self.route] = self

    def carry(self, direction: str, frame: bytes) -> None:
        network = self.network
        faults, rng, loop = network.faults, network.rng, network.loop
        network.sent(self, direction, frame)
        source, target = (self.spoke.host, self.hub.host) if direction == "up" else (self.hub.host, self.spoke.host)
        if network.is_cut(source, target):
            if self._break_timer is None:
                self._break_timer = loop.call_later(network.BREAK_AFTER_S, self._notice_silence)
            return
        if faults.drop and rng.random() < faults.drop:
            return
        at = loop.time() + rng.uniform(faults.delay_min_s, faults.delay_max_s)
        if faults.reorder and rng.random() < faults.reorder:
            at += faults.delay_max_s * 2
        else:
            at = max(at, self._last[direction] + 1e-7)  # timers of equal time fire in no order
            self._last[direction] = at
        if faults.tamper and rng.random() < faults.tamper:
            place = rng.randrange(len(frame))
            frame = frame[:place] + bytes((frame[place] ^ (1 << rng.randrange(8)),)) + frame[place + 1 :]
        copies = 2 if faults.duplicate and rng.random() < faults.duplicate else 1
        for _ in range(copies):
            loop.call_at(at, self._deliver, direction, frame)

    def is_cut(self) -> bool:
        """In one direction or both: without acknowledgements TCP gives up, too."""
        spoke, hub = self.spoke.host, self.hub.host
        return self.network.is_cut(spoke, hub) or self.network.is_cut(hub, spoke)

    def _notice_silence(self) -> None:
        self._break_timer = None
        if self.is_cut():
            self.close()

    def _deliver(self, direction: str, frame: bytes) -> None:
        if not self.open:
            return
        if direction == "up":
            self.hub.on_frames([(self.route, [frame], self.spoke.identity)])
        else:
            self.spoke.on_frames([(b"", [frame], self.hub.identity)])

    def close(self, *, notify_hub: bool = True, notify_spoke: bool = True) -> None:
        """End the connection; both ends notice a few milliseconds later, unless they are gone themselves."""
        if not self.open:
            return
        self.open = False
        self.hub.connections.pop(self.route, None)
        self.spoke.connection = None
        loop = self.network.loop
        if notify_hub:
            loop.call_later(0.003, self.hub.lost, self.route)
        if notify_spoke:
            loop.call_later(0.003, self.spoke.lost)


class HubSocket:
    """The ROUTER side."""

    def __init__(self, network: Network, address: str, host: str, identity: str) -> None:
        self.network = network
        self.host = host
        self.identity = identity
        self.address = address
        self.connections: dict[bytes, Connection] = {}
        self.on_frames: Callable[[FrameBatch], None] = lambda batch: None
        self.on_disconnected: Callable[[bytes], None] = lambda route: None
        self.closed = False
        network.listen(self)

    def send(self, route: bytes, frame: bytes) -> str:
        connection = self.connections.get(route)
        if connection is None:
            return "unroutable"
        connection.carry("down", frame)
        return "ok"

    def lost(self, route: bytes) -> None:
        if not self.closed:
            self.on_disconnected(route)

    def close(self) -> None:
        self.closed = True
        self.network.unlisten(self)
        for connection in list(self.connections.values()):
            connection.close(notify_hub=False)


class SpokeSocket:
    """The DEALER side: connects by itself, and again after every loss."""

    def __init__(self, network: Network, address: str, host: str, identity: str) -> None:
        self.network = network
        self.host = host
        self.identity = identity
        self.address = address
        self.connection: Connection | None = None
        self.on_frames: Callable[[FrameBatch], None] = lambda batch: None
        self.on_connected: Callable[[], None] = lambda: None
        self.on_disconnected: Callable[[bytes], None] = lambda route: None
        self.on_failed: Callable[[], None] = lambda: None
        self.closed = False
        self._moves = 0
        self._again(0.001)

    def connect(self, address: str) -> None:
        """Talk to another hub from now on; the end of this connection is not told."""
        connection = self.connection
        if connection is not None:
            connection.close(notify_spoke=False)
        self.address = address
        self._moves += 1
        self._again(0.001)

    def _again(self, delay_s: float) -> None:
        self.network.loop.call_later(delay_s * (1 + self.network.rng.random()), self._connect, self._moves)

    def _connect(self, moves: int) -> None:
        if self.closed or self.connection is not None or moves != self._moves:
            return
        network = self.network
        hub = network.hub_at(self.address)
        if hub is None or network.is_cut(self.host, hub.host) or network.is_cut(hub.host, self.host):
            self._again(network.RECONNECT_S)
            self.on_failed()
            return
        self.connection = Connection(network, self, hub)
        network.loop.call_later(0.001, self._established, self.connection)

    def _established(self, connection: Connection) -> None:
        if not self.closed and self.connection is connection and connection.open:
            self.on_connected()

    def send(self, route: bytes, frame: bytes) -> str:
        if self.connection is None:
            return "unroutable"
        self.connection.carry("up", frame)
        return "ok"

    def lost(self) -> None:
        if not self.closed:
            self.on_disconnected(b"")
            self._again(self.network.RECONNECT_S)

    def reconnect(self) -> None:
        if self.connection is not None:  # else the end of the former one is on its way to us
            self.connection.close(notify_spoke=False)
            self._again(0.001)

    def close(self) -> None:
        self.closed = True
        if self.connection is not None:
            self.connection.close(notify_spoke=False)
