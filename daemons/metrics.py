"""Every metric of the suite, each with a sentence, and the meter that counts them.

:data:`METRICS` is the only place where a metric is defined; a call with another name, or
other labels, fails a test and is dropped at run time. ``python -m daemons.metrics`` prints the table of
``docs/metrics.md``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

PREFIX: Final = "a2a_"

# A label value that users choose (a task type) must not make series without a bound: what comes later is "other".
MAX_SERIES: Final = 256

# Upper bounds in seconds. FAST: one hop or one write, 0.1 ms to a second. TASK: user code, 1 ms to ten minutes.
# RECOVERY: detecting and repairing, 5 ms to a minute.
FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
TASK: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
RECOVERY: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


class Metric(NamedTuple):
    """One metric. ``name`` is without the prefix; ``buckets`` only for histograms."""

    kind: str  # "counter" | "gauge" | "histogram"
    name: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


def _counter(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric("counter", name, labels, text)


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric("gauge", name, labels, text)


def _histogram(name: str, labels: tuple[str, ...], text: str, buckets: tuple[float, ...]) -> Metric:
    return Metric("histogram", name, labels, text, buckets)


METRICS: Final[tuple[Metric, ...]] = (
    # ---- messages
    _counter("messages_total", ("direction", "type"), "Messages sent (out) and accepted (in), by message type."),
    _histogram(
        "message_latency_seconds",
        (),
        "Time from sealing a message to handling it, by the wall clocks of both agents.",
        FAST,
    ),
    _counter(
        "signature_failures_total", ("reason",), "Frames refused because their origin or content could not be trusted."
    ),
    _counter(
        "routing_errors_total", ("reason",), "Messages that were not allowed, not understood or could not be delivered."
    ),
    _counter("heartbeats_total", ("direction",), "Heartbeats sent (out) and received (in)."),
    # ---- shared state
    _counter(
        "shared_state_updates_total", (), "Writes to the shared state that were applied; each holds a whole batch."
    ),
    _counter("shared_state_conflicts_total", (), "Writes that met another writer's version or a higher fence."),
    _histogram(
        "shared_state_write_seconds", (), "Time that one write to the shared state took, retries included.", FAST
    ),
    _gauge("store_up", (), "1 while Redis can be read and written, else 0."),
    _gauge("leading", (), "1 while this agent owns its shared state (a coordinator: leads), 0 while it stands by."),
    _gauge("store_circuit", (), "Circuit to Redis: 0 closed, 1 half-open (the spool is being handed in), 2 open."),
    _gauge(
        "spool_writes", (), "Writes that wait in the local spool for Redis, or for this agent to own its section again."
    ),
    _gauge("spool_bytes", (), "Bytes of these writes."),
    _counter(
        "spool_dropped_total",
        (),
        "Spooled records and results that were dropped because another owner had been faster.",
    ),
    _histogram("lease_acquire_seconds", (), "Time from wanting the lease of a section to holding it.", RECOVERY),
    _counter("lease_failures_total", ("reason",), "Leases that were not obtained or were lost, by reason."),
    _counter(
        "lease_renewal_failures_total",
        (),
        "Renewals of a held lease that failed; the holder stops acting when they go on.",
    ),
    # ---- tasks
    _gauge("tasks", ("status",), "Tasks known to this agent, by status; terminal ones are counted since its start."),
    _histogram("task_execution_seconds", ("task_type",), "Time that one attempt ran, by task type.", TASK),
    _counter("task_retries_total", (), "Attempts after the first."),
    _counter(
        "task_pauses_total",
        ("reason",),
        "Attempts of graphs that ended before their task: moved, put_off, or waiting for an answer.",
    ),
    _counter("task_retries_put_off_total", (), "Retries that wait longer because their task type fails too often."),
    _counter("task_failures_total", ("reason",), "Attempts that failed, by reason."),
    _counter(
        "late_results_total", (), "Results of attempts that were no longer current; acknowledged and not recorded."
    ),
    _counter("tasks_failed_over_total", (), "Tasks that were taken away from a distributor that stayed away."),
    # ---- chat models
    _counter(
        "llm_requests_total",
        ("provider", "model"),
        "Requests to chat models that were sent, those of repeated tries too.",
    ),
    _histogram(
        "llm_request_seconds", ("provider", "model"), "Time from sending a request to the end of its answer.", TASK
    ),
    _counter(
        "llm_tokens_total",
        ("provider", "model", "kind"),
        "Tokens as models report them: input (cached: so many of it came from a cache), output; estimated where they"
        " report none.",
    ),
    _counter(
        "llm_errors_total",
        ("provider", "model", "reason"),
        "Requests that failed, by HTTP status or timeout, connection, cancelled, other; budget: was not sent, because"
        " it could not have been in time.",
    ),
    _counter(
        "llm_throttled_total",
        ("provider", "model"),
        "Answers by which a provider made the whole fleet pause (429, 503).",
    ),
    _counter(
        "llm_waits_total",
        ("provider", "reason"),
        "Calls that had to wait for requests, tokens, concurrency, or while a provider was paused.",
    ),
    _histogram("llm_wait_seconds", ("provider",), "Time that these waited.", TASK),
    # ---- health
    _gauge("agent_up", ("agent", "role"), "1 while the agent is alive as far as this one knows, else 0."),
    _histogram(
        "failure_detection_seconds", ("role",), "Time from a peer's last sign of life to taking it for dead.", RECOVERY
    ),
    _histogram(
        "reconciliation_seconds",
        (),
        "Time from regaining ownership, the store or a peer to a consistent state.",
        RECOVERY,
    ),
    _histogram("supervision_seconds", (), "Time that one run of the supervision graph took.", FAST),
    _counter(
        "supervision_fallbacks_total",
        ("reason",),
        "Runs that the plain sequence of steps did because the graph failed or was late.",
    ),
    _histogram("policy_seconds", ("policy",), "Time until a policy of the user's answered a question.", TASK),
    _counter(
        "policy_fallbacks_total",
        ("policy", "reason"),
        "Tasks that were decided on the built-in way because the user's policy was late, raised, invalid, stale (its"
        " choice had gone meanwhile), died, busy (with an earlier question, or its start) or not_asked.",
    ),
    _gauge("config_last_reload_successful", (), "1 if the settings could be used when they were last read, else 0."),
    _gauge(
        "config_last_reload_success_timestamp_seconds",
        (),
        "When settings that could be used were last read (Unix time).",
    ),
    _gauge("build_info", ("agent", "role", "version"), "Always 1; its labels say what runs here."),
)

Children = dict[tuple[str, tuple[tuple[str, str], ...]], Any]

_BY_NAME: Final = {metric.name: metric for metric in METRICS}


class PrometheusMeter:
    """A :class:`daemons.runtime.contract.Meter` over a registry of its own.

    A call costs a dictionary look-up and the increment. It is made by one thread, the event loop's; scraping from
    another thread is safe. Unknown names and labels are dropped and reported once each to ``on_unknown``.
    """

    def __init__(self, *, on_unknown: Callable[[str], None] | None = None) -> None:
        # *_created series would double the number and tell nobody anything.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the function has no annotations
        self.registry = CollectorRegistry()
        self._families: dict[str, Any] = {metric.name: _make(metric, self.registry) for metric in METRICS}
        # Bound series by kind: a call of the wrong kind must not find one.
        self._counters: Children = {}
        self._histograms: Children = {}
        self._gauges: Children = {}
        self._children = {"counter": self._counters, "histogram": self._histograms, "gauge": self._gauges}
        self._series: dict[str, int] = dict.fromkeys(_BY_NAME, 0)
        self._unknown: dict[str, None] = {}
        self._on_unknown = on_unknown
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry) if gc.isenabled() else None
        for metric in METRICS:
            if not metric.labels:  # visible as zero from the start, so that rate() has a first point
                self._children[metric.kind][metric.name, ()] = self._families[metric.name]

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        child = self._counters.get((name, tuple(labels.items()))) or self._child("counter", name, labels)
        if child is not None:
            child.inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        child = self._histograms.get((name, tuple(labels.items()))) or self._child("histogram", name, labels)
        if child is not None:
            child.observe(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        child = self._gauges.get((name, tuple(labels.items()))) or self._child("gauge", name, labels)
        if child is not None:
            child.set(value)

    def exposition(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)

    def _child(self, kind: str, name: str, labels: dict[str, str]) -> Any:
        """Bind the series of these labels, once; None (and one report) if there is no such metric."""
        wrong = complaint(kind, name, set(labels))
        if wrong:
            if wrong not in self._unknown and len(self._unknown) < MAX_SERIES:
                self._unknown[wrong] = None
                if self._on_unknown is not None:
                    self._on_unknown(wrong)
            return None
        values = {label: str(value) for label, value in labels.items()}
        if self._series[name] >= MAX_SERIES:
            values = dict.fromkeys(values, "other")
            return self._families[name].labels(**values)
        self._series[name] += 1
        child = self._families[name].labels(**values)
        self._children[kind][name, tuple(labels.items())] = child
        return child


def complaint(kind: str, name: str, labels: set[str]) -> str:
    """Why a call of ``count``, ``observe`` or ``gauge`` does not fit the list, "" if it does."""
    metric = _BY_NAME.get(name)
    if metric is None:
        return f"no metric {PREFIX}{name}"
    if metric.kind != kind:
        return f"{PREFIX}{name} is a {metric.kind}, not a {kind}"
    if labels != set(metric.labels):
        return f"{PREFIX}{name} has the labels {sorted(metric.labels)}, not {sorted(labels)}"
    return ""


def _make(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        return Counter(name, metric.help, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(name, metric.help, metric.labels, registry=registry)
    return Histogram(name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)


def reference() -> str:
    """The list as a Markdown table."""
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{PREFIX}{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
