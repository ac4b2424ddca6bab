"""The real core of a simulated process, and its store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from a2a_zmq.ids import make_id_factory
from a2a_zmq.protocol.message import Role
from daemons.coordinator.config import CoordinatorConfig
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.config import DistributorConfig
from daemons.distributor.core import DistributorCore
from daemons.runtime.contract import Core, NoMeter
from daemons.runtime.spooling import SpoolingStore
from daemons.worker.config import WorkerConfig
from daemons.worker.core import WorkerCore
from daemons.worker.kinds import TaskKind
from tests.simulation import limits

if TYPE_CHECKING:
    from tests.simulation.agent import Agent


def make_core(agent: Agent) -> tuple[Core, SpoolingStore | None]:
    """By its role; a worker has no store."""
    fleet, rng, new_id = agent.fleet, agent.fleet.rng, id_factory(agent)
    if agent.role is Role.COORDINATOR:
        core: Core = CoordinatorCore(
            agent.name,
            config=CoordinatorConfig(
                distributor_failover_s=fleet.failover_s, policy_timeout_s=0.1 if fleet.policy else 0.0
            ),
            new_id=new_id,
            rng=rng.random,
            meter=NoMeter(),
        )
        return _tight(agent, core), _store(agent)
    if agent.role is Role.DISTRIBUTOR:
        core = DistributorCore(
            agent.name,
            agent.upstreams[0].name,
            config=DistributorConfig(policy_timeout_s=0.1 if fleet.policy else 0.0),
            new_id=new_id,
            rng=rng.random,
            meter=NoMeter(),
        )
        return _tight(agent, core), _store(agent)
    work = TaskKind("process", graph="v1") if fleet.graphs else TaskKind("async")
    config = WorkerConfig() if fleet.limits is None else limits.worker_config(fleet.limits)
    hub = agent.upstreams[0].name
    core = WorkerCore(agent.name, hub, config=config, task_types={"work": work}, rng=rng, meter=NoMeter())
    return core, None


def id_factory(agent: Agent) -> Callable[[], str]:
    return make_id_factory(agent.fleet.rng.randbytes)


def _store(agent: Agent) -> SpoolingStore:
    fleet = agent.fleet
    return SpoolingStore(
        fleet.store(agent),
        agent.disk,
        off=lambda: "" if fleet.spools(agent) else "another may take over",
        new_id=id_factory(agent),
        rng=fleet.rng.random,
    )


def _tight(agent: Agent, core: Core) -> Core:
    if agent.fleet.limits is not None:
        limits.tighten(core, agent.fleet.limits)
    return core
