"""The client's decisions, without sockets, threads or clocks."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from a2a_zmq.client.core import ClientCore
from a2a_zmq.client.entries import Call, Entry
from a2a_zmq.client.submission import TaskForm, value_of
from a2a_zmq.client.submits import MAX_BATCH_BYTES, MAX_BATCH_TASKS, MAX_SUBMITS_IN_FLIGHT
from a2a_zmq.clock import Now
from a2a_zmq.errors import FleetUnavailable, RequestRefused, TaskCancelled, TaskFailed
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import Received
from tests.unit.client.scripted import Scripted, ids_of, names, no_one


@pytest.fixture
def world() -> Scripted:
    return Scripted()


def test_nothing_leaves_before_there_is_a_session(world: Scripted) -> None:
    world.entry("a")
    assert world.flush() == []
    world.up()
    assert [ids_of(sent) for sent in world.flush()] == [["a"]]


def test_all_tasks_of_one_wake_up_leave_in_one_message_and_are_accepted_together(world: Scripted) -> None:
    world.up()
    for task_id in ("a", "b", "c"):
        world.entry(task_id)
    [sent] = world.flush()
    assert sent.payload["action"] == "submit_tasks"
    assert sent.payload["check"] is False
    assert ids_of(sent) == ["a", "b", "c"]
    assert world.core.tasks.accepted == []
    world.answer(sent, accepted=3, duplicates=[], rejected=[])
    assert names(world.core.tasks.accepted) == ["a", "b", "c"]


def test_a_task_on_the_wire_has_what_the_protocol_says(world: Scripted) -> None:
    world.form = TaskForm(
        "compute", priority=3, timeout_s=2.5, max_attempts=5, labels={"gpu": "yes"}, distributor="d-1"
    )
    world.up()
    world.entry("a")
    [sent] = world.flush()
    [task] = orjson.loads(orjson.dumps(sent.payload["tasks"]))
    assert task == {
        "task_id": "a",
        "task_type": "compute",
        "payload": {"x": ""},
        "metadata": {
            "priority": 3,
            "timeout_s": 2.5,
            "max_attempts": 5,
            "labels": {"gpu": "yes"},
            "distributor": "d-1",
        },
    }


def test_messages_are_bounded_in_tasks_bytes_and_number_under_way(world: Scripted) -> None:
    world.up()
    for number in range(MAX_BATCH_TASKS * (MAX_SUBMITS_IN_FLIGHT + 2)):
        world.entry(f"t{number}")
    sent = world.flush()
    assert len(sent) == MAX_SUBMITS_IN_FLIGHT
    assert {len(ids_of(one)) for one in sent} == {MAX_BATCH_TASKS}
    assert world.flush() == []
    world.answer(sent[0], accepted=MAX_BATCH_TASKS)
    assert len(world.flush()) == 1

    other = Scripted()
    other.up()
    for number in range(10):
        other.entry(f"big{number}", size=100_000)
    first = other.flush()[0]
    assert len(orjson.dumps(first.payload["tasks"])) <= MAX_BATCH_BYTES + 2
    assert len(ids_of(first)) == 2


def test_no_more_messages_than_the_outbox_has_room_for(world: Scripted) -> None:
    world.up()
    world.entry("a")
    assert world.flush(room=0) == []
    assert len(world.flush(room=1)) == 1


def test_a_result_ends_the_waiting_and_one_that_nobody_waits_for_is_dropped(world: Scripted) -> None:
    world.up()
    entry = world.entry("a")
    [sent] = world.flush()
    world.answer(sent, accepted=1)
    world.results("a", "stranger")
    assert world.core.tasks.finished == [entry]
    assert value_of("a", entry.outcome or {}) == "A"
    assert world.core.tasks.unknown_results == 1
    world.results("a")
    assert world.core.tasks.finished == [entry]
    assert len(world.core.tasks) == 0


def test_a_result_that_overtakes_the_answer_counts(world: Scripted) -> None:
    world.up()
    entry = world.entry("a")
    [sent] = world.flush()
    world.results("a")
    world.answer(sent, accepted=1)
    assert world.core.tasks.finished == [entry]
    assert world.core.tasks.accepted == []


def test_single_tasks_of_a_submission_may_be_refused(world: Scripted) -> None:
    world.up()
    entries = {task_id: world.entry(task_id) for task_id in ("good", "wrong", "later")}
    [sent] = world.flush()
    rejected = [
        {"task_id": "wrong", "code": "UNKNOWN_TASK_TYPE", "message": "no worker knows it"},
        {"task_id": "later", "code": "BUSY", "message": "full", "retry_after_s": 0.5},
    ]
    world.answer(sent, accepted=1, rejected=rejected)
    assert world.core.tasks.accepted == [entries["good"]]
    assert world.core.tasks.finished == [entries["wrong"]]
    assert isinstance(entries["wrong"].outcome, RequestRefused)
    assert entries["wrong"].outcome.code == "UNKNOWN_TASK_TYPE"
    world.pass_time(0.6)
    [again] = world.flush()
    assert ids_of(again) == ["later"]


def test_a_new_coordinator_gets_what_was_not_answered_and_is_asked_for_the_rest(world: Scripted) -> None:
    world.up("boot-1")
    accepted = world.entry("accepted")
    [first] = world.flush()
    world.answer(first, accepted=1)
    world.entry("unanswered")
    [second] = world.flush()
    world.entry("unsent")
    world.down()
    assert world.flush() == []
    world.up("boot-2")
    messages = world.flush()
    by_action = {sent.payload["action"]: sent for sent in messages}
    assert by_action["watch_tasks"].payload["task_ids"] == ["accepted"]
    submits = [sent for sent in messages if sent.payload["action"] == "submit_tasks"]
    assert [(ids_of(sent), sent.payload["check"]) for sent in submits] == [(["unanswered"], True), (["unsent"], False)]
    # A late answer to the first submission names a request that is no longer asked: nothing comes of it.
    world.answer(second, accepted=1)
    assert names(world.core.tasks.accepted) == ["accepted"]
    record = {"task_id": "accepted", "status": "completed", "result": 7}
    world.answer(by_action["watch_tasks"], results=[record], live=[], unknown=[])
    assert value_of("accepted", accepted.outcome or {}) == 7


def test_a_task_that_the_fleet_lost_is_reported_and_not_waited_for(world: Scripted) -> None:
    world.up("boot-1")
    entry = world.entry("a")
    world.answer(world.flush()[0], accepted=1)
    world.up("boot-2")
    [watch] = world.flush()
    world.answer(watch, results=[], live=[], unknown=["a"])
    assert world.core.tasks.finished == [entry]
    with pytest.raises(RequestRefused, match="UNKNOWN_TASK"):
        value_of("a", entry.outcome or {})


def test_attach_to_a_live_a_finished_and_an_unknown_task(world: Scripted) -> None:
    world.up()
    entries = {task_id: Entry(task_id, b"", world.sink) for task_id in ("live", "over", "gone")}
    for entry in entries.values():
        world.core.attach(entry, world.now)
    [watch] = world.flush()
    assert watch.payload["task_ids"] == ["live", "over", "gone"]
    over = {"task_id": "over", "status": "failed", "error": "boom", "metadata": {"error_kind": "exited"}}
    world.answer(watch, results=[over], live=[["live", "in_progress"]], unknown=["gone"])
    assert world.core.tasks.accepted == [entries["live"]]
    assert set(names(world.core.tasks.finished)) == {"over", "gone"}
    with pytest.raises(TaskFailed, match=r"exited.*boom"):
        value_of("over", entries["over"].outcome or {})
    world.results("live")
    assert value_of("live", entries["live"].outcome or {}) == "LIVE"


def test_two_callers_of_one_task_share_one_submission(world: Scripted) -> None:
    world.up()
    first = world.entry("a", check=True)
    second = world.entry("a", check=True)
    [sent] = world.flush()
    assert ids_of(sent) == ["a"]
    world.answer(sent, accepted=0, duplicates=["a"])
    assert world.core.tasks.accepted == [first, second]
    world.results("a")
    assert world.core.tasks.finished == [first, second]
    assert second.outcome is first.outcome


def test_a_message_that_cannot_be_read_costs_only_the_task_that_makes_it_so(world: Scripted) -> None:
    world.up()
    good, bad, other = (world.entry(task_id) for task_id in ("good", "bad", "other"))
    [sent] = world.flush()
    world.answer(sent, MessageType.ERROR, code="MALFORMED", message="nested too deeply")
    world.entry("later")
    parts = world.flush()
    assert [ids_of(part) for part in parts] == [["good"], ["bad"], ["other"], ["later"]]
    for part in parts:
        if ids_of(part) == ["bad"]:
            world.answer(part, MessageType.ERROR, code="MALFORMED", message="nested too deeply")
        else:
            world.answer(part, accepted=1)
    assert world.core.tasks.finished == [bad]
    assert world.core.tasks.accepted[:2] == [good, other]
    with pytest.raises(RequestRefused, match="MALFORMED"):
        value_of("bad", bad.outcome or {})


def test_a_watch_whose_answer_is_too_large_is_asked_in_parts(world: Scripted) -> None:
    world.up("boot-1")
    for task_id in ("a", "b", "c"):
        world.entry(task_id)
    world.answer(world.flush()[0], accepted=3)
    world.up("boot-2")
    [watch] = world.flush()
    world.answer(watch, MessageType.ERROR, code="PAYLOAD_TOO_LARGE", message="")
    assert [sent.payload["task_ids"] for sent in world.flush()] == [["a"], ["b", "c"]]


def test_a_task_too_large_for_the_wire_is_refused_at_once(world: Scripted) -> None:
    world.up(max_payload_bytes=1000)
    entry = world.entry("a", size=20_000)
    assert world.core.tasks.finished == [entry]
    assert isinstance(entry.outcome, RequestRefused)
    assert entry.outcome.code == "PAYLOAD_TOO_LARGE"
    assert world.flush() == []


def test_cancelled_and_abandoned_tasks_are_told_apart(world: Scripted) -> None:
    world.up()
    first, second = world.entry("a"), world.entry("b")
    world.results("a", status="abandoned", metadata={"error_kind": "cancelled"})
    world.results("b", status="abandoned", error="worker died twice", metadata={"error_kind": "worker_lost"})
    with pytest.raises(TaskCancelled):
        value_of("a", first.outcome or {})
    with pytest.raises(TaskFailed, match="worker_lost"):
        value_of("b", second.outcome or {})


def make_call(world: Scripted, action: str, *, repeatable: bool = True, deadline: float = 110.0) -> Call:
    call = Call(action, {"limit": 5}, no_one, deadline=deadline, repeatable=repeatable)
    world.core.request(call, world.now)
    return call


def test_a_request_is_answered_refused_or_ends_at_its_deadline(world: Scripted) -> None:
    world.up()
    good, bad, mute = (make_call(world, action) for action in ("history", "list_tasks", "fleet_status"))
    sent = {one.payload["action"]: one for one in world.flush()}
    assert sent["history"].payload == {"action": "history", "limit": 5}
    world.answer(sent["history"], events=[])
    world.answer(sent["list_tasks"], MessageType.ERROR, code="FORBIDDEN", message="not yours")
    world.pass_time(11)
    assert world.core.calls.answered == [good, bad, mute]
    assert good.answer == {"action": "history", "events": []}
    assert isinstance(bad.answer, RequestRefused)
    assert isinstance(mute.answer, FleetUnavailable)


@pytest.mark.parametrize(
    ("repeatable", "boot_id", "sent_again", "failed"),
    [(True, "boot-2", 1, 0), (True, "boot-1", 1, 0), (False, "boot-1", 0, 0), (False, "boot-2", 0, 1)],
)
def test_only_what_may_be_done_twice_is_asked_of_a_new_coordinator(
    world: Scripted, repeatable: bool, boot_id: str, sent_again: int, failed: int
) -> None:
    world.up("boot-1")
    make_call(world, "retry_tasks", repeatable=repeatable)
    world.flush()
    world.up(boot_id)
    assert len(world.flush()) == sent_again
    assert len(world.core.calls.answered) == failed


def test_a_standby_sends_us_to_another_address(world: Scripted) -> None:
    world.up()
    world.entry("a")
    [sent] = world.flush()
    world.answer(sent, MessageType.ERROR, code="NOT_LEADER", message="")
    assert world.core.wants_other
    world.core.disconnected()
    world.up("boot-2")
    assert not world.core.wants_other
    world.pass_time(1)
    assert [ids_of(again) for again in world.flush()] == [["a"]]


@pytest.mark.parametrize("take_back", [ClientCore.unsent, None])
def test_a_message_that_the_link_would_not_take(
    world: Scripted, take_back: Callable[[ClientCore, str, Now], None] | None
) -> None:
    world.up()
    entry = world.entry("a")
    [sent] = world.flush()
    if take_back is not None:
        take_back(world.core, sent.request_id, world.now)
        world.pass_time(1)
        assert [ids_of(again) for again in world.flush()] == [["a"]]
    else:
        world.core.unsendable(sent.request_id, RequestRefused("PAYLOAD_TOO_LARGE", "too large"))
        assert world.core.tasks.finished == [entry]


def test_results_of_a_form_that_nobody_expects_are_dropped(world: Scripted) -> None:
    world.up()
    entry = world.entry("a")
    metadata = Metadata("coordinator-1")
    for records in ([None, 7, {}, {"task_id": ["a"]}, {"task_id": 1}], None, "x"):
        payload = {"action": "task_results", "results": records}
        message = Message(MessageType.EVENT, "coordinator-1", "client~1", payload, metadata)
        world.core.handle(Received("coordinator-1", Role.COORDINATOR, message), world.now)
    assert world.core.tasks.finished == []
    world.results("a")
    assert world.core.tasks.finished == [entry]


def test_closing_ends_everybodys_waiting(world: Scripted) -> None:
    world.up()
    accepted = world.entry("a")
    world.answer(world.flush()[0], accepted=1)
    queued = world.entry("b")
    call = make_call(world, "history")
    world.core.close("closed")
    assert world.core.tasks.finished == [accepted, queued]
    assert world.core.calls.answered == [call]
    assert isinstance(call.answer, FleetUnavailable)


def test_what_nobody_waits_for_any_more_is_not_sent_and_its_result_is_dropped(world: Scripted) -> None:
    world.up()
    world.entry("sent")
    world.flush()
    world.entry("queued")
    world.core.tasks.forget(world.sink)
    assert world.flush() == []
    world.results("sent")
    assert world.core.tasks.finished == []
    assert len(world.core.tasks) == 0


def test_a_coordinator_that_stands_by_is_asked_nothing_where_there_are_others(world: Scripted) -> None:
    world.core.others = True
    world.up(leading=False)
    world.entry("a")
    assert world.core.elsewhere
    assert world.flush() == []
    assert "stands by" in world.core.trouble
    world.core.disconnected()
    world.up("boot-2", leading=True)
    assert [ids_of(sent) for sent in world.flush()] == [["a"]]


def test_the_only_coordinator_is_asked_although_it_does_not_lead_yet(world: Scripted) -> None:
    world.up(leading=False)
    world.entry("a")
    assert [ids_of(sent) for sent in world.flush()] == [["a"]]


def test_a_refusal_of_an_earlier_session_says_nothing_of_who_leads_now(world: Scripted) -> None:
    world.core.others = True
    world.up()
    world.entry("a")
    [sent] = world.flush()
    world.up("boot-2", leading=True)
    world.answer(sent, MessageType.ERROR, code="NOT_LEADER", message="")
    assert not world.core.elsewhere
    assert [ids_of(again) for again in world.flush()] == [["a"]]


def test_a_coordinator_has_departed_from_its_goodbye_until_it_greets_again(world: Scripted) -> None:
    world.up()
    world.down()
    assert world.core.departed == ""
    world.up()
    world.down("goodbye")
    assert world.core.departed == "coordinator-1"
    world.up()
    assert world.core.departed == ""
