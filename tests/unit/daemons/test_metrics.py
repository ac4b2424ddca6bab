"""Metrics: the list is complete, valid for Prometheus, and what the code counts is in it."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemons.metrics import MAX_SERIES, METRICS, PrometheusMeter, complaint, reference

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
            meter.observe(metric.name, 1, **labels)
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
    done = subprocess.run(
        [promtool, "check", "metrics"], input=used_meter().exposition(), capture_output=True, timeout=20, check=False
    )
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
    families = {family.name for family in text_string_to_metric_families(meter.exposition().decode())}
    assert {"a2a_messages", "a2a_task_execution_seconds", "process_resident_memory_bytes"} <= families


def test_metrics_without_labels_are_zero_from_the_start() -> None:
    meter = PrometheusMeter()
    assert value(meter, "task_retries_total") == 0
    assert value(meter, "reconciliation_seconds_count") == 0


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


KINDS = {"count": "counter", "observe": "histogram", "gauge": "gauge"}


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
            labels = {keyword.arg for keyword in node.keywords if keyword.arg not in {"amount", "value"}}
            yield node.lineno, KINDS[called], name, None if None in labels else {str(label) for label in labels}


def test_everything_that_the_code_counts_is_in_the_list(repository: Path) -> None:
    wrong = []
    for folder in ("a2a_zmq", "daemons"):
        for path in sorted((repository / folder).rglob("*.py")):
            for line, kind, name, labels in counted(path.read_text(encoding="utf-8")):
                listed = next((set(metric.labels) for metric in METRICS if metric.name == name), set())
                why = complaint(kind, name, listed if labels is None else labels)
                if why:
                    wrong.append(f"{path.relative_to(repository)}:{line}: {why}")
    assert wrong == []
