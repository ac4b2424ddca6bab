"""A whole fleet in one process on virtual time: the real cores, ports, engines, shells, lease keeping and client;
simulated
network, store, processes and executors. Everything random comes from one seed, so a run replays exactly."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from a2a_zmq.client.connection import Connection, Link
from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.entries import Entry
from a2a_zmq.clock import Now
from a2a_zmq.ids import make_id_factory
from a2a_zmq.interfaces import INBOX, Held, Loaded, Section, SectionWrite
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.crypto import StaticKeys
from a2a_zmq.protocol.hub import Hub
from a2a_zmq.protocol.message import Role
from a2a_zmq.protocol.ports import Port
from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.state.memory import MemoryHints, MemoryLeases, MemoryStore
from a2a_zmq.state.memory_world import MemoryRedis
from daemons.coordinator.config import CoordinatorConfig
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.config import DistributorConfig
from daemons.distributor.core import DistributorCore
from daemons.runtime.contract import Core, DrainRequested, Effect, NoMeter, RunFinished, RunStarted, StartRun, StopRun
from daemons.runtime.engine import Engine
from daemons.runtime.listening import Listener
from daemons.runtime.ownership import Ownership
from daemons.runtime.procs import ProcessIdentity
from daemons.runtime.shell import Shell
from daemons.runtime.stores import load_all, load_own
from daemons.runtime.supervision import run_plain
from daemons.worker.config import WorkerConfig
from daemons.worker.core import WorkerCore
from tests.simulation.network import HubSocket, Network, SpokeSocket
from tests.simulation.virtual import VirtualLoop

SECRET = "simulated fleet, sixteen bytes and more"
COORDINATOR = "coordinator-1"
RESTART_AFTER_S = 0.3  # what a supervisor takes to start a process again
LEASE_TTL_MS = 5000


class SlowStore:
    """A store or lease store at the other end of a wire: every call takes time before and after."""

    def __init__(self, inner: Any, rng: random.Random, seen: Callable[[SectionWrite], None] | None = None) -> None:
        self._inner = inner
        self._rng = rng
        self._seen = seen

    def rebase(self, section: Section) -> None:
        self._inner.rebase(section)

    async def close(self) -> None:
        """The world goes on."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(self._rng.uniform(0.0001, 0.001))
            if name == "apply" and self._seen is not None:
                self._seen(args[0])
            value = await method(*args, **kwargs)
            await asyncio.sleep(self._rng.uniform(0.0001, 0.001))
            return value

        return call


class Plain:
    """The supervision steps without a graph."""

    async def run(self, core: Any, now: Callable[[], Now]) -> list[Effect]:
        return run_plain(core, now)


