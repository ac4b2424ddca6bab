"""What a distributor keeps in mind while records and results may stand in somebody's local spool."""

from __future__ import annotations

import tracemalloc

import orjson

from daemons.runtime.contract import StoreChanged
from tests.unit.distributor.harness import Site


def test_a_task_met_at_a_worker_before_its_record_came_gets_the_next_attempt(site: Site) -> None:
    """Our predecessor was told of it directly; the coordinator's record came to the store only now."""
    site.worker_up("w1", limit=4, running=[["t1", 1]])
    site.answer()
    site.assign("t1", "t2")
    assert ("t1", 1) not in site.got("w1")
    assert set(site.got("w1")) == {("t1", 2), ("t2", 1)}
    site.from_worker("w1", "task_results", results=[{"task_id": "t1", "attempt": 1, "outcome": "abandoned"}])
    assert "t1" not in site.store.results, "that the old attempt was ended is not the end of the task"


def test_a_task_that_we_are_told_of_after_we_met_it_at_a_worker_goes_on_there(site: Site) -> None:
    site.worker_up("w1", limit=4, running=[["t1", 1]])
    site.worker_up("w2", limit=4)
    site.assign("t1")
    assert site.got("w1") == site.got("w2") == []
    site.complete("w1", ("t1", 1))
    assert site.reported() == [("t1", "completed")]


def test_a_task_is_called_unknown_only_when_the_store_has_what_we_recorded(site: Site) -> None:
    site.event(StoreChanged(available=True, reason="connection", spooling=True))
    site.cancel("gone")
    assert not [action for _, action, _ in site.sent if action == "task_unknown"]
    site.event(StoreChanged(available=True))
    assert [action for _, action, _ in site.sent if action == "task_unknown"] == ["task_unknown"]


def test_results_that_wait_for_the_store_cost_about_their_bytes(site: Site) -> None:
    """Record and history line took a buffer of 4 KiB each: a burst cost ten times what its bound in bytes says."""
    task_ids = [f"t{number}" for number in range(200)]
    site.worker_up("w1", limit=200)
    site.assign(*task_ids)
    site.store_away()
    tracemalloc.start()
    try:
        site.complete("w1", *task_ids)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    site.store_back()
    stored = sum(len(orjson.dumps(site.store.results[task_id])) for task_id in task_ids)
    assert taken < 5 * stored
