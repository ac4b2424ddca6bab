"""Spans of the coordinator, and the traces that begin with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.protocol.message import MessageType
from a2a_zmq.tracing.context import span_id
from tests.unit.coordinator.fakes import task
from tests.unit.coordinator.harness import World
from tests.unit.tracer import TRACE, UNSAMPLED, KeepingTracer


@pytest.fixture
def tracer() -> KeepingTracer:
    return KeepingTracer()


@pytest.fixture
def traced(make_world: Callable[..., World], tracer: KeepingTracer) -> World:
    """A leading coordinator with distributor ``d1`` and client ``alice~1``, and traces."""
    world = make_world(tracer=tracer)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    return world


def test_a_clients_trace_goes_on(traced: World, tracer: KeepingTracer) -> None:
    traced.batches_held = True
    traced.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1", **TRACE.members())]})
    assert tracer.spans == [], "nothing is durable yet"
    traced.advance(0.25)
    traced.release_batches()
    (accept,), (place,) = tracer.of("accept"), tracer.of("place")
    assert (accept.trace, accept.parent_id, accept.span_id) == (TRACE, TRACE.span_id, span_id(TRACE, "accept", "t1"))
    assert accept.end - accept.start == pytest.approx(0.25)
    assert accept.attributes == {"a2a.task_id": "t1", "a2a.task_type": "noop", "a2a.client": "alice"}
    assert place.attributes["a2a.distributor"] == "d1"
    assert tracer.begun == 0
    assert traced.store.live["d1"]["t1"]["metadata"]["traceparent"] == TRACE.traceparent

    traced.finish("d1", "t1")
    (deliver,) = tracer.of("deliver")
    assert (deliver.trace, deliver.attributes["a2a.status"]) == (TRACE, "completed")


def test_a_task_without_a_trace_gets_one_whose_first_span_is_the_acceptance(
    traced: World, tracer: KeepingTracer
) -> None:
    traced.submit("alice~1", "t1", "t2")
    one, two = tracer.of("accept")
    assert one.trace.trace_id != two.trace.trace_id
    assert (one.span_id, one.parent_id) == (one.trace.span_id, "")
    stored = traced.store.live["d1"]["t1"]["metadata"]["traceparent"]
    assert stored == one.trace.traceparent
    assert traced.peers["d1"].told[-1].payload["tasks"][0]["metadata"]["traceparent"] == stored


def test_a_trace_that_its_client_did_not_sample_is_not_begun_anew(traced: World, tracer: KeepingTracer) -> None:
    traced.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1", **UNSAMPLED.members())]})
    assert (tracer.spans, tracer.begun) == ([], 0)
    assert traced.store.live["d1"]["t1"]["metadata"]["traceparent"] == UNSAMPLED.traceparent


def test_of_traces_that_are_not_sampled_nothing_is_carried(traced: World, tracer: KeepingTracer) -> None:
    tracer.samples = False
    traced.submit("alice~1", "t1")
    assert (tracer.spans, tracer.begun) == ([], 1)
    assert "traceparent" not in traced.store.live["d1"]["t1"]["metadata"]


def test_a_task_that_is_known_or_refused_has_no_second_acceptance(traced: World, tracer: KeepingTracer) -> None:
    again = {"action": "submit_tasks", "tasks": [task("t1", **TRACE.members())], "check": True}
    traced.say("alice~1", MessageType.REQUEST, again)
    traced.say("alice~1", MessageType.REQUEST, again)
    traced.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t 2", **TRACE.members())]})
    assert [span.attributes["a2a.task_id"] for span in tracer.of("accept")] == ["t1"]


def test_a_task_that_waits_in_the_inbox_is_placed_when_somebody_can_run_it(
    traced: World, tracer: KeepingTracer
) -> None:
    traced.workers("d1", "other")
    traced.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1", **TRACE.members())]})
    assert (len(tracer.of("accept")), len(tracer.of("place"))) == (1, 0)
    traced.advance(3.0)
    traced.workers("d1", "noop")
    traced.turn()
    (place,) = tracer.of("place")
    assert place.end - place.start == pytest.approx(3.0)


def test_without_a_tracer_a_clients_trace_is_carried_all_the_same(fleet: World) -> None:
    fleet.say("alice~1", MessageType.REQUEST, {"action": "submit_tasks", "tasks": [task("t1", **TRACE.members())]})
    fleet.submit("alice~1", "t2")
    live = fleet.store.live["d1"]
    assert live["t1"]["metadata"]["traceparent"] == TRACE.traceparent
    assert "traceparent" not in live["t2"]["metadata"]


@pytest.mark.parametrize("member", [{"traceparent": 7}, {"traceparent": "x" * 65}, {"tracestate": "x" * 513}])
def test_what_is_no_trace_context_is_refused(fleet: World, member: dict[str, Any]) -> None:
    answer = fleet.ask("alice~1", "submit_tasks", tasks=[task("t1", **member)])
    (rejected,) = answer["rejected"]
    assert rejected["code"] == "INVALID_TASK"
    assert next(iter(member)) in rejected["message"]
