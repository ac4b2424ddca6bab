"""What a worker does when its distributor is away, comes back, or is a new process; and how it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from a2a_zmq.protocol import PortConfig
from daemons.settings import WorkerSettings

# ------------------------------------------------------------ connection


def test_all_that_a_worker_may_hold_fits_into_its_announcement_with_the_longest_ids(
    make_desk: Callable[..., Any],
) -> None:
    most = WorkerSettings.model_json_schema()["properties"]["worker_max_held"]["maximum"]
    desk = make_desk(max_limit=most)
    desk.up()
    large = 2**53 - 1
    desk.assign(*[(f"{n:x>128}", "sleep", large) for n in range(most)], fence=large)
    announced = desk.core.announce(desk.now)
    assert len(announced["running"]) == most
    assert len(orjson.dumps(announced)) < PortConfig().max_frame_bytes - (128 << 10), "and what it can do, too"


def test_runs_go_on_and_results_wait_while_the_distributor_is_away(desk: Any) -> None:
    desk.assign(("t1", "sleep"))
    desk.down()
    assert not desk.stopped
    desk.finish("t1")
    assert not desk.reported
    desk.up()
    assert list(desk.results()) == ["t1"]


def test_full_outbox_loses_and_spins_nothing(desk: Any) -> None:
    desk.assign(("t1", "noop"), ("t2", "noop"))
    desk.refuse = "busy"
    desk.finish("t1")
    assert not desk.reported
    refused = len(desk.effects)
    desk.settle()
    desk.settle()
    assert len(desk.effects) == refused  # not tried again at once
    desk.refuse = ""
    desk.finish("t2")
    desk.wait(desk.core.next_deadline() - desk.now.mono)
    assert [item["task_id"] for item in desk.reported] == ["t1", "t2"]


def test_a_full_outbox_loses_no_result_however_much_waits(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(keep_results=3, keep_results_bytes=1000, message_bytes=500)
    desk.up()
    ids = [f"t{n}" for n in range(20)]
    desk.assign(*[(task_id, "noop") for task_id in ids])
    desk.refuse = "busy"
    desk.event(*[desk.ended(task_id, result=b'"' + b"x" * 300 + b'"') for task_id in ids])
    for _ in range(5):
        desk.wait(0.1)
    assert not desk.reported
    desk.refuse = ""
    desk.wait(0.1)
    assert sorted(desk.results()) == sorted(ids)
    assert len(desk.reported) == len(ids)


def test_heartbeat_counts_results_that_could_not_be_sent(desk: Any) -> None:
    desk.assign(("t1", "noop"))
    desk.refuse = "busy"
    desk.finish("t1")
    assert desk.core.heartbeat("distributor-1", desk.now)["held"] == 1


def test_a_distributor_that_lost_its_state_and_its_memory_is_obeyed(desk: Any) -> None:
    """Found by simulation: Redis was wiped and the distributor restarted; its workers refused it for ever."""
    desk.request({"action": "assign_tasks", "fence": 9, "epoch": "e1", "tasks": []})
    desk.down()
    desk.up(restarted=True, fence=0, epoch="")  # it does not own its section yet
    task = {"task_id": "t1", "task_type": "noop", "attempt": 1, "payload": {}, "metadata": {}}
    desk.request({"action": "assign_tasks", "fence": 1, "epoch": "e2", "tasks": [task]})
    assert [run.task_id for run in desk.started] == ["t1"]
    desk.request({"action": "assign_tasks", "fence": 10, "epoch": "e1", "tasks": [{**task, "task_id": "t2"}]})
    assert [run.task_id for run in desk.started] == ["t1"], "an epoch that was replaced"
    assert desk.messages[-1].payload["code"] == "FORBIDDEN"


def test_it_says_whom_it_obeyed(make_desk: Callable[..., Any]) -> None:
    desk = make_desk()
    assert "obeys" not in desk.core.announce(desk.now)
    desk.up()
    desk.request({"action": "assign_tasks", "fence": 9, "epoch": "e1", "tasks": []})
    assert desk.core.announce(desk.now)["obeys"] == {"fence": 9, "epoch": "e1"}


def test_result_that_no_message_can_carry_becomes_a_failure(desk: Any) -> None:
    desk.assign(("t1", "noop"))
    desk.refuse = "malformed"
    desk.event(desk.ended("t1"))
    desk.refuse = ""
    desk.settle()
    assert desk.results()["t1"]["error_kind"] == "unserializable"


def test_restarted_distributor_gets_the_results_again(desk: Any) -> None:
    desk.assign(("t1", "noop"), ("t2", "sleep"))
    desk.finish("t1")
    desk.down()
    desk.up(restarted=True, fence=8)
    assert [item["task_id"] for item in desk.reported] == ["t1", "t1"]


def test_mere_reconnection_repeats_nothing(desk: Any) -> None:
    desk.assign(("t1", "noop"))
    desk.finish("t1")
    desk.up()
    assert len(desk.reported) == 1


def test_kept_results_are_bounded_by_count_size_and_age(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(keep_results=10, keep_results_bytes=3000, keep_results_s=5.0)
    desk.up()

    def again() -> int:
        before = len(desk.reported)
        desk.up(restarted=True)
        return len(desk.reported) - before

    desk.assign(*[(f"a{n}", "noop") for n in range(30)])
    desk.event(*[desk.ended(f"a{n}") for n in range(30)])
    assert again() == 10
    desk.assign(("b", "noop"))
    desk.finish("b", result=b'"' + b"x" * 2820 + b'"')
    assert again() == 1
    desk.wait(6.0)
    desk.core.supervise("observe", desk.now)
    assert again() == 0


# ------------------------------------------------------------ drain


def test_draining_hands_back_what_has_not_started_and_finishes_the_rest(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "compute") for n in range(7)])
    desk.begin("t0")
    desk.request({"action": "drain"})
    (message,) = desk.sent("task_handback")
    assert message["tasks"] == [["t4", 1], ["t5", 1], ["t6", 1]]
    assert desk.core.heartbeat("distributor-1", desk.now)["limit"] == 0
    assert not desk.core.ready()[0]
    desk.assign(("late", "noop"))
    assert desk.sent("task_handback")[-1]["tasks"] == [["late", 1]]
    for n in range(4):
        assert not desk.exits()
        desk.finish(f"t{n}")
    desk.wait(0.0)  # one more look, in case the outbox refused
    assert [effect.status for effect in desk.exits()] == [0]
    assert len(desk.reported) == 4
    desk.wait(60.0)
    assert len(desk.exits()) == 1


def test_idle_worker_leaves_at_once(desk: Any) -> None:
    desk.request({"action": "drain"})
    desk.settle()
    assert len(desk.exits()) == 1


def test_the_last_word_of_a_worker_is_that_the_rest_never_began(desk: Any) -> None:
    """After the last result, and once: what was assigned meanwhile is not read any more."""
    desk.assign(("a", "compute"))
    desk.begin("a")
    desk.request({"action": "drain"})
    assert not desk.sent("task_handback")
    desk.finish("a")
    assert [send.payload.get("action") for send in desk.messages][-2:] == ["task_results", "task_handback"]
    assert desk.sent("task_handback") == [{"action": "task_handback", "tasks": [], "rest": True}]
    desk.wait(0.0)
    assert len(desk.exits()) == 1
    assert len(desk.sent("task_handback")) == 1


def test_drain_deadline_stops_runs_and_hands_back_those_that_never_began(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(drain_timeout_s=4.0)
    desk.up()
    desk.assign(("a", "compute"), ("b", "compute"), ("c", "compute"))
    desk.begin("a")
    desk.request({"action": "drain"})
    assert desk.core.next_deadline() <= desk.now.mono + 4.0
    desk.wait(3.9)
    assert not desk.stopped
    desk.wait(0.2)
    assert {(stop.task_id, stop.reason) for stop in desk.stopped} == {("a", "drain"), ("b", "drain"), ("c", "drain")}
    desk.event(
        desk.ended("a", outcome="failed", error_kind="killed", retryable=True),
        desk.ended("b", outcome="failed", error_kind="killed", retryable=True, started_at=0.0),
        desk.ended("c", outcome="failed", error_kind="killed", retryable=True, started_at=0.0),
    )
    assert list(desk.results()) == ["a"]
    stopped = desk.results()["a"]
    assert (stopped["outcome"], stopped["error_kind"]) == ("moved", "drain"), "its worker's end is no failure of a task"
    handed_back, last_word = desk.sent("task_handback")
    assert handed_back["tasks"] == [["b", 1], ["c", 1]]
    assert last_word["rest"] is True
    desk.settle()
    assert len(desk.exits()) == 1


def test_draining_waits_for_a_full_outbox_but_not_beyond_the_deadline(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(drain_timeout_s=4.0)
    desk.up()
    desk.assign(("a", "noop"))
    desk.refuse = "busy"
    desk.finish("a")
    desk.request({"action": "drain"})
    for _ in range(10):
        desk.wait(0.1)
    assert not desk.exits()
    desk.wait(4.0)
    desk.settle()
    assert len(desk.exits()) == 1
    assert "left_unreported" in desk.logs()


def test_draining_without_a_session_waits_for_the_deadline_only(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(drain_timeout_s=4.0)
    desk.up()
    desk.assign(("a", "noop"))
    desk.down()
    desk.finish("a")
    desk.request({"action": "drain"})
    assert not desk.exits()
    desk.wait(desk.core.next_deadline() - desk.now.mono)
    assert len(desk.exits()) == 1


def test_runs_that_were_cancelled_behind_a_long_one_are_forgotten(desk: Any) -> None:
    desk.assign(*[(f"long{n}", "compute") for n in range(4)])
    for n in range(1000):
        desk.assign((f"t{n}", "compute"))
        desk.request({"action": "cancel_tasks", "tasks": [[f"t{n}", 1]]})
    desk.assign(("last", "compute"))
    assert len(desk.core._board._queues._queues["process"]) < 100, "with their payloads, for as long as those run"
    for n in range(4):
        desk.finish(f"long{n}")
    assert desk.started[-1].task_id == "last"
