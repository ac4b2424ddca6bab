"""What the client keeps, and for how long; several callers of one task."""

from __future__ import annotations

from typing import Any

import pytest

from a2a_zmq import FleetClient
from a2a_zmq.client.entries import Call, Entry
from a2a_zmq.client.submission import value_of
from a2a_zmq.client.submits import MAX_SUBMITS_IN_FLIGHT
from a2a_zmq.errors import FleetUnavailable
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.ports import Refusal
from tests.unit.client.conftest import FleetInAThread
from tests.unit.client.scripted import Scripted, Sink, ids_of, names, no_one

WaitUntil = Any


@pytest.fixture
def world() -> Scripted:
    return Scripted()


def kept(world: Scripted) -> int:
    """How much the tables hold, whether somebody waits for it or not."""
    core = world.core
    return (
        len(core.tasks)
        + sum(1 for _ in core._submits.entries())
        + len(core.calls._waiting)
        + len(core.calls._delayed)
        + sum(1 for _ in core._watches.ids())
    )


@pytest.mark.parametrize("refused", [False, True])
def test_nothing_is_kept_for_those_who_have_given_up(world: Scripted, refused: bool) -> None:
    world.up()
    if refused:
        for action in ("submit", "attach", "call"):
            ask_for_one(world, action, 0)
        for sent in world.flush():
            world.answer(sent, MessageType.ERROR, code="BUSY", retry_after_s=60)
    world.down()
    for number in range(1, 20):
        for action in ("submit", "attach", "call"):
            ask_for_one(world, action, number)
    assert kept(world) > 0
    world.pass_time(2.0)
    assert kept(world) == 0
    assert world.core.next_deadline() == float("inf")


def ask_for_one(world: Scripted, action: str, number: int) -> None:
    deadline = world.mono + 1.0
    if action == "submit":
        world.entry(f"s{number}", deadline=deadline)
    elif action == "attach":
        world.core.attach(Entry(f"w{number}", b"", world.sink, deadline=deadline), world.now)
    else:
        world.core.request(Call("get_task", {"task_id": "x"}, no_one, deadline=deadline), world.now)


def test_nothing_is_kept_for_those_who_are_locked_out(world: Scripted) -> None:
    for _ in range(2):
        world.core.handle(Refusal("signature", "revoked", "coordinator-1", "client is revoked"), world.now)
        world.pass_time(1.5)
    for number in range(5):
        ask_for_one(world, "submit", number)
        ask_for_one(world, "attach", number)
        world.pass_time(0.01)
    assert kept(world) == 0


def test_nothing_is_kept_of_a_map_that_was_left_without_a_session(world: Scripted) -> None:
    for number in range(5):
        world.entry(f"t{number}")
    world.core.forget(world.sink)
    assert kept(world) == 0


def test_submissions_that_are_never_answered_do_not_stop_later_ones(world: Scripted) -> None:
    world.up()
    for number in range(MAX_SUBMITS_IN_FLIGHT):
        world.entry(f"t{number}", deadline=world.mono + 1.0)
        assert len(world.flush()) == 1
    world.entry("late", deadline=world.mono + 10.0)
    assert world.flush() == []
    world.pass_time(2.0)
    assert [type(entry.outcome) for entry in world.core.tasks.finished] == [FleetUnavailable] * MAX_SUBMITS_IN_FLIGHT
    assert [ids_of(sent) for sent in world.flush()] == [["late"]]


@pytest.mark.parametrize("asked", [False, True])
def test_a_task_that_somebody_asks_about_is_submitted_all_the_same(world: Scripted, asked: bool) -> None:
    world.up()
    attached = Entry("a", b"", Sink())
    world.core.attach(attached, world.now)
    watch = world.flush()[0] if asked else None
    submitted = world.entry("a", check=True)
    [sent] = world.flush()
    assert (ids_of(sent), sent.payload["check"]) == (["a"], True)
    world.answer(sent, accepted=1, duplicates=[], rejected=[])
    if watch is not None:  # the coordinator had looked before the task came
        world.answer(watch, results=[], live=[], unknown=["a"])
    assert world.core.tasks.finished == []
    assert set(world.core.tasks.accepted) == {attached, submitted}
    world.results("a")
    assert value_of("a", attached.outcome or {}) == value_of("a", submitted.outcome or {}) == "A"


def test_a_task_of_a_map_that_was_left_goes_on_for_who_attached_to_it(world: Scripted) -> None:
    world.up()
    world.entry("a")
    world.answer(world.flush()[0], accepted=1)
    attached = Entry("a", b"", Sink())
    world.core.attach(attached, world.now)
    world.core.forget(world.sink)
    world.up("boot-2")
    [watch] = world.flush()
    assert watch.payload["task_ids"] == ["a"]
    record = {"task_id": "a", "status": "completed", "result": 7}
    world.answer(watch, results=[record], live=[], unknown=[])
    [done] = world.core.tasks.finished
    assert done.sink is attached.sink
    assert names(world.core.tasks.finished) == ["a"]


def test_a_map_keeps_nothing_of_tasks_that_asked_something(
    arguments: dict[str, Any], coordinator: FleetInAThread, wait_until: WaitUntil
) -> None:
    with FleetClient(**arguments) as fleet:
        found = list(fleet.map("graph:asks", [{"input": n} for n in range(5)], return_exceptions=True))
        assert [each.interrupts[0]["value"] for each in found] == list(range(5))
        wait_until(lambda: len(fleet._thread.connection.core.tasks) == 0, "what asked is forgotten")
