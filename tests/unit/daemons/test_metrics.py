"""Metrics: the list is complete, valid for Prometheus, and what the code counts is in it."""

from __future__ import annotations

import ast
import gc
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from a2a_zmq.protocol.message import Message, MessageType, Metadata
from daemons.meter import MAX_SERIES, PrometheusMeter
from daemons.metrics import METRICS, complaint, reference
from daemons.runtime.exemplars import Exemplar, exemplar_of

# What was promised to operators: names and labels.
PROMISED = {
    "messages_total": {"direction", "type"},
    "message_latency_seconds": set(),
    "signature_failures_total": {"reason"},
    "routing_errors_total": {"reason"},
    "shared_state_updates_total": set(),
    "shared_state_conflicts_total": set(),
    "lease_acquire_seconds": set(),
    "lease_failures_total": {"reason"},
    "lease_renewal_failures_total": set(),
    "tasks": {"status"},
    "task_execution_seconds": {"task_type"},
    "task_retries_total": set(),
    "task_retries_put_off_total": set(),
    "task_failures_total": {"reason"},
    "heartbeats_total": {"direction"},
    "llm_requests_total": {"provider", "model"},
    "llm_request_seconds": {"provider", "model"},
    "llm_tokens_total": {"provider", "model", "kind"},
    "llm_errors_total": {"provider", "model", "reason"},
    "llm_throttled_total": {"provider", "model"},
    "llm_waits_total": {"provider", "reason"},
    "agent_up": {"agent", "role"},
    "failure_detection_seconds": {"role"},
    "reconciliation_seconds": set(),
}


def used_meter() -> PrometheusMeter:
    meter = PrometheusMeter()
    for metric in METRICS:
        labels = dict.fromkeys(metric.labels, "x")
        if metric.kind == "counter":
            meter.count(metric.name, 1, **labels)
        elif metric.kind == "gauge":
            meter.gauge(metric.name, 1, **labels)
        else:
            meter.observe(metric.name, 1, None, **labels)
    return meter


def value(meter: PrometheusMeter, name: str, **labels: str) -> float | None:
    return meter.registry.get_sample_value(f"a2a_{name}", labels)


def test_every_promised_metric_is_there_with_its_labels() -> None:
    listed = {metric.name: set(metric.labels) for metric in METRICS}
    for name, labels in PROMISED.items():
        assert listed.get(name) == labels, name


def test_every_metric_has_a_sentence_of_its_own() -> None:
    helps = [metric.help for metric in METRICS]
    assert len(set(helps)) == len(helps)
    for text in helps:
        assert text.endswith(".")
        assert text[0].isupper() or text[0].isdigit()


def test_promtool_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    _, page = used_meter().exposition()
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_counting_observing_and_setting() -> None:
    meter = PrometheusMeter()
    meter.count("messages_total", direction="in", type="request")
    meter.count("messages_total", 2, type="request", direction="in")
    meter.observe("task_execution_seconds", 0.25, task_type="noop")
    meter.gauge("tasks", 7, status="pending")
    meter.gauge("tasks", 5, status="pending")
    assert value(meter, "messages_total", direction="in", type="request") == 3
    assert value(meter, "task_execution_seconds_sum", task_type="noop") == 0.25
    assert value(meter, "tasks", status="pending") == 5
    families = {family.name for family in text_string_to_metric_families(meter.exposition()[1].decode())}
    assert {"a2a_messages", "a2a_task_execution_seconds", "process_resident_memory_bytes"} <= families


def test_metrics_without_labels_are_zero_from_the_start() -> None:
    meter = PrometheusMeter()
    assert value(meter, "task_retries_total") == 0
    assert value(meter, "reconciliation_seconds_count") == 0


def test_the_first_event_of_a_known_reason_is_an_increase() -> None:
    """A series that begins with its first event shows none to ``increase()``, and an alert would miss it."""
    meter = PrometheusMeter()
    assert value(meter, "store_errors_total", reason="oom") == 0
    assert value(meter, "peer_losses_total", role="worker", reason="exited") == 0
    meter.count("peer_losses_total", role="worker", reason="exited")
    assert value(meter, "peer_losses_total", role="worker", reason="exited") == 1


