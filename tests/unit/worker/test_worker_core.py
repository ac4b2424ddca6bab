"""What a worker does with assignments, results, cancellations and time limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.models import AgentStatus
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.contract import ChildrenReady


def test_assigned_task_runs_and_its_result_goes_up(desk: Any) -> None:
    desk.assign(("t1", "noop"))
    assert [(run.task_id, run.task_type, run.payload) for run in desk.started] == [("t1", "noop", {"n": 1})]
    desk.finish("t1", result=b'{"answer":42}', execution_s=0.25)
    (message,) = desk.sent("task_results")
    assert message["results"] == [
        {
            "task_id": "t1",
            "attempt": 1,
            "outcome": "completed",
            "started_at": "2023-11-14T22:13:20.000000Z",
            "execution_s": 0.25,
            "result": {"answer": 42},
        }
    ]
    assert message["limit"] >= 3


def test_everything_that_finished_since_the_last_settling_is_one_message(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "noop") for n in range(50)])
    desk.event(*[desk.ended(f"t{n}") for n in range(50)])
    assert [len(message["results"]) for message in desk.sent("task_results")] == [50]


def test_large_results_are_split_over_messages(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "noop") for n in range(6)])
    big = b'"' + b"x" * 100_000 + b'"'
    desk.event(*[desk.ended(f"t{n}", result=big) for n in range(6)])
    assert [len(message["results"]) for message in desk.sent("task_results")] == [2, 2, 2]


def test_failure_carries_how_and_whether_to_retry(desk: Any) -> None:
    desk.assign(("t1", "noop"))
    desk.finish(
        "t1", outcome="failed", error="ValueError: no", error_kind="raised", retryable=True, detail={"log": ["a"]}
    )
    result = desk.results()["t1"]
    assert (result["outcome"], result["error"], result["error_kind"], result["retryable"]) == (
        "failed",
        "ValueError: no",
        "raised",
        True,
    )
    assert result["detail"] == {"log": ["a"]}
    assert "result" not in result


def test_unknown_task_type_fails_without_a_retry(desk: Any) -> None:
    desk.assign(("t1", "nonesuch"))
    result = desk.results()["t1"]
    assert (result["error_kind"], result["retryable"]) == ("unknown_task_type", False)
    assert "nonesuch" in result["error"]
    assert not desk.started


def test_specifications_single_form_is_taken(desk: Any) -> None:
    desk.request({"action": "assign_task", "task": {"task_id": "t1", "task_type": "noop", "metadata": {"attempt": 4}}})
    assert [(run.task_id, run.attempt) for run in desk.started] == [("t1", 4)]


def test_malformed_task_costs_neither_the_worker_nor_its_neighbours(desk: Any) -> None:
    good = {"task_id": "t1", "task_type": "noop", "attempt": 1}
    desk.request({"action": "assign_tasks", "fence": 7, "tasks": [17, {"task_id": 3}, good, {"task_type": "noop"}]})
    assert [run.task_id for run in desk.started] == ["t1"]
    assert desk.logs() == ["task_malformed"] * 3


@pytest.mark.parametrize("bad", [{"metadata": [1]}, {"metadata": {"timeout_s": "soon"}}, {"task_type": None}])
def test_malformed_task_that_has_a_name_is_answered(desk: Any, bad: dict[str, Any]) -> None:
    """Its distributor would count it as held here for as long as the worker has anything to do."""
    desk.request(
        {"action": "assign_tasks", "fence": 7, "tasks": [{"task_id": "t1", "attempt": 2, "task_type": "noop", **bad}]}
    )
    assert desk.logs() == ["task_malformed"]
    result = desk.results()["t1"]
    assert (result["attempt"], result["outcome"], result["error_kind"], result["retryable"]) == (
        2,
        "failed",
        "invalid_input",
        False,
    )


# ------------------------------------------------------------ fences, attempts, duplicates


def test_lower_fence_is_refused_and_the_highest_is_kept(desk: Any) -> None:
    desk.assign(("t1", "noop"), fence=9)
    desk.assign(("t2", "noop"), fence=8)
    (refusal,) = [send for send in desk.messages if send.type == "error"]
    assert (refusal.payload["code"], refusal.payload["message"], refusal.reply_to) == (
        "FORBIDDEN",
        "stale fence",
        "r-1",
    )
    assert [run.task_id for run in desk.started] == ["t1"]
    assert refusal.payload["tasks"] == [["t2", 1]]


def test_stranger_may_not_assign(desk: Any) -> None:
    desk.request({"action": "assign_tasks", "fence": 99, "tasks": []}, sender="distributor-2")
    assert desk.messages[-1].payload["code"] == "FORBIDDEN"


def test_unknown_action_is_refused(desk: Any) -> None:
    desk.request({"action": "explode"})
    assert desk.messages[-1].payload["code"] == "UNKNOWN_ACTION"


def test_repeated_assignment_runs_once(desk: Any) -> None:
    desk.assign(("t1", "noop"))
    desk.assign(("t1", "noop"))
    assert len(desk.started) == 1


def test_repeated_assignment_of_a_finished_attempt_repeats_its_result(desk: Any) -> None:
    desk.assign(("t1", "noop"))
    desk.finish("t1")
    desk.assign(("t1", "noop"))
    assert len(desk.started) == 1
    assert [item["task_id"] for item in desk.reported] == ["t1", "t1"]


def test_higher_attempt_replaces_the_running_one(desk: Any) -> None:
    desk.assign(("t1", "sleep"))
    desk.assign(("t1", "sleep", 3))
    assert [(stop.task_id, stop.attempt) for stop in desk.stopped] == [("t1", 1)]
    assert [(run.task_id, run.attempt) for run in desk.started] == [("t1", 1), ("t1", 3)]
    desk.assign(("t1", "sleep", 2))
    assert len(desk.started) == 2
    desk.event(desk.ended("t1", 1, outcome="abandoned", error_kind="cancelled"), desk.ended("t1", 3))
    assert [(item["attempt"], item["outcome"]) for item in desk.reported] == [(1, "abandoned"), (3, "completed")]


def test_higher_attempt_replaces_one_that_waits(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(slots=1)
    desk.up()
    desk.assign(*[(f"t{n}", "compute") for n in range(4)])
    desk.assign(("t3", "compute", 2))
    for n in range(3):
        desk.finish(f"t{n}")
    assert [(run.task_id, run.attempt) for run in desk.started][-1] == ("t3", 2)
    desk.finish("t3", 2)
    assert len(desk.reported) == 4


# ------------------------------------------------------------ slots


def test_child_processes_get_what_they_can_take_and_the_rest_waits_in_order(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "compute") for n in range(10)])
    assert [run.task_id for run in desk.started] == ["t0", "t1", "t2", "t3"]  # two run, two are at hand
    desk.begin("t0")
    desk.finish("t0")
    assert [run.task_id for run in desk.started][-1] == "t4"


def test_waiting_processes_do_not_hold_up_other_kinds(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "compute") for n in range(10)], ("a", "noop"), ("b", "poll"))
    assert {"a", "b"} <= {run.task_id for run in desk.started}


# ------------------------------------------------------------ cancel, timeout


def test_cancelling_what_has_not_started_is_reported_at_once(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "compute") for n in range(6)])
    desk.request({"action": "cancel_tasks", "tasks": [["t5", 1]]})
    assert desk.results()["t5"]["outcome"] == "abandoned"
    for n in range(5):
        desk.finish(f"t{n}")
    assert "t5" not in {run.task_id for run in desk.started}


def test_cancelling_a_run_stops_it(desk: Any) -> None:
    desk.assign(("t1", "sleep"))
    desk.request({"action": "cancel_tasks", "tasks": [["t1", 1], ["t1", 2], ["other", 1], "rubbish"]})
    assert [(stop.task_id, stop.attempt, stop.reason) for stop in desk.stopped] == [("t1", 1, "cancelled")]
    desk.request({"action": "cancel_tasks", "tasks": [["t1", 1]]})
    assert len(desk.stopped) == 1


def test_the_report_of_a_replaced_attempt_does_not_say_that_its_task_was_cancelled(desk: Any) -> None:
    desk.assign(("t1", "sleep"))
    desk.request({"action": "cancel_tasks", "tasks": [["t1", 1, "replaced"]]})
    assert [(stop.task_id, stop.reason) for stop in desk.stopped] == [("t1", "cancelled")]
    desk.finish("t1", outcome="abandoned", error="cancelled", error_kind="cancelled")
    assert desk.results()["t1"]["error_kind"] == "replaced"


@pytest.mark.parametrize("limit_s", [0.02, 2.5])
def test_run_is_stopped_at_its_time_limit_counted_from_its_start(desk: Any, limit_s: float) -> None:
    desk.assign(("t1", "compute"), timeout_s=limit_s)
    desk.wait(5.0)  # it has not begun: other runs are before it
    assert not desk.stopped
    desk.begin("t1")
    deadlines = []
    while not desk.stopped:
        deadlines.append(desk.core.next_deadline() - desk.now.mono)
        desk.wait(max(0.0, deadlines[-1]))
    assert sum(deadlines) == pytest.approx(limit_s)
    assert desk.stopped[0].reason == "timeout"


def test_handlers_own_time_limit_holds_where_the_task_has_none(desk: Any) -> None:
    desk.assign(("t1", "limited"))
    assert desk.started[0].timeout_s == 3.0


def test_ended_runs_leave_no_timer(desk: Any) -> None:
    for n in range(2000):
        desk.assign((f"t{n}", "noop"), timeout_s=0.05)
        desk.finish(f"t{n}")
    desk.wait(0.2)
    assert desk.core.next_deadline() == float("inf")
    assert not desk.stopped


def test_only_lasting_runs_are_reported_as_started(desk: Any) -> None:
    desk.assign(("short", "sleep"), ("long", "sleep"))
    desk.wait(0.05)
    desk.finish("short")
    desk.wait(0.06)
    (message,) = desk.sent("task_started")
    assert [entry[:2] for entry in message["tasks"]] == [["long", 1]]
    desk.wait(5.0)
    assert len(desk.sent("task_started")) == 1


# ------------------------------------------------------------ credit


def test_limit_of_long_tasks_is_what_runs_and_one(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "compute") for n in range(3)])
    desk.begin("t0")
    desk.begin("t1")
    for _ in range(20):
        desk.wait(0.2)
    assert desk.core.heartbeat("distributor-1", desk.now)["slot_limit"] == 3


def test_tasks_that_wait_for_a_slot_are_in_nobody_elses_way(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "compute") for n in range(3)])
    desk.begin("t0")
    desk.begin("t1")
    desk.settle()
    credit = desk.core.heartbeat("distributor-1", desk.now)
    assert (credit["slot_limit"], credit["limit"] - 3) == (3, 2), "one waits, and as many as run may come in addition"


def test_long_tasks_that_came_on_the_credit_of_short_ones_go_back(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "compute") for n in range(200)])
    desk.begin("t0")
    desk.begin("t1")
    desk.wait(1.0)
    desk.core.supervise("recover", desk.now)
    desk.settle()
    (message,) = desk.sent("task_handback")
    back = [task_id for task_id, _ in message["tasks"]]
    assert back[0] == "t199"
    assert len(back) > 180
    for n in range(200 - len(back)):
        desk.finish(f"t{n}")
    assert {run.task_id for run in desk.started}.isdisjoint(back)
    assert len(desk.reported) + len(back) == 200


def test_tasks_that_only_wait_get_more_credit_at_once(desk: Any) -> None:
    """Sleeping tasks need no slot: the distributor is told without waiting for a heartbeat."""
    held = 0
    limit = desk.core.announce(desk.now)["limit"]
    for _ in range(12):
        desk.assign(*[(f"t{n}", "sleep") for n in range(held, limit)])
        held = limit
        limit = desk.sent("heartbeat")[-1]["limit"] if desk.sent("heartbeat") else limit
    assert held == 1024
    assert len(desk.started) == 1024


# ------------------------------------------------------------ what it shows


def test_announcement_has_what_it_offers_and_holds(desk: Any) -> None:
    desk.assign(("t1", "sleep"), ("t2", "sleep"))
    desk.finish("t2")
    shown = desk.core.announce(desk.now)
    assert shown["running"] == [["t1", 1, 7]]
    assert shown["task_types"] == ["compute", "limited", "noop", "poll", "sleep"]
    assert (shown["slots"], shown["labels"]) == (2, {"site": "a"})


def test_local_state_is_the_specifications_document(desk: Any) -> None:
    desk.assign(("t1", "sleep"))
    state = desk.core.local_state(desk.now)
    assert (state.agent_id, state.status) == ("worker-1", AgentStatus.BUSY)
    assert [(task.task_id, task.status.value) for task in state.local_tasks] == [("t1", "in_progress")]
    assert state.history[0]["event"] == "distributor_up"
    desk.finish("t1")
    assert desk.core.local_state(desk.now).status is AgentStatus.IDLE


def test_ready_says_why_not(make_desk: Callable[..., Any]) -> None:
    desk = make_desk()
    assert desk.core.ready() == (False, "no session with distributor-1")
    desk.up()
    assert desk.core.ready() == (True, "")
    desk.core.executor_health("child processes do not start")
    assert desk.core.ready() == (False, "child processes do not start")
    assert desk.core.heartbeat("distributor-1", desk.now)["limit"] == 0


# ------------------------------------------------------------ in-process calls


def test_execute_task_answers_its_caller_and_nobody_else(desk: Any) -> None:
    task = {"task_id": "mine", "task_type": "noop", "payload": {"a": 1}}
    desk.event(LocalCall(5, "execute_task", {"task": task}))
    desk.finish("mine", result=b'{"a":1}')
    answers = [effect for effect in desk.effects if isinstance(effect, LocalAnswer)]
    assert [answer.call_id for answer in answers] == [5]
    assert (answers[0].value["status"], answers[0].value["result"]) == ("completed", {"a": 1})
    assert not desk.reported


def test_execute_task_of_an_unknown_type_fails_clearly(desk: Any) -> None:
    desk.event(LocalCall(6, "execute_task", {"task": {"task_id": "x", "task_type": "nonesuch"}}))
    (answer,) = [effect for effect in desk.effects if isinstance(effect, LocalAnswer)]
    assert answer.value["status"] == "failed"
    assert "nonesuch" in answer.value["error"]


def test_how_many_processes_are_ready_is_told(desk: Any) -> None:
    desk.up()
    assert "slots_ready" not in desk.core.heartbeat("distributor-1", desk.now)
    desk.event(ChildrenReady(1))
    assert desk.core.announce(desk.now)["slots_ready"] == 1
    desk.assign(("a", "compute"))
    desk.begin("a")
    desk.event(desk.ended("a", outcome="failed", error="its process was killed", error_kind="killed"), ChildrenReady(0))
    (report,) = desk.sent("task_results")
    assert report["slots_ready"] == 0, "said with the news, so that the task is not sent back here"


def test_a_task_that_is_to_run_apart_takes_a_slot_like_those_that_always_do(desk: Any) -> None:
    desk.up()
    desk.assign(("agent", "sleep"), metadata={"apart": True})
    assert [run.task_id for run in desk.started] == ["agent"]
    assert desk.core.local_state(desk.now).local_vars["running"] == 0, "it has to wait for a process"
    desk.begin("agent")
    assert desk.core.local_state(desk.now).local_vars["running"] == 1
