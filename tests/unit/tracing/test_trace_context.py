"""What a task carries of its trace, and the ids that follow from it."""

from __future__ import annotations

import pytest

from a2a_zmq.tracing.context import TraceContext, parse, sampled_in, span_id, task_fields, trace_id_of
from a2a_zmq.tracing.spans import attempt_span, run_span

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = f"00-{TRACE}-{SPAN}-01"


def test_a_header_is_read_and_written_as_the_standard_says() -> None:
    found = parse(HEADER, "vendor=1")
    assert found == TraceContext(TRACE, SPAN, sampled=True, state="vendor=1")
    assert found.members() == {"traceparent": HEADER, "tracestate": "vendor=1"}
    unsampled = parse(f"00-{TRACE}-{SPAN}-00")
    assert unsampled is not None
    assert not unsampled.sampled
    assert unsampled.members() == {"traceparent": f"00-{TRACE}-{SPAN}-00"}


def test_a_later_version_may_have_more_members() -> None:
    assert parse(f"01-{TRACE}-{SPAN}-03-more") == TraceContext(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-abc",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        None,
        7,
    ],
)
def test_what_is_no_header_is_no_trace(text: object) -> None:
    assert parse(text) is None
    assert sampled_in({"traceparent": text}) is None
    assert trace_id_of({"traceparent": text}) == ""


def test_only_a_sampled_trace_has_spans_but_log_lines_name_any() -> None:
    metadata = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    assert sampled_in(metadata) is None
    assert task_fields("t", 2, metadata) == {"task_id": "t", "attempt": 2, "trace_id": TRACE}
    assert task_fields("t", 2, {}) == {"task_id": "t", "attempt": 2}


def test_a_state_that_is_too_long_is_left_out() -> None:
    found = parse(HEADER, "x" * 513)
    assert found is not None
    assert found.state == ""


def test_ids_of_spans_are_the_same_in_every_process_and_differ_for_all_else() -> None:
    trace = TraceContext(TRACE, SPAN, sampled=True)
    assert attempt_span(trace, "t-1", 1) == span_id(TraceContext(TRACE, SPAN, sampled=True), "attempt", "t-1", 1)
    ids = {attempt_span(trace, "t-1", 1), attempt_span(trace, "t-1", 2), attempt_span(trace, "t-2", 1)}
    ids |= {run_span(trace, "t-1", 1), span_id(trace, "accept", "t-1")}
    assert len(ids) == 5
    assert all(len(each) == 16 and int(each, 16) for each in ids)
