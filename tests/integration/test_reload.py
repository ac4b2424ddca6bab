"""SIGHUP, as an operator uses it: settings change in running daemons, and nothing is lost by a mistake."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from a2a_zmq import FleetClient, TaskFailed
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import PATIENCE_S, client_of, log_events, scrape, user_fleet, wait_until

DISTRIBUTOR = "distributor-1"
OK = ("a2a_config_last_reload_successful", ())
WHEN = ("a2a_config_last_reload_success_timestamp_seconds", ())


class Settings:
    """The fleet's ``.env``; each change of it is followed by SIGHUP to one daemon."""

    def __init__(self, fleet: LocalFleet) -> None:
        self.fleet = fleet
        self.file = fleet.directory / ".env"

    def change(self, name: str, event: str, **values: object) -> dict[str, Any]:
        """Gives the line that says what came of it."""
        self.file.write_text("".join(f"{variable}={value}\n" for variable, value in values.items()))
        before = len(self.lines(name, event))
        self.fleet.daemons[name].signal(signal.SIGHUP)
        wait_until(lambda: len(self.lines(name, event)) > before, f"{name} says {event}")
        return self.lines(name, event)[-1]

    def lines(self, name: str, event: str) -> list[dict[str, Any]]:
        return [line for line in log_events(self.fleet, name) if line["event"] == event]


@pytest.fixture(scope="module")
def fleet(no_orphans: Path) -> Iterator[LocalFleet]:
    with user_fleet(workers=1, supervise=False) as fleet:
        yield fleet


@pytest.fixture
def settings(fleet: LocalFleet) -> Settings:
    return Settings(fleet)


def attempts(client: FleetClient, ledger: Path) -> int:
    """Of a task that fails once: on which attempt it succeeded, 0 if it did not."""
    try:
        return int(client.submit("flaky", {"ledger": str(ledger), "failures": 1}).result(PATIENCE_S))
    except TaskFailed:
        return 0


def test_a_distributor_follows_its_file_and_outlives_a_bad_one(
    fleet: LocalFleet, client: FleetClient, settings: Settings, tmp_path: Path
) -> None:
    pid = fleet.pids[DISTRIBUTOR]
    assert attempts(client, tmp_path / "before") == 2
    told = settings.change(DISTRIBUTOR, "settings_reloaded", A2A_MAX_ATTEMPTS=1)
    assert told["changed"] == {"max_attempts": 1}
    assert attempts(client, tmp_path / "one") == 0
    since = scrape(fleet, DISTRIBUTOR)[WHEN]

    bad = settings.change(DISTRIBUTOR, "settings_not_reloaded", A2A_MAX_ATTEMPTS="many")
    assert "A2A_MAX_ATTEMPTS in" in bad["why"]
    assert f"{settings.file}: 'many'" in bad["why"]
    assert bad["level"] == "error"
    assert attempts(client, tmp_path / "bad") == 0, "the settings before are in use"
    assert (scrape(fleet, DISTRIBUTOR)[OK], scrape(fleet, DISTRIBUTOR)[WHEN]) == (0, since)

    kept = settings.change(DISTRIBUTOR, "settings_kept", A2A_MAX_ATTEMPTS=2, A2A_LEASE_TTL_MS=9000, REDIS_DB=3)
    assert kept["settings"] == "redis_db, lease_ttl_ms"
    assert attempts(client, tmp_path / "two") == 2
    assert scrape(fleet, DISTRIBUTOR)[OK] == 1
    assert scrape(fleet, DISTRIBUTOR)[WHEN] > since
    assert fleet.pids[DISTRIBUTOR] == pid
    assert len(settings.lines(DISTRIBUTOR, "started")) == 1


def test_a_coordinator_and_a_worker_follow_theirs(fleet: LocalFleet, client: FleetClient, settings: Settings) -> None:
    told = settings.change("coordinator-1", "settings_reloaded", A2A_MAX_LIVE_TASKS=1000, A2A_SPOOL_MAX_MB=9)
    assert told["changed"] == {"spool_max_mb": 9, "max_live_tasks": 1000}
    providers = fleet.directory / "providers.toml"
    providers.write_text('[fast]\nmodel = "openai:gpt"\nrequests_per_minute = 3\n')
    told = settings.change("worker-1", "settings_reloaded", A2A_WORKER_MAX_HELD=50, A2A_LLM_PROVIDERS=providers)
    assert told["changed"] == {"worker_max_held": 50, "llm_providers": ["fast"]}
    assert len(list(client.map("noop", [{}] * 300))) == 300
    with client_of(fleet) as late:
        assert len(list(late.map("noop", [{}] * 300))) == 300
