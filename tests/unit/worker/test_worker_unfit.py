"""A worker whose executors do not run what they are given: what waits goes elsewhere, and in the end it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.worker.leaving import EX_TEMPFAIL, UNFIT_S

HANG = "2 thread handlers hang"
BLOCKED = "an async handler blocks the handler loop"


def handed_back(desk: Any) -> list[str]:
    return [pair[0] for message in desk.sent("task_handback") for pair in message["tasks"]]


@pytest.fixture
def desk(make_desk: Callable[..., Any]) -> Any:
    """One thread, so that most runs wait."""
    desk = make_desk(thread_slots=1)
    desk.up()
    return desk


def test_what_waits_is_handed_back_and_what_runs_goes_on(desk: Any) -> None:
    desk.assign(("t1", "poll"), ("t2", "poll"), ("t3", "poll"), ("c1", "compute"))
    desk.begin("t1")
    desk.begin("c1")
    desk.core.executor_health(HANG, ["thread"])
    desk.settle()
    assert sorted(handed_back(desk)) == ["t2", "t3"]
    assert [stop.task_id for stop in desk.stopped if not stop.unbegun] == []
    assert desk.sent("heartbeat")[-1]["limit"] == 0, "it is told at once"
    assert "unfit" in desk.logs()
    desk.finish("t1")
    desk.finish("c1")
    assert [desk.results()[name]["outcome"] for name in ("t1", "c1")] == ["completed", "completed"]
    assert not desk.exits()


def test_what_comes_to_an_unfit_worker_is_handed_back(desk: Any) -> None:
    desk.core.executor_health(HANG, ["thread"])
    desk.assign(("t1", "poll"), ("n1", "noop"))
    assert handed_back(desk) == ["t1", "n1"]
    assert not desk.started


def test_what_an_executor_has_and_has_not_begun_comes_back_uncounted(desk: Any) -> None:
    """Only the executor knows whether it began an async run: it is asked to let go of what it has not."""
    desk.assign(("t1", "poll"), ("s1", "sleep"), ("c1", "compute"))
    desk.core.executor_health(BLOCKED, ["async"])
    desk.settle()
    desk.settle()
    assert [(stop.task_id, stop.unbegun) for stop in desk.stopped] == [("s1", True)]
    desk.finish("s1", outcome="failed", error_kind="killed", started_at=0.0)
    assert handed_back(desk) == ["s1"]
    assert "s1" not in desk.results()


def test_a_run_that_began_just_then_is_moved(desk: Any) -> None:
    desk.assign(("s1", "sleep"))
    desk.core.executor_health(BLOCKED, ["async"])
    desk.settle()
    desk.finish("s1", outcome="failed", error_kind="killed")
    assert desk.results()["s1"]["outcome"] == "moved"


def test_a_run_that_fails_by_itself_meanwhile_has_failed(desk: Any) -> None:
    desk.assign(("s1", "sleep"))
    desk.core.executor_health(BLOCKED, ["async"])
    desk.settle()
    desk.finish("s1", outcome="failed", error_kind="raised")
    assert desk.results()["s1"]["error_kind"] == "raised"


def test_a_worker_that_is_fit_again_stays(desk: Any) -> None:
    desk.core.executor_health(HANG, ["thread"])
    desk.wait(UNFIT_S - 1)
    desk.core.executor_health("")
    desk.settle()
    desk.core.executor_health(HANG, ["thread"])
    desk.wait(UNFIT_S - 1)
    desk.core.executor_health("")
    desk.wait(UNFIT_S)
    desk.assign(("t1", "poll"))
    assert [run.task_id for run in desk.started] == ["t1"]
    assert not desk.exits()
    assert desk.sent("heartbeat")[-1]["draining"] is False


def test_a_worker_that_stays_unfit_leaves_to_be_started_anew(desk: Any) -> None:
    desk.assign(("t1", "poll"), ("c1", "compute"))
    desk.begin("t1")
    desk.begin("c1")
    desk.core.executor_health(HANG, ["thread"])
    desk.settle()
    assert desk.core.next_deadline() <= desk.now.mono + UNFIT_S
    desk.wait(UNFIT_S)
    assert desk.sent("heartbeat")[-1]["draining"] is True
    assert desk.core.ready() == (False, f"draining: for 30 s {HANG}")
    desk.finish("c1")
    desk.wait(10.0)
    assert [(stop.task_id, stop.reason) for stop in desk.stopped] == [("t1", "drain")]
    desk.finish("t1", outcome="failed", error_kind="killed", detail={"still_running": True})
    desk.settle()
    (leave,) = desk.exits()
    assert (leave.status, leave.reason) == (EX_TEMPFAIL, f"drained (for 30 s {HANG})")
    assert [desk.results()[name]["outcome"] for name in ("c1", "t1")] == ["completed", "moved"]


def test_only_the_run_that_blocks_the_others_has_failed(desk: Any) -> None:
    """Moved like the others it would block one worker after the other."""
    desk.assign(("s1", "sleep"), ("s2", "sleep"))
    desk.core.executor_health(BLOCKED, ["async"], ("s2", 1))
    desk.settle()
    desk.wait(UNFIT_S)
    desk.wait(10.0)
    for task_id in ("s1", "s2"):
        desk.finish(task_id, outcome="failed", error_kind="killed", retryable=True)
    assert desk.results()["s1"]["outcome"] == "moved"
    blocker = desk.results()["s2"]
    assert (blocker["outcome"], blocker["error_kind"], blocker["retryable"]) == ("failed", "blocked", True)
    desk.settle()
    assert [leave.status for leave in desk.exits()] == [EX_TEMPFAIL]


def test_child_processes_that_do_not_start_are_tried_again_here(desk: Any) -> None:
    desk.assign(*[(f"c{n}", "compute") for n in range(6)])
    desk.core.executor_health("child processes do not start")
    desk.wait(UNFIT_S)
    desk.wait(UNFIT_S)
    assert sorted(handed_back(desk)) == ["c4", "c5"]
    assert not desk.stopped
    assert not desk.exits()


def test_a_drain_that_was_asked_for_ends_with_status_0(desk: Any) -> None:
    desk.core.executor_health(HANG, ["thread"])
    desk.request({"action": "drain"})
    desk.wait(UNFIT_S)
    assert [leave.status for leave in desk.exits()] == [0]


def test_in_process_calls_are_answered(desk: Any) -> None:
    desk.assign(("t1", "poll"))
    desk.event(LocalCall(5, "execute_task", {"task": {"task_id": "mine", "task_type": "poll"}}))
    desk.core.executor_health(HANG, ["thread"])
    desk.settle()
    desk.event(LocalCall(6, "execute_task", {"task": {"task_id": "late", "task_type": "poll"}}))
    answers = {effect.call_id: effect.value for effect in desk.effects if isinstance(effect, LocalAnswer)}
    assert answers[5] == {"status": "failed", "result": None, "error": HANG}
    assert HANG in answers[6]["error"]
