"""Fenced leases on Redis or Valkey; the rules are in :mod:`a2a_zmq.state.lease_rules`."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import StateLost, StoreUnavailable, VersionConflict
from a2a_zmq.interfaces import Held, Section
from a2a_zmq.state import keys
from a2a_zmq.state.lease_rules import (
    LeaseKeeper,
    LeaseStep,
    decide,
    lease_value,
    parse_lease_value,
    safe_until,
)
from a2a_zmq.state.link import Link
from a2a_zmq.state.section import LEASED_AT, number
from a2a_zmq.state.wire import Command, first_error, to_state_error

__all__ = ["LeaseKeeper", "LeaseStep", "RedisLeases"]

_ATTEMPTS: Final = 6
_REPLIES_LOST_MAX: Final = 2
_PAUSE_S: Final = 0.01

# Compared and changed in one step: between a GET and a PEXPIRE the lease could become somebody else's.
_RENEW: Final = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('PEXPIRE',KEYS[1],ARGV[2]) end return 0"
_RELEASE: Final = "if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0"


class RedisLeases:
    """Implements :class:`a2a_zmq.interfaces.LeaseStore` on a connection that large writes cannot hold up."""

    def __init__(
        self,
        config: RedisConfig,
        *,
        name: str = "",
        mono: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Callable[[], float] = random.random,
        new_epoch: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        """
        Args:
            name: of the agent, shown by ``CLIENT LIST``.
            mono: seconds of the monotonic clock, on which ``safe_until`` lies.
            rng: uniform in [0, 1), for jitter.
        """
        self._link = Link(config, f"{name}:lease" if name else "")
        self._mono = mono
        self._wall = wall
        self._rng = rng
        self._new_epoch = new_epoch
        # WATCH belongs to the connection: two acquisitions at a time would take it from each other.
        self._turn = asyncio.Lock()

    async def acquire(
        self,
        section: Section,
        owner: str,
        ttl_ms: int,
        *,
        steal_from: str | None = None,
        min_fence: int = 0,
        new_epoch: bool = False,
        expect_fence: int = 0,
    ) -> Held | None:
        async with self._turn:
            replies_lost = 0
            found_fence: int | None = None
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(_PAUSE_S * attempt * self._rng())
                asked_at = self._mono()
                lease, fence, epoch, watched_on = await self._look(section)
                # Of the first look: a later one may see what an attempt of ours wrote whose reply was lost.
                found_fence = fence if found_fence is None else found_fence
                grant = decide(
                    lease,
                    fence,
                    owner,
                    steal_from=steal_from,
                    min_fence=min_fence,
                    new_epoch=new_epoch,
                    key=keys.lease(section),
                )
                if grant is None:
                    return None
                if lease is None and fence < expect_fence:
                    raise StateLost(keys.section_name(section), expect_fence, fence, "its fence")
                held = Held(keys.lease(section), owner, grant.fence, safe_until(asked_at, ttl_ms), found_fence)
                if not grant.write:
                    if await self.renew(section, held, ttl_ms):
                        return held
                    continue
                epoch = "" if epoch and not new_epoch else self._new_epoch()
                try:
                    if await self._take(watched_on, section, held, ttl_ms, epoch):
                        return held
                except StoreUnavailable:
                    # If it was carried out after all, the next look finds the lease ours.
                    replies_lost += 1
                    if replies_lost >= _REPLIES_LOST_MAX:
                        raise
            raise VersionConflict(f"lease of {keys.section_name(section)}: {_ATTEMPTS} attempts met another writer")

    async def _look(self, section: Section) -> tuple[str | None, int, str, int]:
        """Lease text, recorded fence and epoch, all WATCHed, and the connection on which they are.

        The lease is not ours here, so no renewal of our own can get between and void the transaction.
        """
        lease, header = keys.lease(section), keys.header(section)
        commands: list[Command] = [
            ("UNWATCH",),
            ("WATCH", lease, header),
            ("GET", lease),
            ("HMGET", header, "fence", "epoch"),
        ]
        _, _, value, (fence, epoch) = await self._link.ask(commands, again=True)
        text = value.decode(errors="replace") if value is not None else None
        return text, number(fence, header, "fence"), (epoch or b"").decode(errors="replace"), self._link.generation

    async def _take(self, watched_on: int, section: Section, held: Held, ttl_ms: int, epoch: str) -> bool:
        header: list[Any] = ["fence", held.fence, LEASED_AT, f"{self._wall():.3f}"]
        if epoch:
            header += ["epoch", epoch]
        replies = await self._link.exchange(
            [
                ("MULTI",),
                ("SET", keys.lease(section), lease_value(held.owner, held.fence), "PX", ttl_ms),
                ("HSET", keys.header(section), *header),
                ("EXEC",),
            ],
            only_on=watched_on,
        )
        error = first_error(replies) or first_error(replies[-1] or ())
        if error is not None:
            raise to_state_error(error) from error
        return replies[-1] is not None

    async def holder(self, section: Section) -> tuple[str, int, int] | None:
        key = keys.lease(section)
        value, remaining_ms = await self._link.ask([("GET", key), ("PTTL", key)], again=True)
        if value is None or remaining_ms <= 0:
            return None
        owner, fence = parse_lease_value(value.decode(errors="replace"), key)
        return owner, fence, remaining_ms

    async def renew(self, section: Section, held: Held, ttl_ms: int) -> bool:
        asked_at = self._mono()
        text = lease_value(held.owner, held.fence)
        (done,) = await self._link.ask([("EVAL", _RENEW, 1, keys.lease(section), text, ttl_ms)], again=True)
        if done:
            held.safe_until = max(held.safe_until, safe_until(asked_at, ttl_ms))
        return bool(done)

    async def release(self, section: Section, held: Held) -> bool:
        """Give the lease back; False if it was not ours any more (or an earlier try, whose reply was lost, did it)."""
        text = lease_value(held.owner, held.fence)
        (done,) = await self._link.ask([("EVAL", _RELEASE, 1, keys.lease(section), text)], again=True)
        return bool(done)

    async def close(self) -> None:
        await self._link.close()
