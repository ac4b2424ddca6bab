"""What a lease means, decided without I/O: who may take it, with which fence, how long it holds, and when to renew it.

The lease only keeps two owners from working against each other; what protects the data is the fence, a number in
the section's header that every write checks. Taking a lease raises it in the same transaction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from a2a_zmq.errors import StateError
from a2a_zmq.interfaces import Held

# A holder stops acting after this part of the TTL: what is left covers clocks that run at different speeds,
# and a write that is under way when the time is up.
SAFE_PART: Final = 0.66
# Renewing at a third leaves time for a second try before the safe part is over.
RENEW_PART: Final = 1 / 3
JITTER: Final = 0.2
# So much of a foreign text is shown.
_SHOWN: Final = 60


def foreign_text(key: str, text: str, place: str = "") -> StateError:
    """No agent wrote what stands there.

    Args:
        place: where in the key.
    """
    return StateError(f"{key} holds a foreign text{place}: {text[:_SHOWN]!r}")


def lease_value(owner: str, fence: int) -> str:
    """The text in the lease key."""
    return f"{owner}|{fence}"


def parse_lease_value(value: str, key: str = "a lease") -> tuple[str, int]:
    """(owner text, fence).

    Args:
        key: where it was read.

    Raises:
        StateError: no agent wrote this.
    """
    owner, _, fence = value.rpartition("|")
    if not (fence.isascii() and fence.isdigit()):
        raise foreign_text(key, value)
    return owner, int(fence)


def safe_until(asked_at: float, ttl_ms: int) -> float:
    """Until when a lease may be relied on that was asked for at this monotonic time, *before* the request was sent."""
    return asked_at + SAFE_PART * ttl_ms / 1000


class Grant(NamedTuple):
    """The fence to hold the lease with; nothing to ``write`` if it is held with it already (a reply was lost)."""

    fence: int
    write: bool


def decide(
    lease: str | None,
    recorded_fence: int,
    owner: str,
    *,
    steal_from: str | None,
    min_fence: int,
    new_epoch: bool,
    key: str = "a lease",
) -> Grant | None:
    """May ``owner`` take the lease?

    Args:
        lease: text in the lease key, None if it is free.
        recorded_fence: of the section's header.
        key: of the lease.

    Returns:
        None: somebody else holds it.

    Raises:
        StateError: no agent wrote what the key holds.
    """
    top = max(recorded_fence, min_fence)
    if lease is None:
        return Grant(top + 1, write=True)
    holder, fence = parse_lease_value(lease, key)
    if holder == owner and fence > min_fence and fence >= recorded_fence and not new_epoch:
        return Grant(fence, write=False)
    if holder in (owner, steal_from):
        return Grant(max(top, fence) + 1, write=True)
    return None


class LeaseStep(StrEnum):
    """What the holder of a :class:`LeaseKeeper` has to do now."""

    ACQUIRE = "acquire"  # then tell acquired(), refused() or unavailable()
    RENEW = "renew"  # then tell renewed(), lost() or unavailable()
    STOP = "stop"  # stop acting as the owner: the lease can no longer be relied on


class LeaseKeeper:
    """When to ask for a lease, when to renew it, when to stop acting.

    ::

        free ──acquired──> held ──lost, or safe_until passed (STOP)──> free

    At most one request is under way; time and chance are arguments.
    """

    def __init__(self, ttl_ms: int, rng: Callable[[], float], *, ask_again_s: float = 0.25) -> None:
        """
        Args:
            rng: uniform in [0, 1).
            ask_again_s: pause between requests while the lease is somebody else's or Redis is away (± 20 %).
        """
        self._ttl_s = ttl_ms / 1000
        self._rng = rng
        self._ask_again_s = ask_again_s
        self._asking = False
        self._ask_at = -math.inf
        self.held: Held | None = None

    def step(self, now: float) -> LeaseStep | None:
        """What is due at this monotonic time; a request that it returns counts as under way from here on."""
        if self.held is not None and now >= self.held.safe_until:
            self.held = None
            self._ask_at = now
            return LeaseStep.STOP
        if self._asking or now < self._ask_at:
            return None
        self._asking = True
        return LeaseStep.ACQUIRE if self.held is None else LeaseStep.RENEW

    def may_act(self, now: float) -> bool:
        return self.held is not None and now < self.held.safe_until

    def next_deadline(self) -> float:
        """Monotonic time at which :meth:`step` has something to say (inf: not before an answer)."""
        ask_at = math.inf if self._asking else self._ask_at
        return ask_at if self.held is None else min(ask_at, self.held.safe_until)

    def acquired(self, held: Held, now: float) -> None:
        """The lease is ours."""
        self.held = held
        self._answered(now + self._jittered(self._ttl_s * RENEW_PART))

    def refused(self, now: float, remaining_ms: int | None = None) -> None:
        """Somebody else has it, for ``remaining_ms`` unless they renew it."""
        pause_s = self._jittered(self._ask_again_s)
        if remaining_ms is not None and remaining_ms >= 0:
            # Just after it can have ended, spread a little so that several standbys do not meet.
            pause_s = min(pause_s, remaining_ms / 1000 + 0.02 + 0.05 * self._rng())
        self._answered(now + pause_s)

    def renewed(self, now: float) -> None:
        """The renewal moved ``held.safe_until``. Too late (STOP was said): nothing; acquiring will find it ours."""
        self._answered(now if self.held is None else now + self._jittered(self._ttl_s * RENEW_PART))

    def lost(self, now: float) -> None:
        """The lease is not ours any more: a renewal said so, or a write was fenced. Stop acting."""
        self.held = None
        self._answered(now)

    def unavailable(self, now: float) -> None:
        """The request could not be made or its answer did not come."""
        self._answered(now + self._jittered(self._ask_again_s))

    def _answered(self, ask_at: float) -> None:
        self._asking = False
        self._ask_at = ask_at

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 - JITTER + 2 * JITTER * self._rng())
