"""Bulk submissions: how long they may take, and what is told of those that were refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from a2a_zmq import AsyncFleetClient, FleetClient
from a2a_zmq.client.base import due, note_accepted, with_accepted
from a2a_zmq.client.entries import Entry
from a2a_zmq.client.handles import Gate, TaskHandle
from a2a_zmq.errors import RequestRefused
from tests.unit.client.conftest import FleetInAThread

pytestmark = pytest.mark.timeout(20)
TIMEOUT_S = 1.0
COUNT = 8


def slow_payloads() -> Iterator[dict[str, int]]:
    """It takes longer to have them all than any request may."""
    for number in range(COUNT):
        time.sleep(TIMEOUT_S / 6)
        yield {"n": number}


def test_payloads_may_take_longer_than_a_request(arguments: dict[str, Any], coordinator: FleetInAThread) -> None:
    # The answer takes a moment: what is late as it is sent would not wait for it.
    coordinator.fault = lambda action: time.sleep(0.3) if action == "submit_tasks" else None
    with FleetClient(**arguments, request_timeout_s=TIMEOUT_S) as fleet:
        handles = fleet.submit_many("noop", slow_payloads())
        assert [handle.result(5) for handle in handles] == [{"n": number} for number in range(COUNT)]


def test_payloads_may_take_longer_than_a_request_on_a_loop(
    arguments: dict[str, Any], coordinator: FleetInAThread
) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments, request_timeout_s=TIMEOUT_S) as fleet:
            await fleet.status()
            handles = await fleet.submit_many("noop", slow_payloads())
            assert [await handle.result(5) for handle in handles] == [{"n": number} for number in range(COUNT)]
            specs = [{"task_type": "noop", "payload": payload} for payload in ({"n": 4}, {"n": 5})]
            mixed = await fleet.submit_tasks(specs)  # type: ignore[arg-type]
            assert [await handle.result(5) for handle in mixed] == [{"n": 4}, {"n": 5}]

    asyncio.run(story())


def test_all_of_a_group_have_the_full_time_from_when_it_is_sent() -> None:
    handle = TaskHandle(None, Gate())  # type: ignore[arg-type]
    group = [Entry(task_id, b"", handle._sink, deadline=0.0) for task_id in ("a", "b")]
    before = time.monotonic()
    assert due(group, 5.0) == group
    assert all(entry.deadline >= before + 5.0 for entry in group)


SENT = 1024  # two messages of 512: more than the line that is wrong stands behind


def specs_then(last: Any) -> Iterator[Any]:
    """More than one message of tasks that are right; then one that is not, or what is raised instead."""
    for number in range(SENT + 3):
        yield {"task_type": "noop", "payload": {"n": number}}
    if isinstance(last, Exception):
        raise last
    yield last


ENDS: list[tuple[Any, type[Exception]]] = [
    ({"task_type": "noop", "payload": {}, "priority": 5000}, RequestRefused),
    ({"task_type": "noop", "payload": {}, "prioriti": 1}, TypeError),
    (OSError("the disk is gone"), OSError),
]


@pytest.mark.parametrize(("last", "kind"), ENDS)
def test_what_was_sent_before_the_next_task_could_not_be_is_named(
    arguments: dict[str, Any], coordinator: FleetInAThread, last: Any, kind: type[Exception]
) -> None:
    with FleetClient(**arguments) as fleet, pytest.raises(kind) as raised:
        fleet.submit_tasks(specs_then(last))
    accepted = raised.value.accepted  # type: ignore[attr-defined]
    assert len(accepted) >= SENT
    assert set(accepted) == set(coordinator.tasks)


@pytest.mark.parametrize(("last", "kind"), ENDS)
def test_what_was_sent_before_the_next_task_could_not_be_is_named_on_a_loop(
    arguments: dict[str, Any], coordinator: FleetInAThread, last: Any, kind: type[Exception]
) -> None:
    async def story() -> None:
        async with AsyncFleetClient(**arguments) as fleet:
            with pytest.raises(kind) as raised:
                await fleet.submit_tasks(specs_then(last))
        accepted = raised.value.accepted  # type: ignore[attr-defined]
        assert accepted  # how many is a matter of time on a loop
        assert set(accepted) == set(coordinator.tasks)

    asyncio.run(story())


def test_an_exception_that_takes_no_attributes_stays_what_it_is() -> None:
    class Slotted(Exception):
        __slots__ = ()

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(name)

    note_accepted(Slotted(), [])


def test_each_caller_of_a_refused_message_hears_of_its_own_tasks(
    arguments: dict[str, Any], coordinator: FleetInAThread
) -> None:
    """Both callers' tasks were in the message, so it is one refusal."""
    shared = RequestRefused("FORBIDDEN", "no")
    told = {}
    for name in ("a", "b"):
        handle = TaskHandle(None, Gate())  # type: ignore[arg-type]
        handle.task_id = name
        told[name] = with_accepted(shared, [handle])
    assert (told["a"].accepted, told["b"].accepted, shared.accepted) == (("a",), ("b",), ())
    assert str(told["a"]) == "FORBIDDEN: no"
    assert isinstance(told["a"], RequestRefused)
    assert told["a"].code == "FORBIDDEN"

    coordinator.held = True
    coordinator.fault = lambda action: {"code": "FORBIDDEN", "message": "no"} if action == "submit_tasks" else None
    with FleetClient(**arguments) as fleet:
        fleet.status()
        free = threading.Event()

        def hold_up() -> None:
            free.wait(5)

        fleet._thread.post(hold_up)  # both groups leave with the next turn
        errors: list[RequestRefused] = []

        def submit() -> None:
            try:
                fleet.submit_many("noop", [{}])
            except RequestRefused as error:
                errors.append(error)

        threads = [threading.Thread(target=submit) for _ in range(2)]
        for thread in threads:
            thread.start()
        while len(fleet._thread._inbox) < 2:
            time.sleep(0.01)
        free.set()
        for thread in threads:
            thread.join(5)
        assert len(errors) == 2
        assert errors[0] is not errors[1]
