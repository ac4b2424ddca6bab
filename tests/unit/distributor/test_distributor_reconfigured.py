"""Settings that change while a distributor runs."""

from __future__ import annotations

from daemons.distributor.config import DistributorConfig
from daemons.runtime.reconfigured import Reconfigured
from tests.unit.distributor.harness import Site


def test_tasks_get_the_new_number_of_attempts(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a")
    site.event(Reconfigured(DistributorConfig(max_attempts=1)))
    site.fail("w1", "a", 1)
    assert site.store.results["a"]["status"] == "failed"


def test_retries_are_paid_from_the_new_budget(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a", "b", max_attempts=9)
    site.event(Reconfigured(DistributorConfig(retry_budget_per_s=0.1, retry_budget_burst_s=10, retry_budget_share=0)))
    site.fail("w1", "a", 1)
    site.fail("w1", "b", 1)
    site.advance(0.5)
    assert [attempt for _, attempt in site.sent_of("a")] == [1, 2]
    site.advance(5)
    assert [attempt for _, attempt in site.sent_of("b")] == [1], "one retry is in the budget, the second is put off"
    site.event(Reconfigured(DistributorConfig(retry_budget_per_s=1000)))
    site.fail("w1", "a", 2)
    site.advance(0.5)
    assert [attempt for _, attempt in site.sent_of("a")] == [1, 2, 3]


def test_a_policy_gets_the_new_time(asking: Site) -> None:
    asking.event(Reconfigured(DistributorConfig(policy_timeout_s=3.0)))
    asking.fail("w1", "a", 1)
    assert asking.consults[-1].timeout_s == 3.0
    asking.advance(2.5)
    assert len(asking.sent_of("a")) == 1, "it may still answer"
    asking.advance(1.0)
    assert len(asking.sent_of("a")) == 2
