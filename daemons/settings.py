"""Settings of every daemon: what there is, its default, and the relations that must hold.

A setting has one name everywhere: field ``state_dir`` is TOML key ``state_dir``, flag ``--state-dir`` and environment
variable ``A2A_STATE_DIR``; only the names in ``settings_forms.UNPREFIXED`` come without the prefix. Precedence: flags,
environment, ``.env`` of the working directory, TOML file, default (:mod:`daemons.settings_sources` reads them).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationInfo, model_validator

from a2a_zmq.config import A2AConfig, is_local, split_address
from a2a_zmq.llm.providers import Providers
from daemons.settings_forms import (
    Address,
    AgentIdText,
    Complaint,
    FilePath,
    Labels,
    NamedAddresses,
    Port,
    ScrapeTarget,
    Texts,
    default_state_dir,
    number_of,
    require,
)
from daemons.settings_keys import KeySettings
from daemons.settings_redis import RedisConnection
from daemons.settings_traces import TraceSettings

# Default ports. Agent ids that end in a number n get base + n - 1 (distributor-1 → 5560, worker-2 → 9571),
# ids without a number get the base, and so do coordinators beyond the tenth: the distributors' range begins there.
COORDINATOR_PORT: Final = 5550
DISTRIBUTOR_PORT: Final = 5560
COORDINATOR_PORTS: Final = DISTRIBUTOR_PORT - COORDINATOR_PORT
METRICS_PORTS: Final = {"coordinator": 9550, "distributor": 9560, "worker": 9570}


class Settings(KeySettings):
    """What every process of the fleet has.

    ``live`` of each class names those of its settings that SIGHUP brings into use; others need a restart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    role: ClassVar[str] = ""
    live: ClassVar[tuple[str, ...]] = ()

    state_dir: FilePath = Field(
        default_factory=default_state_dir,
        description="directory for spools, embedded Redis data and keys; default /var/lib/a2a-zmq on hosts with "
        "/etc/a2a-zmq, else ~/.local/state/a2a-zmq",
    )
    key_dir: FilePath | None = Field(None, description="directory with the fleet's keys; default `<state_dir>/keys`")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe level that is logged"
    )
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")

    heartbeat_interval_ms: int = Field(200, ge=20, le=60_000, description="milliseconds between heartbeats of an agent")
    suspect_after_ms: int = Field(500, ge=40, description="silence after which a peer is suspected")
    dead_after_ms: int = Field(800, ge=60, description="silence after which a peer is taken for dead")
    reconnect_grace_ms: int = Field(
        150, ge=0, le=60_000, description="time to come back after a broken connection before a peer is taken for dead"
    )
    max_payload_bytes: int = Field(
        262_144,
        ge=1024,
        le=786_432,
        description="largest task payload or result as JSON (a frame carries at most 1 MiB)",
    )

    @model_validator(mode="after")
    def _relations(self, info: ValidationInfo) -> Self:
        return require(self, self.complaints(), info)

    def complaints(self) -> Iterator[Complaint]:
        """What does not fit together."""
        yield from super().complaints()
        if not self.heartbeat_interval_ms * 2 <= self.suspect_after_ms < self.dead_after_ms:
            yield Complaint(
                ("heartbeat_interval_ms", "suspect_after_ms", "dead_after_ms"),
                "need 2 x heartbeat_interval_ms <= suspect_after_ms < dead_after_ms, "
                f"got {self.heartbeat_interval_ms}, {self.suspect_after_ms}, {self.dead_after_ms}",
            )
        if not self.use_mtls:
            far = [text for text in self.addresses() if not is_local(split_address(text)[1])]
            if far:
                yield Complaint(("use_mtls",), f"use_mtls=false is refused for {far[0]}: other hosts could reach it")

    def addresses(self) -> tuple[str, ...]:
        """Every A2A address this process binds or connects to."""
        hub = self.hub_address()
        return ((hub,) if hub else ()) + self.spoke_addresses()

    @property
    def agent_id(self) -> str:
        """This process's own id."""
        return str(getattr(self, f"{self.role}_id"))

    @property
    def keys(self) -> Path:
        """Directory of keys."""
        return self.key_dir or self.state_dir / "keys"

    def a2a_config(self) -> A2AConfig:
        """How this agent talks to others, as the library takes it."""
        return A2AConfig(
            agent_id=self.agent_id,
            use_mtls=self.use_mtls,
            cert_path=self.cert_path,
            key_path=self.key_path,
            token_secret=self.token_secret,
            key_dir=None if self.cert_path or self.token_secret else self.keys,
            bind_address=self.hub_address(),
            connect_addresses=self.spoke_addresses(),
            heartbeat_interval_ms=self.heartbeat_interval_ms,
            suspect_after_ms=self.suspect_after_ms,
            dead_after_ms=self.dead_after_ms,
            reconnect_grace_ms=self.reconnect_grace_ms,
        )

    def hub_address(self) -> str | None:
        """Where this process listens for its peers, if it does; defaults worked out."""
        return None

    def spoke_addresses(self) -> tuple[str, ...]:
        """Which hubs it connects to, in order of preference (``ADDRESS`` or ``NAME@ADDRESS``); defaults worked out."""
        return ()


