"""Tests for ``promtool test rules``: ``python -m tests.monitoring.promtool`` writes and runs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tests.monitoring.fleet import INTERVAL_S, Series, healthy
from tests.monitoring.rules import RECORDING, RULES, Alert, alerts, names_in, recordings
from tests.monitoring.scenarios import SCENARIOS, Scenario

# When the healthy fleet is looked at (minutes): early, when windows have filled, and at the end.
LOOKS: Final = (2, 12, 29)


def rendered(text: str, labels: dict[str, str], value: str) -> str:
    """What Prometheus makes of a template, of which it may use only labels and the value."""

    def fill(found: re.Match[str]) -> str:
        inside = found[1].strip()
        if inside.startswith("$value"):
            assert value, f"the scenario does not say what {found[0]} shows"
            return value
        assert inside.startswith("$labels."), inside
        return labels[inside.removeprefix("$labels.")]

    return re.sub(r"\{\{(.*?)\}\}", fill, text)


def _inputs(found: Series, used: set[str]) -> list[dict[str, str]]:
    """Those series that the rules look at."""
    return [{"series": text, "values": values} for text, values in found.items() if text.partition("{")[0] in used]


def silent(names: Iterable[str], used: set[str]) -> dict[str, Any]:
    """None of these alerts fires in the healthy fleet."""
    checks = [{"alertname": name, "eval_time": f"{minute}m", "exp_alerts": []} for name in names for minute in LOOKS]
    return {
        "name": "a healthy fleet",
        "interval": f"{INTERVAL_S}s",
        "input_series": _inputs(healthy(), used),
        "alert_rule_test": checks,
    }


def fires(scenario: Scenario, alert: Alert, used: set[str]) -> dict[str, Any]:
    """The alert fires, with these labels and texts and once; it did not before the failure."""
    annotations = {name: rendered(text, scenario.labels, scenario.value) for name, text in alert.annotations.items()}
    expected = {"exp_labels": {**scenario.labels, "severity": alert.severity}, "exp_annotations": annotations}
    return {
        "name": scenario.alert,
        "interval": f"{INTERVAL_S}s",
        "input_series": _inputs(scenario.input(), used),
        "alert_rule_test": [
            {"alertname": scenario.alert, "eval_time": f"{scenario.at}m", "exp_alerts": [expected]},
        ],
    }


def tests_of(name: str) -> dict[str, Any]:
    """The tests of one file of rules."""
    by_name = {alert.name: alert for alert in alerts() if alert.file.name == name}
    used = set().union(*(names_in(alert.expr) for alert in by_name.values()))
    used |= set().union(*(names_in(expr) for recorded, expr in recordings().items() if recorded in used))
    return {
        "rule_files": [str(RECORDING), str(RULES / name)],
        "evaluation_interval": f"{INTERVAL_S}s",
        "tests": [
            silent(by_name, used),
            *(fires(scenario, by_name[scenario.alert], used) for scenario in SCENARIOS[name]),
        ],
    }


def run(program: str, name: str, directory: Path) -> str:
    """Run the tests of one file; returns what promtool finds, "" if all is well."""
    path = directory / f"{name}.test.json"  # JSON is YAML
    path.write_text(json.dumps(tests_of(name), indent=1), encoding="utf-8")
    done = subprocess.run(
        [program, "test", "rules", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def main() -> int:
    program = shutil.which("promtool")
    if program is None:
        print("promtool is not installed; nothing is tested")
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        for name, scenarios in SCENARIOS.items():
            found = run(program, name, Path(directory))
            print(found or f"{name}: {len(scenarios)} alerts fire in their scenarios and not in a healthy fleet")
            failed += bool(found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
