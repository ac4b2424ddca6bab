"""Tasks whose graphs asked something: nobody holds them until they are answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.distributor.graph_tasks import (
    GRAPH,
    asked,
    graph_worker,
    resume,
    sent_metadata,
    verdicts,
    waits,
    why,
)
from tests.unit.distributor.harness import COORDINATOR, Site


@pytest.fixture
def waiting(site: Site) -> Site:
    """A site with one task that waits."""
    graph_worker(site, "w1", limit=1)
    site.assign("a", task_type=GRAPH)
    waits(site, "w1", "a")
    return site


def beat(site: Site) -> dict[str, object]:
    return site.core.heartbeat(COORDINATOR, site.now)


def test_the_coordinator_is_told_of_the_question_when_it_is_stored(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.store_up = False
    waits(site, "w1", "a", "i1", "i2")
    assert asked(site) == []
    site.store_up = True
    site.turn()
    assert asked(site) == [("a", 1)]
    told = site.told(COORDINATOR, "task_waiting")[-1]
    assert told["tasks"][0]["interrupts"] == [{"id": "i1", "value": "i1?"}, {"id": "i2", "value": "i2?"}]
    assert told["version"] == site.store.version
    record = site.store.live["a"]
    assert (record["status"], record["metadata"]["interrupts"]) == ("waiting", told["tasks"][0]["interrupts"])
    assert "worker" not in record["metadata"]


def test_a_waiting_task_takes_nobodys_room(waiting: Site) -> None:
    waiting.assign("b", task_type=GRAPH)
    assert waiting.got("w1") == [("a", 1), ("b", 1)]
    state = beat(waiting)
    assert (state["pending"], state["in_progress"], state["waiting"]) == (0, 1, 1)
    waiting.worker_down("w1")
    assert waiting.store.live["a"]["status"] == "waiting", "nobody's death is a waiting task's"
    assert "an answer" in why(waiting, "a")
    waiting.supervise()
    assert waiting.meter.gauges["tasks/waiting"] == 1


def test_a_waiting_task_has_no_time_limit(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH, timeout_s=1.0)
    waits(site, "w1", "a")
    for _ in range(5):
        site.advance(100)
        site.supervise()
    assert site.store.live["a"]["status"] == "waiting"


def test_an_answer_sends_the_task_on_first_of_all_with_the_answer(waiting: Site) -> None:
    waiting.assign("b", "c", task_type=GRAPH)
    resume(waiting, ["a", {"i1": "yes"}, 1])
    assert verdicts(waiting) == [["a", "resumed"]]
    waiting.complete("w1", "b")
    assert waiting.got("w1") == [("a", 1), ("b", 1), ("a", 2)]
    metadata = sent_metadata(waiting, "w1", "a")
    assert metadata["resume"] == {"i1": "yes"}
    assert "interrupts" not in metadata
    assert waiting.store.live["a"].get("retry_count", 0) == 0


def test_an_answer_is_confirmed_when_it_is_durable(waiting: Site) -> None:
    waiting.store_up = False
    resume(waiting, ["a", {"i1": "yes"}])
    assert verdicts(waiting) == []
    assert waiting.got("w1") == [("a", 1)]
    waiting.store_up = True
    waiting.turn()
    assert verdicts(waiting) == [["a", "resumed"]]
    assert waiting.got("w1") == [("a", 1), ("a", 2)]


def test_a_repeated_answer_is_confirmed_once_more_and_runs_nothing(waiting: Site) -> None:
    for _ in range(3):
        resume(waiting, ["a", {"i1": "yes"}, 1])
    assert verdicts(waiting) == [["a", "resumed"]] * 3
    resume(waiting, ["a", {"i1": "no"}, 1])
    assert verdicts(waiting)[-1] == ["a", "not_waiting"]
    assert waiting.got("w1") == [("a", 1), ("a", 2)]


def test_a_repeated_answer_is_confirmed_when_it_is_durable_too(waiting: Site) -> None:
    waiting.store_up = False
    resume(waiting, ["a", {"i1": "yes"}, 1])
    resume(waiting, ["a", {"i1": "yes"}, 1])
    assert verdicts(waiting) == []
    waiting.store_up = True
    waiting.turn()
    assert verdicts(waiting) == [["a", "resumed"]] * 2


def test_a_late_answer_to_the_first_question_does_not_answer_the_second(waiting: Site) -> None:
    resume(waiting, ["a", {"i1": "yes"}, 1])
    waits(waiting, "w1", "a")  # a second question of the same node has the same id
    resume(waiting, ["a", {"i1": "yes"}, 1])
    assert verdicts(waiting)[-1] == ["a", "resumed"], "it was, then"
    assert waiting.store.live["a"]["status"] == "waiting"
    assert asked(waiting) == [("a", 1), ("a", 2)]
    resume(waiting, ["a", {"i1": "again"}, 2])
    assert sent_metadata(waiting, "w1", "a")["resume"] == {"i1": "again"}


@pytest.mark.parametrize("answers", [{}, {"i9": 1}, {"i1": 1, "i9": 1}, None, "yes"])
def test_answers_to_what_was_not_asked_are_refused(waiting: Site, answers: object) -> None:
    resume(waiting, ["a", answers])
    assert verdicts(waiting) == [["a", "not_waiting"]]
    assert waiting.store.live["a"]["status"] == "waiting"


def test_an_answer_for_a_task_that_is_unknown_ended_or_runs(waiting: Site) -> None:
    waiting.assign("b", task_type=GRAPH)
    resume(waiting, ["b", {"i1": 1}], ["c", {"i1": 1}])
    waiting.complete("w1", "b")
    resume(waiting, ["b", {"i1": 1}])
    assert verdicts(waiting) == [["b", "not_waiting"], ["c", "unknown"], ["b", "unknown"]]


def test_malformed_answers_change_nothing(waiting: Site) -> None:
    waiting.from_coordinator("resume_tasks", tasks="all", fence=1)
    resume(waiting, ["a"], [1, {}], ["a", {"i1": 1}, 1, 1])
    assert verdicts(waiting) == []
    assert waiting.store.live["a"]["status"] == "waiting"


def test_a_replaced_coordinator_cannot_answer(waiting: Site) -> None:
    waiting.from_coordinator("assign_tasks", tasks=[], fence=7)
    resume(waiting, ["a", {"i1": "yes"}])
    assert waiting.store.live["a"]["status"] == "waiting"


def test_a_waiting_task_is_cancelled_at_once(waiting: Site) -> None:
    waiting.cancel("a")
    assert waiting.reported() == [("a", "abandoned")]
    resume(waiting, ["a", {"i1": "yes"}])
    assert verdicts(waiting) == [["a", "unknown"]]


def test_a_task_that_is_cancelled_as_it_asks_is_abandoned(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.cancel("a")
    waits(site, "w1", "a")
    assert site.reported() == [("a", "abandoned")]
    assert asked(site) == []


def test_a_run_that_waits_for_nothing_fails(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.report("w1", "a", 1, "waiting", interrupts=[])
    assert site.reported() == [("a", "failed")]


def test_a_new_owner_lets_a_waiting_task_wait_and_tells_the_coordinator(
    waiting: Site, make_site: Callable[..., Site]
) -> None:
    successor = make_site(store=waiting.store)
    successor.coordinator_up()
    successor.own()
    assert asked(successor) == [("a", 1)]
    graph_worker(successor, "w1")
    successor.advance(10)
    assert successor.got("w1") == []
    resume(successor, ["a", {"i1": "yes"}, 1])
    assert successor.got("w1") == [("a", 2)]


def test_a_repeated_answer_is_known_to_the_next_owner(waiting: Site, make_site: Callable[..., Site]) -> None:
    resume(waiting, ["a", {"i1": "yes"}, 1])
    successor = make_site(store=waiting.store)
    successor.own()
    successor.coordinator_up()
    resume(successor, ["a", {"i1": "yes"}, 1])
    assert verdicts(successor) == [["a", "resumed"]]


def test_a_question_that_was_reported_to_a_dying_owner_is_recorded_by_the_next(
    site: Site, make_site: Callable[..., Site]
) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.advance(0.2)
    successor = make_site(store=site.store)
    successor.own()
    successor.coordinator_up()
    graph_worker(successor, "w1")
    successor.report("w1", "a", 1, "waiting", interrupts=[{"id": "i1", "value": None}])
    successor.advance(10)
    assert asked(successor) == [("a", 1)]
    assert successor.got("w1") == []


def test_a_coordinator_that_takes_over_is_told_of_what_waits(waiting: Site) -> None:
    waiting.coordinator_down()
    waiting.coordinator_up(restarted=True)
    before = len(asked(waiting))
    waiting.from_coordinator("resync", fence=2, epoch="epoch")
    assert asked(waiting)[before:] == [("a", 1)]


def test_a_new_session_with_the_coordinator_tells_what_waits_again(waiting: Site) -> None:
    """What went into the former session may be lost with it, also where its end was not noticed."""
    waiting.coordinator_up()
    assert asked(waiting) == [("a", 1), ("a", 1)]


def test_a_coordinator_that_was_away_is_told_later(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.coordinator_down()
    waits(site, "w1", "a")
    assert asked(site) == []
    site.coordinator_up()
    assert set(asked(site)) == {("a", 1)}


def test_an_owner_that_lost_the_lease_for_a_while_keeps_what_waits(waiting: Site) -> None:
    waiting.disown()
    waiting.own()
    assert waiting.store.live["a"]["status"] == "waiting"
    resume(waiting, ["a", {"i1": "yes"}])
    assert waiting.got("w1") == [("a", 1), ("a", 2)]


def test_what_another_owner_was_told_waits_here_too(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.advance(0.2)
    site.disown()
    record = site.store.live["a"]
    record["status"], record["metadata"]["interrupts"] = "waiting", [{"id": "i1", "value": 1}]
    site.store.fence += 1
    site.own()
    assert asked(site) == [("a", 1)]
    site.advance(10)
    assert site.got("w1") == [("a", 1)]


def test_a_store_that_lost_the_question_gets_it_again(waiting: Site) -> None:
    waiting.disown()
    record = waiting.store.live["a"]
    record["status"] = "in_progress"
    del record["metadata"]["interrupts"]
    waiting.own(state_lost=True)
    assert waiting.store.live["a"]["status"] == "waiting"


def test_a_store_that_went_back_to_before_the_answer_does_not_stop_the_run(
    waiting: Site, make_site: Callable[..., Site]
) -> None:
    successor = make_site(store=waiting.store)
    successor.own(state_lost=True)
    successor.coordinator_up()
    graph_worker(successor, "w1", running=[["a", 2, 2]])
    successor.complete("w1", ("a", 2))
    assert successor.reported() == [("a", "completed")]


def test_a_waiting_task_that_comes_from_another_place_waits_here(site: Site) -> None:
    graph_worker(site, "w1")
    record = site.record("a", GRAPH, attempt=3, interrupts=[{"id": "i1", "value": 1}])
    record["status"] = "waiting"
    site.store.live["a"] = record
    site.from_coordinator("assign_tasks", tasks=[record], fence=1)
    assert site.got("w1") == []
    assert asked(site) == [("a", 3)]
    resume(site, ["a", {"i1": 1}, 3])
    assert site.got("w1") == [("a", 4)]


def test_an_operators_retry_goes_on_with_the_graph_it_had(site: Site) -> None:
    graph_worker(site, "w1", "v1")
    graph_worker(site, "w2", "v2")
    site.assign("a", task_type=GRAPH, attempt=3, floor=3, retried=1, graph="v2", graph_attempt=1)
    assert site.got("w1") == []
    assert site.got("w2") == [("a", 4)]


def test_a_drained_distributor_leaves_what_waits(waiting: Site) -> None:
    waiting.drain()
    assert waiting.exit is not None
    assert waiting.store.live["a"]["status"] == "waiting"


def test_an_audit_finds_nothing_wrong_with_a_waiting_task(waiting: Site) -> None:
    waiting.from_coordinator("audit", number=1, whole=True, repair=True)
    waiting.answer()
    assert waiting.told(COORDINATOR, "audit")[-1]["findings"] == []


# ---------------------------------------------------------------- after a rollback


def ended(status: str, attempt: int, **more: object) -> dict[str, object]:
    return {"task_id": "a", "task_type": GRAPH, "status": status, "metadata": {"attempt": attempt}, **more}


def end_waiting(site: Site, *results: object) -> None:
    site.from_coordinator("end_waiting", results=list(results), fence=1)


def test_one_that_waits_again_after_a_rollback_gets_the_result_that_it_had(waiting: Site) -> None:
    end_waiting(waiting, ended("completed", 2, result={"answer": 42}))
    assert waiting.store.live == {}
    assert waiting.store.results["a"]["result"] == {"answer": 42}
    assert waiting.told(COORDINATOR, "task_results")[-1]["results"][0]["task_id"] == "a"


def test_one_that_had_failed_has_its_payload_again(waiting: Site) -> None:
    payload = waiting.store.live["a"]["payload"]
    end_waiting(waiting, ended("failed", 2, error="boom"))
    assert waiting.store.results["a"]["payload"] == payload


@pytest.mark.parametrize(
    "result",
    [
        ended("completed", 0),  # of an attempt before the one that asked: an earlier life's
        ended("waiting", 2),
        {**ended("completed", 2), "task_id": "other"},
        {**ended("completed", 2), "task_id": ["a"]},
        {**ended("completed", 2), "status": ["completed"]},
        {**ended("completed", 2), "metadata": None},
        "a",
    ],
)
def test_what_is_not_its_end_does_not_end_it(waiting: Site, result: object) -> None:
    end_waiting(waiting, result)
    assert waiting.store.live["a"]["status"] == "waiting"
    assert waiting.store.results == {}


def test_one_that_does_not_wait_is_not_ended_by_others(waiting: Site) -> None:
    resume(waiting, ["a", {"i1": "yes"}, 1])
    end_waiting(waiting, ended("completed", 5))
    assert waiting.store.live["a"]["status"] == "pending"
    assert waiting.store.results == {}
