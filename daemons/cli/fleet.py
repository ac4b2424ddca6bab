"""A whole private fleet on this host: real daemons on free ports, in a directory of their own, gone afterwards.

What the demo, the benchmarks and the integration tests run on. It is its own small supervisor, so it needs no other.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import daemons
from a2a_zmq.errors import A2AError
from daemons.cli.ends import End, Ends
from daemons.cli.processes import PROBE_TIMEOUT_S, Daemon, cpu_s, pss_mb, stop_all

# Below the range from which the kernel takes ports of outgoing connections, so that none of those is in the way.
PORTS = range(20_000, 32_000)
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 8.0
# How often the supervisor looks after its daemons, and how a readiness probe is repeated.
WATCH_INTERVAL_S = 0.05
PROBE_INTERVAL_S = 0.03
# A daemon that has ended is started again after so long, as by systemd.
RESTART_AFTER_S = 0.1
# A daemon that lives shorter than this is restarted after a pause only.
STABLE_S = 2.0
RESTART_PAUSE_S = 0.5

COORDINATOR = "coordinator-1"
DISTRIBUTOR = "distributor-1"
REDIS = "redis"
TWIN = "-twin"


class FleetStartError(A2AError):
    """A daemon of the private fleet did not become ready; the text names it and has the end of its log."""


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    found: list[int] = []
    for port in random.sample(PORTS, 2000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise FleetStartError("no free TCP ports were found")


def wait_until(
    predicate: Callable[[], bool], what: str, timeout_s: float, interval_s: float = PROBE_INTERVAL_S
) -> None:
    """Wait for a condition.

    Raises:
        FleetStartError: it did not come true in time.
    """
    until = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() >= until:
            raise FleetStartError(f"not within {timeout_s:g} s: {what}")
        time.sleep(interval_s)


class LocalFleet:
    """Start with ``with LocalFleet(workers=2) as fleet:``; everything is ready inside and gone after it.

    Args:
        workers, distributors: how many; workers are spread over the distributors.
        coordinators: how many; one leads, the others stand by.
        twins: a second process of each distributor, ``distributor-1-twin`` …, stands by for it.
        env: further variables for all daemons.
        env_of: further variables for single daemons, by name.
        supervise: start a daemon again that ends by itself or is killed.
        directory: use (and keep) this directory instead of a temporary one.
        redis: address ``host:port`` of a Redis to use instead of the embedded one.
        networks: network namespace, and an address in it that we reach, of daemons that run in one of their own.

    Attributes:
        daemons: by name, in the order in which they are started: ``redis``, ``coordinator-1``, ``distributor-1``,
            ``worker-1`` …
        directory: state, keys and logs.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        distributors: int = 1,
        coordinators: int = 1,
        twins: bool = False,
        env: Mapping[str, str] | None = None,
        env_of: Mapping[str, Mapping[str, str]] | None = None,
        supervise: bool = True,
        directory: Path | None = None,
        redis: str | None = None,
        networks: Mapping[str, tuple[str, str]] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self.daemons: dict[str, Daemon] = {}
        self.directory = directory or Path()
        self._keep = directory is not None
        self._workers = workers
        self._distributors = distributors
        self._twins = twins
        self._env = dict(env or {})
        self._env_of = env_of or {}
        self._networks = networks or {}
        self._supervise = supervise
        self._start_timeout_s = start_timeout_s
        self._held: set[str] = set()  # not to be restarted by the supervisor
        self._ends = Ends()
        self._stopping = threading.Event()
        self._lock = threading.RLock()
        self._watcher: threading.Thread | None = None
        host, _, port = (redis or "").partition(":")
        self._own_redis = redis is None
        self.redis_host = host or "127.0.0.1"
        ports = free_ports(1 + 2 * coordinators + (4 if twins else 2) * distributors + workers)
        self.redis_port = int(port) if port else ports[0]
        self._ports = iter(ports[1:])
        self._binds = {
            f"coordinator-{number + 1}": f"tcp://127.0.0.1:{next(self._ports)}" for number in range(coordinators)
        }
        named = [f"{name}@{address}" for name, address in self._binds.items()]
        self.coordinator_address = ",".join(named) if len(named) > 1 else self._binds[COORDINATOR]

    # ------------------------------------------------------------ life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises:
            FleetStartError: a daemon did not become ready; everything is stopped again.
        """
        if not self._keep:
            self.directory = Path(tempfile.mkdtemp(prefix="a2a-fleet-"))
        try:
            self._prepare()
            if self._own_redis:
                self.daemons[REDIS].start()
            self.wait_ready([REDIS] if self._own_redis else [])
            others = [name for name in self.daemons if name != REDIS]
            for name in others:
                self.daemons[name].start()
            self.wait_ready(others)
            if self._supervise:
                # This thread starts children, and they die with it: it ends only when all of them are gone.
                self._watcher = threading.Thread(target=self._watch, name="a2a-fleet-supervisor", daemon=True)
                self._watcher.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop in the order in which nobody misses anybody: workers, distributors, coordinator, Redis. Idempotent."""
        self._stopping.set()
        with self._lock:
            self._ends.over = True
            groups: dict[int, list[Daemon]] = {}
            for name, daemon in self.daemons.items():
                rank = next((i for i, role in enumerate(("worker", "distributor", "coordinator")) if role in name), 3)
                groups.setdefault(rank, []).append(daemon)
            try:
                for rank in sorted(groups):
                    stop_all(groups[rank], STOP_TIMEOUT_S)
            finally:
                for daemon in self.daemons.values():
                    daemon.signal(signal.SIGKILL)
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(5.0)
        if not self._keep and self.directory.name.startswith("a2a-fleet-"):
            shutil.rmtree(self.directory, ignore_errors=True)

    # ------------------------------------------------------------ single daemons

    def kill(self, name: str, number: int = signal.SIGKILL, *, restart: bool = True) -> int:
        """Send a signal (SIGKILL by default).

        Args:
            restart: False keeps the supervisor from starting it again; :meth:`restart` does.

        Returns:
            the process id that got the signal.
        """
        with self._lock:
            if not restart:
                self._held.add(name)
            pid = self.daemons[name].pid
            self._ends.sent(self.daemons[name], number)
            self.daemons[name].signal(number)
            return pid

    def ends(self) -> list[End]:
        """Daemons that ended so far and were not asked to, in the order in which that was seen."""
        with self._lock:
            for daemon in self.daemons.values():
                self._ends.note(daemon)
            return list(self._ends.unasked)

    def restart(self, name: str, *, wait: bool = True) -> None:
        """Start a daemon again that was stopped or killed."""
        with self._lock:
            self._held.discard(name)
            daemon = self.daemons[name]
            if not daemon.pid:
                self._ends.note(daemon)
                daemon.start()
        if wait:
            self.wait_ready([name])

    def wait_ready(self, names: list[str] | None = None) -> None:
        """Wait until daemons (all by default) say that they can do work.

        Raises:
            FleetStartError: one does not, or ended.
        """
        until = time.monotonic() + self._start_timeout_s
        for name in names if names is not None else list(self.daemons):
            daemon = self.daemons[name]
            while not self.ready(name):
                if not self._supervise_now() and not daemon.pid:
                    status = daemon.exit_status
                    raise FleetStartError(f"{name} ended with status {status}:\n{daemon.tail()}")
                if time.monotonic() >= until:
                    why = self.get(name, "/readyz")[1] if daemon.metrics_port else ""
                    text = f"{name} was not ready within {self._start_timeout_s:g} s {why.strip()}"
                    raise FleetStartError(f"{text}:\n{daemon.tail()}")
                time.sleep(PROBE_INTERVAL_S)

    def ready(self, name: str) -> bool:
        """Whether the daemon answers, and says that it can do work, or that it stands by for another one that can."""
        if name == REDIS:
            return self._redis_answers()
        if not self.daemons[name].pid:
            return False
        status, text = self.get(name, "/readyz")
        others = self._binds if name in self._binds else (name.removesuffix(TWIN), name.removesuffix(TWIN) + TWIN)
        return status == 200 or (status == 503 and "standing by" in text and self.acting(others) not in ("", name))

    def leader(self) -> str:
        """The coordinator that leads, "" if none says so."""
        return self.acting(self._binds)

    def acting(self, names: Iterable[str]) -> str:
        """Which of these daemons says that it can do work, "" if none."""
        return next((name for name in names if name in self.daemons and self.get(name, "/readyz")[0] == 200), "")

    def get(self, name: str, path: str) -> tuple[int, str]:
        """(status, body) of a page of the daemon's health server; (0, why) if it does not answer."""
        return self.daemons[name].get(path)

    # ------------------------------------------------------------ what users of it need

    @property
    def key_dir(self) -> Path:
        return self.directory / "keys"

    @property
    def pids(self) -> dict[str, int]:
        """Process id by daemon; 0 for one that is not running."""
        return {name: daemon.pid for name, daemon in self.daemons.items()}

    def names(self, role: str) -> list[str]:
        return [name for name in self.daemons if name.startswith(role)]

    def client_arguments(self, *, operator: bool = False) -> dict[str, Any]:
        """Arguments for FleetClient or AsyncFleetClient."""
        return {
            "addresses": self.coordinator_address,
            "key_dir": self.key_dir,
            "client_id": "operator" if operator else "client",
            "coordinator_id": COORDINATOR,
        }

    def pss_mb(self) -> dict[str, float]:
        """Memory of each daemon with its children."""
        return {name: pss_mb(pid) for name, pid in self.pids.items() if pid}

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds of each daemon with its children."""
        return {name: cpu_s(pid) for name, pid in self.pids.items() if pid}

    # ------------------------------------------------------------ inside

    def _prepare(self) -> None:
        """Directories, keys, and what each daemon is started with."""
        from a2a_zmq.security.keyring import KeyDirectory

        logs = self.directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        workers = [f"worker-{number + 1}" for number in range(self._workers)]
        distributors = [f"distributor-{number + 1}" for number in range(self._distributors)]
        roles = dict.fromkeys(self._binds, "coordinator") | {"client": "client", "operator": "operator"}
        roles |= dict.fromkeys(distributors, "distributor") | dict.fromkeys(workers, "worker")
        KeyDirectory(self.key_dir).init(roles)
        if self._own_redis:
            self._add(REDIS, "daemons.redis.main", {}, logs, metrics=False)
        for name, address in self._binds.items():
            self._add(name, "daemons.coordinator.main", {"COORDINATOR_ID": name, "A2A_BIND": address}, logs)
        addresses: dict[str, str] = {}
        for name in distributors:
            for process in (name, name + TWIN) if self._twins else (name,):
                address = f"tcp://127.0.0.1:{next(self._ports)}"
                addresses[name] = ",".join(filter(None, (addresses.get(name), address)))
                self._add(process, "daemons.distributor.main", {"DISTRIBUTOR_ID": name, "A2A_BIND": address}, logs)
        for number, name in enumerate(workers):
            above = distributors[number % len(distributors)]
            own = {"WORKER_ID": name, "DISTRIBUTOR_ID": above, "A2A_DISTRIBUTOR_ADDRESS": addresses[above]}
            self._add(name, "daemons.worker.main", own, logs)

    def _add(self, name: str, module: str, own: Mapping[str, str], logs: Path, *, metrics: bool = True) -> None:
        port = next(self._ports) if metrics else 0
        # Settings of the user's own fleet must not reach this one: only what is no setting of the suite is inherited.
        env = {key: value for key, value in os.environ.items() if not key.startswith(("A2A_", "REDIS_"))}
        for key in ("COORDINATOR_ID", "DISTRIBUTOR_ID", "WORKER_ID"):
            env.pop(key, None)
        source = str(Path(daemons.__file__).resolve().parent.parent)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (source, env.get("PYTHONPATH", ""))))
        env |= {
            "A2A_STATE_DIR": str(self.directory),
            "A2A_KEY_DIR": str(self.key_dir),
            "REDIS_HOST": self.redis_host,
            "REDIS_PORT": str(self.redis_port),
            "COORDINATOR_ID": COORDINATOR,
            "A2A_COORDINATOR_ADDRESS": self.coordinator_address,
            "A2A_LOG_LEVEL": "info",
            "A2A_LOG_FORMAT": "json",
        }
        if port:
            env["A2A_METRICS_PORT"] = str(port)
        network, host = self._networks.get(name, ("", "127.0.0.1"))
        if network:
            env["A2A_METRICS_HOST"] = host
        env |= self._env | dict(own) | dict(self._env_of.get(name, {}))
        self.daemons[name] = Daemon(
            name,
            module,
            env=env,
            log=logs / f"{name}.log",
            cwd=self.directory,
            metrics_port=port,
            metrics_host=host,
            network=network,
        )

    def _redis_answers(self) -> bool:
        with contextlib.suppress(OSError):
            address = (self.redis_host, self.redis_port)
            with socket.create_connection(address, PROBE_TIMEOUT_S) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        return False

    def _supervise_now(self) -> bool:
        return self._watcher is not None and not self._stopping.is_set()

    def _watch(self) -> None:
        """Restart what ended, until everything is stopped."""
        gone: dict[str, float] = {}  # when we saw that it had ended
        while not self._stopping.wait(WATCH_INTERVAL_S):
            with self._lock:
                for name, daemon in self.daemons.items():
                    now = time.monotonic()
                    self._ends.note(daemon)
                    if daemon.pid or name in self._held or self._stopping.is_set():
                        gone.pop(name, None)
                        continue
                    if now < gone.setdefault(name, now) + RESTART_AFTER_S:
                        continue
                    lived_s = now - daemon.started_at
                    if lived_s >= STABLE_S or lived_s >= RESTART_PAUSE_S * daemon.starts:
                        daemon.start()
        while any(daemon.pid for daemon in self.daemons.values()):
            time.sleep(WATCH_INTERVAL_S)
