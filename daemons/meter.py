"""The meter: counts what :data:`daemons.metrics.METRICS` lists, and shows it to Prometheus."""

from __future__ import annotations

import gc
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from daemons.metrics import BY_NAME, METRICS, PREFIX, Metric, complaint
from daemons.runtime.exemplars import Exemplar

# A label value that users choose (a task type) must not make series without a bound: what comes later is "other".
MAX_SERIES: Final = 256

# The exemplar of a bucket is replaced when it is so old (seconds): Prometheus takes one a scrape, and keeping one costs
# as much as counting twice.
EXEMPLAR_S: Final = 1.0

Children = dict[tuple[str, tuple[tuple[str, str], ...]], Any]


class PrometheusMeter:
    """A :class:`daemons.runtime.contract.Meter` over a registry of its own.

    A call costs a dictionary look-up and the increment. It is made by one thread, the event loop's; scraping from
    another thread is safe. Unknown names and labels are dropped and reported once each to ``on_unknown``.
    """

    def __init__(
        self, *, on_unknown: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # *_created series would double the number and tell nobody anything.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the function has no annotations
        self.registry = CollectorRegistry()
        self._families: dict[str, Any] = {}
        # Bound series by kind: a call of the wrong kind must not find one.
        self._counters: Children = {}
        self._histograms: Children = {}
        self._gauges: Children = {}
        self._children = {"counter": self._counters, "histogram": self._histograms, "gauge": self._gauges}
        self._series: dict[str, int] = dict.fromkeys(BY_NAME, 0)
        self._fresh: dict[int, list[float]] = {}  # id of a histogram's series → until when its buckets' exemplars stay
        self._clock = clock
        self._unknown: dict[str, None] = {}
        self._on_unknown = on_unknown
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry) if gc.isenabled() else None
        for metric in METRICS:
            if metric.kind == "gauge" and not metric.labels:
                continue  # comes with its first value: 0 would be one (a worker has no store that is away)
            self._families[metric.name] = _make(metric, self.registry)
            for values in metric.known or ((),) * (not metric.labels):  # so that rate() has a first point
                self._child(metric.kind, metric.name, dict(zip(metric.labels, values, strict=True)))

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        child = self._counters.get((name, tuple(labels.items()))) or self._child("counter", name, labels)
        if child is not None:
            child.inc(amount)

    def observe(self, name: str, value: float, exemplar: Exemplar | None = None, **labels: str) -> None:
        child = self._histograms.get((name, tuple(labels.items()))) or self._child("histogram", name, labels)
        if child is None:
            return
        if exemplar is not None and self._stale(name, child, value):
            child.observe(value, exemplar.labels())
        else:
            child.observe(value)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        child = self._gauges.get((name, tuple(labels.items()))) or self._child("gauge", name, labels)
        if child is not None:
            child.set(value)

    def measure(self, name: str, value: Callable[[], float]) -> None:
        """A gauge without labels whose value is asked for at each scrape, in its thread."""
        self._child("gauge", name, {}).set_function(value)

    def forget(self, name: str, **labels: str) -> None:
        """Remove a series of a gauge; one that is not there is no error."""
        if self._gauges.pop((name, tuple(labels.items())), None) is not None:
            self._series[name] -= 1
            self._families[name].remove(*(labels[label] for label in BY_NAME[name].labels))

    def exposition(self, accept: str = "") -> tuple[str, bytes]:
        """(content type, all metrics) in the form that this ``Accept`` header prefers: the text format, or OpenMetrics,
        which has the exemplars.
        """
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self.registry)

    def _stale(self, name: str, child: Any, value: float) -> bool:
        """May the exemplar of this value's bucket be replaced?"""
        buckets = BY_NAME[name].buckets
        until = self._fresh.get(id(child))  # series of histograms stay as long as we do
        if until is None:
            until = self._fresh[id(child)] = [0.0] * (len(buckets) + 1)
        bucket, now = bisect_left(buckets, value), self._clock()
        if now < until[bucket]:
            return False
        until[bucket] = now + EXEMPLAR_S
        return True

    def _child(self, kind: str, name: str, labels: dict[str, str]) -> Any:
        """Bind the series of these labels, once; None (and one report) if there is no such metric."""
        wrong = complaint(kind, name, set(labels))
        if wrong:
            if wrong not in self._unknown and len(self._unknown) < MAX_SERIES:
                self._unknown[wrong] = None
                if self._on_unknown is not None:
                    self._on_unknown(wrong)
            return None
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _make(BY_NAME[name], self.registry)
        values = {label: str(value) for label, value in labels.items()}
        if not labels:
            self._children[kind][name, ()] = family
            return family
        if self._series[name] >= MAX_SERIES:
            values = dict.fromkeys(values, "other")
            return family.labels(**values)
        self._series[name] += 1
        child = family.labels(**values)
        self._children[kind][name, tuple(labels.items())] = child
        return child


def _make(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        return Counter(name, metric.help, metric.labels, registry=registry)
    if metric.kind == "gauge":
        return Gauge(name, metric.help, metric.labels, registry=registry)
    return Histogram(name, metric.help, metric.labels, registry=registry, buckets=metric.buckets)
