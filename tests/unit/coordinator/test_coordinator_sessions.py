"""Distributors, clients and coordinators that come, go, and come back with or without their memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.fakes import task
from tests.unit.coordinator.harness import World


def actions(world: World, name: str) -> list[str]:
    return [told.action for told in world.peers[name].told]


def test_a_new_distributor_is_registered(world: World) -> None:
    world.distributor("d1")
    assert world.store.registered == ["d1"]
    assert "resync" not in actions(world, "d1")
    assert world.meter.gauges["agent_up/d1/distributor"] == 1


def test_registration_is_tried_again_after_an_outage(world: World) -> None:
    world.query_error = "connection"
    world.distributor("d1")
    assert world.store.registered == []
    world.query_error = None
    world.advance(1.0)
    assert world.store.registered == ["d1"]


def test_a_restarted_distributor_reads_its_tasks_and_lost_results_are_fetched(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2", "t3")
    fleet.finish("d1", "t1", tell=False)  # recorded, but the report died with the process
    fleet.gone("d1", "exited")
    assert fleet.meter.observed["failure_detection_seconds/distributor"] == [0.2]
    fleet.distributor("d1", restarted=True)
    assert "resync" in actions(fleet, "d1")
    assert set(fleet.got("alice~1")) == {"t1"}
    assert fleet.assigned("d1") == ["t1", "t2", "t3"]  # nothing was assigned a second time
    fleet.finish("d1", "t2", "t3")
    assert set(fleet.got("alice~1")) == {"t1", "t2", "t3"}
    assert "reconciliation_seconds" in fleet.meter.observed


def test_a_mere_reconnect_costs_nothing(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.suspect("d1")
    fleet.distributor("d1")
    assert "resync" not in actions(fleet, "d1")
    fleet.finish("d1", "t1")
    assert set(fleet.got("alice~1")) == {"t1"}


def test_tasks_written_while_a_distributor_was_away_are_not_told_twice(fleet: World) -> None:
    fleet.gone("d1")
    fleet.submit("alice~1", "t1", distributor="d1")
    fleet.distributor("d1", restarted=True)
    assert fleet.assigned("d1") == []  # read from the section by the resync
    fleet.finish("d1", "t1")
    assert set(fleet.got("alice~1")) == {"t1"}


def test_what_is_not_durable_at_a_reconciliation_is_not_taken_for_lost(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.gone("d1")
    fleet.batches_held = True
    payload = {"action": "submit_tasks", "tasks": [task("t2", distributor="d1")]}
    fleet.say("alice~1", MessageType.REQUEST, payload)
    fleet.distributor("d1", restarted=True)
    assert not [line for line in fleet.logs if line.event == "store_lost_tasks"]
    fleet.release_batches()
    assert fleet.assigned("d1") == ["t1", "t2"]


def test_tasks_that_the_store_has_lost_are_written_and_assigned_again(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.store.live["d1"].clear()
    fleet.gone("d1")
    fleet.distributor("d1", restarted=True)
    assert set(fleet.store.live["d1"]) == {"t1"}
    assert fleet.assigned("d1") == ["t1", "t1"]
    assert [line for line in fleet.logs if line.event == "store_lost_tasks"]


def test_a_result_message_that_got_lost_is_noticed_by_version_and_load(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.finish("d1", "t1", tell=False)
    fleet.beat("d1", pending=0, in_progress=1, slots=4, version=7)
    fleet.advance(0.5)
    assert fleet.got("alice~1") == {}  # it may still be on its way
    fleet.advance(1.0)
    assert set(fleet.got("alice~1")) == {"t1"}


def test_a_version_that_runs_ahead_alone_is_no_reason_to_read_everything(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.beat("d1", pending=0, in_progress=2, slots=4, version=7)
    fleet.queries_held = True
    fleet.advance(5.0)
    assert "load" not in [query.op for query in fleet.queries]


def test_an_assignment_that_got_lost_is_noticed_by_the_counts_alone(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.beat("d1", pending=0, in_progress=1, slots=4, version=0)
    fleet.advance(2.0)
    assert "resync" not in actions(fleet, "d1")
    fleet.advance(4.0)
    assert "resync" in actions(fleet, "d1")


def test_late_repeated_and_foreign_results_change_nothing(fleet: World) -> None:
    fleet.distributor("d2")
    fleet.submit("alice~1", "t1", distributor="d1")
    result = fleet.result("d1", "t1")
    fleet.report("d2", [{**result, "status": "failed"}])
    assert fleet.got("alice~1") == {}
    fleet.finish("d1", "t1")
    fleet.report("d1", [result, {"task_id": ["no", "id"], "status": "completed"}, {**result, "task_id": "other"}])
    assert fleet.got("alice~1")["t1"]["status"] == "completed"
    assert fleet.core.desk.late == 4
    assert fleet.core.desk.finished["completed"] == 1


@pytest.mark.parametrize("payload", [{}, {"results": 5}, {"results": [None, 5, {}]}, {"results": [{"task_id": "t1"}]}])
def test_malformed_reports_change_nothing(fleet: World, payload: dict[str, object]) -> None:
    fleet.submit("alice~1", "t1")
    fleet.say("d1", MessageType.EVENT, {"action": "task_results", **payload})
    assert "t1" in fleet.core.desk.ledger.live


def test_a_result_with_a_status_that_is_not_terminal_changes_nothing(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.report("d1", [{"task_id": "t1", "status": "in_progress"}, {"task_id": "t1", "status": ["completed"]}])
    assert "t1" in fleet.core.desk.ledger.live


def test_a_failed_result_comes_without_its_payload_and_is_counted_by_kind(fleet: World) -> None:
    fleet.submit("alice~1", "t1", payload={"secret": 1})
    fleet.finish("d1", "t1", status="failed")
    assert fleet.got("alice~1")["t1"]["error"] == "it raised"
    assert fleet.meter.counts["task_failures_total/raised"] == 1


def test_an_error_from_a_distributor_leads_to_a_comparison(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.say("d1", MessageType.ERROR, {"action": "assign_tasks", "code": "FORBIDDEN", "message": "stale fence"})
    fleet.advance(1.0)
    assert "resync" in actions(fleet, "d1")


# ---------------------------------------------------------------- clients


def test_results_of_a_client_that_left_are_kept_in_the_store_and_found_by_the_next(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.gone("alice~1")
    fleet.finish("d1", "t1")
    fleet.client("alice~2")
    answer = fleet.ask("alice~2", "watch_tasks", task_ids=["t1", "t2", "t3"])
    assert [record["task_id"] for record in answer["results"]] == ["t1"]
    assert answer["live"] == [["t2", "pending"]]
    assert answer["unknown"] == ["t3"]
    fleet.finish("d1", "t2")
    assert set(fleet.got("alice~2")) == {"t2"}


def test_a_client_whose_outbox_is_full_gets_its_results_later(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.busy.add("alice~1")
    fleet.finish("d1", "t1")
    fleet.finish("d1", "t2")
    fleet.advance(0.3)
    assert fleet.got("alice~1") == {}
    fleet.busy.clear()
    fleet.advance(0.3)
    assert set(fleet.got("alice~1")) == {"t1", "t2"}


def test_a_client_that_takes_nothing_cannot_fill_our_memory(make_world: Callable[..., World]) -> None:
    world = make_world(max_backlog_bytes=10_000)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    ids = [f"t{n}" for n in range(40)]
    world.submit("alice~1", *ids, payload={"text": "x" * 500})
    world.busy.add("alice~1")
    for task_id in ids:
        world.finish("d1", task_id)
    assert world.core.desk.clients.connected["alice~1"].backlog_bytes <= 10_000
    world.busy.clear()
    world.advance(1.0)
    assert 0 < len(world.got("alice~1")) < 40
    dropped = [told.payload["dropped"] for told in world.peers["alice~1"].told if "dropped" in told.payload]
    assert len(dropped) == 1, "it is told to ask again, once"
    answer = world.ask("alice~1", "watch_tasks", task_ids=ids)
    follow = world.got("alice~1")
    assert {record["task_id"] for record in answer["results"]} | set(follow) == set(ids)


def test_results_that_come_while_an_outbox_is_full_follow_in_few_messages(fleet: World) -> None:
    ids = [f"t{n}" for n in range(200)]
    fleet.submit("alice~1", *ids)
    fleet.busy.add("alice~1")
    for task_id in ids:
        fleet.finish("d1", task_id)
    fleet.busy.clear()
    before = len(fleet.peers["alice~1"].told)
    fleet.advance(0.1)
    assert set(fleet.got("alice~1")) == set(ids)
    assert len(fleet.peers["alice~1"].told) - before <= 3, "else a client that was slow once never catches up"


def test_requests_that_wait_for_the_store_are_answered_when_the_state_is_read_anew(fleet: World) -> None:
    fleet.queries_held = True
    submission = fleet.say(
        "alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")], "check": True}
    )
    watch = fleet.say("alice~1", MessageType.REQUEST, {"action": "watch_tasks", "task_ids": ["old"]})
    fleet.own()
    for request in (submission, watch):
        answer = fleet.answer_to("alice~1", request)
        assert answer is not None, "it would wait for ever: its session goes on"
        assert answer.payload["code"] in {"BUSY", "UNAVAILABLE"}
    fleet.release_queries()
    fleet.submit("alice~1", "t1", check=True)
    fleet.finish("d1", "t1")
    assert set(fleet.got("alice~1")) == {"t1"}


def test_a_watcher_too_many_is_asked_to_come_again(make_world: Callable[..., World]) -> None:
    world = make_world(max_watched=1)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.client("alice~2")
    world.submit("alice~1", "t1", "t2")
    assert world.ask("alice~2", "watch_tasks", task_ids=["t1"])["live"] == [["t1", "pending"]]
    assert world.ask("alice~2", "watch_tasks", task_ids=["t2"])["code"] == "BUSY"
    world.finish("d1", "t1")
    assert world.ask("alice~2", "watch_tasks", task_ids=["t2"])["live"] == [["t2", "pending"]]


def test_subscriptions_go_with_their_client(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.client("alice~2")
    fleet.ask("alice~2", "watch_tasks", task_ids=["t1"])
    fleet.gone("alice~2")
    fleet.gone("alice~1")
    fleet.finish("d1", "t1")
    assert fleet.core.desk.clients._watchers == {}
    assert fleet.got("alice~1") == fleet.got("alice~2") == {}


def test_a_distributor_without_workers_has_no_slots(world: World) -> None:
    world.own()
    world.distributor("d1", slots=4)
    world.client("alice~1")
    assert [one["slots"] for one in world.ask("alice~1", "fleet_status")["distributors"]] == [4]
    world.workers("d1", "")
    assert [one["slots"] for one in world.ask("alice~1", "fleet_status")["distributors"]] == [0]