class SimRunner:
    """Executors: a run takes virtual time, and may fail or hang as its payload says."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._runs: dict[tuple[str, int], asyncio.TimerHandle | None] = {}

    def start(self, run: StartRun) -> None:
        fleet = self._agent.fleet
        fleet.note("run", self._agent.name, run.task_id, run.attempt)
        fleet.runs.setdefault(run.task_id, []).append(run.attempt)
        loop, key = fleet.loop, (run.task_id, run.attempt)
        seconds = float(run.payload.get("seconds", 0.001))
        started = fleet.now().wall
        self._agent.event(RunStarted(run.task_id, run.attempt, started))
        if run.payload.get("hang"):
            self._runs[key] = None
            return
        self._runs[key] = loop.call_later(seconds, self._finish, run, started)

    def _finish(self, run: StartRun, started: float) -> None:
        if self._runs.pop((run.task_id, run.attempt), 0) == 0 or not self._agent.alive:
            return
        spent = self._agent.fleet.now().wall - started
        failing = int(run.payload.get("fail_times", 0)) >= run.attempt
        self._agent.event(
            RunFinished(
                run.task_id,
                run.attempt,
                "failed" if failing else "completed",
                b"null" if failing else orjson.dumps(run.payload),
                "simulated" if failing else "",
                "raised" if failing else "",
                True,
                started,
                spent,
            )
        )

    def stop(self, stop: StopRun) -> None:
        key = (stop.task_id, stop.attempt)
        if key not in self._runs:
            return
        timer = self._runs.pop(key)
        if timer is not None:
            timer.cancel()
        cancelled = stop.reason == "cancelled"
        self._agent.event(
            RunFinished(
                stop.task_id,
                stop.attempt,
                "abandoned" if cancelled else "failed",
                b"null",
                stop.reason,
                stop.reason,
                not cancelled,
                self._agent.fleet.now().wall,
                0.0,
            )
        )


@dataclass
class Agent:
    """One simulated process and its restarts."""

    fleet: Fleet
    name: str
    role: Role
    address: str = ""  # where its hub listens
    upstream: str = ""  # whom its spoke talks to
    upstream_address: str = ""
    shell: Shell | None = None
    task: asyncio.Task[int] | None = None
    sockets: list[Any] = field(default_factory=list)
    pid: int = 0
    alive: bool = False
    frozen: bool = False

    def event(self, event: Any) -> None:
        if self.alive and self.shell is not None:
            self.shell.event(event)

    def start(self) -> None:
        fleet = self.fleet
        self.pid = fleet.next_pid()
        self.alive = True
        fleet.note("start", self.name, self.pid)
        core, store = self._core()
        ports = self._ports(core)
        engine = Engine(core, ports, NoMeter(), owns_state=store is not None)
        shell = Shell(
            engine,
            store=store,
            meter=NoMeter(),
            supervisor=Plain(),
            supervise_every_s=0.5,
            clock=fleet.now,
            wait_gone=fleet.wait_gone,
        )
        self.shell = shell
        self.sockets = self._open_sockets(shell)
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
            self.fleet.errors.append(f"{self.name}: {type(error).__name__}: {error}")
            raise
        if self.alive and self.shell is shell:
            self.alive = False
            self.fleet.note("exit", self.name, status)
            self.fleet.loop.call_later(RESTART_AFTER_S, self._again)
        return status

    def _again(self) -> None:
        if not self.alive and not self.fleet.over:
            self.start()

    def crash(self) -> None:
        """Kill -9: nothing is flushed, nobody is told; the kernel closes the sockets."""
        if not self.alive:
            return
        self.fleet.note("crash", self.name)
        self.alive = False
        self.fleet.gone_pids.add(self.pid)
        for socket in self.sockets:
            socket.close()
        shell, self.shell = self.shell, None
        if shell is not None:
            shell.abandon()
        if self.task is not None:
            self.task.cancel()
        self.fleet.loop.call_later(RESTART_AFTER_S, self._again)

    def drain(self) -> None:
        self.event(DrainRequested("SIGTERM", 2.0))

    # ------------------------------------------------------------ parts

    def _core(self) -> tuple[Core, Any]:
        fleet, rng, new_id = self.fleet, self.fleet.rng, self._id_factory()
        if self.role is Role.COORDINATOR:
            core: Core = CoordinatorCore(
                self.name, config=CoordinatorConfig(), new_id=new_id, rng=rng.random, meter=NoMeter()
            )
            return core, fleet.store(self.name)
        if self.role is Role.DISTRIBUTOR:
            core = DistributorCore(
                self.name,
                self.upstream,
                config=DistributorConfig(),
                new_id=new_id,
                rng=rng.random,
                meter=NoMeter(),
            )
            return core, fleet.store(self.name)
        types = ["noop", "work"]
        core = WorkerCore(self.name, self.upstream, config=WorkerConfig(), task_types=types, rng=rng, meter=NoMeter())
        return core, None

    def _id_factory(self) -> Callable[[], str]:
        return make_id_factory(self.fleet.rng.randbytes)

    def _ports(self, core: Core) -> list[Port]:
        fleet = self.fleet
        boot = BootInfo(f"boot-{self.pid}", "host", self.pid, self.pid)
        keys = StaticKeys(self.name, self.role, SECRET)
        common: dict[str, Any] = {
            "boot": boot,
            "new_id": self._id_factory(),
            "random_bytes": fleet.rng.randbytes,
            "config": PortConfig(),
            "heartbeat": core.heartbeat,
        }
        ports: list[Port] = []
        if self.upstream:
            ports.append(Spoke(keys, self.upstream, announce=core.announce, **common))
        if self.address:
            ports.append(Hub(keys, welcome=core.welcome, **common))
        return ports

    def _open_sockets(self, shell: Shell) -> list[Any]:
        network = self.fleet.network
        sockets: list[Any] = []
        if self.upstream:
            spoke = SpokeSocket(network, self.upstream_address, self.name, self.name)
            spoke.on_frames, spoke.on_connected = shell.on_frames(0), shell.on_connected(0)
            spoke.on_disconnected = shell.on_disconnected(0)
            sockets.append(spoke)
        if self.address:
            hub = HubSocket(network, self.address, self.name, self.name)
            index = len(sockets)
            hub.on_frames, hub.on_disconnected = shell.on_frames(index), shell.on_disconnected(index)
            sockets.append(hub)
        for socket in sockets:
            shell.attach(socket)
        return sockets

    def _own(self, shell: Shell, store: Any) -> None:
        fleet, core = self.fleet, shell.engine.core
        leader = core if isinstance(core, CoordinatorCore) else None
        section = Section(INBOX, "coordinator") if leader is not None else Section(self.name, "distributor")

        def ids() -> list[str]:
            return leader.distributors() if leader is not None else [self.name]

        async def load(held: Held) -> dict[Section, Loaded]:
            if leader is None:
                return await load_own(store, section)
            return await load_all(store, leader.distributors(), held.fence, self._id_factory())

        writer = "distributor" if self.role is Role.COORDINATOR else "coordinator"
        listener = Listener(MemoryHints(fleet.redis), store, ids, shell.event, fleet.rng.random, writers=(writer,))
        shell.services.append(listener.run)
        shell.ownership = Ownership(
            shell.engine,
            SlowStore(MemoryLeases(fleet.redis, self.name), fleet.rng),
            section,
            agent_id=self.name,
            boot_id=f"boot-{self.pid}",
            identity=ProcessIdentity("host", self.pid, self.pid),
            ttl_ms=LEASE_TTL_MS,
            load=load,
            clock=fleet.now,
            rng=fleet.rng.random,
            meter=NoMeter(),
            turned=shell.wake,
            is_dead=fleet.owner_is_dead,
        )


class TaskSink:
    """Where the client's results go."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def accepted(self, entry: Entry) -> None:
        self._fleet.accepted.add(entry.task_id)
        self._fleet.note("accepted", entry.task_id)

    def finished(self, entry: Entry) -> None:
        self._fleet.finished.setdefault(entry.task_id, []).append(entry.outcome)
        self._fleet.note("finished", entry.task_id, type(entry.outcome).__name__)


