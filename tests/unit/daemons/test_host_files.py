"""``/etc/a2a-zmq``: what a2actl makes of the variables that systemd gives to this host's agents."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2a_zmq.errors import ConfigError
from daemons import host_files
from daemons.cli import config_targets, host_settings, import_checks
from daemons.cli.config_checks import Report, look
from daemons.cli.config_targets import targets
from daemons.cli.invocation import CommandFailed, Invocation
from daemons.cli.unit_files import unit_files, variables
from daemons.env_files import env_file_in
from daemons.host_files import assignments
from daemons.settings import CoordinatorSettings
from daemons.settings_sources import load


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's directory, with a file for each role, and a working directory somewhere else."""
    directory = tmp_path / "etc"
    for path in (directory, tmp_path / "here", tmp_path / "state"):
        path.mkdir()
    for role in ("coordinator", "distributor", "worker"):
        (directory / f"{role}.toml").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("A2A_STATE_DIR", str(tmp_path / "state"))
    for module in (host_files, config_targets):
        monkeypatch.setattr(module, "SYSTEM", directory)
    return directory


def checked(etc: Path, file: Path | None = None) -> Report:
    return look(targets(file, None, [etc.parent / "units"]))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A=1\n# B=2\n; C=3\n\nD=4", {"A": "1", "D": "4"}),
        ("A= spaces around \n", {"A": "spaces around"}),
        ("A=one # two\n", {"A": "one # two"}),
        ('A=\'a "b" \\n\'\nB="c \'d\' \\"e\\" \\x"\n', {"A": 'a "b" \\n', "B": "c 'd' \"e\" \\x"}),
        ("A='one'two\n", {"A": "onetwo"}),
        ("A=it's\n", {"A": "it's"}),
        ("A=one \\\n two\nB=3\n", {"A": "one  two", "B": "3"}),
        ('A="one\ntwo"\nB=3\n', {"A": "one\ntwo", "B": "3"}),
        ("A=back\\\\slash\\ \n", {"A": "back\\slash "}),
        ("A=\nB=2\n", {"A": "", "B": "2"}),
        ("no assignment\nA=1=2\n", {"A": "1=2"}),
    ],
)
def test_variables_are_read_as_systemd_reads_them(tmp_path: Path, text: str, values: dict[str, str]) -> None:
    file = tmp_path / "environment"
    file.write_text(text)
    assert {each.name: each.value for each in assignments(file)} == values


def test_lines_are_counted_through_values_of_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text('# x\nA="1\n2"\nB=1\\\n2\n\nC=3\n')
    assert [(each.name, each.line) for each in assignments(file)] == [("A", 2), ("B", 4), ("C", 7)]


