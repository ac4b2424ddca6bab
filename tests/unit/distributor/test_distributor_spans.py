"""Spans of attempts: each has one, whatever ends it, and says how it ended and from which one it goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from a2a_zmq.tracing.spans import Span, attempt_span
from tests.unit.distributor.harness import Site
from tests.unit.tracer import TRACE, UNSAMPLED, KeepingTracer


@pytest.fixture
def tracer() -> KeepingTracer:
    return KeepingTracer()


@pytest.fixture
def traced(make_site: Callable[..., Site], tracer: KeepingTracer) -> Site:
    site = make_site(tracer=tracer)
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=5)
    return site


def told(span: Span) -> tuple[object, ...]:
    return tuple(span.attributes.get(f"a2a.{name}") for name in ("attempt", "worker", "outcome", "error_kind"))


def test_an_attempt_and_the_recording_of_its_result(traced: Site, tracer: KeepingTracer) -> None:
    traced.assign("a", **TRACE.members())
    traced.advance(2.0)
    traced.store_up = False
    traced.complete("w1", "a")
    (attempt,) = tracer.spans
    assert told(attempt) == (1, "w1", "completed", None)
    assert (attempt.trace, attempt.parent_id) == (TRACE, TRACE.span_id)
    assert (attempt.span_id, attempt.links, attempt.error) == (attempt_span(TRACE, "a", 1), (), "")
    assert attempt.end - attempt.start == pytest.approx(2.0)
    traced.advance(0.5)
    traced.store_up = True
    traced.turn()
    (record,) = tracer.of("record")
    assert record.end - record.start == pytest.approx(0.5)
    assert record.attributes == {"a2a.task_id": "a", "a2a.status": "completed"}
    assert traced.store.results["a"]["metadata"]["traceparent"] == TRACE.traceparent


def test_a_repeated_attempt_links_to_the_one_that_failed(traced: Site, tracer: KeepingTracer) -> None:
    traced.assign("a", **TRACE.members())
    traced.fail("w1", "a", 1, kind="raised")
    traced.advance(1.0)
    traced.complete("w1", ("a", 2))
    first, second = tracer.of("attempt")
    assert (told(first), first.error) == ((1, "w1", "failed", "raised"), "boom")
    assert (told(second), second.error) == ((2, "w1", "completed", None), "")
    assert second.links == (first.span_id,)
    assert {span.trace.trace_id for span in tracer.spans} == {TRACE.trace_id}


def test_the_last_failed_attempt_ends_its_task(traced: Site, tracer: KeepingTracer) -> None:
    traced.assign("a", max_attempts=1, **TRACE.members())
    detail = {"signal": "SIGKILL", "exit_code": None, "log": ["secret"]}
    traced.fail("w1", "a", 1, kind="killed", detail=detail)
    (attempt,) = tracer.of("attempt")
    assert told(attempt) == (1, "w1", "failed", "killed")
    assert attempt.attributes["a2a.signal"] == "SIGKILL"
    assert "a2a.log" not in attempt.attributes
    (record,) = tracer.of("record")
    assert record.attributes["a2a.status"] == "failed"


def test_an_attempt_whose_worker_dies_says_so_and_another_worker_goes_on(traced: Site, tracer: KeepingTracer) -> None:
    traced.assign("a", **TRACE.members())
    traced.worker_up("w2", limit=5)
    traced.worker_down("w1")
    traced.turn()
    traced.complete("w2", ("a", 2))
    first, second = tracer.of("attempt")
    assert told(first) == (1, "w1", "worker_lost", "worker_lost")
    assert first.error == "worker w1 was lost (exited)"
    assert told(second) == (2, "w2", "completed", None)
    assert second.links == (first.span_id,)


@pytest.mark.parametrize("outcome", ["moved", "put_off"])
def test_a_graph_that_goes_on_elsewhere_or_later_did_not_fail(
    traced: Site, tracer: KeepingTracer, outcome: str
) -> None:
    traced.assign("a", **TRACE.members())
    traced.report("w1", "a", 1, outcome, error="its worker leaves", error_kind="drain", detail={"delay_s": 0.1})
    (attempt,) = tracer.of("attempt")
    assert (told(attempt)[2], attempt.error) == (outcome, "")


def test_a_graph_that_waits_and_is_answered(traced: Site, tracer: KeepingTracer) -> None:
    traced.assign("a", **TRACE.members())
    traced.report("w1", "a", 1, "waiting", interrupts=[{"id": "q", "value": "Go on?"}])
    traced.from_coordinator("resume_tasks", tasks=[["a", {"q": True}]], tag="t", fence=1, epoch="")
    traced.complete("w1", ("a", 2))
    first, second = tracer.of("attempt")
    assert (told(first)[2], first.error) == ("waiting", "")
    assert second.links == (first.span_id,)


def test_what_is_handed_back_never_began(traced: Site, tracer: KeepingTracer) -> None:
    traced.assign("a", **TRACE.members())
    traced.from_worker("w1", "task_handback", tasks=[["a", 1]])
    (attempt,) = tracer.of("attempt")
    assert told(attempt)[2] == "handed_back"


def test_a_cancelled_task(traced: Site, tracer: KeepingTracer) -> None:
    traced.assign("a", **TRACE.members())
    traced.cancel("a")
    traced.report("w1", "a", 1, "abandoned", error="cancelled", error_kind="cancelled")
    (attempt,) = tracer.of("attempt")
    assert (told(attempt)[2:], attempt.error) == (("abandoned", "cancelled"), "")
    (record,) = tracer.of("record")
    assert record.attributes["a2a.status"] == "abandoned"


def test_a_successor_reports_what_it_adopts_under_the_same_id(
    make_site: Callable[..., Site], traced: Site, tracer: KeepingTracer
) -> None:
    """Whoever reports an attempt, its run on the worker finds its parent."""
    traced.assign("a", **TRACE.members())
    traced.advance(1.0)
    later = KeepingTracer()
    heir = make_site(store=traced.store, start=traced.mono, tracer=later)
    heir.own()
    heir.coordinator_up()
    heir.worker_up("w1", limit=5, running=[["a", 1, 1]])
    heir.complete("w1", ("a", 1))
    (attempt,) = later.of("attempt")
    assert attempt.span_id == attempt_span(TRACE, "a", 1)
    assert tracer.of("attempt") == []


def test_a_trace_that_is_not_sampled_has_no_spans(traced: Site, tracer: KeepingTracer) -> None:
    traced.assign("a", **UNSAMPLED.members())
    traced.assign("b")
    traced.complete("w1", "a", "b")
    assert tracer.spans == []
    assert "traceparent" not in traced.store.results["b"]["metadata"]


def test_a_dead_letter_is_logged_with_its_trace(traced: Site) -> None:
    traced.assign("a", max_attempts=1, **TRACE.members())
    traced.fail("w1", "a", 1, kind="raised")
    (line,) = [line for line in traced.logs if line.event == "tasks_failed"]
    first = line.fields["first"]
    assert (first["task_id"], first["attempt"], first["trace_id"]) == ("a", 1, TRACE.trace_id)
