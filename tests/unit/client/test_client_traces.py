"""A submission's trace: the caller's own, a new one, or none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from a2a_zmq import FleetClient, RequestRefused
from a2a_zmq.client.environment import client_settings
from a2a_zmq.errors import ConfigError
from a2a_zmq.tracing.context import TraceContext, parse
from tests.otlp_receiver import Receiver
from tests.unit.client.conftest import SECRET, FleetInAThread

WaitUntil = Callable[..., None]

TRACE_ID, SPAN_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7


@pytest.fixture
def connect(coordinator: FleetInAThread) -> Iterator[Callable[..., FleetClient]]:
    made: list[FleetClient] = []

    def make(**options: Any) -> FleetClient:
        made.append(FleetClient(coordinator.address, token_secret=SECRET, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def inside() -> Iterator[Callable[[int], None]]:
    """Be within a span of somebody's, with these flags."""
    tokens = []

    def enter(flags: int) -> None:
        state = trace.TraceState([("vendor", "1")])
        place = trace.SpanContext(TRACE_ID, SPAN_ID, True, trace.TraceFlags(flags), state)
        tokens.append(context.attach(trace.set_span_in_context(trace.NonRecordingSpan(place))))

    yield enter
    for token in reversed(tokens):
        context.detach(token)


class Kept(SpanExporter):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """The program reports spans of its own."""
    kept, provider = Kept(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return kept


def submitted(coordinator: FleetInAThread, task_id: str) -> TraceContext | None:
    metadata = coordinator.tasks[task_id]["metadata"]
    return parse(metadata.get("traceparent"), metadata.get("tracestate", ""))


def test_without_anything_a_task_has_no_trace(coordinator: FleetInAThread, connect: Callable[..., FleetClient]) -> None:
    handle = connect().submit("noop", {})
    assert coordinator.tasks[handle.task_id]["metadata"] == {"priority": 0}


@pytest.mark.parametrize("flags", [1, 0])
def test_the_callers_context_is_passed_on_also_where_the_program_reports_nothing(
    coordinator: FleetInAThread, connect: Callable[..., FleetClient], inside: Callable[[int], None], flags: int
) -> None:
    inside(flags)
    handle = connect().submit("noop", {})
    found = submitted(coordinator, handle.task_id)
    assert found == TraceContext(f"{TRACE_ID:032x}", f"{SPAN_ID:016x}", bool(flags), "vendor=1")


def test_within_a_span_of_the_program_the_submission_is_one_of_its_children(
    coordinator: FleetInAThread, connect: Callable[..., FleetClient], inside: Callable[[int], None], theirs: Kept
) -> None:
    inside(1)
    handles = connect().submit_many("noop", [{}, {}], priority=3)
    assert [handle.result(10) for handle in handles] == [{}, {}]
    assert [span.name for span in theirs.spans] == ["submit noop"] * 2
    for span, handle in zip(theirs.spans, handles, strict=True):
        assert span.parent is not None
        assert (span.context.trace_id, span.parent.span_id) == (TRACE_ID, SPAN_ID)
        found = submitted(coordinator, handle.task_id)
        assert found is not None
        assert (found.trace_id, found.span_id) == (f"{TRACE_ID:032x}", f"{span.context.span_id:016x}")
        assert span.attributes == {"a2a.task_id": handle.task_id, "a2a.task_type": "noop"}
        assert coordinator.tasks[handle.task_id]["metadata"]["priority"] == 3


def test_outside_of_any_span_a_program_with_traces_begins_one(
    coordinator: FleetInAThread, connect: Callable[..., FleetClient], theirs: Kept
) -> None:
    handle = connect().submit("noop", {})
    (span,) = theirs.spans
    assert span.parent is None
    found = submitted(coordinator, handle.task_id)
    assert found is not None
    assert found.trace_id == f"{span.context.trace_id:032x}"


def test_a_client_with_a_receiver_reports_its_submissions(
    coordinator: FleetInAThread, connect: Callable[..., FleetClient], wait_until: WaitUntil
) -> None:
    with Receiver() as receiver:
        client = connect(otlp_endpoint=receiver.url)
        handle = client.submit("noop", {})
        coordinator.fault = lambda action: {"code": "FORBIDDEN", "message": "no"} if action == "submit_tasks" else None
        with pytest.raises(RequestRefused):
            client.submit("refused", {})
        wait_until(lambda: len(receiver.spans) == 2, "both have come")
    good, bad = receiver.spans
    found = submitted(coordinator, handle.task_id)
    assert found is not None
    assert (good.name, good.trace_id, good.span_id) == ("submit noop", found.trace_id, found.span_id)
    assert (good.parent_id, good.error, good.service, good.instance) == ("", "", "a2a-client", "client")
    assert bad.name == "submit refused"
    assert "no" in bad.error
    assert bad.trace_id != good.trace_id


def test_a_trace_that_is_not_sampled_is_carried_so_that_nobody_begins_another(
    coordinator: FleetInAThread, connect: Callable[..., FleetClient]
) -> None:
    with Receiver() as receiver:
        client = connect(otlp_endpoint=receiver.url, trace_sample_ratio=0.0)
        handle = client.submit("noop", {})
        client.close()
    found = submitted(coordinator, handle.task_id)
    assert found is not None
    assert not found.sampled
    assert receiver.spans == []


def test_a_span_whose_program_ends_right_after_is_sent(coordinator: FleetInAThread) -> None:
    with Receiver() as receiver:
        with FleetClient(coordinator.address, token_secret=SECRET, otlp_endpoint=receiver.url) as client:
            client.submit("noop", {})
        assert [span.name for span in receiver.spans] == ["submit noop"]


def test_settings_come_from_the_environment() -> None:
    environ = {"A2A_OTLP_ENDPOINT": "http://h:4318", "A2A_TRACE_SAMPLE_RATIO": "0.25"}
    found = client_settings(environ=environ)
    assert (found.otlp_endpoint, found.trace_sample_ratio) == ("http://h:4318", 0.25)
    found = client_settings(environ=environ, otlp_endpoint="", trace_sample_ratio=0.0)
    assert (found.otlp_endpoint, found.trace_sample_ratio) == ("", 0.0)
    for wrong in ("many", "1.5", "-1"):
        with pytest.raises(ConfigError, match="trace_sample_ratio"):
            client_settings(environ={"A2A_TRACE_SAMPLE_RATIO": wrong})


PROGRAM = """
import sys
from a2a_zmq import FleetClient
with FleetClient(sys.argv[1], token_secret=sys.argv[2]) as client:
    client.submit("noop", {}).result(10)
sys.exit("opentelemetry" in sys.modules)
"""


def test_a_program_without_traces_does_not_import_opentelemetry(coordinator: FleetInAThread) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, coordinator.address, SECRET], timeout=60, check=False)
    assert done.returncode == 0


def test_a_span_processor_that_raises_costs_no_task(
    connect: Callable[..., FleetClient], theirs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raises(*_: object) -> None:
        raise LookupError("a processor of the program's own")

    monkeypatch.setattr(SimpleSpanProcessor, "on_end", raises)
    client = connect()
    handles = client.submit_many("noop", [{"n": 1}, {"n": 2}])
    assert [handle.result(10) for handle in handles] == [{"n": 1}, {"n": 2}]
    with pytest.raises(RequestRefused, match="never heard of it"):
        client.submit("unknown", {})
