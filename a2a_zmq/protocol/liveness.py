"""Is a peer alive? One small machine per peer, and a clock that does not run while we sleep.

::

    ALIVE ── silent ≥ suspect_s ──> SUSPECT ── silent ≥ dead_s ──────────────> DEAD (silence)
      ^  ── connection broke ─────> SUSPECT ── not back within grace_s ──────> DEAD (disconnect)
      |                                │   ── process proven gone ───────────> DEAD (exited)
      └── any verified frame (if the connection holds), or a new session ──┘

A broken connection of a process on our own host can be settled by looking for the process, so there the machine asks
for a probe, and waits for its answer until the peer has been silent for ``dead_s``, instead of the short grace: proof
comes within milliseconds if there is any. (A frozen process is not gone, but the transport gives up its connection.)

Time is that of :class:`AttentiveClock`: a detector that was itself paused (stopped, starved, debugged) must not take
its own absence for silence of all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

_HOLDS_IN_A_ROW = 5
# After a long pause of ours peers have given our connection up, and wait up to 2 s (transport) before the next attempt.
_LONGEST_HOLD_S = 2.5
# A pause of ours that is longer than this makes peers doubt us, and break the connection.
_LONG_PAUSE_S = 0.5


class AttentiveClock:
    """Monotonic time without our own pauses.

    Whoever drives us wants to come back every ``interval_s`` (there is always a deadline so soon). A gap of half as
    much again is our own lateness: the excess counts for nobody's silence, and no verdict falls for one more
    interval, so that what waits in the sockets can be read first; or for as long as we were away, within a bound, so
    that those can come back who broke the connection because we were. After a long pause each peer has its full time
    anew from then on. Where every gap is late (an overloaded host), holding back would never end; after a few in a row
    verdicts fall again, by attentive time. A pause far longer than those before it begins a new row.

    Who is heard later than one interval after the pause, over a connection that holds, is back: what it says does not
    come from what piled up meanwhile, so for it all this has ended (:meth:`Liveness.back`).

    Attributes:
        hold_until: no verdict falls before (monotonic), but on those that are back.
        back_at: who is heard from then on is back (attentive).
        anew_at: nobody's silence, nor the loss of a connection, counts from an earlier moment (attentive).
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._max_gap_s = 1.5 * interval_s
        self._seen: float | None = None
        self._lost_s = 0.0
        self._late_in_a_row = 0
        self._latest_s = 0.0  # longest of the row
        self.hold_until = -math.inf
        self.back_at = -math.inf
        self.anew_at = -math.inf

    def observe(self, mono: float) -> float:
        """Note that we are awake now; returns the attentive time."""
        if self._seen is None:
            self._seen = mono
        late_s = mono - self._seen - self._max_gap_s
        self._seen = max(mono, self._seen)
        if late_s > 0:
            self._lost_s += late_s
            self._hold(mono, late_s)
        elif mono >= self.hold_until:
            self._late_in_a_row, self._latest_s = 0, 0.0
        return self._seen - self._lost_s

    def _hold(self, mono: float, late_s: float) -> None:
        if late_s > _LONG_PAUSE_S and late_s > 2 * self._latest_s:
            self._late_in_a_row = 0
        self._late_in_a_row += 1
        self._latest_s = max(late_s, self._latest_s)
        if self._late_in_a_row <= _HOLDS_IN_A_ROW:
            # A little lateness after a long pause, as when all is read that piled up, does not cut its hold short.
            self.hold_until = max(self.hold_until, mono + max(self._interval_s, min(late_s, _LONGEST_HOLD_S)))
            self.back_at = mono - self._lost_s + self._interval_s
            if late_s > _LONG_PAUSE_S:
                self.anew_at = self.hold_until - self._lost_s


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. ``quiet`` peers (clients) are never reported as suspect."""

    suspect_s: float
    dead_s: float
    grace_s: float
    quiet: bool = False


class Health(Enum):
    ALIVE = "alive"
    SUSPECT = "suspect"
    DEAD = "dead"


class Verdict(NamedTuple):
    """``what``: ``suspect``, ``dead`` or ``probe``."""

    what: str
    reason: str
    silent_s: float


# A process whose sockets are closed is gone within a millisecond or two; a probe that came too early is repeated,
# ever more rarely.
_PROBE_AGAIN_S = 0.005


class Liveness:
    """Health of one peer; all times are attentive."""

    __slots__ = (
        "_broken_at",
        "_heard_at",
        "_heard_whole_at",
        "_probe_again_s",
        "_probe_at",
        "_probe_out",
        "_spared",
        "health",
        "timing",
    )

    def __init__(self, timing: Timing, at: float) -> None:
        self.timing = timing
        self.renewed(at)

    def renewed(self, at: float) -> None:
        """A session was made: everything before is forgiven."""
        self.health = Health.ALIVE
        self._heard_at = self._heard_whole_at = at
        self._spared = -math.inf
        self._broken_at: float | None = None
        self._probe_at = math.inf
        self._probe_out = False
        self._probe_again_s = _PROBE_AGAIN_S

    def heard(self, at: float) -> None:
        """A verified frame came."""
        self._heard_at = max(at, self._heard_at)
        if self._broken_at is not None:
            return
        self._heard_whole_at = self._heard_at
        if self.health is Health.SUSPECT:
            self.health = Health.ALIVE

    def spared(self, until: float) -> None:
        """We were away ourselves: what went before ``until`` counts for nothing."""
        self._spared = max(until, self._spared)
        if self._broken_at is not None:
            self._broken_at = max(until, self._broken_at)

    def back(self, since: float) -> bool:
        """Was it heard since then, over a connection that held? Then it is spared no longer."""
        if self._heard_whole_at < since:
            return False
        self._spared = -math.inf
        return True

    def _quiet_from(self) -> float:
        return max(self._heard_at, self._spared)

    def silent_s(self, at: float) -> float:
        return max(0.0, at - self._quiet_from())

    def broke(self, at: float, *, can_probe: bool) -> list[Verdict]:
        """The connection ended."""
        if self.health is Health.DEAD or self._broken_at is not None:
            return []
        self._broken_at = at
        verdicts: list[Verdict] = []
        if self.health is Health.ALIVE and not self.timing.quiet:
            verdicts.append(Verdict("suspect", "disconnect", self.silent_s(at)))
        self.health = Health.SUSPECT
        if can_probe:
            self._probe_at = at
        return verdicts

    def probed(self, at: float, *, gone: bool) -> list[Verdict]:
        """The operating system's answer; a process that is gone is dead whatever its connection."""
        if self.health is Health.DEAD or not self._probe_out:
            return []
        self._probe_out = False
        if gone:
            return [self.died(at, "exited")]
        self._probe_at = at + self._probe_again_s
        self._probe_again_s *= 2
        return []

    def died(self, at: float, reason: str) -> Verdict:
        """Make it dead for a reason of the caller's."""
        self.health = Health.DEAD
        return Verdict("dead", reason, self.silent_s(at))

    def _grace_ends(self, broken_at: float) -> float:
        settled_by_probe = self._probe_out or self._probe_at != math.inf
        grace_ends = broken_at + self.timing.grace_s
        return max(grace_ends, self._quiet_from() + self.timing.dead_s) if settled_by_probe else grace_ends

    def look(self, at: float) -> list[Verdict]:
        """Whether it is time to look for the process: proof of its end may be had at any time."""
        if self.health is Health.DEAD or self._broken_at is None or at < self._probe_at:
            return []
        self._probe_at = math.inf
        self._probe_out = True
        return [Verdict("probe", "disconnect", self.silent_s(at))]

    def check(self, at: float) -> list[Verdict]:
        """What time alone says."""
        if self.health is Health.DEAD:
            return []
        if self._broken_at is not None:
            if at >= self._grace_ends(self._broken_at):
                return [self.died(at, "disconnect")]
            return self.look(at)
        silent_s = self.silent_s(at)
        if at >= self._quiet_from() + self.timing.dead_s:
            return [self.died(at, "silence")]
        if at >= self._quiet_from() + self.timing.suspect_s and self.health is Health.ALIVE:
            self.health = Health.SUSPECT
            if not self.timing.quiet:
                return [Verdict("suspect", "silence", silent_s)]
        return []

    def look_due(self) -> float:
        """Attentive time at which :meth:`look` has something to say."""
        return self._probe_at

    def due(self) -> float:
        """Attentive time at which :meth:`check` has something to say if nothing happens until then."""
        if self.health is Health.DEAD:
            return math.inf
        if self._broken_at is not None:
            return min(self._probe_at, self._grace_ends(self._broken_at))
        limit_s = self.timing.suspect_s if self.health is Health.ALIVE else self.timing.dead_s
        return self._quiet_from() + limit_s
