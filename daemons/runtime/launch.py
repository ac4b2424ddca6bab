"""Puts a daemon together and runs it: identity, sockets, store, lease, supervision, health, signals.

A role's ``main`` makes its core and says what the daemon has (a hub, a spoke, a section of the shared state); the
rest is the same for every role and stands here.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from a2a_zmq.clock import Now
from a2a_zmq.config import split_address
from a2a_zmq.ids import make_id_factory
from a2a_zmq.interfaces import Hints, LeaseStore, Section, StateStore
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.hub import Hub
from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.protocol.ports import Port
from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.security.identity import Identity
from daemons import logs
from daemons.health import HealthServer, Page
from daemons.meter import PrometheusMeter
from daemons.runtime import keys
from daemons.runtime.addresses import check_addresses
from daemons.runtime.closing import close_all
from daemons.runtime.contract import Core, DrainRequested, Exit
from daemons.runtime.deathwatch import own_life_fd
from daemons.runtime.engine import Engine
from daemons.runtime.listening import Listener
from daemons.runtime.orphans import find_orphans, hidden_marks, take_over
from daemons.runtime.outage import OutageKeeper
from daemons.runtime.own_nodes import OwnNodes
from daemons.runtime.ownership import Load, Ownership
from daemons.runtime.procs import own_identity
from daemons.runtime.reload import Reloader
from daemons.runtime.shell import Shell, read_clock
from daemons.runtime.sockets import Sockets
from daemons.runtime.spooling import SpoolingStore
from daemons.runtime.standing import Standing
from daemons.runtime.supervision import Supervisor
from daemons.runtime.tracing import counting, open_exporter
from daemons.settings import DaemonSettings, OwnerSettings
from daemons.settings_forms import scrape_target
from daemons.settings_sources import suite_version

EX_OK: Final = 0
EX_TEMPFAIL: Final = 75

# A daemon whose place in the fleet another process has to take leaves after this long even if Redis does not answer.
LEAVE_S: Final = 2.0

Heartbeat = Callable[[str, Now], dict[str, Any]]


class Daemon:
    """One agent process (or the in-process form of one). Make it inside its event loop, then :meth:`run` it.

    Attributes:
        meter, boot, new_id, tracer: for the role's core; no tracer where nothing is traced.
        reloader: has the settings in use; ``settings`` are those of the start.
        steps: nodes of the user's for its supervision graph.
        pages: further pages of the health port, by path; to be set before :meth:`assemble`.
        at_once: told the status with which a daemon leaves that cannot wait.
        shell: after :meth:`assemble`.
    """

    def __init__(self, settings: DaemonSettings, role: Role) -> None:
        self.settings = settings
        self.process = own_identity()
        self.boot = BootInfo(os.urandom(8).hex(), *self.process, life_fd=own_life_fd())
        self.new_id = make_id_factory(os.urandom)
        self.log = logs.get_logger("launch")
        self.meter = PrometheusMeter(on_unknown=lambda what: self.log.error("bad_metric", what=what))
        self.reloader = Reloader(settings, self.meter, self.log, lambda: read_clock().wall)
        self._role = role
        self._identity: Identity | None = None if keys.is_new(settings) else keys.own_identity(settings, role, self.log)
        self.meter.gauge("build_info", 1, agent=settings.agent_id, role=role.value, version=suite_version())
        self.stopped_by = ""
        self.tracer = open_exporter(settings, role)
        self.shell: Shell
        self.ready: Callable[[], tuple[bool, str]]  # and why not; like shell after assemble()
        self.at_once: Callable[[int], None] = lambda _status: None
        self.on_exit: list[Callable[[], Awaitable[None]]] = []
        nodes = OwnNodes.load(settings.supervision_nodes)
        self.steps = nodes.steps if nodes is not None else None
        if nodes is not None:
            self.on_exit.append(nodes.close)
        self._loop = asyncio.get_running_loop()
        self._ports: list[Port] = []
        self.left_because = ""
        self._port_config = PortConfig(
            heartbeat_s=settings.heartbeat_interval_ms / 1000,
            suspect_s=settings.suspect_after_ms / 1000,
            dead_s=settings.dead_after_ms / 1000,
            grace_s=settings.reconnect_grace_ms / 1000,
        )
        self.health: HealthServer | None = None
        self.pages: dict[str, Page] = {}

    @functools.cached_property
    def standing(self) -> Standing:
        """What keeps this agent out of its fleet."""
        return Standing(self.settings.agent_id, self.identity, self.log)

    @functools.cached_property
    def _own_keys(self) -> keys.OwnKeys:
        return keys.OwnKeys(
            self.settings,
            self.identity,
            self.log,
            leave=lambda why: self.leave(EX_TEMPFAIL, why),
            later=self._loop.call_soon,
        )

    @functools.cached_property
    def _sockets(self) -> Sockets:
        return Sockets(self.settings, self.identity, own_keys=self._own_keys, standing=self.standing, meter=self.meter)

    @property
    def identity(self) -> Identity:
        """Who we are. A new agent's keys are made when they are first asked for, which may raise ConfigError."""
        if self._identity is None:
            self._identity = keys.own_identity(self.settings, self._role, self.log)
        return self._identity

    # ------------------------------------------------------------ ports

    def add_hub(self, core: Core, address: str, closed: Callable[[], str] = lambda: "") -> None:
        """Listen for peers at this address; while ``closed()`` says why, nobody may join."""
        self._ports.append(
            Hub(
                self.identity,
                boot=self.boot,
                new_id=self.new_id,
                random_bytes=os.urandom,
                config=self._port_config,
                welcome=core.welcome,
                heartbeat=self._counted(core.heartbeat),
                closed=closed,
            )
        )
        self._sockets.add_hub(address)

    def usable(self, addresses: Sequence[str], peer: str) -> Sequence[str]:
        """Those of agents that have not left the fleet; all, if none is left: then the start fails and says why."""
        revoked = {each for each in addresses if self.identity.is_revoked(split_address(each)[0] or peer)}
        if len(revoked) == len(addresses):
            return addresses
        for each in sorted(revoked):
            self.log.error("address_left_out", address=each, why="the keys of its agent were revoked")
        return [each for each in addresses if each not in revoked]

    def add_spoke(
        self, core: Core, peer: str, addresses: Sequence[str], claim: Callable[[], int | None] = lambda: 0
    ) -> None:
        """Connect to this peer's hub, at whichever address it is; an address may name another peer as
        ``NAME@ADDRESS``. It is greeted with the fence that ``claim()`` gives, and not while that is None."""
        split = [split_address(address) for address in addresses]
        peer = split[0][0] or peer
        spoke = Spoke(
            self.identity,
            peer,
            boot=self.boot,
            new_id=self.new_id,
            random_bytes=os.urandom,
            config=self._port_config,
            announce=lambda now: {**core.announce(now), "version": suite_version(), **self.whereabouts()},
            heartbeat=self._counted(core.heartbeat),
            claim=claim,
        )
        self._ports.append(spoke)
        self._sockets.add_spoke(spoke, peer, [plain for _, plain in split])

    def _counted(self, heartbeat: Heartbeat) -> Heartbeat:
        """Ports send heartbeats by themselves, so they are counted where their payload is asked for."""

        def ask(peer: str, now: Now) -> dict[str, Any]:
            self.meter.count("heartbeats_total", direction="out")
            self.meter.count("messages_total", direction="out", type=MessageType.HEARTBEAT.value)
            return heartbeat(peer, now)

        return ask

    # ------------------------------------------------------------ putting together

    async def assemble(self, core: Core, supervisor: Supervisor, store: StateStore | None = None) -> None:
        """Take the place of a process that was left behind, make engine and shell, and open the sockets; if that
        fails, everything is closed again. Whatever can be wrong with the settings is to be known by now.

        Raises:
            ConfigError: an address cannot be bound, a key is missing.
        """
        try:
            await self._take_place()
            self._put_together(core, supervisor, store)
        except BaseException:
            await self._close(*([store.close] if store is not None else []))
            raise

    async def _take_place(self) -> None:
        """The orphan works on: it is not to leave for one that would not start."""
        marks = hidden_marks()
        orphans = find_orphans(marks)
        if not orphans:
            return
        check_addresses(self.settings, orphans)
        self._sockets.check()
        await asyncio.to_thread(
            take_over, marks, self.settings.drain_timeout_s, lambda text: self.log.warning("taking_over", why=text)
        )

    def _put_together(self, core: Core, supervisor: Supervisor, store: StateStore | None) -> None:
        settings = self.settings
        engine = Engine(core, self._ports, self.meter, owns_state=store is not None)
        self.shell = Shell(
            engine,
            store=store,
            meter=self.meter,
            supervisor=supervisor,
            supervise_every_s=settings.supervision_interval_ms / 1000,
        )
        self.ready = lambda: self.standing.ready(*core.ready())
        self.shell.chores += (
            self._own_keys.reload,
            self._sockets.count_refused,
            lambda: self.standing.look(read_clock().mono),
            lambda: self.meter.gauge("ready", int(self.ready()[0])),
        )
        if self.tracer is not None:
            self.shell.chores.append(counting(self.tracer, self.meter, self.log))
        self.health = HealthServer(
            *settings.metrics_address,
            exposition=self.meter.exposition,
            ready=self.ready,
            state=lambda: self._state(core, store),
            pages=self.pages,
            live_after_s=settings.live_after_ms / 1000,
        )
        self.meter.measure("loop_age_seconds", self.health.age_s)
        self._sockets.open(self.shell)
        self.health.start(self._loop)
        self.shell.on_beat = self.health.beat

    def whereabouts(self) -> dict[str, str]:
        """Where Prometheus finds our metrics, and on which host: what a hub is told of us."""
        settings, host, port = self.settings, os.uname().nodename, self.health.port if self.health is not None else 0
        return {"metrics": scrape_target(settings.metrics_host, port, settings.metrics_advertise, host), "host": host}

    def _state(self, core: Core, store: StateStore | None) -> dict[str, Any]:
        found: dict[str, Any] = core.local_state(read_clock()).model_dump(mode="json")
        return found | ({"store": store.state()} if isinstance(store, SpoolingStore) else {})

    def own(self, section: Section, leases: LeaseStore, load: Load, store: SpoolingStore | None = None) -> None:
        """Keep the lease of this section; ``load`` reads what a new owner is given, ``store`` rides out outages."""
        settings = self.settings
        assert isinstance(settings, OwnerSettings)
        outage = OutageKeeper(store, self.shell, self.meter, lambda: read_clock().mono) if store is not None else None
        ownership = self.shell.ownership = Ownership(
            self.shell.engine,
            leases,
            section,
            agent_id=settings.agent_id,
            boot_id=self.boot.boot_id,
            identity=self.process,
            ttl_ms=settings.lease_ttl_ms,
            load=load,
            clock=read_clock,
            rng=lambda: int.from_bytes(os.urandom(4), "big") / 2**32,
            meter=self.meter,
            turned=self.shell.wake,
            outage=outage,
        )
        self.standing.lease_holder = lambda: ownership.waiting_for
        self.standing.unreadable = lambda: ownership.unreadable

    def listen(self, hints: Hints, store: StateStore, ids: Callable[[], list[str]], writer: str) -> None:
        """Have the core told when these distributors' sections move by this writer's hand."""
        shell = self.shell
        listener = Listener(hints, store, ids, shell.event, random.random, writers=(writer,), lost=shell.state_lost)
        self.shell.services.append(listener.run)

    # ------------------------------------------------------------ running

    async def run(self) -> int:
        """Until the core leaves; returns the exit status."""
        try:
            await self._sockets.self_test()
            self.log.info("started", pid=os.getpid(), metrics_port=self.health.port if self.health else 0)
            status = await self.shell.run()
        except BaseException:
            await self._close()
            raise
        if (error := await self._close()) is not None:
            raise error
        return status

    async def _close(self, *more: Callable[[], Awaitable[None]]) -> Exception | None:
        closers: list[Callable[[], Any]] = [*self.on_exit, *more]
        if self.tracer is not None:
            closers.append(functools.partial(asyncio.to_thread, self.tracer.close))
        closers.append(self._sockets.close)
        if self.health is not None:
            closers.append(self.health.stop)
        return await close_all(closers, self.log)

    def drain(self, why: str) -> None:
        """Leave in good order; asked a second time, leave at once."""
        if self.stopped_by:
            self._leave_now(EX_OK)
            return
        self.stopped_by = why
        timeout_s = self.reloader.settings.drain_timeout_s
        self.shell.event(DrainRequested(why, timeout_s))
        # A core that cannot come to an end (Redis away, a run that resists) does not keep the host from going down.
        self._loop.call_later(timeout_s + 2.0, self.drain, "drain timeout")

    def leave(self, status: int, why: str) -> None:
        """End with this status without draining: another process is to take our place."""
        if self.left_because:
            return
        self.left_because = why
        self.log.warning("must_leave", why=why, status=status)
        self.shell.engine.supervise([Exit(status, why)], read_clock())
        self.shell.wake()
        self._loop.call_later(LEAVE_S, self._leave_now, status)

    def _leave_now(self, status: int) -> None:
        self.at_once(status)
        if not self.shell.exit_status.done():
            self.shell.exit_status.set_result(status)

    def on_signals(self) -> None:
        """SIGTERM and SIGINT drain, SIGHUP reloads keys and settings."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.drain, number.name)
        self._loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _hang_up(self) -> None:
        self._own_keys.reload(always=True)
        self.reloader.run()
