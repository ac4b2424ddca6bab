"""Retries of what fails stay a small share of the work, and none is lost."""

from __future__ import annotations

from typing import Any

from daemons.distributor.budgets import MAX_BUDGETS, RetryBudgets
from daemons.distributor.config import DistributorConfig
from tests.unit.distributor.harness import COORDINATOR, Site


def budgets(**config: Any) -> RetryBudgets:
    return RetryBudgets(DistributorConfig(retry_budget_per_s=10, retry_budget_burst_s=1, **config))


def test_beyond_the_budget_retries_come_one_after_the_other() -> None:
    found = budgets()
    assert [found.charge("t", 0.0) for _ in range(13)] == [0.0] * 10 + [0.1, 0.2, 0.3]
    assert found.exceeded("t", 0.0)
    assert found.charge("other", 0.0) == 0.0, "each type has its own"
    assert found.charge("t", 10.0) == 0.0, "time fills it again"


def test_successes_pay_for_retries() -> None:
    found = budgets(retry_budget_share=0.5)
    waits = []
    for _ in range(1000):
        waits.append(found.charge("t", 0.0))
        found.completed("t", 0.0)
        found.completed("t", 0.0)
    assert set(waits) == {0.0}
    assert not found, "a full budget costs nothing"
    for _ in range(20):
        found.charge("t", 0.0)
    before = found.charge("t", 0.0)
    for _ in range(20):
        found.completed("t", 0.0)
    assert found.charge("t", 0.0) < before


def test_nothing_is_put_off_for_ever() -> None:
    found = budgets(retry_put_off_s=5.0)
    assert max(found.charge("t", 0.0) for _ in range(100_000)) == 5.0
    assert found.charge("t", 7.0) == 0.0, "when those are over, so is the debt"


def test_budgets_that_are_full_again_are_forgotten() -> None:
    found = budgets()
    for n in range(10 * MAX_BUDGETS):
        found.charge(f"t{n}", float(n))
    assert len(found._budgets) <= MAX_BUDGETS


# ------------------------------------------------------------ at the distributor


def storm(site: Site, count: int) -> list[str]:
    site.worker_up("w1", limit=1000, slots=4)
    names = [f"t{n}" for n in range(count)]
    site.assign(*names, max_attempts=3)
    for name in names:
        site.fail("w1", name, 1)
    return names


def again(site: Site) -> int:
    return sum(attempt == 2 for _, attempt in site.got("w1"))


def test_a_storm_of_failures_is_spread_and_every_task_gets_its_attempt(site: Site) -> None:
    names = storm(site, 300)
    site.advance(1)
    assert 100 <= again(site) <= 120
    assert site.meter.counts["task_retries_put_off_total"] == 200
    site.advance(5)
    assert 150 <= again(site) <= 170
    site.advance(20)
    assert again(site) == 300
    site.complete("w1", *((name, 2) for name in names))
    assert set(site.store.results) == set(names)


def test_explain_says_that_too_many_fail(site: Site) -> None:
    storm(site, 150)
    site.from_coordinator("explain", task_id="t149", tag="q")
    found = site.told(COORDINATOR, "explain")[-1]
    assert found["phase"] == "delayed"
    assert found["why"][1] == "too many attempts of 'noop' fail, so they are repeated more slowly"


def test_tasks_of_a_lost_worker_need_no_budget(site: Site) -> None:
    storm(site, 300)
    site.worker_up("w2", limit=1000, slots=4, types=["other"])
    site.assign("lost", task_type="other")
    site.worker_up("w3", limit=1000, slots=4, types=["other"])
    site.worker_down("w2")
    assert site.got("w3") == [("lost", 2)]
    assert site.meter.counts["task_retries_put_off_total"] == 200
