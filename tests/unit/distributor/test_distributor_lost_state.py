"""What a distributor does about tasks that ended here, after the store has lost its state."""

from __future__ import annotations

import orjson

from daemons.runtime.contract import FenceMoved, Outranked, QueryAnswer
from tests.unit.distributor.harness import CREATED, Site

LATER = "2026-01-01T00:00:00.000000Z"


def send_again(site: Site, *task_ids: str, created: str = CREATED) -> None:
    """The coordinator makes records durable, and sends them, of tasks that have ended."""
    records = [{**site.record(each), "created_at": created} for each in task_ids]
    site.store.live.update({each["task_id"]: orjson.loads(orjson.dumps(each)) for each in records})
    site.from_coordinator("assign_tasks", tasks=records, fence=1)


def told_and_dropped(site: Site, *task_ids: str) -> None:
    """The coordinator was told that these have ended (again); it drops the records that it had put."""
    assert [each for each, _ in site.reported()][-len(task_ids) :] == list(task_ids)
    for task_id in task_ids:
        del site.store.live[task_id]


def lose_everything(site: Site) -> None:
    """The store begins empty; with it goes its memory of what was recorded and sent."""
    for kept in (site.store.live, site.store.results, site.store.recorded, site.store.dispatched):
        kept.clear()


def test_a_look_up_says_nothing_of_what_was_asked_for_after_it(site: Site) -> None:
    """Found by simulation: results were recorded after the loss, the messages of it were on their way, and the
    coordinator sent the tasks again in two messages. The second one ran for a second time."""
    site.worker_up("w1", limit=5)
    site.own(state_lost=True)
    site.assign("first", "second")
    site.complete("w1", "first", "second")
    send_again(site, "first")
    send_again(site, "second")
    site.answer()
    told_and_dropped(site, "first")
    site.answer()
    told_and_dropped(site, "second")
    send_again(site, "second")
    assert site.got("w1") == [("first", 1), ("second", 1)]
    told = [task_id for task_id, _ in site.reported()]
    assert sorted(told) == ["first", "first", "second", "second"]  # when they ended, and when they were asked for
    assert site.queries == []  # that "second" has a result is known by now
    del site.store.live["second"]


def test_a_look_up_of_a_state_that_was_lost_meanwhile_counts_for_nothing(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.own(state_lost=True)
    site.assign("a")
    site.complete("w1", "a")
    send_again(site, "a")
    read, loaded = site.queries.pop()
    site.event(QueryAnswer(read.tag, loaded))
    look_up, _ = site.queries.pop()
    recorded = orjson.dumps(site.store.results["a"])
    lose_everything(site)
    site.own(state_lost=True)
    site.event(QueryAnswer(look_up.tag, {"a": recorded}))
    assert site.reported() == [("a", "completed")]  # not once more
    site.assign("a")
    assert site.got("w1") == [("a", 1)]
    site.advance(1)
    site.answer()
    assert site.got("w1") == [("a", 1), ("a", 2)]
    site.complete("w1", "a")


def test_records_that_were_read_before_the_state_was_lost_are_read_again(site: Site) -> None:
    """What was live then may have ended since, and its result may be gone: so it would run again for nobody."""
    site.worker_up("w1", limit=5)
    site.own(state_lost=True)
    site.assign("a")
    site.complete("w1", "a")
    send_again(site, "a")
    read, loaded = site.queries.pop()
    lose_everything(site)
    site.store.accepted.clear()  # the coordinator knows that it has ended
    site.own(state_lost=True)
    site.event(QueryAnswer(read.tag, loaded))
    site.advance(1)
    site.answer()
    assert site.queries == []
    assert site.got("w1") == [("a", 1)]
    site.sent.clear()  # among it the report of the result that is lost


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
    site.answer()
    told_and_dropped(site, "recorded")  # the second time for the new one
    assert site.got("w1")[2:] == [("expired", 2)]
    send_again(site, "recorded", "expired", created=LATER)
    assert site.queries == []
    del site.store.live["recorded"]
    site.complete("w1", "expired")
    assert len(site.got("w1")) == 3
    assert [task_id for task_id, _ in site.reported()].count("recorded") == 2


def test_a_worker_that_obeyed_an_owner_whom_the_store_has_lost_gets_work_when_our_fence_is_above(site: Site) -> None:
    """Found by simulation: it refused everything that it was sent, and accepted tasks never ended."""
    site.worker_up("w1", limit=5, obeys=(9, "epoch"))
    assert site.outranked == [Outranked(9, "epoch", "w1")]
    site.assign("a")
    assert site.got("w1") == [], "it would be refused"
    site.event(FenceMoved(10))
    assert site.told("w1", "assign_tasks")[-1]["fence"] == 10
    site.complete("w1", "a")


def test_work_is_not_held_back_for_long_if_our_fence_cannot_rise(site: Site) -> None:
    site.worker_up("w1", limit=5, obeys=(9, "epoch"))
    site.assign("a")
    site.advance(2.0)
    assert site.got("w1") == [("a", 1)]
    site.complete("w1", "a")


def test_workers_that_obeyed_us_or_another_epoch_or_say_nothing_get_work_at_once(site: Site) -> None:
    site.worker_up("w1", obeys=(site.store.fence, "epoch"))
    site.worker_up("w2", obeys=(99, "another epoch"))
    site.worker_up("w3")
    site.assign("a", "b", "c")
    assert site.outranked == []
    for name in ("w1", "w2", "w3"):
        site.complete(name, *(task_id for task_id, _ in site.got(name)))
    assert len(site.reported()) == 3
