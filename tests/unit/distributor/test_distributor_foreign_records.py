"""Records that somebody else wrote into the section: what cannot be worked with ends no distributor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daemons.distributor.config import DistributorConfig
from tests.unit.distributor.graph_tasks import GRAPH, graph_worker, resume, verdicts
from tests.unit.distributor.harness import Site

KEYS: list[dict[str, Any]] = [{"created_at": ["today"]}, {"metadata": {"client": ["alice"]}}]


@pytest.mark.parametrize("odd", KEYS, ids=str)
def test_a_new_owner_leaves_what_it_cannot_sort(make_site: Callable[..., Site], odd: dict[str, Any]) -> None:
    site = make_site()
    site.store.live = {"odd": site.record("odd") | odd, "good": site.record("good")}
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=5)
    site.advance(2)
    assert [task_id for task_id, _ in site.got("w1")] == ["good"]
    site.complete("w1", "good")
    assert "odd" in site.store.live


@pytest.mark.parametrize("odd", KEYS, ids=str)
def test_an_assignment_that_it_cannot_sort_is_refused(site: Site, odd: dict[str, Any]) -> None:
    site.worker_up("w1", limit=5)
    site.from_coordinator("assign_tasks", tasks=[site.record("odd") | odd], fence=1)
    assert site.got("w1") == []
    assert [line.event for line in site.logs if line.level == "error"] == ["assignment_malformed"]


def test_attempts_that_cannot_be_read_are_not_told_of(make_site: Callable[..., Site]) -> None:
    site = make_site(DistributorConfig(policy_timeout_s=0.5))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=5)
    site.assign("a", attempts=["first", 2, {"attempt": 0, "worker": "w0", "kind": "raised"}])
    site.fail("w1", "a", 1)
    [told] = site.consults[-1].facts["tasks"]
    assert (told["attempt"], told["earlier"]) == (1, [{"worker": "w0", "kind": "raised"}])


def test_questions_that_cannot_be_read_are_not_answered(site: Site) -> None:
    graph_worker(site, "w1")
    questions = [{"id": "i1", "value": "i1?"}, 2, {"value": "whose?"}]
    record = site.record("a", GRAPH, attempt=1, asked=1, interrupts=questions) | {"status": "waiting"}
    site.store.live["a"] = record
    site.from_coordinator("assign_tasks", tasks=[record], fence=1)
    resume(site, ["a", {"i1": "yes"}, 1])
    assert verdicts(site)[-1] == ["a", "resumed"]