def test_a2actl_uses_the_variables_of_the_hosts_agents(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (etc / "environment").write_text('REDIS_PORT=6390\nREDIS_PASSWORD="secret"\nA2A_NOBODY_READS=1\n')
    settings = Invocation().settings
    assert settings.redis_port == 6390
    assert settings.redis_password is not None
    assert settings.redis_password.get_secret_value() == "secret"
    Path(".env").write_text("REDIS_PORT=6391\n")
    assert Invocation().settings.redis_port == 6391
    monkeypatch.setenv("REDIS_PORT", "6392")
    assert Invocation().settings.redis_port == 6392


def test_a_bad_value_of_the_host_names_its_file(etc: Path) -> None:
    (etc / "environment").write_text("REDIS_PORT=many\n")
    with pytest.raises(ConfigError, match=r"REDIS_PORT in .*/etc/environment: "):
        _ = Invocation().settings


def test_a_mistake_in_a_variable_of_all_agents_is_found(etc: Path) -> None:
    (etc / "environment").write_text("# all\nA2A_WORKER_SLOTZ=1\n")
    (finding,) = checked(etc).findings
    assert (finding.level, finding.source, finding.line) == ("error", str(etc / "environment"), 2)
    assert finding.suggestion == "did you mean A2A_WORKER_SLOTS?"


def test_a_mistake_in_a_variable_of_one_agent_is_found(etc: Path) -> None:
    (etc / "environment").write_text("A2A_WORKER_SLOTS=2\n")
    (etc / "worker-2.env").write_text("export A=1\nA2A_WORKER_SLOTS=0\n")
    report = checked(etc)
    assert report.programs == ["coordinator", "distributor", "worker-2"]
    assert str(etc / "worker-2.env") in report.files
    error, warning = report.findings
    assert (error.source, error.line, error.setting) == (str(etc / "worker-2.env"), 2, "A2A_WORKER_SLOTS")
    assert (warning.line, warning.suggestion) == (1, "without export")
    assert checked(etc, etc / "worker-2.env").findings == report.findings
    assert checked(etc, etc / "coordinator.toml").findings == []


def test_agents_that_are_enabled_are_looked_at_by_name(etc: Path) -> None:
    wants = etc.parent / "units" / "a2a.target.wants"
    wants.mkdir(parents=True)
    for unit in ("a2a-worker@gpu", "a2a-worker@worker-1", "a2a-redis", "other@x"):
        (wants / f"{unit}.service").touch()
    (etc / "gpu.env").write_text("A2A_METRICS_PORT=6379\n")
    report = checked(etc)
    assert report.programs == ["coordinator", "distributor", "gpu", "worker-1", "redis"]
    (finding,) = report.findings
    assert "redis would listen on port 6379, which is metrics_port of gpu" in finding.text()


def test_variables_that_may_not_be_read_are_said(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (etc / "environment").write_text("REDIS_PORT=6390\n")
    _closed(monkeypatch, etc / "environment")
    report = checked(etc)
    assert report.errors == 0
    assert "environment: cannot be read by this user" in report.findings[0].text()
    assert Invocation().settings.redis_port == 6379
    assert "may not be read by this user (Permission denied)" in host_settings.unknown()


def test_a_host_directory_that_may_not_be_entered_is_one_line(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, _mode: Path(path) != etc)
    with pytest.raises(CommandFailed, match="may not be read by this user"):
        checked(etc)
    (check,) = host_settings.host_settings()
    assert check.ok
    assert check.fix == "run this as root"


def test_handlers_are_looked_for_where_units_look(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_checks, "SYSTEM_USER", "no-such-user")
    agents = etc.parent / "agents"
    agents.mkdir()
    (etc / "worker.toml").write_text('worker_handlers = ["tasks_of_this_host"]\n')
    (etc / "environment").write_text(f'PYTHONPATH="{agents}"\n')
    (finding,) = look(targets(None, "worker"), imports=True).findings
    assert (finding.level, finding.line, finding.setting) == ("error", 1, "worker_handlers")
    assert "No module named 'tasks_of_this_host'" in finding.problem
    (agents / "tasks_of_this_host.py").write_text(
        "from a2a_zmq.handlers import task\n\n@task('local')\ndef local(payload):\n    return {}\n"
    )
    assert look(targets(None, "worker"), imports=True).findings == []


def test_variables_of_units_and_their_drop_ins_count(etc: Path) -> None:
    units = etc.parent / "units"
    for name in ("a2a-worker@.service.d", "a2a-worker@gpu.service.d"):
        (units / name).mkdir(parents=True)
    (units / "a2a-worker@.service").write_text("[Service]\nEnvironment=A2A_WORKER_SLOTS=1\nEnvironmentFile=-/nowhere\n")
    override = units / "a2a-worker@gpu.service.d" / "override.conf"
    override.write_text('[Service]\n# mine\nEnvironment="A2A_WORKER_SLOTS=2" \\\n  A2A_WORKER_SLOTZ=%i\n')
    (etc / "gpu.env").write_text("A2A_METRICS_PORT=7000\n")
    (units / "a2a.target.wants").mkdir()
    (units / "a2a.target.wants" / "a2a-worker@gpu.service").touch()
    report = look(targets(None, "worker", [units]))
    (finding,) = report.findings
    assert finding.text().startswith(f"error: {override}:3: A2A_WORKER_SLOTZ: unknown variable")
    assert str(etc / "gpu.env") not in report.files, "the unit names another file"


def test_what_a_unit_is_made_of(tmp_path: Path) -> None:
    lib, own = tmp_path / "lib", tmp_path / "etc"
    for directory in (lib, own):
        (directory / "a2a-worker@.service.d").mkdir(parents=True)
        (directory / "a2a-worker@one.service.d").mkdir()
    texts = {
        lib / "a2a-worker@.service": "Environment=A=unit B=unit C=unit D=unit",
        lib / "a2a-worker@.service.d" / "10.conf": "Environment=B=ten",
        own / "a2a-worker@.service.d" / "20.conf": "Environment='C=for %i, 100%%'",
        lib / "a2a-worker@one.service.d" / "30.conf": "Environment=D=hidden",
        own / "a2a-worker@one.service.d" / "30.conf": "Environment=D=thirty",
        own / "a2a-worker@other.service": "Environment=A=other",
    }
    for path, text in texts.items():
        path.write_text(f"[Service]\n{text}\n")
    files = unit_files("worker", "one", [lib, own])
    found = {each.name: each.value for of_file in variables(files, "one") for each in of_file.found}
    assert found == {"A": "unit", "B": "ten", "C": "for one, 100%", "D": "thirty"}
    first, *_ = variables(unit_files("worker", "other", [lib, own]), "other")
    assert first.file.name == "a2a-worker@other.service"
    (own / "a2a-worker@.service.d" / "40.conf").write_text("[Service]\nEnvironment=\nEnvironment=A=last\n")
    (only,) = variables(unit_files("worker", "one", [lib, own]), "one")
    assert [(each.name, each.value, each.line) for each in only.found] == [("A", "last", 3)]


def test_variables_of_whoever_asks_are_not_those_of_units(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A2A_WORKER_SLOTS", "none")
    assert checked(etc).errors == 0
    assert look(targets(None, "client")).programs == ["client"]


def test_the_doctor_says_what_is_wrong_with_the_hosts_settings(etc: Path) -> None:
    (good,) = host_settings.host_settings()
    assert good.ok
    (etc / "environment").write_text("A2A_WORKER_SLOTZ=1\n")
    (bad,) = host_settings.host_settings()
    assert not bad.ok
    assert "unknown variable" in bad.text


def test_a_directory_that_may_not_be_entered_has_no_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _closed(monkeypatch, tmp_path / ".env")
    assert env_file_in(tmp_path) is None
    assert load(CoordinatorSettings, environ={}, directory=tmp_path).redis_port == 6379


def _closed(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """What a user meets who has no right to a file; tests may run as root."""
    stat, opened = Path.stat, Path.open

    def refused(path: Path) -> None:
        if path == file:
            raise PermissionError(13, "Permission denied", str(path))

    def no_stat(self: Path, **more: bool) -> object:
        if self.name == ".env":
            refused(self)
        return stat(self, **more)

    def no_open(self: Path, *args: object, **more: object) -> object:
        refused(self)
        return opened(self, *args, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "stat", no_stat)
    monkeypatch.setattr(Path, "open", no_open)
