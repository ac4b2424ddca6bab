"""The fleet that is broken: one of our own, whose links lead through relays, or one that runs on this host."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import redis

from a2a_zmq.client.sync import FleetClient
from daemons.cli.chaos import kinds
from daemons.cli.chaos.netns import Space, spaces
from daemons.cli.chaos.relays import Relays, RemoteRelay
from daemons.cli.chaos.tasks import LEDGER
from daemons.cli.fleet import COORDINATOR, REDIS, LocalFleet, free_ports
from daemons.cli.interrupts import private_fleet

DISK_MB: Final = 1024
POLL_S: Final = 0.01


class Stage(ABC):
    """What faults need of a fleet.

    Attributes:
        agents: agent ids by role.
        has: what of :attr:`Kind.needs` it has.
        lacks: why it has not the others.
        ledger: where handlers write down their runs; None where they do not.
    """

    agents: dict[str, list[str]]
    has: frozenset[str] = frozenset()
    lacks: Mapping[str, str] = {}
    ledger: Path | None = None

    @abstractmethod
    def client(self) -> FleetClient:
        """A client of the fleet, patient enough for every fault."""

    @abstractmethod
    def pid(self, name: str) -> int:
        """An agent's process id; 0 if it does not run."""

    @abstractmethod
    def signal(self, name: str, number: int) -> int:
        """Send a signal to an agent; returns its process id."""

    @abstractmethod
    def whole(self) -> bool:
        """Whether every agent runs and says that it can do work."""

    def crashes(self) -> list[str]:
        """Daemons that crashed, as far as that can be told: one line each."""
        return []

    @abstractmethod
    def end_and_restart(self, name: str, timeout_s: float) -> int | None:
        """SIGTERM; wait for the end; start it again. Returns the exit status, None if it did not end in time."""


class OwnFleet(Stage):
    """A private fleet: relays on the links from workers, distributors and to Redis, and a small disk for the latter."""

    def __init__(
        self,
        fleet: LocalFleet,
        links: dict[str, RemoteRelay],
        rooms: Mapping[str, Space],
        lacks: Mapping[str, str],
    ) -> None:
        self.fleet = fleet
        self.spaces = rooms
        self.links = links
        self.lacks = lacks
        self.agents = {role: fleet.names(role) for role in ("coordinator", "distributor", "worker")}
        self.ledger = fleet.directory / "ledger"
        self.has = frozenset(kinds.NEEDS) - set(lacks)

    @property
    def disk(self) -> Path:
        return self.fleet.directory / "redis"

    def client(self) -> FleetClient:
        return FleetClient(
            **self.fleet.client_arguments(operator=True), request_timeout_s=120.0, unavailable_after_s=120.0
        )

    def pid(self, name: str) -> int:
        return self.fleet.pids[name]

    def signal(self, name: str, number: int) -> int:
        return self.fleet.kill(name, number)

    def whole(self) -> bool:
        return all(self.fleet.ready(name) for name in self.fleet.daemons)

    def crashes(self) -> list[str]:
        # Others are the faults' doing: who loses its lease, or does not find Redis, ends with 75, and rightly so.
        return [str(end) for end in self.fleet.ends() if end.crashed]

    def end_and_restart(self, name: str, timeout_s: float) -> int | None:
        self.fleet.kill(name, signal.SIGTERM, restart=False)
        daemon = self.fleet.daemons[name]
        status = daemon.exit_status if daemon.wait(timeout_s) else None
        self.fleet.restart(name, wait=False)
        return status

    def store(self, timeout_s: float = 5.0) -> redis.Redis:
        """A blocking connection to Redis that leads through no relay."""
        return redis.Redis(host=self.fleet.redis_host, port=self.fleet.redis_port, socket_timeout=timeout_s)

    def wait_store(self) -> float:
        """Wait until Redis answers; returns the moment."""
        self.fleet.wait_ready([REDIS])
        return time.monotonic()

    def wipe(self) -> bool:
        """Remove the server's files; it must not run. False if there were none."""
        there = (self.disk / "appendonlydir").is_dir()
        shutil.rmtree(self.disk / "appendonlydir", ignore_errors=True)
        (self.disk / "dump.rdb").unlink(missing_ok=True)
        return there


@contextlib.contextmanager
def own_fleet(*, workers: int, distributors: int, wants: Collection[str]) -> Iterator[OwnFleet]:
    """Start one; everything is gone afterwards.

    Args:
        wants: what of :data:`kinds.NEEDS` will be used; what only root can make is made for that alone.
    """
    with Relays() as relays, contextlib.ExitStack() as after:
        names = [f"worker-{number + 1}" for number in range(workers)]
        above = [f"distributor-{number + 1}" for number in range(distributors)]
        lacks = {}
        rooms, why = after.enter_context(spaces(names if kinds.NETNS in wants else ()))
        if why:
            lacks[kinds.NETNS] = why
        links = {name: relays.add() for name in (*above, REDIS)}
        links |= {name: relays.add(rooms[name].our_address if name in rooms else "127.0.0.1") for name in names}
        hubs = dict(zip(above, free_ports(distributors), strict=True))
        env_of: dict[str, dict[str, str]] = {COORDINATOR: {"REDIS_PORT": str(links[REDIS].port)}}
        for name in above:
            env_of[name] = {
                "A2A_BIND": f"tcp://127.0.0.1:{hubs[name]}",
                "A2A_COORDINATOR_ADDRESS": f"tcp://127.0.0.1:{links[name].port}",
                "REDIS_PORT": str(links[REDIS].port),
            }
        for number, name in enumerate(names):
            env_of[name] = {"A2A_DISTRIBUTOR_ADDRESS": f"tcp://{links[name].host}:{links[name].port}"}
            links[name].aim("127.0.0.1", hubs[above[number % distributors]])
        directory = after.enter_context(_directory())
        if kinds.TMPFS in wants and (why := after.enter_context(_small_disk(directory / "redis"))):
            lacks[kinds.TMPFS] = why
        env = {"A2A_WORKER_HANDLERS": "daemons.cli.chaos.tasks", LEDGER: str(directory / "ledger")}
        networks = {name: (space.name, space.its_address) for name, space in rooms.items()}
        fleet = LocalFleet(
            workers=workers,
            distributors=distributors,
            env=env,
            env_of=env_of,
            directory=directory,
            networks=networks,
        )
        host, port = fleet.coordinator_address.removeprefix("tcp://").rsplit(":", 1)
        for name in above:
            links[name].aim(host, int(port))
        links[REDIS].aim(fleet.redis_host, fleet.redis_port)
        with private_fleet(fleet):
            yield OwnFleet(fleet, links, rooms, lacks)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="a2a-chaos-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _small_disk(path: Path) -> Iterator[str]:
    """A file system of its own at this path; yields why there is none, or ""."""
    path.mkdir(parents=True)
    why = mount(path, f"size={DISK_MB}m")
    try:
        yield why
    finally:
        if not why:
            _run("umount", "--lazy", str(path))


def mount(path: Path, options: str) -> str:
    """Mount a tmpfs there, or change its size; "" or why it cannot be done."""
    return _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path))


def _run(*command: str) -> str:
    if os.geteuid() != 0:
        return "only root may mount a file system"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"{command[0]} failed").splitlines()[0]
