"""The shared state of a daemon that owns a section: store and leases on Redis, and what a new owner reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import INBOX, Loaded, Section, StateStore
from a2a_zmq.protocol.message import Role
from a2a_zmq.security.identity import Identity
from a2a_zmq.state.leases import RedisLeases
from a2a_zmq.state.redis_store import RedisStore
from a2a_zmq.state.section import RetentionPolicy
from a2a_zmq.state.takeover import take_section
from daemons.runtime import keys, permissions
from daemons.runtime.breaker import Breaker
from daemons.runtime.launch import Daemon
from daemons.runtime.shell import read_clock
from daemons.runtime.spool import SqliteSpool
from daemons.runtime.spooling import SpoolingStore
from daemons.settings import OwnerSettings


async def open_store(daemon: Daemon, settings: OwnerSettings) -> tuple[SpoolingStore, RedisLeases]:
    """Store and leases, once Redis answers.

    Raises:
        StoreUnavailable: it does not answer in time, or refuses us, or something that we need.
        SpoolBroken, SpoolRefused: what an earlier process kept cannot be read.
        ConfigError: our keys are not acceptable, or cannot be made; a file for TLS cannot be used.
    """
    keys.make_directory(settings)
    config = settings.redis_config()
    policy = RetentionPolicy(result_ttl_s=float(settings.result_ttl_s))
    store = RedisStore(config, name=settings.agent_id, policy=policy)
    try:
        config.tls_context()  # a file that is missing is not worth waiting
        await wait_for_store(store, settings.redis_wait_s, daemon.log)
        await permissions.require(config, permissions.STATE)
        _ = daemon.identity  # a new agent's keys are made now that its other settings have proved good
    except BaseException:
        await store.close()
        raise
    leases = RedisLeases(config, name=settings.agent_id)
    daemon.on_exit.append(leases.close)
    spool = SqliteSpool(
        settings.state_dir / "spool" / f"{settings.agent_id}.db",
        settings.spool_max_mb * 1024 * 1024,
        on_damage=lambda path: daemon.log.error("spool_damaged", set_aside=str(path)),
    )
    await spool.look()
    off = partial(spool_off, daemon.identity, settings)
    rests = daemon.identity.role is Role.COORDINATOR  # it is where work comes in
    spooling = SpoolingStore(store, spool, off=off, new_id=daemon.new_id, rng=random.random, rests=rests)

    def use(new: OwnerSettings) -> None:
        spool.limit = new.spool_max_mb * 1024 * 1024
        spooling.refused = ""  # it is tried again with the next write
        spooling.changed()

    daemon.reloader.use.append(use)
    return spooling, leases


def spool_off(identity: Identity, settings: OwnerSettings) -> str:
    """The setting ``spool``: why nothing is kept on our disk while Redis is away; "" where it is.

    ``auto``: not where another coordinator is known, that is, has keys. It may take over when we cannot renew our
    lease, and then clients should turn to it instead of leaving work with us that it cannot see. Whether it runs at
    this moment does not matter: it may be started on a host that we hear nothing of.
    """
    if settings.spool != "auto":
        return "" if settings.spool == "on" else "the setting says so"
    others = sorted(set(identity.agents_of(Role.COORDINATOR)) - {settings.agent_id})
    if identity.role is not Role.COORDINATOR or not others:
        return ""
    return f"{', '.join(others)} may take over (known by keys)"


async def wait_for_store(store: StateStore, wait_s: float, log: Any) -> None:
    """Wait until Redis answers.

    Raises:
        StoreUnavailable: it did not within ``wait_s``, or never will (wrong password).
    """
    until = read_clock().mono + wait_s
    breaker = Breaker(random.random)
    while True:
        try:
            await store.ping()
            return
        except StoreUnavailable as error:
            if error.fatal or read_clock().mono > until:
                raise
            if breaker.closed:
                log.warning("waiting_for_redis", why=str(error))
            breaker.failed(error.reason)
            await asyncio.sleep(breaker.pause_s())


async def load_own(store: StateStore, section: Section) -> dict[Section, Loaded]:
    """What a new owner of a distributor's section is given; and how far the coordinator's was before that was read."""
    await store.register_distributor(section.distributor_id)
    store.rebase(section)
    version, _ = await store.versions(section.distributor_id)
    told = Loaded(version, 0, "", {}, {})
    return {Section(section.distributor_id, "coordinator"): told, section: await store.load(section)}


async def load_all(
    store: StateStore, known: Iterable[str], fence: int, new_id: Callable[[], str]
) -> dict[Section, Loaded]:
    """What a new leader is given: the coordinator's section of every registered distributor, then the inbox.

    Each of those is taken with our fence first: from then on a former leader that does not know yet cannot write there.
    In the inbox our fence stands since the lease was taken. So it is read last: if it is not there any more, the state
    was lost while we read, and the sections may be from before or after that.

    Args:
        known: distributors that were known before; the registry may have been lost with Redis, then it gets them again.
    """
    loaded = {}
    registered = set(await store.distributors())
    for distributor_id in sorted(set(known) - registered):
        await store.register_distributor(distributor_id)
    for distributor_id in sorted(registered.union(known)):
        section = Section(distributor_id, "coordinator")
        loaded[section] = await take_section(store, section, fence, new_id())
    inbox = Section(INBOX, "coordinator")
    store.rebase(inbox)
    loaded[inbox] = await store.load(inbox)
    return loaded
