"""Keeps an agent the owner of its section: acquire, load, renew, self-fence, acquire again, release."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from a2a_zmq.clock import Now
from a2a_zmq.errors import Fenced, StateError, StateLost, StoreUnavailable, VersionConflict
from a2a_zmq.interfaces import Held, LeaseStore, Loaded, Section
from daemons.runtime.breaker import Breaker
from daemons.runtime.contract import Meter, Outranked, OwnershipGained
from daemons.runtime.engine import Engine
from daemons.runtime.procs import ProcessIdentity, owner_is_dead, owner_text
from daemons.runtime.renewing import renewing

# While somebody else holds the lease, or Redis is away, ask this often: a small part of the lease's TTL.
ASK_AGAIN_S = 0.25


class Outage(Protocol):
    """What stands in for Redis while it is away (:mod:`daemons.runtime.spooling`)."""

    @property
    def breaker(self) -> Breaker: ...

    def failed(self, error: StoreUnavailable) -> None:
        """Redis could not be asked for the lease."""

    def lease_held(self) -> None:
        """The lease is ours and renewed: what was kept may be handed in. Returns at once."""

    async def merge(self, section: Section, held: Held, renew: Callable[[], Awaitable[bool]]) -> None:
        """We are a new owner: hand in what an earlier one kept, before anything is loaded."""


Load = Callable[[Held], Awaitable[dict[Section, Loaded]]]


class Ownership:
    """Runs beside the engine; the fence in every write is the guarantee, the lease only keeps two owners from
    trying."""

    def __init__(
        self,
        engine: Engine,
        leases: LeaseStore,
        section: Section,
        *,
        agent_id: str,
        boot_id: str,
        identity: ProcessIdentity,
        ttl_ms: int,
        load: Load,
        clock: Callable[[], Now],
        rng: Callable[[], float],
        meter: Meter,
        turned: Callable[[], None],
        is_dead: Callable[[str, ProcessIdentity], bool] = owner_is_dead,
        outage: Outage | None = None,
    ) -> None:
        """
        Args:
            section: whose lease is kept.
            load: reads everything that the core is given with OwnershipGained, under the lease that was just acquired.
            turned: called after the engine was told something.
            is_dead: proof that the process behind an owner text is gone.
            outage: the circuit to Redis and what was kept while it was open.
        """
        self._engine = engine
        self._leases = leases
        self._section = section
        self._owner = owner_text(agent_id, identity, boot_id)
        self._identity = identity
        self._ttl_ms = ttl_ms
        self._load = load
        self._clock = clock
        self._rng = rng
        self._meter = meter
        self._turned = turned
        self._is_dead = is_dead
        self._outage = outage
        self._look = asyncio.Event()
        self._lost = self._refused = False
        self._fence = 0
        self._epoch = ""
        self._obeyed = 0  # the highest fence above ours, of our epoch, that a peer obeyed
        self._state_lost = False
        self._shown_fence = 0  # of the holder that we wait for
        self._patient_until = math.inf
        self.held: Held | None = None
        self.waiting_for = ""
        self.unreadable = ""  # why the lease or what is under it cannot be read although Redis is there

    def lost(self, *, state_lost: bool = False) -> None:
        """A write was refused: take the lease anew (or learn who has it).

        Args:
            state_lost: the section is older than what we wrote (Redis was wiped or went back): our memory is the
            better copy.
        """
        self._state_lost = self._state_lost or state_lost
        self._lost = True
        self._look.set()

    def refused(self, why: str) -> None:
        """Redis is there and does not take a write, for what stands in a key: as if the section could not be read."""
        self.unreadable, self._refused = why, True
        self.lost()

    def outranked(self, by: Outranked) -> bool:
        """A peer obeyed a higher fence than ours: see :meth:`_rise`. False if that is no news (any more)."""
        news = by.epoch == self._epoch and by.fence > max(self._fence, self._obeyed)
        if news:
            self._obeyed = by.fence
            self._look.set()
        return news

    def probe(self) -> None:
        """Redis seems to be away: renew now, and then as often as the circuit says, to see when it is back."""
        self._look.set()

    async def run(self) -> None:
        """For ever: own, keep, and own again. Ends only by cancellation, or by an error that trying cannot mend."""
        while True:
            # A write of ours that is on its way is refused as soon as our own request has raised the fence: that must
            # not be taken for somebody else's. If it was somebody else's, this request shows it.
            self._engine.rising = True
            held = await self._own_again()
            self._engine.rising = False
            if held is None:
                continue
            self._fence = held.fence
            self.held, self.unreadable = held, ""
            self._engine.safe_until = held.safe_until
            self._answered()
            self._turned()
            await self._keep(held)
            if self._refused:
                await self._give_back(held)
            self.held = None
            self._turned()

    async def _own_again(self) -> Held | None:
        """Acquire, and load what may have changed. None: it was lost again meanwhile."""
        started = self._clock().mono
        held = await self._acquire()
        self._meter.observe("lease_acquire_seconds", self._clock().mono - started)
        if held.found_fence < self._fence and not self._state_lost:
            # The store forgot that we ever held it, and with it what we had written: nobody may have noticed yet.
            self._state_lost = True
            return None
        untouched = self._engine.owner and held.fence - self._fence in (0, 1) and not self._state_lost
        if self._fence and untouched:
            self._engine.fence_moved(held.fence)
        elif not await self._load_as(held):
            return None
        return held

    async def _load_as(self, held: Held) -> bool:
        try:
            async with renewing(self._leases, self._section, held, self._ttl_ms):
                if self._outage is not None:
                    await self._outage.merge(
                        self._section, held, lambda: self._leases.renew(self._section, held, self._ttl_ms)
                    )
                if self._engine.owner:
                    # What it writes now would have the fence of before and be refused, as if somebody else had taken
                    # over.
                    self._engine.state_lost()
                loaded = await self._load(held)
        except StateError as error:
            self._meter.count("lease_failures_total", reason="unreadable")
            self._failed_to_read(error, loading=True)
            await self._give_back(held)
            return False
        found = loaded.get(self._section)
        if found is not None and found.fence < held.fence:
            # Lost between the lease and the load: what was read must not be taken for the truth.
            self._state_lost = True
            return False
        epoch = found.epoch if found is not None else ""
        if epoch != self._epoch:
            self._epoch, self._obeyed = epoch, 0
        if self._state_lost:
            self._meter.count("state_losses_total")
        self._engine.ownership_gained(OwnershipGained(held.fence, epoch, loaded, state_lost=self._state_lost))
        self._state_lost = False
        return True

    async def _give_back(self, held: Held) -> None:
        """For a moment in which somebody else may try."""
        with contextlib.suppress(StateError):
            await self._leases.release(self._section, held)
        await asyncio.sleep(ASK_AGAIN_S)

    def _failed_to_read(self, error: StateError, *, loading: bool = False) -> None:
        if isinstance(error, StoreUnavailable):
            # Where the lease cannot be had because Redis is away, the circuit tells of it.
            self.unreadable = str(error) if loading else ""
            if self._outage is not None:
                self._outage.failed(error)
            self._engine.store_available(available=False, reason=error.reason)
            self._turned()
            return
        self.unreadable = str(error)
        if not loading and not isinstance(error, (Fenced, StateLost, VersionConflict)):
            self._engine.store_available(available=False, reason="refused")
            self._turned()

    async def _acquire(self) -> Held:
        steal_from: str | None = None
        while True:
            try:
                held = await self._leases.acquire(
                    self._section,
                    self._owner,
                    self._ttl_ms,
                    steal_from=steal_from,
                    min_fence=max(self._fence, self._shown_fence),
                    new_epoch=self._state_lost,
                    expect_fence=self._expected(),
                )
                self._engine.store_available(available=True, reason="")
                if held is not None:
                    self.waiting_for = ""
                    self._shown_fence, self._patient_until = 0, math.inf
                    return held
                self.unreadable = ""  # it is another's to read
                holder = await self._leases.holder(self._section)
                steal_from = None
                if holder is not None:
                    self._shown_fence, self._patient_until = holder[1], math.inf
                    self.waiting_for = holder[0].partition("|")[0]
                    dead = self._is_dead(holder[0], self._identity)
                    self._held_by_another(holder[1], dead=dead)
                    if dead:
                        steal_from = holder[0]
                        continue
                    self._engine.stands_by(self.waiting_for)
                    self._turned()
                self._meter.count("lease_failures_total", reason="held")
            except StateLost:
                self._meter.count("lease_failures_total", reason="state_lost")
                if self._patient_until == math.inf:
                    self._patient_until = self._clock().mono + self._ttl_ms / 1000
            except StateError as error:
                away = isinstance(error, StoreUnavailable)
                self._meter.count("lease_failures_total", reason="unavailable" if away else "unreadable")
                self._failed_to_read(error)
            await asyncio.sleep(self._pause_s())

    def _pause_s(self) -> float:
        """Before Redis is asked again. While it is away this is the one prober."""
        return ASK_AGAIN_S if self._outage is None or self._outage.breaker.closed else self._outage.breaker.pause_s()

    def _answered(self) -> None:
        if self._outage is not None and not self._outage.breaker.closed:
            self._outage.lease_held()

    def _expected(self) -> int:
        """The fence without which we do not take the lease.

        Where the holder that we waited for lost its lease because the state was lost, it has the best memory of it: it
        is given the time of a lease to come back.
        """
        return 0 if self._clock().mono >= self._patient_until else self._shown_fence

    def _held_by_another(self, fence: int, *, dead: bool) -> None:
        """Somebody else has, or had, the lease since we held it.

        With a higher fence they came after us: what they wrote is the truth, not our memory. With a lower one Redis
        went back to an older copy, or was wiped and they were faster: then nobody remembers more than we do. (The lease
        of a dead process in an older copy is a mere relic; nobody acts by it, so we need not stop.)
        """
        after_us = fence > self._fence
        self._state_lost = not after_us
        if after_us or not dead:
            self._engine.ownership_lost(f"the lease is held by {self.waiting_for}")
            self._turned()

    async def _keep(self, held: Held) -> None:
        """Renew until the lease is lost.

        Where Redis is away we stay the owner of our memory (accepted work goes on), but write nothing once the lease
        may have expired (``Engine.safe_until``): what is staged waits until the lease was renewed or taken again.
        """
        self._lost = self._refused = False
        ttl_s = self._ttl_ms / 1000
        while True:
            # A third of the TTL, ±20 %, so that many agents do not renew in step.
            pause = ttl_s / 3 * (0.8 + 0.4 * self._rng())
            self._look.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()
            if self._outage is not None and self._outage.breaker.again:
                await asyncio.sleep(self._pause_s())  # it lets us renew, and refuses what is to be written (it is full)
            if self._lost:
                return
            while True:
                try:
                    renewed = await self._leases.renew(self._section, held, self._ttl_ms)
                except StateError as error:
                    self._meter.count("lease_renewal_failures_total")
                    self._failed_to_read(error)
                    await asyncio.sleep(self._pause_s())
                    continue
                break
            if not renewed:
                self._meter.count("lease_renewal_failures_total")
                return  # to take it again at once, or to learn who has it
            self._engine.safe_until = held.safe_until
            self.unreadable = ""
            self._answered()
            self._engine.store_available(available=True, reason="")
            self._turned()
            if self._obeyed > held.fence and not await self._rise(held):
                return

    async def _rise(self, held: Held) -> bool:
        """Raise our fence above one that peers obeyed. Returns False if the lease has to be taken anew.

        The store knows nothing of the owner that showed it, as it has just said that the lease is ours: it went back
        to an older copy, from which we took over with a number that was used before. All that we wrote ourselves is
        there, so nothing is read or merged, and a higher fence is all that is wanted. It stays in this epoch: if we
        were replaced at this very moment, a new one would tell our successor that the state was lost, when it is only
        to be fenced or to go on. While Redis is away, this waits.
        """
        if self._outage is not None and not self._outage.breaker.closed:
            return True
        self._engine.rising = True
        try:
            again = await self._take_again(self._obeyed)
            if again is None or again.found_fence != held.fence:
                # Somebody had it in between (or that was ourselves, and a reply was lost): what is stored counts.
                # Unless the store went back just now: only this lower fence shows it.
                self._state_lost = self._state_lost or (again is not None and again.found_fence < held.fence)
                self._engine.state_lost()
                return False
            held.fence, held.safe_until = again.fence, again.safe_until
            self._fence = held.fence
            self._engine.safe_until = held.safe_until
            self._engine.fence_moved(held.fence)
        finally:
            self._engine.rising = False
        self._answered()
        self._turned()
        return True

    async def _take_again(self, min_fence: int) -> Held | None:
        while True:
            try:
                return await self._leases.acquire(self._section, self._owner, self._ttl_ms, min_fence=min_fence)
            except StateError as error:
                self._meter.count("lease_failures_total", reason="unavailable")
                self._failed_to_read(error)
                await asyncio.sleep(self._pause_s())

    async def renew_now(self) -> bool:
        """Renew at once, beside the regular renewals; False if the lease is not ours or Redis is away."""
        if self.held is None:
            return False
        try:
            renewed = await self._leases.renew(self._section, self.held, self._ttl_ms)
            self._engine.safe_until = self.held.safe_until
            return renewed
        except StateError:
            self._meter.count("lease_renewal_failures_total")
            return False

    @contextlib.asynccontextmanager
    async def borrow(self, section: Section) -> AsyncIterator[Held | None]:
        """Hold the lease of another section for a moment, if nobody alive does. So its fence goes up: who had it before
        can write no more, and sees that somebody was there.

        Yields:
            the lease; None while somebody else holds it.
        """
        held = await self._leases.acquire(section, self._owner, self._ttl_ms)
        if held is None:
            holder = await self._leases.holder(section)
            if holder is not None and self._is_dead(holder[0], self._identity):
                held = await self._leases.acquire(section, self._owner, self._ttl_ms, steal_from=holder[0])
        try:
            yield held
        finally:
            if held is not None:
                with contextlib.suppress(StateError):
                    await self._leases.release(section, held)

    def safe(self, held: Held) -> bool:
        """Whether a borrowed lease may still be relied on."""
        return self._clock().mono < held.safe_until

    async def release(self) -> None:
        """Give the lease up so that a successor need not wait for it."""
        if self.held is not None:
            with contextlib.suppress(StateError):
                await self._leases.release(self._section, self.held)
            self.held = None
