"""Which worker gets what, when, and in what order."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from daemons.distributor.config import DistributorConfig
from daemons.distributor.dispatch import Dispatcher
from daemons.distributor.memory import QUEUED, RUNNING, LiveTask
from tests.unit.distributor.fakes import SECTION
from tests.unit.distributor.harness import COORDINATOR, Site


def test_a_task_goes_out_at_once_and_its_result_is_recorded_before_it_is_reported(site: Site) -> None:
    site.worker_up("w1")
    site.assign("a", timeout_s=30, traceparent="00-abc")
    item = site.told("w1", "assign_tasks")[0]["tasks"][0]
    assert item["payload"] == {"name": "a"}
    assert (item["attempt"], item["timeout_s"], item["metadata"]["traceparent"]) == (1, 30, "00-abc")

    site.store_up = False
    site.complete("w1", "a")
    assert site.reported() == []
    site.apply()
    assert site.reported() == [("a", "completed")]
    report = site.told(COORDINATOR, "task_results")[0]
    assert report["version"] == site.store.version
    result = report["results"][0]
    assert result["result"] == {"from": "w1"}
    assert result["metadata"] == {
        "attempt": 1, "worker": "w1", "distributor": "site-1", "client": "client-1", "execution_s": 0.25, "held_s": 0.0,
        "traceparent": "00-abc",
    }  # fmt: skip
    assert result["created_at"] < result["started_at"] < result["completed_at"]
    assert result == site.store.results["a"]
    site.store_up = True


def test_short_tasks_cost_one_write_and_long_ones_show_that_they_run(site: Site) -> None:
    site.worker_up("w1", limit=2)
    site.assign("short", "long")
    before = site.store.version
    site.complete("w1", "short")
    assert site.store.version == before + 1
    assert site.store.live["long"]["status"] == "pending"
    site.from_worker("w1", "task_started", tasks=[["long", 1, "2025-11-28T10:00:05.000000Z"]])
    site.advance(0.11)
    record = site.store.live["long"]
    assert (record["status"], record["metadata"]["worker"]) == ("in_progress", "w1")
    assert record["started_at"] == "2025-11-28T10:00:05.000000Z"
    assert site.store.version == before + 2
    site.advance(0.5)
    assert site.store.live["long"]["metadata"]["attempt"] == 1


def test_workers_never_hold_more_than_their_limit_and_a_freed_slot_is_filled_in_the_same_wake_up(site: Site) -> None:
    site.worker_up("w1", limit=2)
    site.assign("a", "b", "c", "d")
    assert site.got("w1") == [("a", 1), ("b", 1)]
    site.store_up = False  # the next one does not wait for the store
    site.complete("w1", "a")
    assert site.got("w1")[2:] == [("c", 1)]
    site.store_up = True
    site.complete("w1", "b", limit=3)
    assert site.got("w1")[3:] == [("d", 1)]


def test_a_heartbeat_with_more_credit_brings_more_tasks(site: Site) -> None:
    site.worker_up("w1", limit=1)
    site.assign("a", "b")
    site.from_worker("w1", "heartbeat", limit=2, running=1, held=0, draining=False)
    assert site.got("w1") == [("a", 1), ("b", 1)]


def test_higher_priority_first_then_the_older_one_across_task_types(site: Site) -> None:
    site.assign("low-1", "low-2", priority=0)
    site.assign("other-low", task_type="other")
    site.assign("high-other", task_type="other", priority=5)
    site.assign("high", priority=5)
    site.assign("negative", priority=-1)
    site.worker_up("w1", limit=10, types=["noop", "other"])
    assert [task_id for task_id, _ in site.got("w1")] == [
        "high-other", "high", "low-1", "low-2", "other-low", "negative",
    ]  # fmt: skip


def test_clients_take_turns(site: Site) -> None:
    site.assign(*(f"a{number}" for number in range(6)), client="alice")
    site.assign("b0", "b1", client="bob")
    site.assign("c0", task_type="other", client="carol")
    site.worker_up("w1", limit=20, types=["noop", "other"])
    assert [task_id for task_id, _ in site.got("w1")] == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4", "a5"]


def test_who_comes_later_does_not_wait_behind_a_flood_nor_make_up_for_its_absence(site: Site) -> None:
    site.worker_up("w1", limit=10)
    site.assign(*(f"a{number}" for number in range(30)), client="alice")
    site.assign(*(f"b{number}" for number in range(10)), client="bob")
    site.from_worker("w1", "heartbeat", limit=16, running=1, held=0, draining=False)
    assert {task_id for task_id, _ in site.got("w1")[10:]} == {"a10", "a11", "a12", "b0", "b1", "b2"}


def test_tasks_are_spread_by_load_for_each_slot(site: Site) -> None:
    site.worker_up("small", slots=1, limit=100)
    site.worker_up("large", slots=3, limit=100)
    site.assign(*(f"t{number}" for number in range(40)))
    assert (len(site.got("small")), len(site.got("large"))) == (10, 30)


def test_single_tasks_take_turns_on_an_idle_fleet(site: Site) -> None:
    for name in ("w1", "w2", "w3"):
        site.worker_up(name)
    for number in range(6):
        site.assign(f"t{number}")
        worker = next(name for name in ("w1", "w2", "w3") if (f"t{number}", 1) in site.got(name))
        site.complete(worker, f"t{number}")
    assert [len(site.got(name)) for name in ("w1", "w2", "w3")] == [2, 2, 2]


def test_an_unsupported_type_waits_and_is_in_nobodys_way(site: Site) -> None:
    site.worker_up("w1", limit=10)
    site.assign("strange", task_type="gpu", priority=9)
    site.assign("plain")
    assert site.got("w1") == [("plain", 1)]
    site.supervise()
    assert [log.fields["task_type"] for log in site.logs if log.event == "no_worker_for_task_type"] == ["gpu"]
    site.worker_up("w2", types=["gpu"])
    assert site.got("w2") == [("strange", 1)]


def test_required_labels_choose_the_worker(site: Site) -> None:
    site.worker_up("plain", limit=5)
    site.assign("t", labels={"zone": "north"})
    assert site.got("plain") == []
    site.worker_up("north", labels={"zone": "north", "disk": "ssd"})
    assert site.got("north") == [("t", 1)]


def test_suspect_and_draining_workers_get_nothing_new(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.worker_suspect("w1", "disconnect")
    site.assign("a")
    site.from_worker("w1", "heartbeat", limit=5, running=0, held=0, draining=False)
    assert site.got("w1") == []  # an old message proves nothing about a broken connection
    site.worker_up("w1", limit=5)
    assert site.got("w1") == [("a", 1)]
    site.worker_suspect("w1", "silence")
    site.assign("b")
    assert ("b", 1) not in site.got("w1")
    site.from_worker("w1", "heartbeat", limit=5, running=1, held=0, draining=False)
    assert ("b", 1) in site.got("w1")
    site.from_coordinator("drain", agent_id="w1")
    assert site.told("w1", "drain") == [{"action": "drain"}]
    site.assign("c")
    site.from_worker("w1", "heartbeat", limit=5, running=2, held=0, draining=False)
    assert ("c", 1) not in site.got("w1")


def test_large_assignments_are_split_by_bytes(make_site: Callable[..., Site]) -> None:
    site = make_site(DistributorConfig(message_bytes=1000))
    site.own()
    site.worker_up("w1", limit=100)
    site.assign(*(f"t{number}" for number in range(20)))
    messages = site.told("w1", "assign_tasks")
    assert len(messages) > 2
    assert all(len(orjson.dumps(message)) < 1200 for message in messages)
    assert len(site.got("w1")) == 20


def test_a_full_outbox_gives_tasks_back_with_the_same_attempt_and_in_order(site: Site) -> None:
    site.full.add("w1")
    site.worker_up("w1", limit=2)
    site.assign("a", "b", "c")
    assert site.got("w1") == []
    site.full.clear()
    site.advance(0.1)
    assert site.got("w1") == [("a", 1), ("b", 1)]


def test_an_unroutable_worker_is_left_alone_until_its_next_session(site: Site) -> None:
    site.worker_up("w1", limit=2)
    site.worker_up("w2", limit=0)
    site.unreachable.add("w1")
    site.assign("a")
    site.advance(1)
    assert site.got("w1") == []
    site.from_worker("w2", "heartbeat", limit=1, running=0, held=0, draining=False)
    assert site.got("w2") == [("a", 1)]


def test_known_tasks_are_not_taken_twice(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a", "b")
    site.complete("w1", "a")
    records = [site.record("a"), site.record("b")]
    site.from_coordinator("assign_tasks", tasks=records, fence=1)
    site.advance(1)
    assert site.got("w1") == [("a", 1), ("b", 1)]


def test_an_operators_retry_runs_again_with_higher_attempts_and_fresh_chances(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a", max_attempts=1)
    site.fail("w1", "a", 1)
    dead = site.store.results.pop("a")  # the coordinator takes the result back and makes a record again
    assert (dead["status"], dead["retry_count"], dead["payload"]) == ("failed", 1, {"name": "a"})
    site.store.recorded.clear()
    record = {**site.record("a", max_attempts=2, attempt=1, retried=1), "retry_count": 1}
    site.store.live["a"] = record
    site.from_coordinator("assign_tasks", tasks=[record], fence=1)
    assert site.attempt("w1", "a") == 2
    site.fail("w1", "a", 2)
    site.advance(1)
    assert site.attempt("w1", "a") == 3  # one failure since the retry: one attempt is left
    site.complete("w1", "a")
    assert site.store.results["a"]["retry_count"] == 2
    assert site.store.results["a"]["metadata"]["retried"] == 1, "which of its lives has ended"


def test_a_replaced_coordinator_is_refused(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a", fence=7)
    site.from_coordinator("assign_task", task=site.record("stale"), fence=6)
    assert site.got("w1") == [("a", 1)]
    refusal = site.told(COORDINATOR, "assign_task")[0]
    assert (refusal["code"], refusal["message"]) == ("FORBIDDEN", "stale fence")


def test_the_single_form_of_an_assignment_means_the_same(site: Site) -> None:
    site.worker_up("w1")
    record = site.record("a")
    site.store.live["a"] = record
    site.from_coordinator("assign_task", task=record, fence=1)
    assert site.got("w1") == [("a", 1)]


def test_malformed_assignments_are_refused_and_cost_nobody_else_anything(site: Site) -> None:
    site.worker_up("w1", limit=5)
    good = site.record("good")
    site.store.live["good"] = good
    site.from_coordinator(
        "assign_tasks", tasks=[7, {"task_id": 3}, {"task_id": "x", "task_type": "noop", "metadata": 1}, good], fence=1
    )
    assert site.got("w1") == [("good", 1)]
    assert site.told(COORDINATOR, "assign_tasks")[0]["code"] == "INVALID_TASK"
    site.from_coordinator("assign_tasks", tasks="nonsense", fence=1)
    site.from_coordinator("nonsense")
    assert site.told(COORDINATOR, "nonsense")[0]["code"] == "UNKNOWN_ACTION"


def test_workers_nonsense_is_ignored(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a")
    results = [None, 3, {"task_id": ["a"], "attempt": 1}, {"task_id": "a"}, {"task_id": "a", "attempt": "1"}]
    site.from_worker("w1", "task_results", results=results, limit="many")
    site.from_worker("w1", "task_started", tasks=[["a"], "x", [1, 2, 3]])
    site.from_worker("w1", "task_handback", tasks={"a": 1})
    site.from_worker("w1", "heartbeat", limit=None, running="x", held=[])
    assert site.core.heartbeat(COORDINATOR, site.now)["in_progress"] == 1
    site.report("w1", "a", 1, "completed", result=1, started_at="yesterday", execution_s="long")
    assert site.store.results["a"]["result"] == 1


def test_what_the_distributor_says_of_itself(site: Site) -> None:
    assert site.core.ready() == (True, "")
    site.worker_up("w1", slots=4, limit=1, types=["noop", "sleep"])
    site.assign("a", "b")
    now = site.now
    assert site.core.announce(now) == {
        "task_types": ["noop", "sleep"], "fence": 2, "live": 2, "workers": 1, "address": "",
        "follows": COORDINATOR,
    }  # fmt: skip
    assert site.core.welcome("w2", now) == {"fence": 2, "epoch": "epoch"}
    beat = site.core.heartbeat(COORDINATOR, now)
    assert (beat["status"], beat["pending"], beat["in_progress"], beat["slots"], beat["version"]) == (
        "busy", 1, 1, 4, site.store.version,
    )  # fmt: skip
    changed = site.told(COORDINATOR, "workers_changed")[-1]
    assert changed["task_types"] == ["noop", "sleep"]
    assert changed["workers"][0]["id"] == "w1"
    assert orjson.loads(site.store.header["assigned_workers"]) == ["w1"]
    site.supervise()
    state = site.core.local_state(now)
    assert [task.task_id for task in state.local_tasks] == ["a"]
    assert state.status.value == "busy"
    assert site.meter.gauges["tasks/pending"] == 1
    assert site.meter.gauges["agent_up/w1/worker"] == 1
    assert SECTION.distributor_id == state.agent_id


def test_the_in_process_api_stores_a_task_then_sends_it_to_that_worker(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.worker_up("w2", limit=5)
    site.call(1, "assign_task_to_worker", task=site.record("a"), worker_id="w2")
    assert site.answers == {1: True}
    assert site.got("w2") == [("a", 1)]
    assert site.store.live["a"]["status"] == "pending"
    site.call(2, "assign_task_to_worker", task=site.record("b"), worker_id="nobody")
    site.call(3, "assign_task_to_worker", task=site.record("a"), worker_id="w1")
    site.call(4, "register_worker", worker_id="w9")
    site.call(5, "register_worker", worker_id="w9")
    site.call(6, "register_worker", worker_id="not an id")
    site.call(7, "no_such_call")
    assert site.answers == {1: True, 2: False, 3: False, 4: True, 5: True, 6: False, 7: False}
    assert orjson.loads(site.store.header["assigned_workers"]) == ["w1", "w2", "w9"]


def test_a_pinned_task_goes_elsewhere_when_its_worker_is_gone(site: Site) -> None:
    site.worker_up("w1", limit=0)
    site.call(1, "assign_task_to_worker", task=site.record("a"), worker_id="w1")
    site.worker_up("w2", limit=5)
    assert site.got("w2") == []
    site.worker_down("w1")
    assert site.got("w2") == [("a", 1)]
    site.complete("w2", "a")


def test_idle_means_no_wake_ups(site: Site) -> None:
    site.worker_up("w1")
    site.assign("a")
    site.complete("w1", "a")
    site.advance(5)
    site.supervise()
    site.advance(5)
    assert site.core.next_deadline() == float("inf")
    assert site.store.header["status"] == "idle"


def test_lanes_of_labels_that_nobody_asks_for_any_more_are_forgotten(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("waits", labels={"job": "none"})
    for number in range(2_000):
        site.assign(f"t{number}", labels={"job": str(number)})
        site.cancel(f"t{number}")
    assert len(site.core._dispatcher._lanes) < 600
    site.worker_up("w2", limit=5, labels={"job": "none"})
    assert site.got("w2") == [("waits", 1)]


def test_tasks_that_come_back_to_their_lane_leave_its_count_of_dead_entries_true(site: Site) -> None:
    """A worker that comes back with a task that waits is believed; if it then hands it back, the task waits anew, and
    its former entry looks alive."""
    dispatcher, workers = Dispatcher(DistributorConfig()), list(site.core._memory.workers.values())
    tasks = [LiveTask(record := site.record(f"t{n}"), record["metadata"], 1, 0, QUEUED) for n in range(300)]
    for task in tasks:
        dispatcher.add(task, workers)
    (lane,) = dispatcher._lanes.values()
    for task in tasks[:60]:
        dispatcher.discard(task)
        dispatcher.add(task, workers)
    for task in tasks[60:]:
        dispatcher.discard(task)
        task.phase = RUNNING
    served = []
    while (head := lane.head()) is not None:
        lane.pop()
        head.phase = RUNNING
        served.append(head)
    assert sorted(task.task_id for task in served) == sorted(task.task_id for task in tasks[:60])
    assert (lane.size, lane._dead) == (0, 0)
