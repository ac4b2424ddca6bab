"""The shared state of a daemon that owns a section: store and leases on Redis, and what a new owner reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import INBOX, Loaded, Section, StateStore
from a2a_zmq.state.leases import RedisLeases
from a2a_zmq.state.redis_store import RedisStore
from a2a_zmq.state.section import RetentionPolicy
from a2a_zmq.state.takeover import take_section
from daemons.runtime.launch import Daemon
from daemons.runtime.shell import read_clock
from daemons.settings import OwnerSettings


async def wait_for_store(store: StateStore, wait_s: float, log: Any) -> None:
    """Wait until Redis answers.

    Raises:
        StoreUnavailable: it did not within ``wait_s``, or never will (wrong password).
    """
    until = read_clock().mono + wait_s
    while True:
        try:
            await store.ping()
            return
        except StoreUnavailable as error:
            if error.fatal or read_clock().mono > until:
                raise
            log.warning("waiting_for_redis", why=str(error))
            await asyncio.sleep(0.1)


async def open_store(daemon: Daemon, settings: OwnerSettings) -> tuple[RedisStore, RedisLeases]:
    """Store and leases, once Redis answers.

    Raises:
        StoreUnavailable: it does not answer in time, or refuses us.
        ConfigError: our keys are not acceptable, or cannot be made.
    """
    config = settings.redis_config()
    policy = RetentionPolicy(result_ttl_s=float(settings.result_ttl_s))
    store = RedisStore(config, name=settings.agent_id, policy=policy)
    try:
        await wait_for_store(store, settings.redis_wait_s, daemon.log)
        _ = daemon.identity  # a new agent's keys are made now that its other settings have proved good
    except BaseException:
        await store.close()
        raise
    leases = RedisLeases(config, name=settings.agent_id)
    daemon.on_exit.append(leases.close)
    return store, leases


async def load_own(store: StateStore, section: Section) -> dict[Section, Loaded]:
    """What a new owner of a distributor's section is given."""
    await store.register_distributor(section.distributor_id)
    store.rebase(section)
    return {section: await store.load(section)}


async def load_all(
    store: StateStore, known: Iterable[str], fence: int, new_id: Callable[[], str]
) -> dict[Section, Loaded]:
    """What a new leader is given: the inbox, then the coordinator's section of every registered distributor.

    Each of those is taken with our fence first: from then on a former leader that does not know yet cannot write there.

    Args:
        known: distributors that were known before; the registry may have been lost with Redis, then it gets them again.
    """
    inbox = Section(INBOX, "coordinator")
    store.rebase(inbox)
    loaded = {inbox: await store.load(inbox)}
    registered = set(await store.distributors())
    for distributor_id in sorted(set(known) - registered):
        await store.register_distributor(distributor_id)
    for distributor_id in sorted(registered.union(known)):
        section = Section(distributor_id, "coordinator")
        loaded[section] = await take_section(store, section, fence, new_id())
    return loaded
