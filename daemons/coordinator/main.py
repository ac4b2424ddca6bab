"""``a2a-coordinator``: load settings → open transport and store → build the core → run."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

from a2a_zmq.interfaces import INBOX, Held, Loaded, Section
from a2a_zmq.protocol.message import Role
from a2a_zmq.state.hints import RedisHints
from daemons.coordinator import graph
from daemons.coordinator.config import CoordinatorConfig
from daemons.coordinator.core import CoordinatorCore
from daemons.runtime.launch import Daemon
from daemons.runtime.policies import PolicyRunner
from daemons.runtime.reconfigured import Reconfigured
from daemons.runtime.serving import serve
from daemons.runtime.shell import read_clock
from daemons.runtime.stores import load_all, open_store
from daemons.settings import CoordinatorSettings
from daemons.settings_sources import command_line


def config_of(settings: CoordinatorSettings, *, has_policy: bool) -> CoordinatorConfig:
    return CoordinatorConfig(
        max_live_tasks=settings.max_live_tasks,
        max_live_bytes=settings.max_live_mb * 1024 * 1024,
        max_payload_bytes=settings.max_payload_bytes,
        distributor_failover_s=settings.distributor_failover_s,
        policy_timeout_s=settings.policy_timeout_ms / 1000 if has_policy else 0.0,
    )


async def open_coordinator(settings: CoordinatorSettings) -> Daemon:
    daemon = Daemon(settings, Role.COORDINATOR)
    policy = await PolicyRunner.open("placement_policy", settings.placement_policy, daemon.on_exit)
    store, leases = await open_store(daemon, settings)
    core = CoordinatorCore(
        settings.coordinator_id,
        config=config_of(settings, has_policy=policy is not None),
        new_id=daemon.new_id,
        rng=random.random,
        meter=daemon.meter,
        tracer=daemon.tracer,
    )
    daemon.add_hub(core, settings.hub_address())
    daemon.pages["/sd"] = lambda: core.targets(daemon.whereabouts(), read_clock())
    await daemon.assemble(core, graph.supervisor(daemon.meter, daemon.steps), store)

    def use(new: CoordinatorSettings) -> None:
        daemon.shell.event(Reconfigured(config_of(new, has_policy=policy is not None)))

    daemon.reloader.use.append(use)
    if policy is not None:
        policy.attach(daemon)

    async def load(held: Held) -> dict[Section, Loaded]:
        return await load_all(store, core.distributors(), held.fence, daemon.new_id)

    daemon.own(Section(INBOX, "coordinator"), leases, load, store)
    hints = RedisHints(settings.redis_config(), name=settings.coordinator_id)
    daemon.listen(hints, store, core.distributors, "distributor")
    return daemon


def main(argv: Sequence[str] | None = None) -> int:
    return serve(command_line(CoordinatorSettings, argv), Role.COORDINATOR, open_coordinator)


if __name__ == "__main__":
    sys.exit(main())
