"""Handles that several threads wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from a2a_zmq.client.entries import Entry
from a2a_zmq.client.handles import Gate, TaskHandle
from a2a_zmq.client.sync import FleetClient


class Thread:
    """What :meth:`FleetClient.wait_for` needs of the client's thread."""

    def check(self) -> None: ...


def wait_for(handle: TaskHandle) -> Callable[[float | None], None]:
    fleet = FleetClient.__new__(FleetClient)
    fleet._thread = Thread()  # type: ignore[assignment]
    fleet._check_reach = lambda: None  # type: ignore[method-assign]
    return lambda timeout: fleet.wait_for(handle, timeout)


def finished(handle: TaskHandle, value: Any = 1) -> None:
    entry = Entry("t", b"", handle._sink)
    entry.outcome = {"status": "completed", "result": value}
    handle._sink.finished(entry)


def test_a_waiter_whose_event_was_lost_still_sees_the_result() -> None:
    """Whatever becomes of its event: it looks again by itself."""
    handle = TaskHandle(None, Gate())  # type: ignore[arg-type]
    wait = wait_for(handle)
    waiting = threading.Thread(target=wait, args=(None,), daemon=True)
    waiting.start()
    deadline = time.monotonic() + 5
    while not handle._sink.waiters:
        assert time.monotonic() < deadline
    handle._sink.waiters = []
    finished(handle)
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_waiter_that_gives_up_while_the_result_is_handed_out_does_not_hide_the_next_one() -> None:
    handle = TaskHandle(None, Gate())  # type: ignore[arg-type]
    first, second = handle.waiter(), handle.waiter()
    set_first = first.set

    def set_and_leave() -> None:
        set_first()
        handle.no_longer(first)

    first.set = set_and_leave  # type: ignore[method-assign]
    finished(handle)
    assert second.is_set()
