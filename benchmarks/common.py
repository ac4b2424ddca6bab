"""What the benchmarks share: times, quantiles, and what machine this is."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import thread_time_ns
from typing import Any


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: repetitions of which the median is reported.
        seconds: how long one repetition lasts, about.
    """

    rounds: int
    seconds: float


FULL = Effort(rounds=5, seconds=0.5)
QUICK = Effort(rounds=3, seconds=0.05)


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was before."""
    return {
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "system": platform.release(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        return platform.machine()
    return names[0] if names else platform.machine()


def call_us(function: Callable[[], object], effort: Effort) -> float:
    """Microseconds of processor time of one call: median of the repetitions' means."""
    function()
    began = thread_time_ns()
    function()
    single = max(1, thread_time_ns() - began)
    calls = max(1, int(effort.seconds * 1e9 / single))
    means = []
    for _ in range(effort.rounds):
        began = thread_time_ns()
        for _ in range(calls):
            function()
        means.append((thread_time_ns() - began) / calls / 1000)
    return round(statistics.median(means), 2)


def quantiles_ms(seconds: list[float]) -> dict[str, float]:
    """p50, p99 and the largest, in milliseconds."""
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)

    return {"p50": at(0.5), "p99": at(0.99), "max": at(1.0)}
