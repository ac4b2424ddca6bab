"""Ownership, restarts and outages."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from daemons.distributor.config import DistributorConfig
from tests.unit.distributor.harness import COORDINATOR, Site


def restart(make_site: Callable[..., Site], old: Site) -> Site:
    """The distributor's process dies and a new one starts on the same store."""
    return make_site(old.config, old.store, old.mono + 2)


def test_before_ownership_nothing_is_dispatched_or_staged(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.worker_up("w1", limit=5)
    site.coordinator_up()
    site.assign("a")
    assert site.got("w1") == []
    assert site.core.cut(site.now) is None
    assert site.core.ready() == (False, "does not own its shared state")
    site.own()
    site.advance(0.01)
    assert site.got("w1") == [("a", 1)]
    assert site.core.ready() == (True, "")


def test_an_assignment_of_a_record_that_the_load_missed_is_read_again(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.worker_up("w1", limit=5)
    site.assign("a")
    late = site.store.live.pop("a")  # it was written after our load
    site.own()
    assert site.got("w1") == []
    site.store.live["a"] = late
    site.queries[0] = (site.queries[0][0], site.store.loaded())
    site.answer()
    # Not known to have ended: it is read from the store, with an attempt of its own.
    site.advance(2)
    assert [task_id for task_id, _ in site.got("w1")] == ["a"]


def test_a_restart_adopts_what_workers_hold_and_queues_the_rest_again(
    make_site: Callable[..., Site], site: Site
) -> None:
    site.worker_up("w1", slots=2, limit=2)
    site.worker_up("w2", limit=1)
    site.assign("a", "b", "c", "waiting")
    site.advance(0.2)  # in_progress is recorded
    new = restart(make_site, site)
    new.own()
    new.coordinator_up()
    assert new.core.local_state(new.now).status.value == "recovering"
    held, (lost, _) = site.got("w1"), site.got("w2")[0]
    new.worker_up("w1", slots=2, limit=2, running=[[task_id, attempt, 2] for task_id, attempt in held])
    assert new.got("w1") == []
    new.worker_up("w2", limit=1)  # it died and knows nothing of its task
    new.advance(0.2)
    assert new.got("w2") == [(lost, 3)]
    [told] = new.store.live[lost]["metadata"]["attempts"]
    assert (told["attempt"], told["worker"], told["kind"]) == (1, "w2", "worker_lost")
    assert told["error"] == "site-1 took over, and no worker had it any more"
    assert not new.store.live[lost].get("retry_count"), "it is told of, and not counted"
    new.complete("w1", *held)
    assert {task_id for task_id, _ in new.reported()} == {task_id for task_id, _ in held}
    assert new.got("w1") == [("waiting", 2)]
    assert 0 < new.meter.observed["reconciliation_seconds"][0] < 1.5


def test_recoveries_raise_attempt_numbers_and_use_up_none_of_the_attempts(
    make_site: Callable[..., Site], site: Site
) -> None:
    site.assign("a", max_attempts=2)
    for _ in range(4):  # no worker has its type
        site = restart(make_site, site)
        site.own()
        site.advance(5)
    assert site.store.live["a"]["metadata"]["attempt"] == 8
    assert "attempts" not in site.store.live["a"]["metadata"], "it never ran"
    site.worker_up("w1", limit=5)
    for failures in (1, 2):
        assert site.store.live["a"].get("retry_count", 0) == failures - 1
        site.fail("w1", "a", site.attempt("w1", "a"))
        site.advance(2)
    dead = site.store.results["a"]
    assert (dead["status"], dead["retry_count"], dead["metadata"]["attempt"]) == ("failed", 2, 9)


def test_the_grace_ends_without_the_workers(make_site: Callable[..., Site], site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a")
    new = restart(make_site, site)
    new.own()
    new.worker_up("w9", limit=5)
    new.advance(2.9)
    assert new.got("w9") == []
    new.advance(0.2)
    assert new.got("w9") == [("a", 2)]
    new.worker_up("w1", limit=5, running=[["a", 1, 2]])  # too late
    assert new.cancelled_at("w1") == [["a", 1]]


def test_a_result_of_a_restored_task_counts(make_site: Callable[..., Site], site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a")
    new = restart(make_site, site)
    new.own()
    new.worker_up("w1", limit=5)  # it finished meanwhile: the inventory no longer has it
    new.complete("w1", ("a", 1))
    assert new.store.results["a"]["metadata"]["attempt"] == 1
    new.advance(3)
    assert new.got("w1") == []


def test_of_two_holders_the_later_attempt_is_adopted(make_site: Callable[..., Site], site: Site) -> None:
    site.worker_up("w1")
    site.assign("a")
    site.advance(0.2)  # attempt 1 is recorded
    new = restart(make_site, site)
    new.own()
    new.worker_up("w1", running=[["a", 1, 2]])
    new.worker_up("w2", running=[["a", 2, 2]])
    assert new.cancelled_at("w1") == [["a", 1]]
    new.complete("w2", ("a", 2))
    assert new.store.results["a"]["metadata"]["worker"] == "w2"


def test_a_large_backlog_is_written_in_slices_and_results_do_not_wait(
    make_site: Callable[..., Site], site: Site
) -> None:
    site.assign(*(f"t{number:04}" for number in range(250)), priority=1)
    site.assign("urgent", priority=5)
    new = make_site(DistributorConfig(backlog_slice=100), site.store, site.mono + 2)
    new.store_up = False
    new.own()
    new.advance(0.01)
    assert new.flight is not None
    assert len(new.flight.writes[0].put_tasks) == 100
    assert next(iter(new.flight.writes[0].put_tasks)) == "urgent"
    new.store_up = True
    new.worker_up("w1", limit=300)
    assert len(new.got("w1")) == 251
    assert new.got("w1")[0] == ("urgent", 2)


def test_a_report_of_a_task_in_the_backlog_is_acknowledged_when_its_next_attempt_is_stored(
    make_site: Callable[..., Site], site: Site
) -> None:
    site.worker_up("w1", limit=9)
    site.assign("a", "b", "c", "d")
    new = make_site(DistributorConfig(backlog_slice=1), site.store, site.mono + 2)
    new.store_up = False
    new.own()
    new.advance(5.0)  # nobody came back in time: they are to run again
    new.worker_up("w2", limit=9)
    new.complete("w2", ("d", 1))
    assert new.flight is not None
    assert "d" not in new.flight.writes[0].put_tasks
    new.apply()
    new.turn()  # this batch carries the acknowledgement
    assert new.flight is not None
    assert "d" in new.flight.writes[0].put_tasks


def test_losing_the_lease_stops_everything_and_regaining_merges(site: Site) -> None:
    site.worker_up("w1", limit=3)
    site.assign("mine", "done-elsewhere", "taken-over")
    site.assign("queued")
    site.disown()
    site.complete("w1", "mine")
    site.assign("new-one")
    site.from_worker("w1", "heartbeat", limit=9, running=2, held=0, draining=False)
    assert len(site.got("w1")) == 3
    assert site.reported() == []
    # Meanwhile another owner finished one task and gave another one a higher attempt.
    done = site.store.live.pop("done-elsewhere")
    site.store.results["done-elsewhere"] = {**done, "status": "completed", "metadata": {"attempt": 3}}
    site.store.live["taken-over"]["metadata"]["attempt"] = 3
    site.own()
    assert site.reported() == [("mine", "completed")]
    assert sorted(site.cancelled_at("w1")) == [["done-elsewhere", 1], ["taken-over", 1]]
    assert ("queued", 1) in site.got("w1")
    site.advance(2)
    assert ("taken-over", 5) in site.got("w1")
    assert ("new-one", 1) in site.got("w1")


def test_a_voided_batch_is_staged_again(site: Site) -> None:
    site.worker_up("w1", limit=3)
    site.assign("a", "b")
    site.store_up = False
    site.complete("w1", "a")
    assert site.flight is not None
    site.fail("w1", "b", 1)
    site.disown()
    site.store_up = True
    site.own()
    assert site.reported() == [("a", "completed")]
    site.advance(1)
    assert ("b", 2) in site.got("w1")


def test_a_result_that_was_recorded_by_the_voided_batch_is_not_recorded_twice(site: Site) -> None:
    site.worker_up("w1", limit=3)
    site.assign("a")
    site.store_up = False
    site.complete("w1", "a")
    assert site.flight is not None
    for write in site.flight.writes:
        site.store.apply(write)  # it went through, but nobody heard of it
    site.disown()
    site.store_up = True
    site.own()
    assert site.store.recorded["a"] == [1]


def test_after_a_loss_of_state_memory_is_written_again(site: Site) -> None:
    site.worker_up("w1", limit=1)
    site.assign("running", "queued")
    site.advance(0.2)
    site.store.live.clear()
    site.store_up = False
    site.complete("w1", "running")
    site.store_up = True
    site.own(state_lost=True)
    assert site.store.results["running"]["status"] == "completed"
    assert ("queued", 1) in site.got("w1")
    site.advance(0.2)
    assert site.store.live["queued"]["metadata"]["worker"] == "w1"


def test_an_outage_of_the_store_stops_neither_work_nor_results(make_site: Callable[..., Site]) -> None:
    site = make_site(DistributorConfig(max_unrecorded=3))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=1)
    site.assign(*"abcdef")
    site.advance(0.01)
    site.store_away()
    for task_id in "abc":
        site.complete("w1", task_id)
    assert [task_id for task_id, _ in site.got("w1")] == ["a", "b", "c"]  # three unrecorded results are the bound
    assert site.reported() == []
    assert site.core.heartbeat(COORDINATOR, site.now)["status"] == "error"
    site.store_back()
    assert [task_id for task_id, _ in site.reported()] == ["a", "b", "c"]
    assert [task_id for task_id, _ in site.got("w1")] == ["a", "b", "c", "d"]


def test_large_results_are_split_into_several_writes_and_messages(make_site: Callable[..., Site]) -> None:
    site = make_site(DistributorConfig(write_bytes=2000, message_bytes=1000))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=10)
    site.assign(*"abcdef")
    site.store_up = False
    site.assign("g")
    site.turn()
    site.complete("w1", *"abcdef")
    site.store_up = True
    site.turn()
    assert sorted(task_id for task_id, _ in site.reported()) == list("abcdef")
    reports = site.told(COORDINATOR, "task_results")
    assert len(reports) >= 4
    assert reports[-1]["version"] == site.store.version
    assert reports[0]["version"] < reports[-1]["version"]


def test_results_that_the_coordinator_could_not_be_told_are_told_later(site: Site) -> None:
    site.worker_up("w1", limit=3)
    site.assign("a", "b")
    site.coordinator_down()
    site.complete("w1", "a")
    site.cancel("nobody")
    assert site.reported() == []
    site.coordinator_up()
    assert site.reported() == [("a", "completed")]
    site.full.add(COORDINATOR)
    site.complete("w1", "b")
    site.full.clear()
    site.advance(0.2)
    assert site.reported() == [("a", "completed"), ("b", "completed")]


def test_resync_takes_what_it_was_not_told_of_and_nothing_else(site: Site) -> None:
    site.worker_up("w1", limit=9)
    site.assign("known", "done")
    site.complete("w1", "done")
    site.store.live["untold"] = site.record("untold")
    site.store.live["orphan"] = {**site.record("orphan", attempt=2), "status": "in_progress"}
    site.from_coordinator("resync")
    site.from_coordinator("resync")
    assert len(site.queries) == 1
    site.answer()
    assert site.got("w1")[2:] == [("untold", 2), ("orphan", 4)]
    site.answer()
    assert len(site.got("w1")) == 4


def test_a_resync_does_not_bring_back_what_waits_for_the_store_to_end(site: Site) -> None:
    """Found by simulation: the record of the attempt that had just completed was read, and run again."""
    site.worker_up("w1", limit=9)
    site.assign("a")
    site.fail("w1", "a", 1)
    site.advance(1)
    site.store_up = False
    site.complete("w1", "a")
    site.from_coordinator("resync")
    site.store_up = True
    site.answer()
    site.advance(1)
    assert site.got("w1") == [("a", 1), ("a", 2)]


def test_a_failed_resync_is_repeated(site: Site) -> None:
    from daemons.runtime.contract import QueryAnswer

    site.from_coordinator("resync")
    site.event(QueryAnswer(site.queries.pop()[0].tag, error="connection"))
    site.advance(1.1)
    assert len(site.queries) == 1


def test_refusals_reach_the_audit_history_and_a_flood_of_them_is_bounded(make_site: Callable[..., Site]) -> None:
    from a2a_zmq.protocol.ports import Refusal

    site = make_site(DistributorConfig(history_per_cut=10))
    site.own()
    site.advance(2)
    before = len(site.store.history)
    for _ in range(50):
        site.event(Refusal("signature", "signature", "", "tampered"))
    site.advance(1.5)
    assert len(site.store.events("refused")) == 10
    assert site.store.history[-1][3] == {"lines_dropped": 40}
    assert len(site.store.history) == before + 11


def test_the_reconciler_repairs_a_task_without_a_holder(site: Site) -> None:
    site.worker_up("w1", limit=2)
    site.assign("a")
    site.core._memory.workers["w1"].held.clear()  # a bug that we do not know of
    assert site.core.violations() != []
    site.advance(11)
    site.supervise()
    assert site.core.violations() == []
    assert site.got("w1") == [("a", 1), ("a", 2)]
    assert orjson.dumps(site.store.events("inconsistent_task")[0][3])


def test_a_result_that_comes_while_the_state_is_read_counts(make_site: Callable[..., Site], site: Site) -> None:
    """Found by simulation: its task was not known yet, so it was dropped, acknowledged, and the task run again."""
    site.worker_up("w1", limit=5)
    site.assign("a")
    new = restart(make_site, site)
    new.coordinator_up()
    new.worker_up("w1", limit=5)
    new.complete("w1", ("a", 1))
    assert new.reported() == []
    new.own()
    assert new.reported() == [("a", "completed")]
    new.advance(3)
    assert new.got("w1") == []


def test_an_attempt_that_was_replaced_does_not_cancel_its_task(make_site: Callable[..., Site], site: Site) -> None:
    """Found by simulation: the worker had been told to end a replaced attempt, the distributor died before it had
    stored the next one, and its successor took the report for a cancellation."""
    site.worker_up("w1", limit=5)
    site.assign("a")
    new = restart(make_site, site)
    new.own()
    new.worker_up("w1", limit=5)
    new.report("w1", "a", 1, "abandoned", error_kind="replaced", error="replaced", retryable=False)
    assert new.got("w1") == [("a", 2)]
    assert new.reported() == []


def test_what_another_owner_stored_is_not_taken_for_our_own(site: Site) -> None:
    """Found by simulation: both had counted to the same attempt, and ours was sent although theirs was running."""
    site.worker_up("w1", limit=3)
    site.assign("a", "b")
    site.store_up = False
    site.fail("w1", "a", 1)
    site.complete("w1", "b")
    site.disown()
    for task_id in ("a", "b"):
        site.store.live[task_id]["metadata"]["attempt"] = 2
    site.store_up = True
    site.own()
    site.advance(2)
    assert site.got("w1")[2:] == [("a", 4), ("b", 4)]
    assert site.reported() == []


@pytest.mark.parametrize("status", ["pending", "in_progress"])
def test_a_run_of_a_task_that_we_were_not_told_of_is_adopted_once_it_is_read(site: Site, status: str) -> None:
    """The owner before us was told of it after we had read the store."""
    record = site.record("late") | {"status": status}
    site.store.live["late"] = record
    site.worker_up("w1", limit=4, running=[["late", 1, 1], ["nobody's", 1, 1]])
    site.answer()
    assert site.cancelled_at("w1") == [["nobody's", 1]]
    site.report("w1", "late", 1, "completed", result=1)
    assert site.reported() == [("late", "completed")]
    assert site.told("w1", "assign_tasks") == []
