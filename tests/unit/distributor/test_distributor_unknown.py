"""What is said to the coordinator of tasks that are not, or not yet, or not any more, known here."""

from __future__ import annotations

from collections.abc import Callable

from daemons.distributor.config import DistributorConfig
from daemons.distributor.memory import STRAY_S, RecentIds
from daemons.runtime.contract import QueryAnswer
from tests.unit.distributor.harness import COORDINATOR, Site


def test_a_cancellation_that_comes_during_a_read_waits_for_its_end(site: Site) -> None:
    """Found by simulation: the task was said to be unknown, ended by the coordinator, read, run, and recorded again."""
    site.worker_up("w1", limit=9)
    site.store.live["untold"] = site.record("untold")
    site.from_coordinator("resync")
    site.cancel("untold", "nobody")
    assert site.told(COORDINATOR, "task_unknown") == []
    site.answer()
    assert site.got("w1") == []
    assert site.store.results["untold"]["status"] == "abandoned"
    assert [told["task_ids"] for told in site.told(COORDINATOR, "task_unknown")] == [["nobody"]]


def test_a_cancellation_that_comes_before_ownership_waits_for_it(make_site: Callable[..., Site], site: Site) -> None:
    site.assign("a")
    new = make_site(site.config, site.store, site.mono + 2)
    new.coordinator_up()
    new.cancel("a", "nobody")
    assert new.told(COORDINATOR, "task_unknown") == []
    new.own()
    assert new.store.results["a"]["status"] == "abandoned"
    assert [told["task_ids"] for told in new.told(COORDINATOR, "task_unknown")] == [["nobody"]]


