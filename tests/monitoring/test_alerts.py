"""Every alert fires in its failure and not in a healthy fleet, says true things, and has a page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from daemons.cli.chaos.kinds import KINDS
from daemons.cli.main import GLOBAL_OPTIONS, app
from daemons.coordinator.targets import LABELS as TARGET_LABELS
from daemons.metrics import METRICS
from tests.monitoring import promtool
from tests.monitoring.rules import REPOSITORY, RULES, alerts, complaints, documents, recordings
from tests.monitoring.scenarios import SCENARIOS

RUNBOOKS = REPOSITORY / "docs" / "runbooks"
# Parts of a page, in their order.
PARTS = (
    "**What it means.**",
    "**What users notice.**",
    "**What to look at.**",
    "**How it is mended.**",
    "**When it is no trouble.**",
)
# The specification's own failure scenarios; those of `a2actl chaos` are taken from there.
SPECIFIED = ("Worker failure", "Distributor failure", "Redis failure", "Network partition")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_alerts_fire_in_their_scenarios_and_not_in_a_healthy_fleet(name: str, tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool (Debian package prometheus) is not installed")
    found = promtool.run(program, name, tmp_path)
    assert not found, found


def test_each_alert_has_a_scenario() -> None:
    there = {name: sorted(alert.name for alert in alerts() if alert.file.name == name) for name in SCENARIOS}
    assert {path.name for path in documents()} == {*SCENARIOS, "a2a-recording.yml"}
    assert there == {name: sorted({each.alert for each in found}) for name, found in SCENARIOS.items()}


def test_names_of_rules_are_unique() -> None:
    names = [alert.name for alert in alerts()]
    assert len(set(names)) == len(names)


def test_rules_use_only_what_is_exported() -> None:
    recorded = recordings()
    used = [*((alert.name, alert.expr) for alert in alerts()), *recorded.items()]
    assert [(name, why) for name, expr in used for why in complaints(expr, set(recorded))] == []


def test_each_recording_is_used_somewhere() -> None:
    texts = [path.read_text(encoding="utf-8") for path in RULES.glob("*.yml")]
    texts.append((REPOSITORY / "config" / "grafana" / "a2a-zmq.json").read_text(encoding="utf-8"))
    unused = [name for name in recordings() if sum(text.count(name) for text in texts) < 2]
    assert unused == []


def test_each_alert_says_how_bad_it_is_and_where_its_page_is() -> None:
    for alert in alerts():
        assert alert.severity in ("critical", "warning", "info"), alert.name
        assert set(alert.annotations) == {"summary", "description", "runbook_url"}, alert.name
        assert alert.annotations["runbook_url"] == f"docs/runbooks/{alert.name}.md"
        assert alert.annotations["description"].endswith("."), alert.name


def test_each_alert_has_a_page_with_all_parts() -> None:
    for alert in alerts():
        text = (RUNBOOKS / f"{alert.name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {alert.name}\n\n*{alert.severity}"), alert.name
        assert f"config/rules/{alert.file.name}" in text, alert.name
        places = [text.find(part) for part in PARTS]
        assert -1 not in places, (alert.name, places)
        assert places == sorted(places), alert.name


def test_each_page_is_of_an_alert_and_in_the_index() -> None:
    names = {alert.name for alert in alerts()}
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == names
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", index, re.MULTILINE)
    assert sorted(listed) == sorted((alert.name, alert.name, alert.severity) for alert in alerts())


def test_commands_that_pages_name_are_there() -> None:
    groups: Any = typer.main.get_command(app)
    wrong = []
    for page in [*RUNBOOKS.glob("*.md"), REPOSITORY / "docs" / "monitoring.md"]:
        for line in re.findall(r"\ba2actl ([a-z][^`#\n]*)", page.read_text(encoding="utf-8")):
            words = line.split()
            command = groups.commands.get(words[0])
            if command is not None and hasattr(command, "commands"):
                command = command.commands.get(words[1])
            options = {option for each in getattr(command, "params", ()) for option in each.opts} | set(GLOBAL_OPTIONS)
            unknown = [word for word in words if word.startswith("--") and word not in options]
            if command is None or unknown:
                wrong.append((page.stem, line, unknown))
    assert wrong == []


def test_each_failure_leads_to_an_alert_and_each_alert_to_a_failure() -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ") and "A2a" in line]
    named = {name for row in rows for name in re.findall(r"\bA2a\w+", "|".join(row))}
    assert named == {alert.name for alert in alerts()}
    assert f" {len(named)} alerts," in text
    failures = "\n".join(row[1] for row in rows)
    for name in (*SPECIFIED, *(f"`{kind.name}`" for kind in KINDS)):
        assert name in failures, f"{name} leads to no alert"


def test_labels_of_targets_are_no_labels_of_metrics() -> None:
    """Prometheus would rename the metric's label, and every rule would miss it."""
    used = {label for metric in METRICS for label in metric.labels}
    assert used.isdisjoint({*TARGET_LABELS, "job", "instance"})
