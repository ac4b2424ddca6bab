"""Settings that change while a worker runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemons.runtime.contract import DrainRequested
from daemons.runtime.reconfigured import Reconfigured
from daemons.worker.config import WorkerConfig


def test_more_async_tasks_begin_and_fewer_later(make_desk: Callable[..., Any]) -> None:
    desk = make_desk(async_slots=2)
    desk.up()
    desk.assign(*[(f"t{n}", "sleep") for n in range(6)])
    assert len(desk.started) == 2
    desk.event(Reconfigured(WorkerConfig(slots=2, async_slots=4)))
    assert len(desk.started) == 4
    desk.event(Reconfigured(WorkerConfig(slots=2, async_slots=1)))
    for n in range(3):
        desk.finish(f"t{n}")
    assert len(desk.started) == 4, "three of four have ended, and one at a time may run"
    desk.finish("t3")
    assert len(desk.started) == 5


def test_what_it_may_hold_is_told_to_its_distributor(desk: Any) -> None:
    desk.assign(*[(f"t{n}", "sleep") for n in range(40)])
    wide = desk.core.heartbeat("distributor-1", desk.now)["limit"]
    desk.event(Reconfigured(WorkerConfig(slots=2, max_limit=10)))
    assert desk.core.heartbeat("distributor-1", desk.now)["limit"] == 10 < wide


def test_a_drain_gets_the_new_time(desk: Any) -> None:
    desk.event(Reconfigured(WorkerConfig(slots=2, drain_timeout_s=100.0)))
    desk.assign(("t1", "compute"))
    desk.request({"action": "drain"})
    desk.wait(50)
    assert desk.stopped == [], "it may go on"


def test_what_cannot_change_stays(desk: Any) -> None:
    assert desk.core.announce(desk.now)["slots"] == 2
    desk.event(DrainRequested("bye", 1.0))
    desk.event(Reconfigured(WorkerConfig(slots=2)))
    assert desk.core.ready() == (False, "draining: bye")
