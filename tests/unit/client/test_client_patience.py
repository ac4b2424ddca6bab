"""Patience: what a client puts off, how long it sleeps, and what it asks for again."""

from __future__ import annotations

from typing import Any

import pytest

from a2a_zmq.client.entries import Call, Entry
from a2a_zmq.client.streams import Stream
from a2a_zmq.client.submission import value_of
from a2a_zmq.client.submits import MAX_BATCH_TASKS, MAX_SUBMITS_IN_FLIGHT
from a2a_zmq.errors import FleetUnavailable, KeyRefused, RequestRefused
from a2a_zmq.protocol.message import Message, MessageType, Metadata
from a2a_zmq.protocol.ports import Refusal
from a2a_zmq.streams import START
from tests.unit.client.scripted import Scripted, ids_of, no_one


@pytest.fixture
def world() -> Scripted:
    return Scripted()


@pytest.mark.parametrize("action", ["submit_tasks", "watch_tasks", "get_task"])
def test_a_client_without_a_session_sleeps_though_something_refused_is_due(world: Scripted, action: str) -> None:
    world.up()
    if action == "submit_tasks":
        world.entry("a")
    elif action == "watch_tasks":
        world.core.attach(Entry("a", b"", world.sink), world.now)
    else:
        world.core.request(Call("get_task", {"task_id": "a"}, no_one), world.now)
    [sent] = world.flush()
    world.answer(sent, MessageType.ERROR, code="BUSY", retry_after_s=0.2)
    world.down()
    world.pass_time(1.0)
    assert world.flush() == []
    assert world.core.next_deadline() > world.mono, "it would be woken at once, again and again"
    world.up()
    [again] = world.flush()
    assert again.payload["action"] == action


def test_a_client_whose_outbox_is_full_sleeps_though_something_refused_is_due(world: Scripted) -> None:
    world.up()
    world.core.request(Call("get_task", {"task_id": "a"}, no_one), world.now)
    [sent] = world.flush()
    world.answer(sent, MessageType.ERROR, code="BUSY", retry_after_s=0.2)
    world.pass_time(1.0)
    assert world.flush(room=0) == []
    assert world.core.next_deadline() > world.mono
    assert len(world.flush()) == 1


def test_a_busy_coordinator_is_not_flooded_with_the_rest_of_the_queue(world: Scripted) -> None:
    world.up()
    for number in range(MAX_BATCH_TASKS * MAX_SUBMITS_IN_FLIGHT * 5):
        world.entry(f"t{number}")
    sent_in_ten_seconds = 0
    while world.mono < 110.0:
        sent = world.flush()
        sent_in_ten_seconds += len(sent)
        for one in sent:
            world.answer(one, MessageType.ERROR, code="BUSY", retry_after_s=0.5)
        world.pass_time(0.01)
    assert sent_in_ten_seconds <= MAX_SUBMITS_IN_FLIGHT * 21
    world.pass_time(0.6)
    order = [ids_of(one)[0] for one in world.flush()]
    assert order[0] == "t0", "what was refused goes first"


def test_a_coordinator_that_had_to_drop_messages_is_asked_for_everything_again(world: Scripted) -> None:
    world.up()
    world.entry("accepted")
    [sent] = world.flush()
    world.answer(sent, accepted=1, duplicates=[], rejected=[])
    world.entry("unanswered")
    world.flush()
    payload = {"action": "task_results", "results": [], "dropped": 3}
    world.receive(Message(MessageType.EVENT, "coordinator-1", "client~1", payload, Metadata("coordinator-1")))
    watch, again = world.flush()
    assert watch.payload == {"action": "watch_tasks", "task_ids": ["accepted"]}
    assert (ids_of(again), again.payload["check"]) == (["unanswered"], True)


def test_a_caller_that_gives_up_early_does_not_take_a_more_patient_one_along(world: Scripted) -> None:
    hasty = world.entry("a", deadline=105.0)
    world.entry("a", deadline=200.0)
    for _ in range(10):
        world.pass_time(1.0)
    assert [type(one.outcome) for one in world.core.tasks.finished] == [FleetUnavailable]
    assert world.core.tasks.finished[0].sink is hasty.sink
    world.core.tasks.finished.clear()
    world.up()
    [sent] = world.flush()
    world.answer(sent, accepted=1, duplicates=[], rejected=[])
    world.results("a")
    [done] = world.core.tasks.finished
    assert done.outcome is not None
    assert value_of("a", done.outcome) == "A"


def test_who_is_locked_out_waits_no_longer_than_it_takes_to_be_sure(world: Scripted) -> None:
    entry = world.entry("a", deadline=200.0)
    answers: list[Call] = []
    world.core.request(Call("get_task", {"task_id": "a"}, answers.append, deadline=200.0), world.now)
    world.core.handle(Refusal("signature", "revoked", "coordinator-1", "client is revoked"), world.now)
    world.pass_time(0.5)
    world.core.handle(Refusal("signature", "revoked", "coordinator-1", "client is revoked"), world.now)
    world.pass_time(0.5)
    assert world.core.tasks.finished == []
    assert world.core.lockout(world.now) is None
    assert world.core.next_deadline() <= 102.0
    world.pass_time(1.1)
    assert isinstance(entry.outcome, KeyRefused)
    assert "client is revoked" in str(entry.outcome)
    assert [type(call.answer) for call in world.core.calls.answered] == [KeyRefused]
    assert world.core.next_deadline() > world.mono, "it is not woken at once, again and again"
    late = world.entry("b", deadline=300.0)
    world.pass_time(0.0)
    assert isinstance(late.outcome, KeyRefused), "and whoever comes later hears it at once"


