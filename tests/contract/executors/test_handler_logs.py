"""What handlers in child processes log: in the worker's log, with the task; and printed, as ever."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from a2a_zmq.handlers import current_task
from daemons.runtime.contract import Event
from tests.contract.executors.conftest import Rig

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
METADATA = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever level a daemon that another test ran here has left."""
    caplog.set_level(logging.WARNING, logger="a2a_zmq.handlers")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "a2a_zmq.handlers"]


def test_a_warning_is_in_the_workers_log_with_its_task_and_printed(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    outcome = rig.run("logs", metadata=METADATA)
    assert lines(caplog) == [
        f"line 0, password=*** part='mine' task_id='logs' attempt=1 trace_id='{TRACE_ID}'",
    ]
    assert outcome.detail["log"] == ["line 0, password=hunter2"], "the record is the user's own"


def test_a_program_that_sets_up_its_own_logging_keeps_it(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.run("logs", task_id="first")  # the same process, perhaps, with our handler in it
    outcome = rig.run("logs", {"own": True}, task_id="second")
    assert outcome.detail["log"] == ["mine: not so important", "mine: line 0, password=hunter2"]
    again = rig.run("logs", {"own": True}, task_id="third")
    assert again.detail["log"] == outcome.detail["log"]


def test_a_flood_is_held_back_and_counted(make_rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture) -> None:
    rig = make_rig(slots=1, spare_children=0)
    rig.run("logs", {"lines": 1000})
    assert 40 < len(lines(caplog)) < 100

    def told() -> bool:
        rig.run("logs", task_id="another")
        return any("held_back=" in line for line in lines(caplog))

    assert any(told() for _ in range(200)), "one of the next lines says how many were left out"


def test_what_the_worker_does_with_a_result_is_not_done_in_the_name_of_its_task(make_rig: Callable[..., Rig]) -> None:
    """Symptom: a callback that a handler's thread posts inherits its context, so that the worker's own log lines named
    the task that had ended last."""
    rig = make_rig()
    named: list[object] = []
    deliver = rig.executor._deliver

    def delivered(events: list[Event]) -> None:
        named.append(current_task())
        deliver(events)

    rig.executor._deliver = delivered
    for task_type in ("pid-async", "pid-thread", "echo"):
        rig.value(task_type)
    assert named
    assert set(named) == {None}