class Fleet:
    """The world of one run.

    Attributes:
        accepted: task ids that the client was told are durable.
        finished: task id → outcomes that the client was told (must become exactly one).
        recorded: task id → mutation ids of the applied writes that recorded a result.
        trace: digest of everything noted, for "same seed, same run".
    """

    def __init__(self, loop: VirtualLoop, seed: int, *, distributors: int = 1, workers: int = 2) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.network = Network(loop, self.rng)
        self.redis = MemoryRedis(self.now)
        self.accepted: set[str] = set()
        self.finished: dict[str, list[Any]] = {}
        self.recorded: dict[str, set[str]] = {}
        self.recorded_before_wipe: set[str] = set()
        self._applied: set[str] = set()
        self._writes: dict[str, tuple[SectionWrite, int]] = {}
        self.runs: dict[str, list[int]] = {}
        self.fences: dict[Section, int] = {}
        self.violations: list[str] = []
        self.errors: list[str] = []
        self.gone_pids: set[int] = set()
        self.over = False
        self.client_role = Role.CLIENT
        self.notes: list[str] = []
        self._trace = hashlib.sha256()
        self._pid = 100
        self.agents: dict[str, Agent] = {}
        self._add(Agent(self, COORDINATOR, Role.COORDINATOR, address="coordinator"))
        for d in range(1, distributors + 1):
            name = f"distributor-{d}"
            self._add(Agent(self, name, Role.DISTRIBUTOR, name, COORDINATOR, "coordinator"))
            for w in range(1, workers + 1):
                self._add(Agent(self, f"worker-{d}{w}", Role.WORKER, "", name, name))
        self.connection: Connection | None = None
        self._sink = TaskSink(self)

    def _add(self, agent: Agent) -> None:
        self.agents[agent.name] = agent

    # ------------------------------------------------------------ world

    def now(self) -> Now:
        return self.loop.now()

    def note(self, *what: Any) -> None:
        line = f"{self.loop.time():.6f} " + " ".join(map(str, what))
        self._trace.update(line.encode())
        self.notes.append(line)

    def trace(self) -> str:
        return self._trace.hexdigest()

    def next_pid(self) -> int:
        self._pid += 1
        return self._pid

    async def wait_gone(self, pid: int, start_time: int) -> bool:
        await asyncio.sleep(0.001)
        return pid in self.gone_pids

    def owner_is_dead(self, owner: str, identity: ProcessIdentity) -> bool:
        return int(owner.split("|")[2]) in self.gone_pids

    def store(self, name: str) -> Any:
        return SlowStore(MemoryStore(self.redis, name), self.rng, self._seen)

    def wipe(self) -> None:
        """Redis starts empty. Tasks whose recorded result is gone with it may run, and be recorded, once more."""
        self.read_log()
        self.redis.wipe()
        self.recorded_before_wipe |= set(self.recorded)
        self.recorded.clear()
        self.note("redis wiped")

    def _seen(self, write: SectionWrite) -> None:
        """A write leaves for the store; whether it was applied, the world's log tells."""
        self._writes[write.mutation_id] = (write, write.fence)

    def read_log(self) -> None:
        """Judge all writes that were applied: results at most once a task, fences never backwards."""
        log, self.redis.log[:] = list(self.redis.log), []
        for _client, mutation_id, version in log:
            if mutation_id in self._applied:
                self.violations.append(f"mutation {mutation_id} was applied twice")
            self._applied.add(mutation_id)
            write, fence = self._writes[mutation_id]
            for task_id in write.results:
                self.recorded.setdefault(task_id, set()).add(mutation_id)
                if len(self.recorded[task_id]) > 1:
                    self.violations.append(f"{task_id} recorded twice")
            if fence < self.fences.get(write.section, 0):
                self.violations.append(f"fence of {write.section} went back to {fence}")
            self.fences[write.section] = max(fence, self.fences.get(write.section, 0))
            self.note("wrote", write.section.distributor_id, write.section.writer, version, len(write.results))

    # ------------------------------------------------------------ client

    def open_client(self) -> None:
        core = ClientCore(make_id_factory(self.rng.randbytes), self.rng.random)
        self.connection = Connection(core, ["coordinator"], _Opener(self._open_link), self.now)

    def _open_link(self, address: str, callbacks: Any) -> Link:
        name = "client~1"
        socket = SpokeSocket(self.network, address, "client", name)
        port = Spoke(
            StaticKeys(name, self.client_role, SECRET),
            COORDINATOR,
            boot=BootInfo("boot-client", "elsewhere"),
            new_id=make_id_factory(self.rng.randbytes),
            random_bytes=self.rng.randbytes,
            config=PortConfig(),
            announce=lambda now: {},
            heartbeat=lambda peer, now: {},
        )
        socket.on_frames, socket.on_connected = callbacks.on_frames, callbacks.on_connected
        socket.on_disconnected = callbacks.on_disconnected
        return Link(port, socket)

    def submit(self, task_id: str, task_type: str = "work", **payload: Any) -> None:
        metadata = {"max_attempts": 20}
        task = {"task_id": task_id, "task_type": task_type, "payload": payload, "metadata": metadata}
        body = orjson.dumps(task)
        assert self.connection is not None
        self.connection.submit([Entry(task_id, body, self._sink)])

    # ------------------------------------------------------------ running

    async def start(self) -> None:
        for agent in self.agents.values():
            agent.start()
        self.open_client()
        await self.until(lambda: all(agent.ready() for agent in self.roles()), 10.0, "the fleet is ready")

    def roles(self) -> list[Any]:
        return [_Ready(agent) for agent in self.agents.values()]

    async def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> bool:
        deadline = self.loop.time() + timeout_s
        while not condition():
            if self.loop.time() > deadline:
                self.violations.append(f"not within {timeout_s:g} s: {what}")
                return False
            await asyncio.sleep(0.02)
        return True

    async def stop(self) -> None:
        self.over = True
        if self.connection is not None:
            await self.connection.close()
        for agent in self.agents.values():
            if agent.task is not None:
                agent.task.cancel()
        tasks: list[Awaitable[Any]] = [a.task for a in self.agents.values() if a.task is not None]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class _Opener:
    open: Callable[[str, Any], Link]

    def close(self) -> None:
        """There is no context to close."""


@dataclass
class _Ready:
    agent: Agent

    def ready(self) -> bool:
        return self.agent.shell is not None and self.agent.shell.engine.core.ready()[0]