def test_one_refusal_and_silence_lock_nobody_out(world: Scripted) -> None:
    """The host's clock was set while a greeting was on its way; then the coordinator was away for a while."""
    entry = world.entry("a", deadline=200.0)
    world.core.handle(Refusal("signature", "skew", "coordinator-1", "clocks differ by 40.1 s"), world.now)
    world.pass_time(20.0)
    assert (entry.outcome, world.core.lockout(world.now)) == (None, None)
    world.up()
    assert [ids_of(sent) for sent in world.flush()] == [["a"]]
    world.down()
    world.core.handle(Refusal("signature", "skew", "coordinator-1", "clocks differ by 40.1 s"), world.now)
    world.pass_time(20.0)
    assert world.core.lockout(world.now) is None, "a session in between says that nothing is wrong"
    world.core.handle(Refusal("signature", "skew", "coordinator-1", "clocks differ by 40.1 s"), world.now)
    assert world.core.lockout(world.now) is not None


def test_a_key_that_is_admitted_in_time_costs_nothing(world: Scripted) -> None:
    entry = world.entry("a", deadline=200.0)
    world.core.handle(Refusal("signature", "token", "coordinator-1", "expired"), world.now)
    world.pass_time(1.0)
    world.up()
    world.pass_time(5.0)
    assert entry.outcome is None
    assert [ids_of(sent) for sent in world.flush()] == [["a"]]


def test_a_stranger_that_answers_locks_nobody_out(world: Scripted) -> None:
    entry = world.entry("a", deadline=200.0)
    world.core.handle(Refusal("signature", "signature"), world.now)
    world.pass_time(10.0)
    assert entry.outcome is None


def test_busy_is_repeated_after_the_time_it_names(world: Scripted) -> None:
    world.up()
    entry = world.entry("a")
    [sent] = world.flush()
    world.answer(sent, MessageType.ERROR, code="BUSY", message="full", retry_after_s=1.5)
    assert world.flush() == []
    world.pass_time(1.4)
    assert world.flush() == []
    assert world.core.next_deadline() == pytest.approx(101.5)
    world.pass_time(0.2)
    [again] = world.flush()
    assert ids_of(again) == ["a"]
    world.answer(again, accepted=1)
    assert world.core.tasks.accepted == [entry]


def test_busy_until_the_deadline_is_what_the_caller_sees(world: Scripted) -> None:
    world.up()
    entry = world.entry("a", deadline=101.0)
    [sent] = world.flush()
    world.answer(sent, MessageType.ERROR, code="BUSY", message="full", retry_after_s=5)
    world.pass_time(1.2)
    assert world.core.tasks.finished == [entry]
    with pytest.raises(RequestRefused, match=r"^BUSY: the task was refused until the caller's deadline passed: full$"):
        value_of("a", entry.outcome or {})
    world.pass_time(10)
    assert world.flush() == []


def test_without_a_coordinator_a_submission_ends_at_its_deadline(world: Scripted) -> None:
    entry = world.entry("a", deadline=101.0)
    world.pass_time(0.5)
    assert world.core.tasks.finished == []
    world.pass_time(0.6)
    assert world.core.tasks.finished == [entry]
    with pytest.raises(FleetUnavailable):
        value_of("a", entry.outcome or {})
    world.up()
    assert world.flush() == []


def test_after_a_long_silence_everything_under_way_is_asked_for_again(world: Scripted) -> None:
    world.up()
    world.entry("a")
    world.answer(world.flush()[0], accepted=1)
    world.pass_time(19)
    assert world.flush() == []
    world.pass_time(2)
    [watch] = world.flush()
    assert watch.payload["task_ids"] == ["a"]
    world.answer(watch, results=[], live=[["a", "in_progress"]], unknown=[])
    world.pass_time(30)
    assert world.flush() == []
    world.pass_time(11)
    assert [sent.payload["task_ids"] for sent in world.flush()] == [["a"]]
    world.results("a")
    world.pass_time(1000)
    assert world.flush() == []
    assert world.core.next_deadline() == float("inf")


@pytest.mark.parametrize("answer", [{"rejected": 5}, {"rejected": ["a"]}])
def test_an_acceptance_that_cannot_be_read_is_an_error_of_that_submission_alone(world: Scripted, answer: Any) -> None:
    """A coordinator of another release may answer in another form."""
    world.up()
    entry = world.entry("a")
    world.answer(world.flush()[0], **answer)
    with pytest.raises(FleetUnavailable, match=r"coordinator-1 .*cannot be read"):
        value_of("a", entry.outcome or {})
    world.entry("b")
    assert [ids_of(sent) for sent in world.flush()] == [["b"]]


@pytest.mark.parametrize("answer", [{"live": [5]}, {"live": [[]]}, {"unknown": 7}])
def test_a_state_that_cannot_be_read_is_an_error_of_who_asked_alone(world: Scripted, answer: Any) -> None:
    world.up()
    accepted = world.entry("a")
    world.answer(world.flush()[0], accepted=1)
    attached = Entry("b", b"", world.sink)
    world.core.attach(attached, world.now)
    world.answer(world.flush()[0], **answer)
    with pytest.raises(FleetUnavailable, match="cannot be read"):
        value_of("b", attached.outcome or {})
    world.results("a")
    assert value_of("a", accepted.outcome or {}) == "A"


def test_events_that_cannot_be_read_end_their_stream(world: Scripted) -> None:
    world.up()
    stream = Stream("a", START, lambda: None)
    world.core.streams.add(stream)
    world.answer(world.flush()[0])
    payload = {"action": "task_events", "stream": stream.number, "after": "0-0", "last": "1-1", "events": [["1-1"]]}
    world.receive(Message(MessageType.EVENT, "coordinator-1", "client~1", payload, Metadata("coordinator-1")))
    assert stream.over
    assert isinstance(stream.error, FleetUnavailable)
