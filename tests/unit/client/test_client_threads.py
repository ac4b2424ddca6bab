"""What the blocking client's thread and its callers' threads do to each other."""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq import FleetClient
from a2a_zmq.client.entries import Asked, Entry
from a2a_zmq.errors import FleetUnavailable
from tests.unit.client.conftest import FleetInAThread

WaitUntil = Callable[..., None]
pytestmark = pytest.mark.timeout(20)


def test_a_client_that_is_dropped_with_unfinished_tasks_is_closed(
    arguments: dict[str, Any], coordinator: FleetInAThread, wait_until: WaitUntil
) -> None:
    coordinator.held = True
    fleet = FleetClient(**arguments)
    handle = fleet.submit("noop", {"n": 1})
    thread = fleet._thread._thread
    del fleet
    gc.collect()
    coordinator.release()
    assert handle.result(5) == {"n": 1}, "a handle is enough to keep its client"
    coordinator.held = True
    handle = handle._fleet.submit("noop", {"n": 2})  # type: ignore[attr-defined]
    del handle
    gc.collect()
    wait_until(lambda: not thread.is_alive(), "nobody is left who could ask for the result")


def test_what_is_asked_as_the_client_is_closed_is_refused_as_after_it(arguments: dict[str, Any]) -> None:
    fleet = FleetClient(**arguments)
    fleet.status()

    class Inbox(deque[Callable[[], None]]):
        def append(self, work: Callable[[], None]) -> None:
            super().append(work)
            if threading.current_thread() is threading.main_thread():
                fleet.close()  # another thread closes the client after this one has looked

    fleet._thread._inbox = Inbox()
    with pytest.raises(FleetUnavailable, match="closed"):
        fleet.submit("noop", {})


def test_a_question_that_is_answered_before_the_waiting_thread_sees_it_is_not_raised(
    arguments: dict[str, Any], coordinator: FleetInAThread
) -> None:
    coordinator.held = True
    with FleetClient(**arguments) as fleet:
        handle = fleet.submit("noop", {"n": 1})
        entry = Entry(handle.task_id, b"", handle._sink)
        waits = threading.Event()

        def ask_and_answer() -> None:
            for entry.asked in (Asked(1, [{"id": "i", "value": 1}]), None):
                handle._sink.asked(entry)
            waits.set()

        def interfere() -> None:
            while not handle._sink.waiters:
                waits.wait(0.01)
            fleet._thread.post(ask_and_answer)
            waits.wait(5)
            coordinator.release()

        thread = threading.Thread(target=interfere)
        thread.start()
        try:
            assert handle.result(10) == {"n": 1}
        finally:
            thread.join(5)