def test_a_gauge_that_was_never_set_is_not_zero() -> None:
    """A worker has no store: ``a2a_store_up 0`` on its page would say that Redis is away."""
    meter = PrometheusMeter()
    assert value(meter, "store_up") is None
    meter.gauge("store_up", 0)
    assert value(meter, "store_up") == 0


def test_a_gauge_can_be_forgotten() -> None:
    meter = PrometheusMeter()
    for _ in range(2):
        for number in range(MAX_SERIES):
            meter.gauge("agent_up", 1, agent=f"worker-{number}", role="worker")
        for number in range(MAX_SERIES):
            meter.forget("agent_up", agent=f"worker-{number}", role="worker")
        meter.forget("agent_up", agent="nobody", role="worker")
    meter.gauge("agent_up", 0, agent="worker-1", role="worker")
    assert value(meter, "agent_up", agent="worker-1", role="worker") == 0
    assert value(meter, "agent_up", agent="worker-2", role="worker") is None
    assert value(meter, "agent_up", agent="other", role="other") is None


def test_a_measured_gauge_is_asked_for_at_each_scrape() -> None:
    meter = PrometheusMeter()
    ages = iter((1.5, 2.5))
    meter.measure("loop_age_seconds", lambda: next(ages))
    assert "a2a_loop_age_seconds 1.5" in meter.exposition()[1].decode()
    assert "a2a_loop_age_seconds 2.5" in meter.exposition()[1].decode()


OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def exemplars(meter: PrometheusMeter) -> list[dict[str, str]]:
    content_type, page = meter.exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    return [
        sample.exemplar.labels
        for family in openmetrics(page.decode())  # type: ignore[no-untyped-call]  # it has no annotations
        for sample in family.samples
        if sample.exemplar is not None
    ]


def test_exemplars_name_the_trace_or_else_the_task() -> None:
    meter = PrometheusMeter()
    traced = Exemplar(f"00-{TRACE}-{SPAN}-01", "task-1")
    meter.observe("task_execution_seconds", 0.02, traced, task_type="noop")
    meter.observe("task_execution_seconds", 20, Exemplar(None, "task-2"), task_type="noop")
    meter.observe("message_latency_seconds", 0.02, Exemplar("not a trace", "task-3"))
    assert exemplars(meter) == [
        {"task_id": "task-3"},
        {"trace_id": TRACE, "span_id": SPAN},
        {"task_id": "task-2"},
    ]


@pytest.mark.parametrize("exemplar", [Exemplar(), Exemplar(7, None), Exemplar(None, "x" * 128)])
def test_an_observation_with_nothing_to_name_has_no_exemplar(exemplar: Exemplar) -> None:
    meter = PrometheusMeter()
    meter.observe("task_turnaround_seconds", 0.02, exemplar)
    assert value(meter, "task_turnaround_seconds_count") == 1
    assert exemplars(meter) == []


def test_an_exemplar_stays_for_a_second_and_each_bucket_has_its_own() -> None:
    now = [0.0]
    meter = PrometheusMeter(clock=lambda: now[0] + 100)
    meter.observe("task_turnaround_seconds", 0.02, Exemplar(None, "first"))
    meter.observe("task_turnaround_seconds", 0.03, Exemplar(None, "same bucket"))
    meter.observe("task_turnaround_seconds", 1e9, Exemplar(None, "slow"))
    assert exemplars(meter) == [{"task_id": "first"}, {"task_id": "slow"}]
    now[0] = 1.5
    meter.observe("task_turnaround_seconds", 0.03, Exemplar(None, "later"))
    assert exemplars(meter) == [{"task_id": "later"}, {"task_id": "slow"}]


def test_the_plain_text_has_no_exemplars() -> None:
    meter = PrometheusMeter()
    meter.observe("task_turnaround_seconds", 0.02, Exemplar(None, "task-1"))
    content_type, page = meter.exposition("text/plain")
    assert content_type.startswith("text/plain; version=0.0.4")
    assert "task-1" not in page.decode()