class RedisUser(RedisConnection, Settings):
    """What those have that use Redis or Valkey; of workers only those that run graphs do, for checkpoints."""


class DaemonSettings(TraceSettings, Settings):
    """What every agent daemon has besides."""

    live: ClassVar[tuple[str, ...]] = ("log_level", "drain_timeout_s")
    metrics_host: str = Field(
        "127.0.0.1", description="address of the HTTP port with /metrics, /livez, /readyz and /state"
    )
    metrics_port: Port | None = Field(
        None,
        description="its port, 0 for any free one; default coordinator-n 9549+n, distributor-n 9559+n, worker-n 9569+n",
    )
    metrics_advertise: ScrapeTarget = Field(
        "",
        description="HOST or HOST:PORT by which Prometheus reaches it; default metrics_host, for 0.0.0.0 our host name",
    )
    supervision_interval_ms: int = Field(
        1000,
        ge=20,
        le=60_000,
        description="milliseconds between runs of the supervision graph (exceptional events run it within 50)",
    )
    supervision_nodes: str = Field(
        "", description="nodes of your own in the supervision graph, a dict, as `module:nodes` or `file.py:nodes`"
    )
    live_after_ms: int = Field(
        5000, ge=1000, description="age of the main loop's last beat at which /livez answers 503"
    )
    drain_timeout_s: float = Field(10.0, gt=0, description="seconds that SIGTERM gives running work to finish")

    @property
    def metrics_address(self) -> tuple[str, int]:
        """(host, port) of the health server, the default port worked out."""
        if self.metrics_port is not None:
            return self.metrics_host, self.metrics_port
        return self.metrics_host, METRICS_PORTS[self.role] + number_of(self.agent_id) - 1


class OwnerSettings(DaemonSettings, RedisUser):
    """Coordinator and distributor: they own a section of the shared state."""

    live: ClassVar[tuple[str, ...]] = ("spool_max_mb", "policy_timeout_ms")
    bind: Address | None = Field(
        None,
        description="address to listen on; default coordinator-n tcp://127.0.0.1:5549+n (n up to 10, else 5550), "
        "distributor-n tcp://127.0.0.1:5559+n",
    )
    lease_ttl_ms: int = Field(5000, ge=500, description="time to live of the lease on the shared state")
    spool: Literal["auto", "on", "off"] = Field(
        "auto",
        description="keep what Redis cannot take while it is away on the local disk, and go on: auto, on or off; "
        "auto is off on a coordinator that has standbys",
    )
    spool_max_mb: int = Field(
        256, ge=1, le=65_536, description="bound of that in MB; above three quarters no new work is taken"
    )
    result_ttl_s: int = Field(86_400, ge=60, description="seconds for which results stay readable")
    policy_timeout_ms: int = Field(
        200,
        ge=1,
        le=600_000,
        description="milliseconds that a policy gets for a batch of tasks before these go the built-in way",
    )

    def complaints(self) -> Iterator[Complaint]:
        yield from super().complaints()
        if self.lease_ttl_ms <= 3 * self.heartbeat_interval_ms:
            yield Complaint(
                ("lease_ttl_ms", "heartbeat_interval_ms"),
                f"lease_ttl_ms ({self.lease_ttl_ms}) must be more than "
                f"3 x heartbeat_interval_ms ({self.heartbeat_interval_ms})",
            )


