"""What SIGHUP does to settings: what may change does, what may not is named, and bad settings change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from a2a_zmq.errors import ConfigError
from daemons import logs
from daemons.runtime.reload import Reloader
from daemons.settings import CoordinatorSettings, DaemonSettings, WorkerSettings
from daemons.settings_sources import Sources, load
from tests.unit.meter import CountingMeter

OK, WHEN = "config_last_reload_successful", "config_last_reload_success_timestamp_seconds"


class Log:
    """Keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.lines.append((level, event, fields))


class Daemon:
    """A reloader of a daemon whose settings stand in one file."""

    def __init__(self, directory: Path, model: type[DaemonSettings] = CoordinatorSettings) -> None:
        self.file = directory / "some.toml"
        self.file.touch()
        self.log = Log()
        self.meter = CountingMeter()
        self.time = 100.0
        sources = Sources(model, config=self.file, directory=directory)
        self.reloader = Reloader(sources.load(), self.meter, self.log, lambda: self.time)
        self.reloader.read = sources.load
        self.used: list[Any] = []
        self.reloader.use.append(self.used.append)

    def hang_up(self, text: str) -> None:
        self.file.write_text(text, encoding="utf-8")
        self.time += 1
        self.reloader.run()


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Log levels that were set."""
    found: list[str] = []
    monkeypatch.setattr(logs, "set_level", found.append)
    return found


@pytest.fixture
def daemon(tmp_path: Path, levels: list[str]) -> Daemon:
    return Daemon(tmp_path)


def test_what_may_change_is_brought_into_use(daemon: Daemon, levels: list[str]) -> None:
    daemon.hang_up('log_level = "debug"\nmax_live_tasks = 7\nspool_max_mb = 9\ndrain_timeout_s = 3.0\n')
    (new,) = daemon.used
    assert (new.max_live_tasks, new.spool_max_mb, new.drain_timeout_s) == (7, 9, 3.0)
    assert daemon.reloader.settings is new
    assert set(levels) == {"debug"}
    ((level, event, fields),) = daemon.log.lines
    assert (level, event) == ("info", "settings_reloaded")
    assert fields["changed"] == {"log_level": "debug", "max_live_tasks": 7, "spool_max_mb": 9, "drain_timeout_s": 3.0}


def test_what_needs_a_restart_is_named_in_one_line_and_kept(daemon: Daemon) -> None:
    daemon.hang_up(
        'heartbeat_interval_ms = 100\nredis_host = "elsewhere"\nredis_password = "hunter2"\nmax_live_tasks = 7\n'
    )
    (new,) = daemon.used
    assert (new.heartbeat_interval_ms, new.redis_host, new.redis_password) == (200, "127.0.0.1", None)
    assert new.max_live_tasks == 7
    kept = [fields for level, event, fields in daemon.log.lines if (level, event) == ("warning", "settings_kept")]
    assert [line["settings"] for line in kept] == ["heartbeat_interval_ms, redis_host, redis_password"]
    assert "hunter2" not in str(daemon.log.lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_live_tasks = 0\n", "max_live_tasks in"),
        ("max_live_tasks = 7\nmax_live_task = 1\n", "unknown key 'max_live_task'"),
        ("max_live_tasks = [\n", "not valid TOML"),
        ("max_live_tasks = 7\nlease_ttl_ms = 500\n", "lease_ttl_ms (500)"),
    ],
)
def test_a_bad_file_changes_nothing(daemon: Daemon, levels: list[str], text: str, says: str) -> None:
    before = daemon.reloader.settings
    daemon.hang_up(text)
    assert daemon.reloader.settings is before
    assert (daemon.used, levels) == ([], [])
    ((level, event, fields),) = daemon.log.lines
    assert (level, event) == ("error", "settings_not_reloaded")
    assert says in fields["why"]
    assert daemon.meter.gauges == {OK: 0, WHEN: 100.0}
    daemon.hang_up("max_live_tasks = 7\n")
    assert daemon.meter.gauges == {OK: 1, WHEN: 102.0}
    assert [new.max_live_tasks for new in daemon.used] == [7]


def test_the_start_counts_as_a_good_reading(daemon: Daemon) -> None:
    assert daemon.meter.gauges == {OK: 1, WHEN: 100.0}


def test_settings_that_the_role_cannot_use_change_nothing(tmp_path: Path, levels: list[str]) -> None:
    daemon = Daemon(tmp_path, WorkerSettings)

    def refuses(settings: Any) -> None:
        raise ConfigError("llm_providers.fast: api_key_file: /key: No such file or directory")

    daemon.reloader.accepts = refuses
    daemon.hang_up("worker_max_held = 9\n")
    assert daemon.used == []
    assert daemon.log.lines[0][2]["why"].startswith("llm_providers.fast")


def test_flags_still_go_before_the_file(tmp_path: Path, levels: list[str]) -> None:
    daemon = Daemon(tmp_path)
    sources = Sources(CoordinatorSettings, {"max_live_tasks": "5"}, config=daemon.file, directory=tmp_path)
    daemon.reloader.settings = load(CoordinatorSettings, {"max_live_tasks": "5"}, environ={}, directory=tmp_path)
    daemon.reloader.read = sources.load
    daemon.hang_up("max_live_tasks = 7\n")
    assert daemon.reloader.settings.model_dump()["max_live_tasks"] == 5


def test_an_agent_inside_a_program_has_nothing_to_read(daemon: Daemon) -> None:
    daemon.reloader.read = None
    daemon.hang_up("max_live_tasks = 7\n")
    assert (daemon.used, daemon.log.lines) == ([], [])