def test_what_was_said_to_be_unknown_is_not_taken_in_by_a_later_read(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.cancel("late")
    assert [told["task_ids"] for told in site.told(COORDINATOR, "task_unknown")] == [["late"]]
    site.store.live["late"] = site.record("late")  # on its way to us as it was cancelled; the coordinator ends it
    site.from_coordinator("resync")
    site.answer()
    assert site.got("w1") == []
    del site.store.live["late"]
    site.assign("late")  # but if the coordinator says so, it runs
    assert site.got("w1") == [("late", 1)]


def test_an_id_that_is_used_again_after_its_result_has_expired_runs_again(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.assign("daily-report")
    site.complete("w1", "daily-report")
    site.from_coordinator("assign_tasks", tasks=[site.record("daily-report")], fence=1)
    assert site.got("w1") == [("daily-report", 1)], "the same submission, told again: it ended here"
    site.store.results.clear()
    site.store.recorded.clear()
    site.store.dispatched.clear()
    again = {**site.record("daily-report"), "created_at": "2025-11-29T10:00:00.000000Z"}
    site.store.live["daily-report"] = again
    site.from_coordinator("assign_tasks", tasks=[again], fence=1)
    site.complete("w1", "daily-report")
    assert [task_id for task_id, _ in site.reported()] == ["daily-report"] * 2


def test_a_report_that_is_dropped_is_confessed(make_site: Callable[..., Site]) -> None:
    site = make_site(DistributorConfig(max_unreported=2))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=9)
    site.assign(*"abcd")
    site.coordinator_down()
    for task_id in "abcd":
        site.complete("w1", task_id)
    site.coordinator_up()
    assert [task_id for task_id, _ in site.reported()] == ["c", "d"]
    assert site.core.heartbeat(COORDINATOR, site.now)["dropped"] == 2


def test_many_unknown_ids_fit_into_messages(site: Site) -> None:
    site.cancel(*(f"{'x' * 120}-{n}" for n in range(9_000)))
    told = site.told(COORDINATOR, "task_unknown")
    assert sum(len(each["task_ids"]) for each in told) == 9_000
    assert max(len(each["task_ids"]) for each in told) * 128 < 1 << 19


def test_a_result_of_its_former_life_does_not_end_a_task_that_was_sent_around_again(
    make_site: Callable[..., Site], site: Site
) -> None:
    """Found by simulation: a worker repeats what it reported last to a restarted distributor."""
    site.worker_up("w1", limit=5)
    site.assign("a")
    site.fail("w1", "a", 1, retryable=False)
    assert site.store.results["a"]["status"] == "failed"
    again = {**site.record("a", attempt=1, floor=1, retried=1), "retry_count": 1}
    site.store.live["a"] = again
    site.store.results.clear()
    site.store.recorded.clear()
    new = make_site(site.config, site.store, site.mono + 2)
    new.own()
    new.coordinator_up()
    new.fail("w1", "a", 1, retryable=False)  # nobody we know
    new.worker_up("w1", limit=5)
    new.fail("w1", "a", 1, retryable=False)
    assert new.store.recorded == {}
    new.advance(3)
    [(_, attempt)] = new.got("w1")
    assert attempt > 1
    new.complete("w1", "a")
    assert new.reported() == [("a", "completed")]


def test_a_task_that_the_store_had_lost_runs_though_it_ended_here(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a")
    site.complete("w1", "a")
    site.store.results.clear()  # with the store's memory of it
    site.store.recorded.clear()
    site.store.dispatched.clear()
    site.assign("a")
    assert site.got("w1") == [("a", 1)]
    site.assign("a", restored=1)
    site.complete("w1", "a")
    assert site.store.results["a"]["status"] == "completed"


def test_a_retry_of_a_task_that_the_store_had_lost_before_runs(site: Site) -> None:
    """The two were counted as one, and the record of the retry does not say any more that the store had lost it."""
    site.worker_up("w1", limit=5)
    site.assign("a", restored=1)
    site.fail("w1", "a", 1, retryable=False)
    site.store.results.clear()  # the record takes its place
    site.store.recorded.clear()
    site.assign("a", attempt=1, floor=1, retried=1)
    assert site.got("w1") == [("a", 1), ("a", 2)]
    site.complete("w1", "a")


def test_lives_of_a_task_are_told_apart_whenever_it_was_submitted() -> None:
    """The counts reached into the hash of the time of submission: it depended on that whether a retry ran."""
    recent = RecentIds(100)
    for day in range(1, 29):
        ended = {"task_id": f"t{day}", "created_at": f"2026-01-{day:02}"}
        recent.add(ended)
        assert recent.ended(ended)
        for name in ("retried", "restored", "moved"):
            assert not recent.ended({**ended, "metadata": {name: 1}})


def test_a_record_that_comes_after_its_result_is_not_run_again(make_site: Callable[..., Site], site: Site) -> None:
    """Found by simulation: the coordinator's write arrived seconds late, when the task had ended and we were new."""
    site.worker_up("w1", limit=9)
    site.assign("a")
    site.complete("w1", ("a", 1))
    new = make_site(site.config, site.store, site.mono + 2)
    new.own()
    new.worker_up("w1", limit=9)
    new.store.live["a"] = new.record("a")
    new.store.live["b"] = new.record("b")
    new.coordinator_up()
    new.from_coordinator("resync")
    new.answer()
    assert [task_id for task_id, _ in new.got("w1")] == ["b"]
    assert new.reported() == [("a", "completed")], "the coordinator does not know"
    new.from_coordinator("resync")
    new.answer()
    assert new.reported() == [("a", "completed")], "told once"
    del new.store.live["a"]  # by the coordinator, who handed its record in


def test_a_task_that_was_retried_is_not_ended_by_the_result_of_its_former_life(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.store.results["a"] = {"task_id": "a", "status": "failed", "metadata": {"attempt": 3}}
    site.store.live["a"] = site.record("a", attempt=3, floor=3, retried=1)
    site.from_coordinator("resync")
    site.answer()
    assert site.got("w1") == [("a", 5)]
    site.complete("w1", ("a", 5))


def test_an_assignment_from_before_the_take_over_is_looked_up(make_site: Callable[..., Site], site: Site) -> None:
    """Found by simulation: the coordinator was frozen between its write and its message, its task ran meanwhile."""
    site.worker_up("w1", limit=9)
    site.assign("ended")
    site.complete("w1", ("ended", 1))
    new = make_site(site.config, site.store, site.mono + 2)
    new.store.told_version = 7
    new.own()
    new.coordinator_up()
    new.worker_up("w1", limit=9)
    late = [new.record("ended"), new.record("elsewhere")]
    new.from_coordinator("assign_tasks", tasks=late, fence=1, version=7)
    new.cancel("elsewhere")
    assert new.told(COORDINATOR, "task_unknown") == [], "it may be known in a moment"
    new.answer()
    assert new.reported() == [("ended", "completed")]
    new.answer()
    assert [each["task_ids"] for each in new.told(COORDINATOR, "task_unknown")] == [["elsewhere"]]
    new.from_coordinator("assign_tasks", tasks=[new.record("new")], fence=1, version=8)
    assert new.got("w1") == [("new", 1)]


def test_a_late_assignment_waits_for_a_store_that_is_away(make_site: Callable[..., Site], site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.assign("a")
    site.complete("w1", ("a", 1))
    new = make_site(site.config, site.store, site.mono + 2)
    new.store.told_version = 7
    new.own()
    new.coordinator_up()
    new.worker_up("w1", limit=9)
    new.from_coordinator("assign_tasks", tasks=[new.record("a")], fence=1, version=7)
    query, _ = new.queries.pop(0)
    new.event(QueryAnswer(query.tag, None, "connection"))
    assert new.reported() == []
    new.advance(5)
    new.answer()
    assert new.reported() == [("a", "completed")]


def test_a_late_assignment_of_a_task_that_went_elsewhere_is_not_run(make_site: Callable[..., Site], site: Site) -> None:
    """Found by simulation: it was taken away from a frozen distributor, which then got the message of before."""
    new = make_site(site.config, site.store, site.mono + 2)
    new.store.told_version = 7
    new.own()
    new.worker_up("w1", limit=9)
    new.from_coordinator("assign_tasks", tasks=[new.record("a")], fence=1, version=7)
    new.answer()
    new.advance(5)
    assert new.got("w1") == []
    new.from_coordinator("assign_tasks", tasks=[new.record("a", moved=2, attempt=2_000)], fence=1, version=8)
    assert new.got("w1") == [("a", 2_001)], "it has come back"
    new.complete("w1", ("a", 2_001))


def test_a_task_whose_result_here_did_not_count_may_come_back_from_elsewhere(site: Site) -> None:
    """It was taken away while we were cut off, and the next distributor went away, too."""
    ended = RecentIds(10)
    ended.add(site.record("a"))
    assert ended.ended(site.record("a"))
    assert not ended.ended(site.record("a", moved=2, attempt=2_000))


# ---------------------------------------------------------------- results of tasks that are not known yet


def test_a_result_of_a_task_that_an_earlier_owner_was_told_of_is_looked_for_and_counts(site: Site) -> None:
    """Found by simulation: it was acknowledged and dropped, and the task ran again."""
    site.worker_up("w1", limit=9)
    site.store.live["untold"] = site.record("untold")
    site.complete("w1", ("untold", 1))
    assert site.core.withholds(), "it is not durable yet"
    site.answer()
    assert not site.core.withholds()
    assert site.store.results["untold"]["metadata"]["attempt"] == 1
    assert site.got("w1") == []


def test_it_counts_as_well_if_the_coordinator_tells_of_the_task_first(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.complete("w1", ("untold", 1))
    site.assign("untold")
    assert site.store.results["untold"]["metadata"]["attempt"] == 1
    assert site.got("w1") == []
    site.answer()
    assert site.reported() == [("untold", "completed")]


def test_what_nobody_knows_is_acknowledged_when_all_was_read(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.complete("w1", ("nobody's", 1))
    assert site.core.withholds()
    site.answer()
    assert not site.core.withholds()
    assert site.store.results == {}


def test_what_was_reported_long_ago_is_no_result_of_a_later_task_of_that_id(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.complete("w1", ("daily-report", 1))
    site.answer()
    site.advance(STRAY_S)
    site.assign("daily-report")
    assert site.store.results == {}
    assert site.got("w1") == [("daily-report", 2)], "the number of the other one is used up"


def test_a_result_that_cannot_be_looked_for_holds_nothing_up(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.store_away()
    site.complete("w1", ("untold", 1))
    site.answer()
    assert not site.core.withholds()
