"""One simulated process of the fleet: the real core, ports, engine, shell and lease keeping, on simulated sockets and
stores. It can be killed, stopped and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import INBOX, Held, Loaded, Section, SectionWrite
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.crypto import StaticKeys
from a2a_zmq.protocol.hub import Hub
from a2a_zmq.protocol.message import Role
from a2a_zmq.protocol.ports import PeerUp, Port, Received
from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.state.memory import MemoryHints
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.core import DistributorCore
from daemons.runtime.contract import Core, DrainRequested, NoMeter
from daemons.runtime.engine import Engine
from daemons.runtime.listening import Listener
from daemons.runtime.outage import OutageKeeper
from daemons.runtime.ownership import Ownership
from daemons.runtime.procs import ProcessIdentity
from daemons.runtime.rotation import Rotation
from daemons.runtime.shell import Shell
from daemons.runtime.spooling import SpoolingStore
from daemons.runtime.stores import load_all, load_own
from daemons.worker.core import WorkerCore
from tests.simulation import limits
from tests.simulation.disk import Disk
from tests.simulation.executing import Plain, SimPolicy, SimRunner
from tests.simulation.making import id_factory, make_core
from tests.simulation.network import HubSocket, SpokeSocket
from tests.simulation.store import WatchedLeases

if TYPE_CHECKING:
    from tests.simulation.fleet import Fleet

SECRET = "simulated fleet, sixteen bytes and more"
RESTART_AFTER_S = 0.3  # what a supervisor takes to start a process again
LEASE_TTL_MS = 5000
AWAY_MAX_S = 1e6  # longer than any run


# An engine that takes so many turns at one moment of time spins.
MAX_TURNS_AT_ONCE = 300


class Upstream(NamedTuple):
    """A peer to connect to, and the addresses of its processes: only one of them takes anybody in."""

    name: str
    addresses: tuple[str, ...]


@dataclass
class Agent:
    """One simulated process and its restarts.

    Attributes:
        name: the agent id, which two processes may have at a time.
        place: the host that it runs on, unique; it names it in networks, stores and plans.
        elsewhere: on another machine than the rest, so nobody there can ask the kernel whether it lives.
        disk: where an owner keeps what the store cannot take; it outlives its processes.
        overtaken_pid: the process of this place that had the lease before another one took it.
        late_s: what it sends to the store now arrives so much later (0: at once).
    """

    fleet: Fleet
    name: str
    role: Role
    address: str = ""  # where its hub listens
    upstreams: tuple[Upstream, ...] = ()  # whom its spokes talk to
    place: str = ""
    elsewhere: bool = False
    shell: Shell | None = None
    task: asyncio.Task[int] | None = None
    sockets: list[Any] = field(default_factory=list)
    pid: int = 0
    overtaken_pid: int = 0
    alive: bool = False
    frozen: int = 0
    late_s: float = 0.0
    away_until: float = 0.0
    freezes_at_write: int = 0
    missed: list[tuple[Callable[..., Any], tuple[Any, ...]]] = field(default_factory=list)
    thawed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.place = self.place or self.name
        self.disk = Disk(self.fleet.rng, awake=self.awake, kept=self._kept)

    def _kept(self, write: SectionWrite) -> None:
        self.fleet.witness.kept(write)
        if self.pid == self.overtaken_pid:
            self.fleet.witness.put_aside(write)

    def overtaken(self, by: Agent | None = None) -> None:
        """Another process has its lease now: with another disk, it does not know what is on this one; with the same, it
        merges what is there, but not what this one begins to keep later."""
        self.overtaken_pid = self.pid
        if by is None or by.disk.file is not self.disk.file:
            for write in self.disk.writes():
                self.fleet.witness.put_aside(write)

    @property
    def host_id(self) -> str:
        return self.place if self.elsewhere else "host"

    @property
    def core(self) -> Core | None:
        return self.shell.engine.core if self.alive and self.shell is not None else None

    def event(self, event: Any) -> None:
        if self.alive and self.shell is not None:
            self.shell.event(event)

    def start(self) -> None:
        fleet = self.fleet
        self.pid = fleet.next_pid()
        self.alive = True
        self.disk.begin()
        fleet.note("start", self.place, self.pid)
        core, store = make_core(self)
        self._watch(core)
        ports = self._ports(core)
        engine = Engine(core, ports, NoMeter(), owns_state=store is not None)
        shell = self.shell = Shell(
            engine,
            store=store,
            meter=NoMeter(),
            supervisor=Plain(self),
            supervise_every_s=0.5,
            clock=fleet.now,
            wait_gone=fleet.wait_gone,
        )
        self._make_freezable(shell)
        self.sockets = self._open_sockets(shell)
        if fleet.policy:
            shell.advise = SimPolicy(self).ask
        if isinstance(core, WorkerCore):
            shell.runner = SimRunner(self)
        if store is not None:
            self._own(shell, store)
        self.task = fleet.loop.create_task(self._run(shell))

    async def _run(self, shell: Shell) -> int:
        try:
            status = await shell.run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.fleet.violations.append(f"{self.place} crashed: {type(error).__name__}: {error}")
            raise
        if self.alive and self.shell is shell:
            self.alive = False
            self.fleet.note("exit", self.place, status)
            self.fleet.gone_pids.add(self.pid)
            self.fleet.loss.died(self.pid)
            self._restart_soon()
        return status

    def _restart_soon(self) -> None:
        self.fleet.loop.call_later(RESTART_AFTER_S, self._again)

    def _again(self) -> None:
        away = self.fleet.loop.time() < self.away_until
        if not (self.alive or away or self.fleet.over) and self.fleet.agents.get(self.place) is self:
            self.start()

    def crash(self) -> None:
        """Kill -9: nothing is flushed, nobody is told; the kernel closes the sockets."""
        if not self.alive:
            return
        self.fleet.note("crash", self.place)
        self.alive = False
        self.fleet.gone_pids.add(self.pid)
        self.fleet.loss.died(self.pid)
        for socket in self.sockets:
            socket.close()
        shell, self.shell = self.shell, None
        self.missed.clear()
        if shell is not None:
            shell.abandon()
        if self.task is not None:
            self.task.cancel()
        self._restart_soon()

    def stay_away(self, seconds: float) -> None:
        """Whoever starts it again does so after this time only."""
        until = self.fleet.loop.time() + seconds
        self.away_until = max(self.away_until, until)
        self.fleet.loop.call_later(min(seconds, AWAY_MAX_S) + 0.001, self._again)

    @property
    def gone(self) -> bool:
        """It will not be back."""
        return not self.alive and self.away_until > self.fleet.loop.time() + AWAY_MAX_S

    def drain(self) -> None:
        self.event(DrainRequested("SIGTERM", 2.0))

    # ------------------------------------------------------------ SIGSTOP and SIGCONT

    def freeze(self) -> None:
        """What comes to it from now on is there when it goes on. Freezes add up."""
        self.frozen += 1
        self.thawed.clear()

    def thaw(self) -> None:
        self.frozen -= 1
        if self.frozen:
            return
        self.thawed.set()
        missed, self.missed[:] = list(self.missed), []
        if self.alive and self.shell is not None:
            for callback, args in missed:
                callback(*args)
            self.shell.turn()

    async def awake(self) -> None:
        while self.frozen:
            await self.thawed.wait()

    def _gate(self, callback: Callable[..., Any], shell: Shell) -> Callable[..., Any]:
        def gated(*args: Any) -> None:
            if self.frozen and self.shell is shell:
                self.missed.append((callback, args))
            else:
                callback(*args)

        return gated

    def _make_freezable(self, shell: Shell) -> None:
        turn, turns = shell.turn, [0.0, 0]

        def gated_turn() -> None:
            if self.frozen and self.shell is shell:
                shell._turn_wanted = False
                return
            at = self.fleet.loop.time()
            turns[:] = [at, turns[1] + 1 if turns[0] == at else 1]
            if turns[1] == MAX_TURNS_AT_ONCE:
                self.fleet.violations.append(f"{self.place} spins at {at:.3f}")
            turn()

        shell.turn = gated_turn  # type: ignore[method-assign]
        shell.event = self._gate(shell.event, shell)  # type: ignore[method-assign]

    def _watch(self, core: Core) -> None:
        """Show the witness what the core handles."""
        handle, witness, pid = core.handle, self.fleet.witness, self.pid

        def watched(event: Any, now: Now) -> list[Any]:
            effects = handle(event, now)
            if isinstance(event, (Received, PeerUp)):
                witness.handled(pid, event, effects)
            return effects

        core.handle = watched  # type: ignore[method-assign]

    # ------------------------------------------------------------ parts

    def _ports(self, core: Core) -> list[Port]:
        fleet = self.fleet
        boot = BootInfo(f"boot-{self.pid}", self.host_id, self.pid, self.pid)
        keys = StaticKeys(self.name, self.role, SECRET)
        common: dict[str, Any] = {
            "boot": boot,
            "new_id": id_factory(self),
            "random_bytes": fleet.rng.randbytes,
            "config": PortConfig(),
            "heartbeat": core.heartbeat,
        }
        up, down = dict(common), dict(common)
        if isinstance(core, DistributorCore):
            up["claim"], down["closed"] = core.claim, core.closed
        ports: list[Port] = [Spoke(keys, each.name, announce=core.announce, **up) for each in self.upstreams]
        if self.address:
            ports.append(Hub(keys, welcome=core.welcome, **down))
        if fleet.limits is not None:
            for port in ports:
                limits.tighten_port(port, fleet.limits)
        return ports

    def _open_sockets(self, shell: Shell) -> list[Any]:
        network = self.fleet.network
        sockets: list[Any] = []
        for index, upstream in enumerate(self.upstreams):
            spoke = SpokeSocket(network, upstream.addresses[0], self.place, self.name)
            spoke.on_connected = self._gate(shell.on_connected(index), shell)
            sockets.append(spoke)
            if len(upstream.addresses) > 1:
                shell.services.append(self._rotation(shell, index, spoke, upstream.addresses).run)
        if self.address:
            sockets.append(HubSocket(network, self.address, self.place, self.name))
        for index, socket in enumerate(sockets):
            socket.on_frames = self._gate(shell.on_frames(index), shell)
            socket.on_disconnected = self._gate(shell.on_disconnected(index), shell)
            shell.attach(socket)
        return sockets

    def _rotation(self, shell: Shell, index: int, socket: SpokeSocket, addresses: tuple[str, ...]) -> Rotation:
        port = shell.engine.ports[index]
        assert isinstance(port, Spoke)
        rotation = Rotation(
            port,
            addresses,
            connect=socket.connect,
            left=lambda: shell.on_disconnected(index)(b""),
            clock=self.fleet.loop.time,
            log=self.fleet.violate,
        )
        look = rotation.look
        rotation.look = lambda: None if self.frozen else look()  # type: ignore[method-assign]
        socket.on_failed = rotation.failed
        return rotation

    def _own(self, shell: Shell, store: SpoolingStore) -> None:
        fleet, core = self.fleet, shell.engine.core
        leader = core if isinstance(core, CoordinatorCore) else None
        section = Section(INBOX, "coordinator") if leader is not None else Section(self.name, "distributor")

        def ids() -> list[str]:
            return leader.distributors() if leader is not None else [self.name]

        async def load(held: Held) -> dict[Section, Loaded]:
            if leader is None:
                return await load_own(store, section)
            return await load_all(store, leader.distributors(), held.fence, id_factory(self))

        writer = "distributor" if self.role is Role.COORDINATOR else "coordinator"
        hints, rand = MemoryHints(fleet.redis), fleet.rng.random
        listener = Listener(hints, store, ids, shell.event, rand, writers=(writer,), lost=shell.state_lost)
        shell.services.append(listener.run)
        shell.ownership = Ownership(
            shell.engine,
            fleet.wire(WatchedLeases(fleet.redis, self.place, fleet.witness, fleet.replaced), self),
            section,
            agent_id=self.name,
            boot_id=f"boot-{self.pid}",
            identity=ProcessIdentity(self.host_id, self.pid, self.pid),
            ttl_ms=LEASE_TTL_MS,
            load=load,
            clock=fleet.now,
            rng=fleet.rng.random,
            meter=NoMeter(),
            turned=shell.wake,
            is_dead=fleet.owner_is_dead,
            outage=OutageKeeper(store, shell, NoMeter(), fleet.loop.time),
        )
