"""Joins the spooling store to the rest of a daemon: the keeper of the lease, the engine, log and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from a2a_zmq.errors import Fenced, StateError, StateLost, StoreUnavailable, VersionConflict
from a2a_zmq.interfaces import Held, Section
from daemons.runtime.breaker import Breaker, Circuit
from daemons.runtime.contract import Meter
from daemons.runtime.shell import Shell
from daemons.runtime.spooling import SpoolingStore


class OutageKeeper:
    """Implements :class:`daemons.runtime.ownership.Outage`."""

    def __init__(self, store: SpoolingStore, shell: Shell, meter: Meter, mono: Callable[[], float]) -> None:
        self._store = store
        self._shell = shell
        self._meter = meter
        self._mono = mono
        self._log = structlog.get_logger("store")
        self._told = Circuit.CLOSED
        # What was logged of this outage: a Redis that answers and refuses every write opens and half-opens the circuit
        # several times a second.
        self._logged: set[tuple[Circuit, str]] = set()
        self._since = 0.0
        self._room = True
        store.changed = self._changed
        store.breaker.on_failure = self._count
        shell.chores.append(self.measure)
        self.measure()
        if store.rows:
            # Of a process before us: ours as soon as we own the section again, and not before.
            self._log.warning("spool_waits", spooled_writes=store.rows, spooled_bytes=store.size)

    @property
    def breaker(self) -> Breaker:
        return self._store.breaker

    def measure(self) -> None:
        """Set the gauges; once an interval, and at each change."""
        self._meter.gauge("store_circuit", self.breaker.state.value)
        self._meter.gauge("spool_writes", self._store.rows)
        self._meter.gauge("spool_bytes", self._store.size)
        self._meter.gauge("spool_limit_bytes", self._store.limit)
        self._shell.engine.spool_off(self._store.off())

    def _changed(self) -> None:
        store, breaker = self._store, self._store.breaker
        reason = breaker.reason if store.room else f"spool: {self._why()}"
        self._shell.engine.spool_off(store.off())
        self._shell.engine.spooling(active=store.active, room=store.room, reason=reason)
        self._say(breaker)
        self.measure()
        if breaker.state is Circuit.OPEN and self._shell.ownership is not None:
            self._shell.ownership.probe()
        self._shell.wake()

    def _count(self, reason: str) -> None:
        self._meter.count("store_errors_total", reason=reason)
        if self._told is not Circuit.CLOSED:
            self._open_because(reason)  # it may be away for another reason by now

    def _say(self, breaker: Breaker) -> None:
        store = self._store
        if breaker.state is not self._told:
            if breaker.state is Circuit.OPEN and self._told is Circuit.CLOSED:
                self._since = self._mono()
                self._open_because(breaker.reason)
            elif breaker.closed:
                seconds = self._mono() - self._since
                self._log.info("circuit_closed", away_s=round(seconds, 3))
                self._logged.clear()
            elif breaker.state is Circuit.HALF_OPEN and self._first(breaker.state, breaker.reason):
                self._log.info("circuit_half_open", spooled_writes=store.rows, spooled_bytes=store.size)
            self._told = breaker.state
        if store.room is not self._room:
            self._room = store.room
            if store.resting:
                self._log.info("intake_rests", spooled_bytes=store.size, why=self._why())
            elif not self._room:
                self._log.error("spool_full", bytes=store.size, why=self._why())

    def _open_because(self, reason: str) -> None:
        if self._first(Circuit.OPEN, reason):
            self._log.warning("circuit_open", reason=reason, spooling=self._store.active)

    def _first(self, state: Circuit, reason: str) -> bool:
        """Whether this is the first time in this outage."""
        if (state, reason) in self._logged:
            return False
        self._logged.add((state, reason))
        return True

    def _why(self) -> str:
        """Why no new work is taken."""
        if self._store.resting:
            return "what was accepted in an outage is handed in first"
        return self._store.refused or "no room for new work"

    # ------------------------------------------------------------ for the keeper of the lease

    def failed(self, error: StoreUnavailable) -> None:
        self._store.failed(error)

    def lease_held(self) -> None:
        self._shell.spawn(self._hand_in())

    async def _hand_in(self) -> None:
        engine, ownership = self._shell.engine, self._shell.ownership
        began, closed = self._mono(), self.breaker.closed
        try:
            await self._store.answered(lambda: engine.fence)
        except StoreUnavailable:
            pass  # the circuit is open again
        except VersionConflict:
            self._meter.count("shared_state_conflicts_total")
            if ownership is not None:
                ownership.probe()
        except (Fenced, StateLost) as error:
            self._meter.count("shared_state_conflicts_total")
            lost = isinstance(error, StateLost)
            told = {"why": str(error), "spooled_writes": self._store.rows, "spooled_bytes": self._store.size}
            if lost:
                self._log.warning("state_lost", **told)
                engine.state_lost()
            elif engine.rising:
                return  # our own fence, which is being raised: it is handed in under that one
            else:
                # It stays on our disk until we own the section again: somebody should see to it that we do.
                self._log.error("spool_fenced", **told)
                engine.ownership_lost(str(error))
            if ownership is not None:
                ownership.lost(state_lost=lost)
        except StateError as error:
            engine.state_lost()
            self._shell.refused(str(error))
        else:
            if not closed and self.breaker.closed:
                self._meter.observe("reconciliation_seconds", self._mono() - began)
        self._shell.wake()

    async def merge(self, section: Section, held: Held, renew: Callable[[], Awaitable[bool]]) -> None:
        counts: dict[str, Any] | None = await self._store.merge(section, held, renew)
        if counts is not None:
            self._meter.count("spool_dropped_total", counts["dropped"])
            self._log.warning("spool_merged", fence=held.fence, **counts)
        self.measure()
