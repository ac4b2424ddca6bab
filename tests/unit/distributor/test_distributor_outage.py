"""What a distributor keeps in mind while records and results may stand in somebody's local spool."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import orjson

from daemons.runtime.contract import QueryAnswer, StoreChanged
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


def test_a_task_that_ended_in_an_outage_is_not_run_again_for_a_coordinator_that_lost_it(site: Site) -> None:
    """Found by simulation: the state was lost together with the coordinator's memory, so it took what its client
    submitted again for new. Its result was on our disk only."""
    site.worker_up("w1", limit=9)
    site.event(StoreChanged(available=True, reason="connection", spooling=True))
    site.assign("kept", "lost")
    site.complete("w1", "kept", "lost")
    records = [{**site.record(task_id), "created_at": "2026-01-01T00:00:00Z"} for task_id in ("kept", "lost", "new")]
    site.from_coordinator("assign_tasks", tasks=records, fence=1)
    assert site.got("w1")[2:] == [("new", 1)]
    site.queries.pop(0)
    site.event(QueryAnswer("resync", None, "the circuit is open"))
    del site.store.results["lost"]
    site.store.recorded.pop("lost")
    site.store.dispatched.discard(("lost", 1))
    site.store.live["lost"] = records[1]
    site.event(StoreChanged(available=True))
    site.advance(2)
    site.answer()
    assert [task_id for task_id, _ in site.got("w1")[3:]] == ["lost"]
    assert site.reported() == [("kept", "completed"), ("lost", "completed"), ("kept", "completed")], "told once more"
    site.complete("w1", "new")
    site.complete("w1", "lost")


def test_a_task_that_an_operator_sends_around_again_in_an_outage_runs_at_once(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.event(StoreChanged(available=True, reason="connection", spooling=True))
    site.assign("a")
    site.fail("w1", "a", 1, retryable=False)
    site.store.results.clear()
    site.store.recorded.clear()
    site.assign("a", attempt=1, floor=1, retried=1)
    assert site.got("w1") == [("a", 1), ("a", 2)]
    site.complete("w1", "a")


def test_a_task_whose_result_was_handed_in_is_not_run_again_for_a_coordinator_that_lost_it(
    make_site: Callable[..., Site], site: Site
) -> None:
    """Found by simulation: besides, we had been restarted, so only the spool knew that it had ended here."""
    site.worker_up("w1", limit=9)
    site.assign("a")
    site.complete("w1", "a")
    new = make_site(site.config, site.store, site.mono + 2)
    new.own(handed_in=["a"])
    new.coordinator_up()
    new.worker_up("w1", limit=9)
    again = {**new.record("a"), "created_at": "2026-01-01T00:00:00Z"}
    new.from_coordinator("assign_tasks", tasks=[again], fence=1, version=1)
    assert new.got("w1") == []
    new.answer()
    assert new.got("w1") == []
    assert new.reported() == [("a", "completed")]
