"""Spans of runs, and what is logged of those that fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from a2a_zmq.tracing.spans import attempt_span, run_span
from daemons.runtime.contract import Log
from tests.unit.tracer import TRACE, KeepingTracer
from tests.unit.worker.conftest import Desk


@pytest.fixture
def tracer() -> KeepingTracer:
    return KeepingTracer()


@pytest.fixture
def traced(make_desk: Callable[..., Desk], tracer: KeepingTracer) -> Desk:
    desk = make_desk(tracer=tracer)
    desk.up()
    return desk


def test_a_run_is_a_child_of_its_attempt(traced: Desk, tracer: KeepingTracer) -> None:
    traced.assign(("t1", "sleep", 3), metadata=TRACE.members())
    traced.begin("t1", 3)
    traced.finish("t1", 3, started_at=1_700_000_000.5, execution_s=0.25)
    (run,) = tracer.spans
    assert (run.kind, run.subject, run.trace) == ("run", "sleep", TRACE)
    assert (run.span_id, run.parent_id) == (run_span(TRACE, "t1", 3), attempt_span(TRACE, "t1", 3))
    assert (run.start, run.end, run.error) == (1_700_000_000.5, 1_700_000_000.75, "")
    assert run.attributes == {
        "a2a.task_id": "t1",
        "a2a.task_type": "sleep",
        "a2a.attempt": 3,
        "a2a.executor": "async",
        "a2a.outcome": "completed",
    }


def test_a_failed_run_says_how_and_is_logged_with_its_trace(traced: Desk, tracer: KeepingTracer) -> None:
    traced.assign(("t1", "compute"), metadata=TRACE.members())
    error = "its process was killed by SIGKILL"
    traced.finish("t1", outcome="failed", error=error, error_kind="killed", detail={"signal": "SIGKILL"})
    (run,) = tracer.spans
    assert run.error == "its process was killed by SIGKILL"
    assert (run.attributes["a2a.error_kind"], run.attributes["a2a.signal"]) == ("killed", "SIGKILL")
    (line,) = [each for each in traced.effects if isinstance(each, Log) and each.event == "attempt_failed"]
    assert line.fields == {
        "task_id": "t1",
        "attempt": 1,
        "trace_id": TRACE.trace_id,
        "task_type": "compute",
        "kind": "killed",
        "error": "its process was killed by SIGKILL",
    }


def test_what_never_began_has_no_run(traced: Desk, tracer: KeepingTracer) -> None:
    traced.assign(("t1", "no-such-type"), metadata=TRACE.members())
    for number in range(4):
        traced.assign((f"c{number}", "compute"), metadata=TRACE.members())
    traced.request({"action": "cancel_tasks", "tasks": [["c3", 1]], "fence": 7, "epoch": "e1"})
    assert {span.attributes["a2a.task_id"] for span in tracer.spans} <= {"t1"}


def test_a_task_without_a_trace_has_no_run(traced: Desk, tracer: KeepingTracer) -> None:
    traced.assign(("t1", "sleep"))
    traced.finish("t1")
    assert tracer.spans == []
