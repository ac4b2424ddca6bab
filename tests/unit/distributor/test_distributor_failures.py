"""What becomes of tasks when workers fail, die, freeze, forget or come back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from a2a_zmq.protocol.message import MessageType, Role
from daemons.distributor.config import DistributorConfig
from tests.unit.distributor.harness import COORDINATOR, Site


def test_a_failed_attempt_is_repeated_after_a_backoff_and_stored_before_it_is_sent(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a")
    site.store_up = False
    site.fail("w1", "a", 1)
    site.advance(5)
    assert site.got("w1") == [("a", 1)]  # the record of attempt 2 is not durable yet
    site.store_up = True
    site.turn()
    assert site.got("w1") == [("a", 1), ("a", 2)]
    assert site.store.live["a"]["retry_count"] == 1

    site.fail("w1", "a", 2)
    assert (site.store.live["a"]["status"], site.store.live["a"]["metadata"]["attempt"]) == ("pending", 3)
    assert len(site.got("w1")) == 2  # waits for its backoff
    site.advance(0.04)
    assert len(site.got("w1")) == 2
    site.advance(1)
    assert site.got("w1")[2:] == [("a", 3)]
    site.complete("w1", "a")
    assert site.store.results["a"]["retry_count"] == 2
    assert site.meter.counts["task_retries_total"] == 2


def test_a_task_whose_process_is_killed_runs_again_at_once_but_only_the_first_time(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a", max_attempts=5)
    site.fail("w1", "a", 1, kind="killed")
    assert site.got("w1") == [("a", 1), ("a", 2)]
    site.fail("w1", "a", 2, kind="killed")
    site.advance(0.04)
    assert len(site.got("w1")) == 2
    site.advance(1)
    assert site.got("w1")[2:] == [("a", 3)]


@pytest.mark.parametrize("before", [5, 1023, 10**6])
def test_the_pause_grows_with_what_failed_since_an_operator_sent_it_around(before: int) -> None:
    site = Site(DistributorConfig(retry_base_s=0.05, retry_cap_s=60.0))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=5)
    record = {**site.record("a", max_attempts=100, retried=1, attempt=7, floor=7), "retry_count": before}
    site.store.live["a"] = record
    site.store.accepted.add("a")
    site.from_coordinator("assign_tasks", tasks=[record], fence=1)
    ((_, attempt),) = site.got("w1")
    site.fail("w1", "a", attempt)
    site.advance(0.1)  # at most twice the base after the first failure
    assert site.got("w1") == [("a", attempt), ("a", attempt + 1)]


def test_many_failures_in_a_row_are_no_number_too_large(site: Site) -> None:
    site.worker_up("w1", limit=5)
    record = {**site.record("b", max_attempts=5000, attempt=1), "retry_count": 2000}
    site.store.live["b"] = record
    site.store.accepted.add("b")
    site.from_coordinator("assign_tasks", tasks=[record], fence=1)
    site.fail("w1", "b", dict(site.got("w1"))["b"])
    site.advance(DistributorConfig().retry_cap_s)
    assert site.got("w1")[-1][0] == "b"


def test_a_task_killed_before_an_operator_sent_it_around_runs_again_at_once_when_it_is_killed(site: Site) -> None:
    site.worker_up("w1", limit=5)
    told = [{"attempt": n, "kind": "killed"} for n in range(1, 4)]
    site.assign("a", max_attempts=5, attempt=3, floor=3, retried=1, attempts=told)
    ((_, attempt),) = site.got("w1")
    site.fail("w1", "a", attempt, kind="killed")
    assert site.got("w1") == [("a", attempt), ("a", attempt + 1)]


def test_a_task_that_fails_to_its_last_attempt_becomes_a_dead_letter_with_its_reason(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a", max_attempts=2)
    site.fail("w1", "a", 1)
    site.advance(1)
    detail = {"signal": "SIGSEGV", "log": ["last words"]}
    site.fail("w1", "a", 2, kind="killed", detail=detail)
    dead = site.store.results["a"]
    assert (dead["status"], dead["error"], dead["retry_count"]) == ("failed", "boom", 2)
    assert (dead["metadata"]["error_kind"], dead["metadata"]["attempt"]) == ("killed", 2)
    assert dead["metadata"]["worker"] == "w1"
    assert dead["metadata"]["detail"] == detail
    assert dead["payload"] == {"name": "a"}
    assert site.reported() == [("a", "failed")]
    assert [event[1] for event in site.store.events("dead_letter")] == ["a"]
    assert site.meter.counts["task_failures_total/killed"] == 1


def test_a_dead_letter_tells_whether_its_task_was_for_one_distributor(site: Site) -> None:
    """Where it ran takes the place of that wish in the record."""
    site.worker_up("w1", limit=5)
    site.assign("a", max_attempts=1, distributor="elsewhere")
    site.assign("b", max_attempts=1)
    for task_id in ("a", "b"):
        site.fail("w1", task_id, 1)
    found = [site.store.results[task_id]["metadata"] for task_id in ("a", "b")]
    assert [each.get("pinned") for each in found] == [True, None]
    assert found[0]["distributor"] == found[1]["distributor"] != "elsewhere"


def test_a_killed_process_runs_again_at_once_also_after_other_failures(site: Site) -> None:
    site.assign("a", max_attempts=9)
    site.worker_up("w0")
    site.worker_down("w0")
    site.worker_up("w1", limit=5)
    site.fail("w1", "a", site.attempt("w1", "a"), kind="killed")
    assert len(site.got("w1")) == 2
    site.fail("w1", "a", site.attempt("w1", "a"), kind="killed")
    assert len(site.got("w1")) == 2, "the second time it waits"
    site.advance(2 * site.config.retry_base_s)
    assert len(site.got("w1")) == 3, "but not for long"


def test_what_must_fail_again_is_not_repeated(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a")
    site.fail("w1", "a", 1, kind="invalid_input", retryable=False)
    assert site.store.results["a"]["status"] == "failed"


def test_a_dead_workers_tasks_run_elsewhere_first_of_all(site: Site) -> None:
    site.worker_up("w1", slots=2, limit=2)
    site.assign("a", "b", "c", "d")
    site.worker_up("w2", limit=0)
    site.worker_down("w1", "exited", silent_s=0.012)
    assert site.store.live["a"]["metadata"]["worker_deaths"] == 1
    site.from_worker("w2", "heartbeat", limit=9, running=0, held=0, draining=False)
    assert site.got("w2") == [("a", 2), ("b", 2), ("c", 1), ("d", 1)]
    assert site.meter.observed["failure_detection_seconds/worker"] == [0.012]
    workers = {worker["id"]: worker["up"] for worker in site.told(COORDINATOR, "workers_changed")[-1]["workers"]}
    assert workers == {"w1": False, "w2": True}
    site.supervise()
    assert site.meter.gauges["agent_up/w1/worker"] == 0


def test_a_late_result_of_an_old_attempt_changes_nothing(site: Site) -> None:
    site.worker_up("w1")
    site.assign("a")
    site.worker_down("w1", "silence")
    site.worker_up("w2")
    site.worker_up("w1", limit=1, running=[["a", 1, 2]])  # it was only frozen
    assert site.cancelled_at("w1") == [["a", 1]]
    site.complete("w1", ("a", 1))
    assert "a" in site.store.live
    assert site.meter.counts["late_results_total"] == 1
    site.complete("w2", "a")
    assert site.store.results["a"]["metadata"]["attempt"] == 2
    site.complete("w1", ("a", 1))
    assert site.reported() == [("a", "completed")]


def test_a_stale_attempt_takes_room_until_it_is_reported_or_forgotten(site: Site) -> None:
    site.worker_up("w1")
    site.assign("a")
    site.worker_down("w1", "silence")
    site.worker_up("w1", limit=1, running=[["a", 1, 2]])
    assert len(site.got("w1")) == 1
    site.report("w1", "a", 1, "abandoned", error_kind="cancelled")
    assert site.got("w1") == [("a", 1), ("a", 2)]
    site.worker_down("w1", "goodbye")
    site.worker_up("w1", limit=1, running=[["a", 2, 2]])
    assert len(site.got("w1")) == 2
    site.advance(6)  # it never says what became of attempt 2
    site.supervise()
    assert site.got("w1")[2:] == [("a", 3)]


def test_a_reconnect_keeps_what_runs_and_a_restart_loses_it(site: Site) -> None:
    site.worker_up("w1", slots=2, limit=2)
    site.assign("a", "b")
    site.worker_suspect("w1")
    site.worker_up("w1", slots=2, limit=2, running=[["a", 1, 2]])  # b's message may still be on its way
    assert site.got("w1") == [("a", 1), ("b", 1)]
    site.worker_up("w1", slots=2, limit=2, running=[["b", 1, 2]], restarted=True)
    assert site.got("w1")[2:] == [("a", 2)]
    site.complete("w1", ("b", 1), ("a", 2))
    assert {site.store.results[task_id]["metadata"]["attempt"] for task_id in "ab"} == {1, 2}


def test_handed_back_tasks_go_elsewhere_uncounted(site: Site) -> None:
    site.worker_up("w1", limit=3)
    site.assign("a", "b", "c")
    site.from_worker("w1", "heartbeat", limit=0, running=1, held=2, draining=True)
    site.worker_up("w2", limit=5)
    site.from_worker("w1", "task_handback", tasks=[["b", 1], ["c", 1]])
    assert site.got("w2") == [("b", 2), ("c", 2)]
    site.complete("w2", "b", "c")
    assert site.store.results["b"]["retry_count"] == 0


def test_what_a_worker_refuses_for_a_fence_that_moved_is_sent_again_at_once(site: Site) -> None:
    """The owner was frozen until its lease ran out: what it had sealed before its fence moved is refused."""
    site.worker_up("w1", limit=3)
    site.assign("a", "b")
    error = {"action": "assign_tasks", "code": "FORBIDDEN", "message": "stale fence", "tasks": [["a", 1], ["b", 7], 3]}
    site.event(site.message("w1", Role.WORKER, MessageType.ERROR, error))
    assert site.got("w1") == [("a", 1), ("b", 1), ("a", 2)], "and what was not refused stays there"
    site.complete("w1", "b", ("a", 2))
    assert site.store.results["a"]["retry_count"] == 0


def test_what_is_on_its_way_to_a_worker_that_leaves_counts_as_nothing(site: Site) -> None:
    """Even where a single attempt is allowed: it did not begin."""
    site.worker_up("w1", limit=5)
    site.assign("a", "b", max_attempts=1)
    site.complete("w1", "a")
    site.from_worker("w1", "task_handback", tasks=[], rest=True)
    site.assign("c")
    assert site.got("w1") == [("a", 1), ("b", 1)], "nothing more for one that leaves"
    site.worker_down("w1", "goodbye")
    site.worker_up("w2", limit=5)
    assert site.got("w2") == [("b", 2), ("c", 1)]
    site.complete("w2", "b", "c")
    assert site.store.results["b"]["status"] == "completed"
    assert site.store.results["b"]["retry_count"] == 0


def test_a_worker_that_holds_nothing_of_what_we_count_on_it_is_relieved(site: Site) -> None:
    site.worker_up("w1", limit=2)
    site.assign("a")
    for _ in range(7):
        site.advance(1)
        site.from_worker("w1", "heartbeat", limit=2, running=0, held=0, draining=False)
        site.supervise()
    assert site.got("w1") == [("a", 1), ("a", 2)]


def test_an_attempt_without_an_end_is_ended_here(make_site: Callable[..., Site]) -> None:
    site = make_site(DistributorConfig(overdue_slack_s=2))
    site.own()
    site.worker_up("w1", slots=1, limit=2)
    site.assign("a", "b", timeout_s=1)
    site.advance(0.2)
    site.from_worker("w1", "task_started", tasks=[["a", 1, "2025-11-28T10:00:05Z"]])
    site.advance(2)
    site.supervise()
    assert site.cancelled_at("w1") == []
    site.advance(1.5)
    site.supervise()
    site.turn()
    assert ["a", 1] in site.cancelled_at("w1")
    record = site.store.live["a"]
    assert (record["metadata"]["error_kind"], record["retry_count"]) == ("timeout", 1)


def test_waiting_behind_a_long_task_is_not_overdue(make_site: Callable[..., Site]) -> None:
    site = make_site(DistributorConfig(overdue_slack_s=1))
    site.own()
    site.worker_up("w1", slots=1, limit=2)
    site.assign("long", timeout_s=60)
    site.assign("short", timeout_s=1)
    for _ in range(20):
        site.advance(1)
        site.supervise()
    assert site.cancelled_at("w1") == []


@pytest.mark.parametrize("phase", ["queued", "delayed", "storing"])
def test_a_waiting_task_is_cancelled_at_once(site: Site, phase: str) -> None:
    if phase != "queued":
        site.worker_up("w1")
    site.store_up = phase != "storing"
    site.assign("a")
    if phase != "queued":
        site.fail("w1", "a", 1)
    site.cancel("a")
    site.store_up = True
    site.turn()
    result = site.store.results["a"]
    assert (result["status"], result["metadata"]["error_kind"]) == ("abandoned", "cancelled")
    site.worker_up("w1")
    site.advance(5)
    assert len(site.got("w1")) == (0 if phase == "queued" else 1)


def test_a_running_task_is_cancelled_when_its_worker_says_so(site: Site) -> None:
    site.worker_up("w1", limit=3)
    site.assign("a", "b", "c")
    site.cancel("a", "b", "c", "nobody-knows")
    assert site.cancelled_at("w1") == [["a", 1], ["b", 1], ["c", 1]]
    assert site.told(COORDINATOR, "task_unknown") == [{"action": "task_unknown", "task_ids": ["nobody-knows"]}]
    assert site.reported() == []
    site.report("w1", "a", 1, "abandoned", error_kind="cancelled")
    site.complete("w1", "b")  # it was quicker
    site.worker_down("w1")  # and what it took with it is not run again
    assert sorted(site.reported()) == [("a", "abandoned"), ("b", "completed"), ("c", "abandoned")]


def test_a_cancel_that_cannot_be_sent_is_sent_later(site: Site) -> None:
    site.worker_up("w1")
    site.assign("a")
    site.full.add("w1")
    site.cancel("a")
    assert site.cancelled_at("w1") == []
    site.full.clear()
    site.advance(0.2)
    assert site.cancelled_at("w1") == [["a", 1]]


def test_cancelling_many_waiting_tasks_leaves_the_rest_in_order(site: Site) -> None:
    names = [f"t{number:03}" for number in range(300)]
    site.assign(*names)
    site.cancel(*names[10:290])
    site.worker_up("w1", limit=100)
    assert [task_id for task_id, _ in site.got("w1")] == names[:10] + names[290:]


def test_a_task_that_no_message_can_carry_fails_alone(site: Site) -> None:
    site.unsealable.add("huge")
    site.worker_up("w1", limit=5)
    site.assign("a", "huge", "b")
    site.advance(0.01)
    assert site.got("w1") == [("a", 1), ("b", 1)]
    assert site.store.results["huge"]["metadata"]["error_kind"] == "invalid_input"


def test_what_a_handler_said_as_it_exited_does_not_keep_the_result_from_being_told(site: Site) -> None:
    """``sys.exit()`` takes a text of any length, in the detail of each attempt."""
    site.worker_up("w1", limit=5)
    site.assign("a", max_attempts=3)
    for _ in range(3):
        ((_, attempt),) = site.got("w1")[-1:]
        site.fail("w1", "a", attempt, kind="exited", detail={"exit_code": "x" * 400_000})
        site.advance(1)
    assert [len(each["exit_code"]) for each in site.store.results["a"]["metadata"]["attempts"]] == [300, 300]
    assert site.reported() == [("a", "failed")]


def test_a_result_record_too_large_for_a_message_is_told_without_what_is_large(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a", max_attempts=1)
    site.fail("w1", "a", 1, detail={"exit_code": "x" * 1_100_000, "log": ["last words"]})
    assert site.reported() == [("a", "failed")]
    (told,) = site.told(COORDINATOR, "task_results")[-1]["results"]
    assert (told["error"], told["metadata"]["error_kind"]) == ("boom", "raised")
    assert told["metadata"]["shortened"] == ["detail"]
    assert site.store.results["a"]["metadata"]["detail"]["log"] == ["last words"], "it is stored as it is"


def test_a_task_too_large_for_a_worker_ends_and_that_is_told(site: Site) -> None:
    """Its payload and the answers that it got are bounded each, not together."""
    site.worker_up("w1", limit=5)
    record = site.record("a", resume={"q1": "x" * 700_000}, attempt=2)
    record["payload"] = {"text": "x" * 700_000}
    site.store.live["a"] = record
    site.store.accepted.add("a")
    site.from_coordinator("assign_tasks", tasks=[record], fence=1)
    assert site.got("w1") == []
    assert site.reported() == [("a", "failed")]
    assert site.store.results["a"]["metadata"]["error_kind"] == "invalid_input"
    assert "too large for a message" in site.store.results["a"]["error"]
