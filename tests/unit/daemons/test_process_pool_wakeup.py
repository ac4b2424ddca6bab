"""A run that is handed over in the moment in which the pool's thread wakes up."""

from __future__ import annotations

import os
import threading

import pytest

from daemons.runtime.contract import Event, RunFinished, StartRun
from daemons.worker.config import WorkerConfig
from daemons.worker.executors.processes import ProcessPool


def test_a_run_posted_while_the_pool_wakes_up_leaves_it_wakeable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signal was read away with the one before it, and every later run waited for ever."""
    ended: set[str] = set()
    news = threading.Condition()

    def report(events: list[Event]) -> None:
        with news:
            ended.update(event.task_id for event in events if isinstance(event, RunFinished))
            news.notify_all()

    pool = ProcessPool(WorkerConfig(slots=1), report)

    def start(name: str) -> None:
        pool.start(StartRun(name, 1, "noop", {}, None, {}), "daemons.worker.builtin.basic:noop")

    def wait_for(name: str) -> None:
        with news:
            assert news.wait_for(lambda: name in ended, 10.0), f"{name} never ran"

    read, inside = os.eventfd_read, ["second"]

    def read_late(fd: int) -> int:
        if inside:
            start(inside.pop())
        return read(fd)

    try:
        monkeypatch.setattr(os, "eventfd_read", read_late)
        start("first")
        wait_for("first")
        wait_for("second")
        start("third")
        wait_for("third")
    finally:
        pool.close()
