"""Retrying: backoff with jitter and a budget, as pure functions.

Jitter spreads the retries of many; the budget keeps retries a small share of the work, so that an outage is not made
worse by what waits for its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


def equal_jitter(attempt: int, *, base_s: float, cap_s: float, rng: Callable[[], float]) -> float:
    """Seconds to wait before retry number ``attempt`` (from 1): drawn evenly from the upper half of zero to a cap that
    grows exponentially, for where a retry at once cannot succeed.

    Args:
        rng: gives a number in [0, 1).
    """
    # 2**63 is more than any cap; beyond it the power would only grow the integer.
    return min(cap_s, base_s * 2.0 ** min(max(attempt, 1) - 1, 63)) * (0.5 + rng() / 2)


class Budget(NamedTuple):
    """Tokens that retries are paid with.

    Attributes:
        tokens: what may be spent now; negative: so many retries were put off.
        at: monotonic time of that count.
    """

    tokens: float
    at: float


class BudgetPolicy(NamedTuple):
    """How a budget fills: ``per_s`` tokens a second and ``per_success`` for each success, up to ``most``.

    ``longest_s`` is how long a retry is put off at most.
    """

    most: float
    per_s: float
    per_success: float
    longest_s: float


def refilled(budget: Budget, policy: BudgetPolicy, mono: float) -> Budget:
    grown = budget.tokens + max(0.0, mono - budget.at) * policy.per_s
    return Budget(min(policy.most, grown), max(mono, budget.at))


def succeeded(budget: Budget, policy: BudgetPolicy, mono: float) -> Budget:
    now = refilled(budget, policy, mono)
    return Budget(min(policy.most, now.tokens + policy.per_success), now.at)


def charge(budget: Budget, policy: BudgetPolicy, mono: float) -> tuple[float, Budget]:
    """A retry is wanted: (seconds that it is put off, the budget afterwards). It is paid ahead, so that those that are
    put off come one after the other."""
    now = refilled(budget, policy, mono)
    tokens = max(now.tokens - 1, -policy.per_s * policy.longest_s)
    return max(0.0, -tokens / policy.per_s), Budget(tokens, now.at)
