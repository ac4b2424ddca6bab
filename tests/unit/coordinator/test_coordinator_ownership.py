"""Coordinators that take over, lose the lease, leave, and look after what they own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.ports import Refusal
from daemons.runtime.contract import FenceMoved, Outranked
from tests.unit.coordinator.fakes import task
from tests.unit.coordinator.harness import World


def actions(world: World, name: str) -> list[str]:
    return [told.action for told in world.peers[name].told]


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


def test_a_distributor_that_was_never_seen_is_away_since_we_lead(make_world: Callable[..., World]) -> None:
    first = make_world()
    first.own()
    first.distributor("d1")
    first.client("alice~1")
    first.submit("alice~1", "t1")
    second = make_world(first.store)
    second.time += 8_000.0  # of the host's clock, which began long before us
    second.own()
    second.advance(5.0)
    assert "distributor_absent" not in [line.event for line in second.logs]
    for _ in range(7):
        second.advance(1.0)
    (line,) = [line for line in second.logs if line.event == "distributor_absent"]
    assert 10.0 <= line.fields["away_s"] < 13.0


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
    leads = {"leading": True, "leader": "coordinator-1", "fence": 1, "epoch": "epoch"}
    assert fleet.core.welcome("d1", fleet.now) == leads
    beat = fleet.core.heartbeat("d1", fleet.now)
    assert (beat["leading"], beat["fence"], beat["epoch"]) == (True, 1, "epoch")
    assert fleet.meter.gauges["leading"] == 1
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


def test_assignments_name_the_version_in_which_their_records_are_stored(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", "t1")
    told = [each.payload["version"] for each in world.peers["d1"].told if each.action == "assign_tasks"]
    assert len(told) == 1
    assert told[0] > 10


def versions_told(world: World, name: str) -> dict[str, int]:
    """Task id → version of the coordinator's section that its last assignment named."""
    told = [each.payload for each in world.peers[name].told if each.action == "assign_tasks"]
    return {record["task_id"]: payload.get("version", 0) for payload in told for record in payload["tasks"]}


def test_an_assignment_that_waited_in_the_queue_names_the_version_that_has_its_record(
    make_world: Callable[..., World],
) -> None:
    """It named none, so a distributor that had taken over meanwhile, and had ended the task, ran it again."""
    world = make_world(assign_window=1)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    for name in ("t1", "t2", "t3"):
        world.submit("alice~1", name)
    world.finish("d1", "t1")
    world.finish("d1", "t2")
    told = versions_told(world, "d1")
    assert told == {"t1": told["t1"], "t2": told["t1"] + 1, "t3": told["t1"] + 2}


def test_an_assignment_of_several_tasks_names_the_version_of_the_oldest(make_world: Callable[..., World]) -> None:
    world = make_world(assign_window=2)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", "t1", "t2")
    world.submit("alice~1", "t3")
    world.submit("alice~1", "t4")
    world.finish("d1", "t1", "t2")
    told = versions_told(world, "d1")
    assert told["t3"] == told["t4"] == told["t1"] + 1


def test_an_assignment_that_could_not_be_sent_names_its_version_when_it_is(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", "t0")
    world.busy.add("d1")
    world.submit("alice~1", "t1")
    world.submit("alice~1", "t2")
    world.busy.clear()
    world.advance(5)
    told = versions_told(world, "d1")
    assert told["t1"] == told["t2"] == told["t0"] + 1


# ---------------------------------------------------------------- a leader whom the store has lost


def obeyed(fence: int, epoch: str = "epoch") -> dict[str, Any]:
    return {"obeys": {"fence": fence, "epoch": epoch}}


def test_a_distributor_that_obeyed_a_leader_whom_the_store_has_lost_is_heard(make_world: Callable[..., World]) -> None:
    """Found by simulation: it refused the next leader for as long as both lived."""
    world = make_world()
    world.own()
    world.distributor("d1", **obeyed(9))
    assert Outranked(9, "epoch", "d1") in world.outranked
    world.outranked.clear()
    world.store.fence = 10
    world.event(FenceMoved(10))
    world.beat("d1", **obeyed(9))
    world.beat("d1", **obeyed(99, "another epoch"))
    world.beat("d1")
    world.distributor("d2")
    assert world.outranked == []
    world.client("alice~1")
    world.submit("alice~1", "t1")
    told = [each.payload for name in ("d1", "d2") for each in world.peers[name].told if each.action == "assign_tasks"]
    assert [payload["fence"] for payload in told] == [10]


def test_whom_a_distributor_obeys_counts_from_when_we_lead(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.distributor("d1", **obeyed(9))
    assert world.outranked == []
    world.own()
    assert Outranked(9, "epoch", "d1") in world.outranked


def test_whom_a_distributor_obeys_is_heard_in_its_heartbeats(make_world: Callable[..., World]) -> None:
    """One that is connected to a standby obeys leaders that come later."""
    world = make_world()
    world.distributor("d1")
    world.own()
    world.beat("d1", follows=False, **obeyed(9))
    assert world.outranked == [Outranked(9, "epoch", "d1")]
