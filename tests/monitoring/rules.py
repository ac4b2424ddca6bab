"""What is in ``config/rules``, and which metrics an expression uses."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daemons.coordinator.targets import LABELS as TARGET_LABELS
from daemons.metrics import METRICS, PREFIX, Metric

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
RULES: Final = REPOSITORY / "config" / "rules"
RECORDING: Final = RULES / "a2a-recording.yml"

# Of Prometheus and of every process that prometheus_client describes.
FOREIGN: Final = frozenset(
    {
        "up", "process_start_time_seconds", "process_open_fds", "process_max_fds", "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    }
)  # fmt: skip
EVERYWHERE: Final = frozenset({*TARGET_LABELS, "job", "instance"})

_BY_NAME: Final = {PREFIX + metric.name: metric for metric in METRICS}
_SELECTOR: Final = re.compile(r"([a-z_][a-z0-9_:]*)\s*(\{[^}]*\})?")
_MATCHER: Final = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)")


@dataclass(frozen=True)
class Alert:
    """One alerting rule."""

    name: str
    file: Path
    expr: str
    severity: str
    annotations: dict[str, str]


def documents() -> dict[Path, list[dict[str, Any]]]:
    """The rules of each file, as they stand there."""
    yaml = importlib.import_module("yaml")  # comes with LangChain, without type information
    found = {}
    for path in sorted(RULES.glob("*.yml")):
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        found[path] = [rule for group in text["groups"] for rule in group["rules"]]
    return found


def alerts() -> list[Alert]:
    return [
        Alert(rule["alert"], path, rule["expr"], rule["labels"]["severity"], rule["annotations"])
        for path, rules in documents().items()
        for rule in rules
        if "alert" in rule
    ]


def recordings() -> dict[str, str]:
    """Name → expression."""
    return {rule["record"]: rule["expr"] for rules in documents().values() for rule in rules if "record" in rule}


def _metric_of(series: str) -> Metric | None:
    """The metric that a series belongs to: a histogram has three kinds of them."""
    found = _BY_NAME.get(series)
    if found is None:
        name = re.sub(r"_(bucket|count|sum)\Z", "", series)
        found = _BY_NAME.get(name)
        if found is None or found.kind != "histogram":
            return None
    return found


def names_in(expr: str) -> set[str]:
    """Names of the series that an expression may look at (and words of PromQL, which are none)."""
    return {name for name, _ in _SELECTOR.findall(expr)}


def complaints(expr: str, recorded: set[str]) -> Iterator[str]:
    """What an expression uses that nobody exports: metrics, or labels of them."""
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expr)
    for name, matchers in _SELECTOR.findall(plain):
        if not name.startswith("a2a") and not (matchers or name in FOREIGN):
            continue  # a function, a label, a keyword
        metric = _metric_of(name)
        if metric is None and name not in FOREIGN and name not in recorded:
            yield f"no metric {name}"
            continue
        known = {*EVERYWHERE, "le", *(metric.labels if metric is not None else ())}
        for label in _MATCHER.findall(matchers):
            if label not in known and name not in recorded:
                yield f"{name} has no label {label}"