class CoordinatorSettings(OwnerSettings):
    """Settings of ``a2a-coordinator``."""

    role = "coordinator"
    live: ClassVar[tuple[str, ...]] = ("max_live_tasks", "max_live_mb", "distributor_failover_s")
    coordinator_id: AgentIdText = Field("coordinator-1", description="id of this coordinator")

    max_live_tasks: int = Field(
        500_000, ge=1, description="unfinished tasks that are accepted before new ones are refused as BUSY"
    )
    max_live_mb: int = Field(
        512, ge=1, description="MB of unfinished tasks, with payloads, beyond which new ones are BUSY"
    )
    distributor_failover_s: float = Field(30.0, ge=0, description="seconds away until others get its tasks; 0: never")
    placement_policy: str = Field(
        "", description="LangGraph graph that places tasks, as `module:graph` or `file.py:graph`; built in if empty"
    )

    def hub_address(self) -> str:
        offset = number_of(self.coordinator_id) - 1
        return self.bind or f"tcp://127.0.0.1:{COORDINATOR_PORT + (offset if offset < COORDINATOR_PORTS else 0)}"


class DistributorSettings(OwnerSettings):
    """Settings of ``a2a-distributor``."""

    role = "distributor"
    live: ClassVar[tuple[str, ...]] = ("max_attempts", "retry_budget_percent", "retry_budget_per_s")
    distributor_id: AgentIdText = Field("distributor-1", description="id of this distributor")
    coordinator_id: AgentIdText = Field("coordinator-1", description="id of the coordinator it reports to")
    coordinator_address: NamedAddresses = Field(
        (f"tcp://127.0.0.1:{COORDINATOR_PORT}",),
        description="coordinator, as ADDRESS or NAME@ADDRESS; several, comma-separated, where standbys run",
    )
    adoption_grace_ms: int = Field(
        3000,
        ge=0,
        le=60_000,
        description="time that workers have to come back with their running tasks after a restart",
    )
    max_attempts: int = Field(3, ge=1, le=100, description="attempts of a task that names no number itself")
    retry_budget_percent: int = Field(
        20, ge=0, le=1_000_000, description="failures repeated at once, in percent of the successes of their task type"
    )
    retry_budget_per_s: int = Field(
        10, ge=1, le=1_000_000, description="and so many a second besides; those beyond both are repeated more slowly"
    )
    retry_policy: str = Field(
        "",
        description="LangGraph graph that decides on failed attempts, as `module:graph` or `file.py:graph`; "
        "built in if empty",
    )

    def complaints(self) -> Iterator[Complaint]:
        yield from super().complaints()
        names = [split_address(text)[0] or self.coordinator_id for text in self.coordinator_address]
        if len(set(names)) < len(names):
            yield Complaint(
                ("coordinator_address",),
                "coordinator_address: each of several coordinators needs its name, as NAME@ADDRESS",
            )

    def hub_address(self) -> str:
        return self.bind or f"tcp://127.0.0.1:{DISTRIBUTOR_PORT + number_of(self.distributor_id) - 1}"

    def spoke_addresses(self) -> tuple[str, ...]:
        return self.coordinator_address


