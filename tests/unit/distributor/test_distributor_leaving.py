"""Leaving: what is finished first, and what is left to the next process."""

from __future__ import annotations

import pytest

from tests.unit.distributor.harness import COORDINATOR, Site


def test_a_drain_finishes_what_runs_and_leaves_the_rest_in_the_store(site: Site) -> None:
    site.worker_up("w1", limit=1)
    site.assign("running", "waiting")
    site.drain(5)
    assert site.exit is None
    assert site.core.ready() == (False, "draining: SIGTERM")
    assert site.told(COORDINATOR, "workers_changed")[-1]["draining"] is True
    site.complete("w1", "running")
    assert site.exit is not None
    assert site.exit.status == 0
    assert site.got("w1") == [("running", 1)]
    assert list(site.store.live) == ["waiting"]


@pytest.mark.parametrize("store_up", [True, False])
def test_a_drain_ends_at_its_deadline(site: Site, store_up: bool) -> None:
    site.worker_up("w1", limit=2)
    site.assign("endless", "quick")
    site.advance(0.5)
    site.store_up = store_up
    site.from_coordinator("drain", agent_id="site-1")
    site.complete("w1", "quick")
    site.advance(29)
    assert site.exit is None
    site.advance(1)
    assert (site.exit is not None) is store_up
    site.advance(5)
    assert site.exit is not None
    site.store_up = True
    site.turn()


def test_drain_of_an_unknown_worker_is_refused(site: Site) -> None:
    site.from_coordinator("drain", agent_id="w7")
    assert site.told(COORDINATOR, "drain")[0]["code"] == "UNKNOWN_AGENT"
