"""Distributors, clients and coordinators that come, go, and come back with or without their memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.ports import Refusal
from tests.unit.coordinator.harness import World, task


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
    assert fleet.queries == []


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
    answer = world.ask("alice~1", "watch_tasks", task_ids=ids)
    follow = world.got("alice~1")
    assert {record["task_id"] for record in answer["results"]} | set(follow) == set(ids)


def test_subscriptions_go_with_their_client(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.client("alice~2")
    fleet.ask("alice~2", "watch_tasks", task_ids=["t1"])
    fleet.gone("alice~2")
    fleet.gone("alice~1")
    fleet.finish("d1", "t1")
    assert fleet.core.desk.clients._watchers == {}
    assert fleet.got("alice~1") == fleet.got("alice~2") == {}


# ---------------------------------------------------------------- ownership


def test_a_new_coordinator_loads_everything_and_results_go_on(make_world: Callable[..., World]) -> None:
    first = make_world()
    first.own()
    first.distributor("d1")
    first.client("alice~1")
    first.submit("alice~1", "t1", "t2", "t3")
    first.submit("alice~1", "held", distributor="d9")
    first.finish("d1", "t1", tell=False)  # it died before this reached anybody

    second = make_world(first.store)
    second.own()
    second.client("alice~1")
    answer = second.ask("alice~1", "watch_tasks", task_ids=["t1", "t2", "t3", "held"])
    assert [record["task_id"] for record in answer["results"]] == ["t1"]
    assert [row[0] for row in answer["live"]] == ["t2", "t3", "held"]
    second.distributor("d1")
    assert "resync" in actions(second, "d1")
    assert second.assigned("d1") == []
    second.finish("d1", "t2", "t3")
    second.distributor("d9")
    second.finish("d9", "held")
    assert set(second.got("alice~1")) == {"t2", "t3", "held"}
    assert set(second.store.recorded.values()) == {1}


def test_a_result_that_was_recorded_between_load_and_session_is_found(make_world: Callable[..., World]) -> None:
    first = make_world()
    first.own()
    first.distributor("d1")
    first.client("alice~1")
    first.submit("alice~1", "t1")
    second = make_world(first.store)
    second.own()
    second.client("alice~1")
    second.ask("alice~1", "watch_tasks", task_ids=["t1"])
    first.finish("d1", "t1", tell=False)
    second.distributor("d1")
    assert set(second.got("alice~1")) == {"t1"}


def test_a_crash_between_both_writes_of_a_move_leaves_one_task(make_world: Callable[..., World]) -> None:
    first = make_world()
    first.own()
    first.client("alice~1")
    first.submit("alice~1", "t1")
    first.store.register("d1")
    first.store.live["d1"]["t1"] = dict(first.store.live[""]["t1"])  # written to d1; the inbox still has it
    second = make_world(first.store)
    second.own()
    assert second.store.where("t1") == ["d1"]
    second.distributor("d1")
    second.finish("d1", "t1")
    assert second.store.recorded["t1"] == 1


def test_a_moved_task_that_ended_before_the_inbox_let_go_is_not_run_again(make_world: Callable[..., World]) -> None:
    first = make_world()
    first.own()
    first.client("alice~1")
    first.submit("alice~1", "t1")
    record = dict(first.store.live[""]["t1"])
    first.store.register("d1")
    first.store.live["d1"]["t1"] = record
    first.finish("d1", "t1", tell=False)  # ended with d1; the inbox still has it
    second = make_world(first.store)
    second.distributor("d1")
    second.own()
    assert second.assigned("d1") == []
    assert second.store.where("t1") == []
    assert second.store.recorded["t1"] == 1


def test_the_inbox_stays_shut_until_it_could_be_checked(make_world: Callable[..., World]) -> None:
    first = make_world()
    first.own()
    first.distributor("d1", "other")
    first.client("alice~1")
    first.workers("d1", "other noop")
    first.workers("d1", "other")
    first.submit("alice~1", "t1")
    second = make_world(first.store)
    second.query_error = "connection"
    second.distributor("d1")
    second.own()
    assert second.assigned("d1") == []
    second.query_error = None
    second.advance(1.0)
    assert second.assigned("d1") == ["t1"]


def test_losing_ownership_ends_the_process_and_writes_nothing_more(fleet: World) -> None:
    fleet.batches_held = True
    request = fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")]})
    fleet.lose()
    assert fleet.exit is not None
    assert fleet.exit.status == 75
    fleet.turn()
    assert fleet.answer_to("alice~1", request) is None
    assert fleet.submit("alice~1", "t2")["code"] == "NOT_LEADER"


def test_owning_anew_keeps_what_was_on_its_way_to_the_store(fleet: World) -> None:
    fleet.submit("alice~1", "t0", "t9")
    fleet.batches_held = True
    fleet.finish("d1", "t9", tell=False)
    request = fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")]})
    cancel = fleet.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t1"]})
    fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t2")]})
    fleet.batches_held = False
    fleet.own()
    for each in (request, cancel):
        assert fleet.answer_to("alice~1", each) is not None
    assert set(fleet.store.live["d1"]) == {"t0", "t2"}
    fleet.finish("d1", "t0", "t2")
    assert set(fleet.got("alice~1")) == {"t0", "t1", "t2", "t9"}


def test_state_that_was_lost_with_redis_is_written_again_from_memory(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.submit("alice~1", "held", distributor="d9")
    for tasks in fleet.store.live.values():
        tasks.clear()
    fleet.own(state_lost=True)
    assert set(fleet.store.live["d1"]) == {"t1", "t2"}
    assert set(fleet.store.live[""]) == {"held"}
    # d1 had ended t1 and dropped it before our copy came back: the copy goes with the result.
    fleet.store.record("d1", "t1", fleet.result("d1", "t1"))
    fleet.report("d1", [fleet.result("d1", "t1")])
    assert set(fleet.store.live["d1"]) == {"t2"}
    assert set(fleet.got("alice~1")) == {"t1"}


def test_unreadable_records_do_not_stop_a_takeover(make_world: Callable[..., World]) -> None:
    first = make_world()
    first.own()
    first.distributor("d1")
    first.client("alice~1")
    first.submit("alice~1", "t1")
    second = make_world(first.store)
    first.store.live["d1"]["bad"] = {"task_id": "other"}
    second.own()
    assert set(second.core.desk.ledger.live) == {"t1"}
    assert [line.fields["task_id"] for line in second.logs if line.event == "unreadable_record"] == ["bad"]


# ---------------------------------------------------------------- leaving, watching


def test_sigterm_refuses_new_tasks_flushes_and_leaves(fleet: World) -> None:
    fleet.batches_held = True
    request = fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")]})
    fleet.drain()
    assert fleet.exit is None
    refused = fleet.submit("alice~1", "t2")
    assert (refused["code"], refused["retry_after_s"] > 0) == ("DRAINING", True)
    assert fleet.core.ready() == (False, "draining")
    fleet.release_batches()
    assert fleet.answer_to("alice~1", request) is not None
    assert fleet.exit is not None
    assert fleet.exit.status == 0


def test_sigterm_does_not_wait_for_ever_for_a_store_that_is_away(fleet: World) -> None:
    fleet.batches_held = True
    fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1")]})
    fleet.drain(deadline_s=2.0)
    fleet.advance(2.1)
    assert fleet.exit is not None


def test_refused_frames_are_written_to_the_history_at_a_bounded_rate(fleet: World) -> None:
    for _ in range(1_000):
        fleet.event(Refusal("signature", "signature", "mallory"))
    assert 1 <= len(fleet.store.events("refused")) <= fleet.core.config.audit_per_s
    fleet.time += 10
    fleet.event(Refusal("signature", "signature", "mallory"))
    assert fleet.store.events("refused")[-1][3] == {"kind": "signature", "reason": "signature", "agent": "mallory"}


def test_tasks_that_nobody_can_take_and_distributors_that_stay_away_are_reported_once(fleet: World) -> None:
    fleet.submit("alice~1", "t1")
    fleet.submit("alice~1", "t2", distributor="d9")
    fleet.gone("d1")
    for _ in range(5):
        fleet.advance(10.0)
    events = [line.event for line in fleet.logs]
    assert events.count("no_capable_distributor") == 1
    assert events.count("distributor_absent") == 1


def test_gauges_and_status_agree_with_what_there_is(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2", "t3")
    fleet.beat("d1", pending=1, in_progress=2, slots=4, version=3)
    fleet.finish("d1", "t1")
    fleet.supervise()
    assert fleet.meter.gauges["tasks/in_progress"] == 2
    assert fleet.meter.gauges["tasks/pending"] == 0
    assert fleet.meter.gauges["tasks/completed"] == 1
    assert fleet.meter.gauges["agent_up/coordinator-1/coordinator"] == 1
    state = fleet.core.local_state(fleet.now)
    assert [shown.task_id for shown in state.local_tasks] == ["t2", "t3"]
    assert state.status == "busy"
    assert fleet.core.welcome("alice~1", fleet.now)["task_types"] == ["noop"]
    assert fleet.core.welcome("d1", fleet.now) == {"fence": 1}
    assert fleet.core.heartbeat("d1", fleet.now)["leading"] is True
    assert fleet.core.announce(fleet.now) == {}


def test_wrong_counts_are_noticed_and_set_right(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.core.desk.ledger.distributors["d1"].live += 3
    fleet.supervise()
    found = [line for line in fleet.logs if line.event == "counts_disagree"]
    assert len(found) == 1
    fleet.logs.clear()
    fleet.supervise()
    assert fleet.logs == []
