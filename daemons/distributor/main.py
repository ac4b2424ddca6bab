"""``a2a-distributor``: load settings → open transport and store → build the core → run."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from a2a_zmq.interfaces import Section
from a2a_zmq.protocol.message import Role
from a2a_zmq.state.hints import RedisHints
from daemons.distributor import graph
from daemons.distributor.config import DistributorConfig
from daemons.distributor.core import DistributorCore
from daemons.runtime.launch import Daemon
from daemons.runtime.policies import PolicyRunner
from daemons.runtime.reconfigured import Reconfigured
from daemons.runtime.serving import serve
from daemons.runtime.stores import load_own, open_store
from daemons.settings import DistributorSettings
from daemons.settings_sources import command_line


def config_of(settings: DistributorSettings, *, has_policy: bool) -> DistributorConfig:
    return DistributorConfig(
        address=settings.hub_address(),
        adoption_grace_s=settings.adoption_grace_ms / 1000,
        max_attempts=settings.max_attempts,
        retry_budget_share=settings.retry_budget_percent / 100,
        retry_budget_per_s=settings.retry_budget_per_s,
        policy_timeout_s=settings.policy_timeout_ms / 1000 if has_policy else 0.0,
    )


async def open_distributor(settings: DistributorSettings) -> Daemon:
    daemon = Daemon(settings, Role.DISTRIBUTOR)
    policy = await PolicyRunner.open("retry_policy", settings.retry_policy, daemon.on_exit)
    store, leases = await open_store(daemon, settings)
    core = DistributorCore(
        settings.distributor_id,
        settings.coordinator_id,
        config=config_of(settings, has_policy=policy is not None),
        new_id=daemon.new_id,
        rng=random.random,
        meter=daemon.meter,
        tracer=daemon.tracer,
    )
    # A session with each coordinator: who leads may change at any time.
    for address in daemon.usable(settings.spoke_addresses(), settings.coordinator_id):
        daemon.add_spoke(core, settings.coordinator_id, [address], core.claim)
    daemon.add_hub(core, settings.hub_address(), core.closed)
    await daemon.assemble(core, graph.supervisor(daemon.meter, daemon.steps), store)

    def use(new: DistributorSettings) -> None:
        daemon.shell.event(Reconfigured(config_of(new, has_policy=policy is not None)))

    daemon.reloader.use.append(use)
    if policy is not None:
        policy.attach(daemon)
    section = Section(settings.distributor_id, "distributor")
    daemon.own(section, leases, lambda _held: load_own(store, section), store)
    hints = RedisHints(settings.redis_config(), name=settings.distributor_id)
    daemon.listen(hints, store, lambda: [settings.distributor_id], "coordinator")
    return daemon


def main(argv: Sequence[str] | None = None) -> int:
    return serve(command_line(DistributorSettings, argv), Role.DISTRIBUTOR, open_distributor)


if __name__ == "__main__":
    sys.exit(main())
