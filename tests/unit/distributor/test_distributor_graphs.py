"""A graph's task goes on only where its graph is: binding, moves, and attempts that are put off."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.distributor.graph_tasks import (
    GRAPH,
    assign_to_thread,
    graph_worker,
    moved,
    put_off,
    resume,
    sent_metadata,
    waits,
    why,
)
from tests.unit.distributor.harness import Site


def test_a_task_is_bound_to_the_graph_of_its_first_worker(site: Site) -> None:
    graph_worker(site, "w1", "v1")
    site.assign("a", task_type=GRAPH)
    assert sent_metadata(site, "w1", "a")["graph"] == "v1"
    site.advance(0.2)
    assert site.store.live["a"]["metadata"]["graph"] == "v1", "it is stored with the in_progress mark"
    graph_worker(site, "w2", "v2")
    graph_worker(site, "w3", "v1")
    site.worker_down("w1")
    assert site.got("w2") == []
    assert site.got("w3") == [("a", 2)]


def test_the_binding_holds_over_retries_and_a_change_of_owner(site: Site, make_site: Callable[..., Site]) -> None:
    graph_worker(site, "w1", "v1")
    site.assign("a", task_type=GRAPH)
    site.fail("w1", "a", 1)
    site.worker_down("w1", "goodbye")
    successor = make_site(store=site.store)
    successor.own()
    successor.coordinator_up()
    graph_worker(successor, "w2", "v2")
    successor.advance(5)
    assert successor.got("w2") == []
    graph_worker(successor, "w3", "v1")
    assert [task_id for task_id, _ in successor.got("w3")] == ["a"]


def test_where_nobody_has_the_graph_the_task_is_held_and_explain_says_so(site: Site) -> None:
    graph_worker(site, "w1", "v1")
    site.assign("a", task_type=GRAPH)
    site.worker_down("w1")
    graph_worker(site, "w2", "v2")
    assert site.got("w2") == []
    text = why(site, "a")
    assert "graph v1" in text
    assert "v2" in text
    site.supervise()
    assert [log.fields for log in site.logs if log.event == "no_worker_for_task_type"] == [
        {"task_type": GRAPH, "waiting": 1}
    ]
    site.worker_up("w2", types=[GRAPH], limit=5, graphs={GRAPH: "v1"}, restarted=True)  # its file was put back
    assert site.got("w2") == [("a", 2)]


def test_an_attempt_that_never_began_binds_nothing(site: Site) -> None:
    graph_worker(site, "w1", "v1")
    site.assign("a", task_type=GRAPH)
    site.from_worker("w1", "task_handback", tasks=[["a", 1]], rest=True)
    graph_worker(site, "w2", "v2")
    assert site.got("w2") == [("a", 2)]
    assert sent_metadata(site, "w2", "a")["graph"] == "v2"


def test_an_assignment_that_never_left_binds_nothing(site: Site) -> None:
    graph_worker(site, "w1", "v1")
    site.unreachable.add("w1")
    site.assign("a", task_type=GRAPH)
    graph_worker(site, "w2", "v2")
    assert site.got("w2") == [("a", 1)]
    assert sent_metadata(site, "w2", "a")["graph"] == "v2"


def test_a_later_attempt_that_never_began_stays_bound(site: Site) -> None:
    graph_worker(site, "w1", "v1")
    site.assign("a", task_type=GRAPH)
    graph_worker(site, "w2", "v1", limit=1)
    moved(site, "w1", "a")
    where = "w1" if ("a", 2) in site.got("w1") else "w2"
    site.from_worker(where, "task_handback", tasks=[["a", 2]], rest=True)
    assert site.store.live["a"]["metadata"]["graph"] == "v1"


def test_an_adopted_run_is_bound_to_its_workers_graph(site: Site, make_site: Callable[..., Site]) -> None:
    graph_worker(site, "w1", "v1")
    site.assign("a", task_type=GRAPH)  # and the distributor dies before it has recorded more
    successor = make_site(store=site.store)
    successor.own()
    successor.coordinator_up()
    graph_worker(successor, "w1", "v1", running=[["a", 1, 2]])
    successor.worker_down("w1")
    graph_worker(successor, "w2", "v2")
    assert successor.got("w2") == []
    graph_worker(successor, "w3", "v1")
    assert successor.got("w3") == [("a", 2)]


def test_a_moved_task_goes_on_at_once_before_others_and_uncounted(site: Site) -> None:
    graph_worker(site, "w1", limit=1)
    site.assign("a", "b", "c", task_type=GRAPH, max_attempts=1)
    site.from_worker("w1", "heartbeat", running=1, held=1, draining=True)
    moved(site, "w1", "a")
    graph_worker(site, "w2", limit=1)
    assert site.got("w2") == [("a", 2)]
    assert site.store.live["a"].get("retry_count", 0) == 0
    assert [event[1] for event in site.store.events("retry")] == []
    site.advance(2)
    assert [(event[1], event[3]["worker"]) for event in site.store.events("moved")] == [("a", "w1")]
    assert site.meter.counts["task_pauses_total/moved"] == 1
    site.complete("w2", "a")
    assert site.got("w2")[1:] == [("b", 1)]


def test_the_next_attempt_of_a_moved_task_is_stored_before_it_is_sent(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.store_up = False
    moved(site, "w1", "a")
    assert site.got("w1") == [("a", 1)]
    site.store_up = True
    site.turn()
    assert site.got("w1") == [("a", 1), ("a", 2)]


def test_an_attempt_that_is_put_off_comes_later_each_time_and_never_counts(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH, max_attempts=1)
    waited = []
    for turn in range(7):
        put_off(site, "w1", "a", "store")
        start, had = site.mono, len(site.got("w1"))
        while len(site.got("w1")) == had:
            site.advance(0.05)
        waited.append(round(site.mono - start, 1))
        assert site.attempt("w1", "a") == turn + 2
    assert waited == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    assert site.store.live["a"].get("retry_count", 0) == 0
    assert "task_retries_put_off_total" not in site.meter.counts, "the budget of retries is not touched"
    assert len(site.store.events("put_off")) == 1, "at most one line a minute"
    site.complete("w1", "a")
    assert site.reported() == [("a", "completed")]


def test_explain_says_why_a_task_is_put_off(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    put_off(site, "w1", "a", delay_s=30.0)
    assert "in use" in why(site, "a")
    site.advance(31)
    waits(site, "w1", "a")
    assert "in use" not in why(site, "a")


@pytest.mark.parametrize(("kind", "goes"), [("thread_busy", True), ("graph_changed", True), ("store", False)])
def test_a_task_that_was_put_off_before_it_began_is_free_of_its_graph(site: Site, kind: str, goes: bool) -> None:
    graph_worker(site, "w1", "v1")
    site.assign("a", task_type=GRAPH)
    put_off(site, "w1", "a", kind)
    site.worker_down("w1", "goodbye")
    graph_worker(site, "w2", "v2")
    site.advance(1)
    assert bool(site.got("w2")) is goes


@pytest.mark.parametrize("delay", [None, "soon", -1.0, 1e9, True])
def test_a_nonsensical_delay_is_bounded(site: Site, delay: object) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.report("w1", "a", 1, "put_off", error="x", error_kind="thread_busy", detail={"delay_s": delay})
    assert site.got("w1") == [("a", 1)]
    site.advance(61)
    assert site.got("w1") == [("a", 1), ("a", 2)]


def test_what_is_cancelled_meanwhile_is_neither_moved_nor_put_off(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", "b", task_type=GRAPH)
    site.cancel("a", "b")
    moved(site, "w1", "a")
    put_off(site, "w1", "b")
    assert sorted(site.reported()) == [("a", "abandoned"), ("b", "abandoned")]


def test_a_late_move_of_a_former_attempt_changes_nothing(site: Site) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    site.worker_down("w1", "silence")
    graph_worker(site, "w2")
    graph_worker(site, "w1", running=[["a", 1, 2]])
    site.report("w1", "a", 1, "moved", error="leaves", error_kind="drain")
    assert site.got("w2") == [("a", 2)]


def test_an_attempt_whose_thread_a_task_of_another_distributor_has_comes_again_after_a_constant_delay(
    site: Site,
) -> None:
    graph_worker(site, "w1")
    site.assign("a", task_type=GRAPH)
    for turn in range(4):
        put_off(site, "w1", "a")
        site.advance(0.4)
        assert len(site.got("w1")) == turn + 1
        site.advance(0.2)
        assert len(site.got("w1")) == turn + 2


def test_tasks_of_one_thread_run_in_the_order_of_their_submission_and_each_at_the_end_of_the_one_before(
    site: Site,
) -> None:
    graph_worker(site, "w1", limit=8)
    site.assign("a", "b", "c", "d", "e", task_type=GRAPH)
    for each in ("d", "b", "e", "c"):
        put_off(site, "w1", each, holder="a")
    site.advance(10)
    assert len(site.got("w1")) == 5, "nobody asks again while the thread is in use"
    assert "again when a has ended" in why(site, "c")
    site.complete("w1", "a")
    assert site.got("w1")[5:] == [("b", 2)], "without a moment's delay"
    site.fail("w1", "b", 2, retryable=False)
    assert site.got("w1")[6:] == [("c", 2)]
    site.cancel("d")
    waits(site, "w1", "c")
    assert site.got("w1")[7:] == [("e", 2)], "a task that waits for an answer gives its thread free"


def test_a_task_whose_turn_it_is_and_that_finds_its_thread_not_free_yet_asks_again_at_once(site: Site) -> None:
    graph_worker(site, "w1", limit=8)
    site.assign("a", "b", "c", task_type=GRAPH)
    put_off(site, "w1", "b", holder="a")
    put_off(site, "w1", "c", holder="a")
    site.complete("w1", "a")
    put_off(site, "w1", "b", holder="a")
    site.advance(0.1)
    assert site.got("w1")[3:] == [("b", 2), ("b", 3)]
    site.complete("w1", "b")
    assert site.got("w1")[5:] == [("c", 2)]


def test_a_task_behind_another_one_asks_again_by_itself_should_the_end_of_that_one_never_be_told(site: Site) -> None:
    graph_worker(site, "w1", limit=8)
    site.assign("a", "b", task_type=GRAPH)
    put_off(site, "w1", "b", holder="a")
    site.advance(61)
    assert site.got("w1")[2:] == [("b", 2)]


def test_a_task_behind_one_that_runs_for_days_takes_up_one_place(site: Site) -> None:
    graph_worker(site, "w1", limit=8)
    site.assign("a", "b", "c", task_type=GRAPH)
    put_off(site, "w1", "c", holder="a")
    for _ in range(50):
        put_off(site, "w1", "b", holder="a")
        site.advance(61)
        put_off(site, "w1", "c", holder="a")
    put_off(site, "w1", "b", holder="a")
    assert [len(line.heap) for line in site.core._outcomes.pauses._turns._behind.values()] == [2]
    sent = len(site.got("w1"))
    site.complete("w1", "a")
    assert [task_id for task_id, _ in site.got("w1")[sent:]] == ["b"]
    site.complete("w1", "b")
    assert [task_id for task_id, _ in site.got("w1")[sent:]] == ["b", "c"]


def test_tasks_that_name_a_thread_are_sent_one_after_the_other_in_the_order_of_their_submission(site: Site) -> None:
    graph_worker(site, "w1", limit=8)
    assign_to_thread(site, "t", "a", "b", "c")
    assign_to_thread(site, "other", "x")
    assign_to_thread(site, "t", "d")
    assert site.got("w1") == [("a", 1), ("x", 1)]
    assert "again when a has ended" in why(site, "c")
    site.complete("w1", "a")
    assert site.got("w1")[2:] == [("b", 1)]
    site.cancel("c")
    site.complete("w1", "b")
    assert site.got("w1")[3:] == [("d", 1)]
    site.complete("w1", "d")
    assign_to_thread(site, "t", "e")
    assert site.got("w1")[4:] == [("e", 1)], "the thread is idle"


def test_a_task_of_a_thread_whose_task_waits_for_an_answer_is_sent(site: Site) -> None:
    graph_worker(site, "w1", limit=8)
    assign_to_thread(site, "t", "a", "b")
    waits(site, "w1", "a")
    assert site.got("w1")[1:] == [("b", 1)]
    resume(site, ["a", {"i1": "yes"}, 1])
    put_off(site, "w1", "a", holder="b")
    assign_to_thread(site, "t", "c")
    site.complete("w1", "b")
    assert site.got("w1")[3:] == [("a", 3)], "it was submitted before"
    site.complete("w1", "a")
    assert site.got("w1")[4:] == [("c", 1)]
