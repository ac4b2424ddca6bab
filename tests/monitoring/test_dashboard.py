"""The dashboard: Grafana can load it, and Prometheus can answer what it asks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.rules import REPOSITORY, complaints, recordings

PATH = REPOSITORY / "config" / "grafana" / "a2a-zmq.json"
ROWS = ("Fleet", "Tiers", "Latency", "Queues", "Redis", "Recovery", "Graphs", "Chat models")
# The last version of this form of dashboards (Grafana 12 and 13); older Grafanas read it, newer ones convert it.
SCHEMA_VERSION = 42


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return found


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(title of the panel, expression), with Grafana's variables filled in."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$agent", ".*")


def test_every_expression_is_one_that_prometheus_understands(dashboard: dict[str, Any], tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    rules = [{"record": f"panel:{number}", "expr": expr} for number, (_, expr) in enumerate(expressions(dashboard))]
    path = tmp_path / "dashboard.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([program, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_expressions_use_only_what_is_exported(dashboard: dict[str, Any]) -> None:
    recorded = {*recordings(), "ALERTS"}
    found = [(title, why) for title, expr in expressions(dashboard) for why in complaints(expr, recorded)]
    assert found == []


def test_no_variable_is_left_that_nobody_fills_in(dashboard: dict[str, Any]) -> None:
    named = {f"${{{each['name']}}}" for each in dashboard["templating"]["list"]}
    assert named == {"${datasource}", "${agent}"}
    assert [expr for _, expr in expressions(dashboard) if "$" in expr] == []
    assert set(re.findall(r"\$\{\w+\}", PATH.read_text(encoding="utf-8"))) == {"${datasource}"}


def test_panels_stand_beside_each_other_and_say_what_they_show(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert [panel["title"].partition(" (")[0] for panel in panels if panel["type"] == "row"] == list(ROWS)
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies over {taken.get((x, y))}"
                taken[x, y] = panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith((".", "`.")), panel["title"]


def test_it_is_of_the_present_form(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] == SCHEMA_VERSION
    assert dashboard["id"] is None  # Grafana gives it one
    assert {panel["type"] for panel in dashboard["panels"]} <= {"row", "stat", "timeseries", "table"}
    latency = [panel for panel in dashboard["panels"] if any(each.get("exemplar") for each in panel.get("targets", []))]
    assert len(latency) >= 3
