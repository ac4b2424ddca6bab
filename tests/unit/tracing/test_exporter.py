"""Spans on their way to a receiver: what arrives, and what becomes of them where it is slow, away or rude."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from a2a_zmq.tracing import export
from a2a_zmq.tracing.context import TraceContext
from a2a_zmq.tracing.export import Counts, Exporter, endpoint_url
from a2a_zmq.tracing.runs import Runs
from a2a_zmq.tracing.spans import PRODUCER, Span, run_span
from daemons import redaction
from tests.otlp_receiver import Receiver

WHO = {"service.name": "a2a-worker", "service.instance.id": "worker-1"}
TRACE = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True, state="vendor=1")

WaitUntil = Callable[..., None]


def span(number: int = 1, **more: Any) -> Span:
    return Span(TRACE, "run", "noop", f"{number:016x}", TRACE.span_id, 1_700_000_000.25, 1_700_000_001.5, **more)


def test_a_span_arrives_as_it_was_given(wait_until: WaitUntil) -> None:
    with Receiver() as receiver:
        exporter = Exporter(receiver.url, WHO, gather_s=0.01, clean=redaction.text)
        exporter.span(
            span(
                role=PRODUCER,
                error="redis://user:hunter2@host went away",
                attributes={"a2a.attempt": 2, "a2a.worker": "w"},
                links=("00000000000000aa",),
            )
        )
        wait_until(lambda: receiver.spans, "it has come")
        exporter.close()
    (came,) = receiver.spans
    assert (came.name, came.trace_id, came.span_id) == ("run noop", TRACE.trace_id, f"{1:016x}")
    assert (came.parent_id, came.links, came.state) == (TRACE.span_id, ("00000000000000aa",), "vendor=1")
    assert (came.service, came.instance) == ("a2a-worker", "worker-1")
    assert (came.start, came.end) == pytest.approx((1_700_000_000.25, 1_700_000_001.5), abs=1e-5)
    assert came.attributes == {"a2a.attempt": 2, "a2a.worker": "w"}
    assert came.error == "redis://user:***@host went away"
    assert exporter.counts() == Counts(exported=1)
    assert exporter.counts() == Counts()


def test_many_spans_come_in_few_messages(wait_until: WaitUntil) -> None:
    with Receiver() as receiver:
        exporter = Exporter(receiver.url, WHO, gather_s=0.01)
        for number in range(1, 1_201):
            exporter.span(span(number))
        wait_until(lambda: len(receiver.spans) == 1_200, "all have come")
        exporter.close()
    assert receiver.requests < 10
    assert [came.span_id for came in receiver.spans] == [f"{number:016x}" for number in range(1, 1_201)]


def test_what_waits_is_sent_when_the_process_leaves() -> None:
    with Receiver() as receiver:
        exporter = Exporter(receiver.url, WHO, gather_s=60.0)
        exporter.span(span())
        exporter.close(5.0)
        assert len(receiver.spans) == 1
        exporter.span(span(2))
        assert exporter.counts() == Counts(exported=1, dropped=1), "too late"


class Stuck(SpanExporter):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.go.wait(30)
        return SpanExportResult.SUCCESS


def test_a_receiver_that_hangs_costs_a_bounded_queue_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_WAITING", 10)
    stuck = Stuck()
    exporter = Exporter("http://127.0.0.1:9", WHO, gather_s=0.0, receiver=stuck)
    exporter.span(span())
    assert stuck.entered.wait(5)
    for number in range(2, 102):
        exporter.span(span(number))
    assert exporter.counts() == Counts(dropped=90)
    exporter.close(0.05)  # does not wait for it
    stuck.go.set()


class Rude(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError("a receiver of somebody's")


def test_what_a_receiver_refuses_is_counted_and_the_next_batch_is_tried(wait_until: WaitUntil) -> None:
    with Receiver() as receiver:
        receiver.refuse = 400
        exporter = Exporter(receiver.url, WHO, gather_s=0.01)
        exporter.span(span())
        wait_until(lambda: exporter.counts() == Counts(failed=1), "it is counted as failed")
        receiver.refuse = 0
        exporter.span(span(2))
        wait_until(lambda: receiver.spans, "the next one has come")
        exporter.close()
    exporter = Exporter("http://127.0.0.1:9", WHO, gather_s=0.0, receiver=Rude())
    exporter.span(span())
    exporter.close(5.0)
    assert exporter.counts() == Counts(failed=1)


def test_counts_of_children_are_added() -> None:
    exporter = Exporter("http://127.0.0.1:9", WHO, receiver=Stuck())
    Runs(exporter).child_counted((3, 2, 1))
    assert exporter.counts() == Counts(3, 2, 1)


@pytest.mark.parametrize(("ratio", "least", "most"), [(0.0, 0, 0), (0.25, 150, 350), (1.0, 1000, 1000)])
def test_the_share_of_traces_begun_is_as_wanted(ratio: float, least: int, most: int) -> None:
    exporter = Exporter("http://127.0.0.1:9", WHO, ratio=ratio, receiver=Stuck())
    begun = [exporter.begin() for _ in range(1000)]
    assert least <= sum(each.sampled for each in begun) <= most
    assert len({each.trace_id for each in begun}) == 1000


def test_what_a_handler_begins_is_part_of_its_tasks_trace_or_of_none(monkeypatch: pytest.MonkeyPatch) -> None:
    taken_up: list[object] = []  # a process can do it once
    monkeypatch.setattr(api, "set_tracer_provider", taken_up.append)
    with Receiver() as receiver:
        exporter = Exporter(receiver.url, WHO, gather_s=0.01)
        runs = Runs(exporter)
        tracer = exporter.handlers.get_tracer("mine")
        for task_id, header in (
            ("sampled", TRACE.traceparent),
            ("not", TRACE.traceparent[:-1] + "0"),
            ("without", None),
        ):
            entered = runs.enter({"traceparent": header}, task_id, 1)
            with tracer.start_as_current_span(f"mine {task_id}"):
                pass
            runs.leave(entered)
        exporter.close(5.0)
    assert taken_up == [exporter.handlers] * 2
    (came,) = receiver.spans
    assert (came.name, came.trace_id) == ("mine sampled", TRACE.trace_id)
    assert came.parent_id == run_span(TRACE, "sampled", 1)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://otlp.example.org/project/v1/traces", "https://otlp.example.org/project/v1/traces"),
        ("https://otlp.example.org/project", "https://otlp.example.org/project/v1/traces"),
    ],
)
def test_the_path_is_added_where_it_is_not_given(given: str, url: str) -> None:
    assert endpoint_url(given) == url
