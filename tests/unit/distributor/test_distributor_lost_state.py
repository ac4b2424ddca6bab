"""What a distributor does about tasks that ended here, after the store has lost its state."""

from __future__ import annotations

import orjson

from daemons.runtime.contract import QueryAnswer
from tests.unit.distributor.harness import CREATED, Site

LATER = "2026-01-01T00:00:00.000000Z"


def answer_look_up(site: Site) -> None:
    """The store answers the oldest look-up of results, with what it has of those that were asked for."""
    query, _ = next(each for each in site.queries if each[0].op == "results")
    site.queries = [each for each in site.queries if each[0] is not query]
    results = site.store.results
    found = {task_id: orjson.dumps(results[task_id]) for task_id in query.args["task_ids"] if task_id in results}
    site.event(QueryAnswer(query.tag, found))


def send_again(site: Site, *task_ids: str, created: str = CREATED) -> None:
    """An assignment comes once more, while nothing is written."""
    records = [{**site.record(each), "created_at": created} for each in task_ids]
    site.from_coordinator("assign_tasks", tasks=records, fence=1)


def test_a_look_up_says_nothing_of_what_was_asked_for_after_it(site: Site) -> None:
    """Found by simulation: results were recorded after the loss, the messages of it were on their way, and the
    coordinator sent the tasks again in two messages. The second one ran for a second time."""
    site.worker_up("w1", limit=5)
    site.own(state_lost=True)
    site.assign("first", "second")
    site.complete("w1", "first", "second")
    send_again(site, "first")
    send_again(site, "second")
    answer_look_up(site)
    answer_look_up(site)
    send_again(site, "second")
    assert site.got("w1") == [("first", 1), ("second", 1)]
    told = [task_id for task_id, _ in site.reported()]
    assert sorted(told) == ["first", "first", "second", "second"]  # when they ended, and when they were asked for


def test_a_look_up_of_a_state_that_was_lost_meanwhile_counts_for_nothing(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.own(state_lost=True)
    site.assign("a")
    site.complete("w1", "a")
    send_again(site, "a")
    [(query, _)] = [each for each in site.queries if each[0].op == "results"]
    site.queries.clear()
    recorded = orjson.dumps(site.store.results["a"])
    for kept in (site.store.results, site.store.recorded, site.store.dispatched):
        kept.clear()  # with the store's memory of it
    site.own(state_lost=True)
    site.event(QueryAnswer(query.tag, {"a": recorded}))
    answer_look_up(site)
    site.assign("a")
    assert site.got("w1") == [("a", 1), ("a", 1)]
    site.complete("w1", "a")


def test_a_task_that_is_submitted_again_before_its_result_is_recorded_does_not_run_again(site: Site) -> None:
    """Found by simulation: the coordinator was started again and the state was wiped, so it took for a new one what its
    client submitted again. We had its result, and the store was away."""
    site.worker_up("w1", limit=5)
    site.assign("a")
    site.store_up = False
    site.complete("w1", "a")
    send_again(site, "a", created=LATER)
    site.store_up = True
    site.advance(1)
    assert site.got("w1") == [("a", 1)]
    assert site.reported() == [("a", "completed")]


def test_after_a_loss_a_task_that_is_submitted_again_is_looked_up_before_it_runs_again(site: Site) -> None:
    """Found by simulation: it was on its way to us when its client submitted it again."""
    site.worker_up("w1", limit=5)
    site.own(state_lost=True)
    site.assign("recorded", "expired")
    site.complete("w1", "recorded", "expired")
    del site.store.results["expired"], site.store.recorded["expired"]
    site.store.dispatched.discard(("expired", 1))
    send_again(site, "recorded", "expired", created=LATER)
    assert len(site.got("w1")) == 2
    answer_look_up(site)
    site.store.accepted.discard("expired")
    send_again(site, "recorded", "expired", created=LATER)
    assert site.got("w1")[2:] == [("expired", 1)]
    site.complete("w1", "expired")
    assert [task_id for task_id, _ in site.reported()].count("recorded") == 2  # the second time for the new one