class WorkerSettings(DaemonSettings, RedisUser):
    """Settings of ``a2a-worker``."""

    role = "worker"
    live: ClassVar[tuple[str, ...]] = ("worker_max_held", "worker_async_slots", "llm_providers")
    worker_id: AgentIdText = Field("worker-1", description="id of this worker")
    distributor_id: AgentIdText = Field("distributor-1", description="id of the distributor it works for")
    distributor_address: NamedAddresses | None = Field(
        None,
        description="its address, several where standbys of it run; default tcp://127.0.0.1:(5559+n) for distributor-n",
    )
    worker_slots: int = Field(
        default_factory=lambda: max(1, min(os.cpu_count() or 1, 32)),
        ge=1,
        le=1024,
        description="processor-bound tasks that run at a time, each in a child process; default one a core, up to 32",
    )
    worker_spare_children: int = Field(
        2,
        ge=0,
        le=64,
        description="child processes kept ready beside busy ones, also while idle: what was killed runs again at once",
    )
    worker_thread_slots: int = Field(4, ge=1, le=1024, description="tasks of thread handlers that run at the same time")
    worker_async_slots: int = Field(
        1024, ge=1, le=100_000, description="tasks of async handlers that run at the same time"
    )
    # All of them, with the longest ids, are named in READY, which is one frame (1 MiB).
    worker_max_held: int = Field(
        1024, ge=1, le=5000, description="tasks that the worker holds at most, running and waiting"
    )
    worker_handlers: Texts = Field(
        (),
        description="modules with @task handlers, or module:function, comma-separated; added to the built-in ones",
    )
    worker_graphs: Texts = Field(
        (),
        description="LangGraph projects (langgraph.json), comma-separated; each graph is the task type graph:NAME",
    )
    checkpoint_keep: int = Field(20, ge=1, le=100_000, description="checkpoints that are kept of each thread")
    checkpoint_ttl_s: int = Field(
        7 * 86_400, ge=60, description="seconds after its last step for which a thread's checkpoints are kept"
    )
    question_ttl_s: int = Field(
        90 * 86_400, ge=60, description="seconds after its question for which a run can go on with the answer"
    )
    stream_max_kb: int = Field(4096, ge=64, le=1_048_576, description="KiB kept of what a graph's task streams")
    stream_ttl_s: int = Field(3600, ge=60, description="seconds after its last event for which that is kept")
    llm_providers: Providers = Field(
        {}, description="chat models for graphs and handlers: a table for each, or a TOML file of tables"
    )
    worker_labels: Labels = Field({}, description="labels that tasks may ask for, as name=value, comma-separated")

    def complaints(self) -> Iterator[Complaint]:
        yield from super().complaints()
        for name, address in map(split_address, self.distributor_address or ()):
            if name not in (None, self.distributor_id):
                yield Complaint(
                    ("distributor_address", "distributor_id"),
                    f"distributor_address: {address} is {name}'s, not {self.distributor_id}'s",
                )

    def spoke_addresses(self) -> tuple[str, ...]:
        default = f"tcp://127.0.0.1:{DISTRIBUTOR_PORT + number_of(self.distributor_id) - 1}"
        return self.distributor_address or (default,)


class ClientSettings(TraceSettings, RedisUser):
    """Settings of ``a2actl`` and of programs that submit work."""

    role = "client"
    client_id: AgentIdText = Field("client", description="name of the identity whose keys are used")
    coordinator_id: AgentIdText = Field("coordinator-1", description="id of the coordinator to talk to")
    coordinator_address: NamedAddresses = Field(
        (f"tcp://127.0.0.1:{COORDINATOR_PORT}",),
        description="coordinator, as ADDRESS or NAME@ADDRESS; several, comma-separated, where standbys run",
    )

    def spoke_addresses(self) -> tuple[str, ...]:
        return self.coordinator_address


class RedisServerSettings(RedisUser):
    """Settings of ``a2a-redis``, the embedded server."""

    role = "redis"
    redis_appendfsync: Literal["always", "everysec", "no"] = Field(
        "everysec",
        description="when the append-only file is forced to disk: always loses nothing, everysec at most a second",
    )
    redis_maxmemory_mb: int = Field(0, ge=0, description="memory bound in MB; 0 for none (nothing is ever evicted)")

    @property
    def agent_id(self) -> str:
        return "redis"


MODELS: Final[tuple[type[Settings], ...]] = (
    CoordinatorSettings,
    DistributorSettings,
    WorkerSettings,
    ClientSettings,
    RedisServerSettings,
)


def live_settings(model: type[Settings]) -> frozenset[str]:
    """Which of its settings SIGHUP brings into use."""
    return frozenset(name for kind in model.__mro__ for name in vars(kind).get("live", ()))