def test_a_message_is_an_example_of_its_trace_or_of_its_first_task() -> None:
    def message(payload: dict[str, Any], traceparent: str | None = None) -> Message:
        return Message(MessageType.EVENT, "a", "b", payload, Metadata("a", traceparent=traceparent))

    assert exemplar_of(message({"results": [{"task_id": "t1"}, {"task_id": "t2"}]})).labels() == {"task_id": "t1"}
    assert exemplar_of(message({"tasks": [["t3", 1]]})).labels() == {"task_id": "t3"}
    assert exemplar_of(message({"task_id": "t4"})).labels() == {"task_id": "t4"}
    assert exemplar_of(message({"tasks": []}, f"00-{TRACE}-{SPAN}-01")).labels()["trace_id"] == TRACE
    odd: list[dict[str, Any]] = [
        {},
        {"tasks": [7]},
        {"tasks": [[]]},
        {"results": {"a": 1}},
        {"tasks": [{"task_id": 7}]},
    ]
    for nothing in odd:
        assert exemplar_of(message(nothing)).labels() == {}


def test_what_is_not_in_the_list_is_dropped_and_reported_once() -> None:
    reports: list[str] = []
    meter = PrometheusMeter(on_unknown=reports.append)
    for _ in range(3):
        meter.count("mesages_total")
        meter.count("messages_total", direction="in")
        meter.gauge("task_retries_total", 1)
    assert reports == [
        "no metric a2a_mesages_total",
        "a2a_messages_total has the labels ['direction', 'type'], not ['direction']",
        "a2a_task_retries_total is a counter, not a gauge",
    ]


def test_labels_that_users_choose_cannot_make_series_without_bound() -> None:
    meter = PrometheusMeter()
    for number in range(MAX_SERIES + 50):
        meter.observe("task_execution_seconds", 0.1, task_type=f"type-{number}")
    counts = [
        sample
        for family in meter.registry.collect()
        if family.name == "a2a_task_execution_seconds"
        for sample in family.samples
        if sample.name.endswith("_count")
    ]
    assert len(counts) == MAX_SERIES + 1
    assert value(meter, "task_execution_seconds_count", task_type="other") == 50


def test_reference_in_the_documentation_is_up_to_date(repository: Path) -> None:
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert reference() in text, "run `python -m daemons.metrics` and put its table into docs/metrics.md"


KINDS = {"count": "counter", "observe": "histogram", "gauge": "gauge", "forget": "gauge", "measure": "gauge"}


def counted(source: str) -> Iterator[tuple[int, str, str, set[str] | None]]:
    """(line, kind, name, labels or None if they are computed) of each call of a meter with a literal name."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        function = node.func
        name = node.args[0].value
        if not isinstance(name, str) or not isinstance(function, (ast.Attribute, ast.Name)):
            continue
        called = function.attr if isinstance(function, ast.Attribute) else function.id
        of_meter = isinstance(function, ast.Name) or "meter" in ast.unparse(function.value)
        if called in KINDS and of_meter:
            labels = {keyword.arg for keyword in node.keywords if keyword.arg not in {"amount", "value", "exemplar"}}
            yield node.lineno, KINDS[called], name, None if None in labels else {str(label) for label in labels}


def test_everything_that_the_code_counts_is_in_the_list(repository: Path) -> None:
    # What other tests left is collected before: where that happens inside of CPython 3.11's parser, and a finalizer
    # raises, the parser gives up with a SystemError.
    gc.collect()
    wrong = []
    for folder in ("a2a_zmq", "daemons"):
        for path in sorted((repository / folder).rglob("*.py")):
            for line, kind, name, labels in counted(path.read_text(encoding="utf-8")):
                listed = next((set(metric.labels) for metric in METRICS if metric.name == name), set())
                why = complaint(kind, name, listed if labels is None else labels)
                if why:
                    wrong.append(f"{path.relative_to(repository)}:{line}: {why}")
    assert wrong == []
