"""Retrying: full-jitter backoff and a budget, as pure functions.

Full jitter (a delay drawn evenly from zero to an exponentially growing cap) spreads the retries of many clients best;
the budget keeps retries a small share of the requests, so that an outage is not made worse by those who wait for its
end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


def full_jitter(attempt: int, *, base_s: float, cap_s: float, rng: Callable[[], float]) -> float:
    """Seconds to wait before retry number ``attempt`` (from 1).

    Args:
        rng: gives a number in [0, 1).
    """
    # 2**63 is more than any cap; beyond it the power would only grow the integer.
    return rng() * min(cap_s, base_s * 2.0 ** min(max(attempt, 1) - 1, 63))


def equal_jitter(attempt: int, *, base_s: float, cap_s: float, rng: Callable[[], float]) -> float:
    """As :func:`full_jitter`, but never less than half: for where a retry at once cannot succeed."""
    return min(cap_s, base_s * 2.0 ** min(max(attempt, 1) - 1, 63)) * (0.5 + rng() / 2)


class Budget(NamedTuple):
    """Tokens that retries are paid with.

    Attributes:
        tokens: what may be spent now.
        at: monotonic time of that count.
    """

    tokens: float
    at: float


class BudgetPolicy(NamedTuple):
    """How a budget fills: ``per_s`` tokens a second and ``per_success`` for each success, up to ``most``."""

    most: float
    per_s: float
    per_success: float = 0.0


def refilled(budget: Budget, policy: BudgetPolicy, mono: float) -> Budget:
    grown = budget.tokens + max(0.0, mono - budget.at) * policy.per_s
    return Budget(min(policy.most, grown), max(mono, budget.at))


def succeeded(budget: Budget, policy: BudgetPolicy, mono: float) -> Budget:
    now = refilled(budget, policy, mono)
    return Budget(min(policy.most, now.tokens + policy.per_success), now.at)


def spend(budget: Budget, policy: BudgetPolicy, mono: float, cost: float = 1.0) -> tuple[bool, Budget]:
    """(may retry, the budget afterwards)."""
    now = refilled(budget, policy, mono)
    if now.tokens < cost:
        return False, now
    return True, Budget(now.tokens - cost, now.at)


def retry_plan(attempts: int, *, base_s: float, cap_s: float, total_s: float, rng: Callable[[], float]) -> list[float]:
    """Delays of at most ``attempts`` retries that together take no longer than ``total_s``."""
    delays: list[float] = []
    left_s = total_s
    for attempt in range(1, attempts + 1):
        delay_s = full_jitter(attempt, base_s=base_s, cap_s=cap_s, rng=rng)
        if delay_s > left_s:
            break
        delays.append(delay_s)
        left_s -= delay_s
    return delays
