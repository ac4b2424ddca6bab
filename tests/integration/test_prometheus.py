"""Prometheus finds a fleet through its coordinator; with the real program, where it is installed."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from daemons.cli.fleet import LocalFleet, free_ports
from tests.integration.rig import REPOSITORY, user_fleet, wait_until

AGENTS = {"coordinator-1": "coordinator", "distributor-1": "distributor", "worker-1": "worker", "worker-2": "worker"}
# A coordinator that has just started does not tell yet; and a busy host is slow.
PATIENCE_S = 30.0


def listed(fleet: LocalFleet) -> dict[str, dict[str, Any]]:
    """What ``/sd`` says, by agent; nothing while it says nothing."""
    status, text = fleet.get("coordinator-1", "/sd")
    groups = orjson.loads(text) if status == 200 else []
    return {group["labels"]["agent_id"]: group for group in groups}


@pytest.fixture(scope="module")
def listing(no_orphans: Path) -> Iterator[LocalFleet]:
    """A fleet whose coordinator knows everybody, and says so."""
    with user_fleet(workers=2, env={"A2A_WORKER_SLOTS": "1"}) as fleet:
        wait_until(lambda: set(listed(fleet)) == set(AGENTS), "all agents are listed", PATIENCE_S)
        yield fleet


def test_the_coordinator_lists_who_is_there(listing: LocalFleet) -> None:
    found = listed(listing)
    for name, group in found.items():
        assert group["targets"] == [f"127.0.0.1:{listing.daemons[name].metrics_port}"]
        assert group["labels"]["agent_role"] == AGENTS[name]
    assert len({group["labels"]["agent_host"] for group in found.values()}) == 1
    assert listing.get("worker-1", "/sd")[0] == 404, "a worker knows nobody"


@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus (Debian package) is not installed")
def test_prometheus_finds_the_fleet_and_notices_a_dead_worker(listing: LocalFleet, tmp_path: Path) -> None:
    with prometheus(listing, tmp_path) as port:
        everybody = dict.fromkeys(AGENTS, "1")
        wait_until(lambda: up(port) == everybody, "Prometheus sees all agents up", PATIENCE_S, pause_s=0.2)
        roles = {each["metric"]["agent_id"]: each["metric"]["agent_role"] for each in ask(port, "up")}
        assert roles == AGENTS
        # The rules are read, and look at what is there.
        assert ask(port, 'count(a2a_leading{agent_role="coordinator"} == 1)')[0]["value"][1] == "1"
        rules = get(port, "/api/v1/rules")["data"]["groups"]
        assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}
        assert len(rules) == 5
        wait_until(lambda: alerting(port) == set(), "nothing is wrong", PATIENCE_S, pause_s=0.2)
        listing.kill("worker-2", restart=False)
        expected = {("A2aScrapeFails", "worker-2"), ("A2aWorkerDown", "worker-2")}
        what = "the alerts of a dead worker are on their way"
        wait_until(lambda: alerting(port) == expected, what, PATIENCE_S, pause_s=0.2)
        assert "worker-2" in listed(listing), "who was lost stays, so that its alert does"


@contextlib.contextmanager
def prometheus(fleet: LocalFleet, directory: Path) -> Iterator[int]:
    """The program with our configuration, but for this fleet's ports and in a hurry; gives its own port."""
    (port,) = free_ports(1)
    config = shutil.copytree(REPOSITORY / "config", directory / "config") / "prometheus.yml"
    address = f"127.0.0.1:{fleet.daemons['coordinator-1'].metrics_port}"
    text = config.read_text(encoding="utf-8").replace("127.0.0.1:9550", address)
    config.write_text(re.sub(r"(interval): \d+s", r"\1: 1s", text), encoding="utf-8")
    command = [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn",
    ]  # fmt: skip
    with (directory / "log").open("wb") as log:
        program = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield port
        finally:
            program.terminate()
            program.wait(10)


def get(port: int, path: str) -> Any:
    """JSON of Prometheus' own pages; nothing while it starts."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return orjson.loads(answer.read())
    except (urllib.error.URLError, ConnectionError):
        return {"data": {"result": []}}


def ask(port: int, expr: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(port, f"/api/v1/query?query={quote(expr)}")["data"]["result"]
    return found


def alerting(port: int) -> set[tuple[str, str]]:
    """Alerts about dead agents, and about whom; before they fire they are pending for their time."""
    wanted = "A2a(NothingScraped|ScrapeFails|NoLeader|TwoLeaders|(Coordinator|Distributor|Worker|Redis)Down|Partition)"
    found = [each["metric"] for each in ask(port, f'ALERTS{{alertname=~"{wanted}"}}')]
    return {(each["alertname"], each.get("agent") or each.get("agent_id", "")) for each in found}


def up(port: int) -> dict[str, str]:
    return {each["metric"]["agent_id"]: each["value"][1] for each in ask(port, "up")}
