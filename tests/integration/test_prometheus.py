"""Prometheus finds a fleet through its coordinator; with the real program, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
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


def test_the_coordinator_lists_who_is_there(no_orphans: Path) -> None:
    with user_fleet(workers=2, env={"A2A_WORKER_SLOTS": "1"}) as fleet:
        wait_until(lambda: set(listed(fleet)) == set(AGENTS), "all agents are listed", PATIENCE_S)
        for name, group in listed(fleet).items():
            assert group["targets"] == [f"127.0.0.1:{fleet.daemons[name].metrics_port}"]
            assert group["labels"]["agent_role"] == AGENTS[name]
        assert len({group["labels"]["agent_host"] for group in listed(fleet).values()}) == 1
        assert fleet.get("worker-1", "/sd")[0] == 404

        fleet.kill("worker-2", restart=False)
        wait_until(
            lambda: 'agent="worker-2",role="worker"} 0.0' in fleet.get("distributor-1", "/metrics")[1], "it is lost"
        )
        assert "worker-2" in listed(fleet), "who was lost stays, so that its alert does"


@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus (Debian package) is not installed")
def test_prometheus_scrapes_the_fleet_with_our_configuration(no_orphans: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with user_fleet(workers=2, env={"A2A_WORKER_SLOTS": "1"}) as fleet:
        config = shutil.copytree(REPOSITORY / "config", tmp_path / "config") / "prometheus.yml"
        address = f"127.0.0.1:{fleet.daemons['coordinator-1'].metrics_port}"
        text = config.read_text(encoding="utf-8")
        changed = text.replace("127.0.0.1:9550", address).replace("interval: 5s", "interval: 1s")
        config.write_text(changed.replace("refresh_interval: 15s", "refresh_interval: 1s"), encoding="utf-8")
        program = subprocess.Popen(
            [
                "prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=warn",
            ],
            stdout=subprocess.DEVNULL,
            stderr=(log := (tmp_path / "log").open("wb")),
        )  # fmt: skip
        try:
            wait_until(
                lambda: up(port) == dict.fromkeys(AGENTS, "1"),
                "Prometheus sees all agents up",
                PATIENCE_S,
                pause_s=0.2,
            )
            roles = {each["metric"]["agent_id"]: each["metric"]["agent_role"] for each in ask(port, "up")}
            assert roles == AGENTS
            # The rules are read, and look at what is there.
            assert value(port, 'count(a2a_leading{agent_role="coordinator"} == 1)') == "1"
            rules = get(port, "/api/v1/rules")["data"]["groups"]
            assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}
            assert len(rules) == 5
        finally:
            program.terminate()
            program.wait(10)
            log.close()


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


def value(port: int, expr: str) -> str | None:
    found = ask(port, expr)
    return found[0]["value"][1] if found else None


def up(port: int) -> dict[str, str]:
    return {each["metric"]["agent_id"]: each["value"][1] for each in ask(port, "up")}
