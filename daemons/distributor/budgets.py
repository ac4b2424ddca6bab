"""Retries of failed attempts stay a small share of the work: one budget for each task type. Pure.

Without it everything that fails at once, because what the handlers call is down or overloaded, would be run again at
once, and again: several times the load, at the worst moment. Retries beyond the budget are put off; none is refused.
"""

from __future__ import annotations

from a2a_zmq.protocol.retry import Budget, BudgetPolicy, charge, refilled, succeeded
from daemons.distributor.config import DistributorConfig

# Full budgets are forgotten when there are this many: a type that never fails has none.
MAX_BUDGETS = 256


class RetryBudgets:
    """The budgets of those task types that have retried lately; the others' are full."""

    def __init__(self, config: DistributorConfig) -> None:
        self._policy = _policy_of(config)
        self._budgets: dict[str, Budget] = {}

    def allow(self, config: DistributorConfig) -> None:
        """Other budgets from now on; what was spent stays spent."""
        self._policy = _policy_of(config)

    def charge(self, task_type: str, mono: float) -> float:
        """An attempt is to be repeated: seconds that this is put off, 0 within the budget."""
        policy = self._policy
        budget = self._budgets.get(task_type)
        if budget is None:
            if len(self._budgets) >= MAX_BUDGETS:
                self._forget_full(mono)
            budget = Budget(policy.most, mono)
        wait_s, self._budgets[task_type] = charge(budget, policy, mono)
        return wait_s

    def completed(self, task_type: str, mono: float) -> None:
        """A task of this type succeeded."""
        budget = self._budgets.get(task_type)
        if budget is None:
            return
        budget = succeeded(budget, self._policy, mono)
        if budget.tokens >= self._policy.most:
            del self._budgets[task_type]
        else:
            self._budgets[task_type] = budget

    def exceeded(self, task_type: str, mono: float) -> bool:
        """Whether a retry now would be put off."""
        budget = self._budgets.get(task_type)
        return budget is not None and refilled(budget, self._policy, mono).tokens < 1

    def _forget_full(self, mono: float) -> None:
        most = self._policy.most
        self._budgets = {
            name: budget for name, budget in self._budgets.items() if refilled(budget, self._policy, mono).tokens < most
        }

    def __bool__(self) -> bool:
        """Whether any type has retried lately."""
        return bool(self._budgets)


def _policy_of(config: DistributorConfig) -> BudgetPolicy:
    return BudgetPolicy(
        most=config.retry_budget_per_s * config.retry_budget_burst_s,
        per_s=config.retry_budget_per_s,
        per_success=config.retry_budget_share,
        longest_s=config.retry_put_off_s,
    )
