"""``a2actl config check``: every mistake, each on a line that says where, what, and what would be right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from a2a_zmq.errors import ConfigError
from daemons.cli import config_targets
from daemons.cli.config_checks import look
from daemons.cli.config_targets import targets
from daemons.cli.main import main
from daemons.cli.unit_files import stop_s, unit_files
from daemons.settings import CoordinatorSettings, WorkerSettings
from daemons.settings_check import ERROR, Finding, check
from daemons.settings_lines import line_of
from daemons.settings_sources import Sources

Check = Callable[..., list[Finding]]
EX_CONFIG = 78


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of our own, on a host without a fleet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A2A_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(config_targets, "SYSTEM", tmp_path / "no-such-directory")
    return tmp_path


def worker(text: str = "", environ: dict[str, str] | None = None, env_file: str = "") -> list[Finding]:
    """What is found in a worker's file."""
    Path("worker.toml").write_text(text, encoding="utf-8")
    if env_file:
        Path(".env").write_text(env_file, encoding="utf-8")
    return check(Sources(WorkerSettings, config=Path("worker.toml")), environ or {}).findings


# ---------------------------------------------------------------- what stands in sources


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            "worker_slots = 0\n",
            1,
            "worker_slots: 0: input should be greater than or equal to 1; allowed: integer from 1 to 1024",
        ),
        ("\n\nworker_slto = 1\n", 3, "worker_slto: unknown setting (did you mean worker_slots?)"),
        ('log_level = "debgu"\n', 1, "(did you mean debug?)"),
        ('worker_id = "a b"\n', 1, "worker_id: 'a b': an agent id has 1 to 63 letters"),
        ("# x\nlog_level = [\n", None, "not valid TOML"),
        ("worker_slots = = 2\n", 1, "not valid TOML: Invalid value"),
        ("heartbeat_interval_ms = 400\n", 1, "need 2 x heartbeat_interval_ms <= suspect_after_ms < dead_after_ms"),
        ('cert_path = "/x"\n', 1, "cert_path and key_path go together"),
        ('redis_ca_path = "/x"\n', 1, "nothing is encrypted"),
        (
            '[llm_providers.a]\nmodel = "m"\nretires = 1\n',
            3,
            "llm_providers.a.retires: unknown key (did you mean retries?)",
        ),
        ('[llm_providers.a]\nmodel = "m"\nretries = 99\n', 3, "allowed: integer from 0 to 20"),
        ("llm_providers = { a = { retries = 1 } }\n", 1, "llm_providers.a.model: field required"),
    ],
)
def test_a_mistake_in_a_file(text: str, line: int | None, says: str) -> None:
    (finding,) = worker(text)
    assert finding.level == ERROR
    assert finding.source == str(Path("worker.toml"))
    assert finding.line == line
    assert says in finding.text()
    assert "\n" not in finding.text()


def test_every_mistake_is_told_not_only_the_first() -> None:
    found = worker(
        'worker_slots = 0\nmetrics_port = 70000\nunknown = 1\nlog_format = "xml"\n',
        {"A2A_LOG_LEVLE": "info", "REDIS_PORT": "x"},
        "A2A_WORKER_SLOT=1\nWORKER_ID=w w\n",
    )
    names = {finding.setting for finding in found}
    assert names == {"worker_slots", "metrics_port", "unknown", "log_format", "A2A_LOG_LEVLE", "REDIS_PORT"} | {
        "A2A_WORKER_SLOT",
        "WORKER_ID",
    }


def test_all_relations_are_told() -> None:
    found = check(
        Sources(CoordinatorSettings),
        {
            "A2A_HEARTBEAT_INTERVAL_MS": "400",
            "A2A_LEASE_TTL_MS": "600",
            "A2A_REDIS_USERNAME": "x",
            "A2A_KEY_PATH": "/k",
        },
    ).findings
    texts = "\n".join(finding.text() for finding in found)
    for words in (
        "lease_ttl_ms (600) must be more than",
        "2 x heartbeat_interval_ms",
        "redis_username needs",
        "go together",
    ):
        assert words in texts


def test_the_place_of_a_mistake_is_where_the_value_comes_from() -> None:
    (finding,) = worker("worker_slots = 0\n", env_file="\nA2A_WORKER_SLOTS=x\n")
    assert (finding.source.endswith("/.env"), finding.line, finding.setting) == (True, 2, "A2A_WORKER_SLOTS")
    (finding,) = worker("worker_slots = 0\n", {"A2A_WORKER_SLOTS": "-1"})
    assert (finding.source, finding.line, finding.setting) == ("environment", None, "A2A_WORKER_SLOTS")


def test_a_wrong_line_of_an_env_file() -> None:
    (finding,) = worker(env_file="REDIS_PORT=1\nlog level = info\n")
    assert (finding.line, finding.problem) == (2, "expected NAME=value")


def test_secrets_are_not_shown() -> None:
    for text in (
        'token_secret = "hunter2"\n',
        "redis_password = 12345678\n",
        '[llm_providers.a]\nmodel = "m"\nkey = "hunter2"\n',
    ):
        (finding,) = worker(text)
        assert "hunter2" not in finding.text()
        assert "12345678" not in finding.text()


@pytest.mark.parametrize(
    ("path", "line"),
    [(("a",), 1), (("b", "c"), 4), (("b", "d", "e"), 6), (("x", "y"), 7), (("b",), 3), (("q r",), 2), (("no",), None)],
)
def test_lines_of_keys(path: tuple[str, ...], line: int | None) -> None:
    text = 'a = 1\n"q r" = 2\n[b]\nc = 2\n[b.d]\ne = 3\n[x]\n'
    assert line_of(text, path) == line


# ---------------------------------------------------------------- what is probably not meant


def test_relations_that_are_only_odd_are_warnings() -> None:
    found = check(
        Sources(CoordinatorSettings),
        {"A2A_DEAD_AFTER_MS": "6000", "REDIS_HOST": "redis.example", "REDIS_PASSWORD": "x", "A2A_SPOOL_MAX_MB": "1"},
    ).findings
    assert {finding.setting for finding in found} == {"A2A_DEAD_AFTER_MS", "REDIS_PASSWORD", "A2A_SPOOL_MAX_MB"}
    assert {finding.level for finding in found} == {"warning"}


def test_a_file_with_a_secret_that_everybody_can_read() -> None:
    with TemporaryDirectory() as name:  # what stands above pytest's directories is closed already
        directory = Path(name)
        file = directory / "worker.toml"
        file.write_text('token_secret = "sixteen bytes or more"\n', encoding="utf-8")
        file.chmod(0o644)
        directory.chmod(0o750)
        assert look(targets(file, None)).findings == []
        directory.chmod(0o711)
        (finding,) = look(targets(file, None)).findings
        assert "everybody on this host can read this file (0644)" in finding.text()
        assert finding.suggestion == f"chmod 0640 {file.absolute()}"
        file.chmod(0o640)
        assert look(targets(file, None)).findings == []


def test_files_that_are_not_there() -> None:
    file = Path("worker.toml")
    file.write_text(
        'cert_path = "/nowhere/peers.json"\nkey_path = "/nowhere/w.key"\nredis_use_tls = true\n'
        'redis_ca_path = "/nowhere/ca.pem"\nworker_graphs = ["/nowhere/langgraph.json"]\n',
        encoding="utf-8",
    )
    found = {finding.setting: finding for finding in look(targets(file, None)).findings}
    assert set(found) == {"cert_path", "key_path", "redis_ca_path", "worker_graphs"}
    assert found["redis_ca_path"].line == 4
    assert "/nowhere/ca.pem: No such file" in found["redis_ca_path"].problem


# ---------------------------------------------------------------- several programs


SUPERVISED = """
[supervisord]
environment=PATH="%(here)s/bin:%(ENV_PATH)s"
[program:redis]
command=a2a-redis --port 6379
[program:coordinator]
command=a2a-coordinator --id coordinator-1
stopwaitsecs=20
[program:one]
command=a2a-worker --config %(here)s/worker.toml --id worker-1 {flags}
stopwaitsecs={stop}
[program:two]
command=a2a-worker --config %(here)s/worker.toml --id worker-2
environment=A2A_METRICS_PORT="{port}"
stopwaitsecs=20
[program:else]
command=sleep 1
"""


def supervised(worker: str = "", *, stop: int = 20, port: str = "9571", flags: str = "") -> list[Finding]:
    Path("fleet").mkdir(exist_ok=True)
    Path("fleet/worker.toml").write_text(worker, encoding="utf-8")
    Path("fleet/supervisord.conf").write_text(SUPERVISED.format(stop=stop, port=port, flags=flags), encoding="utf-8")
    report = look(targets(Path("fleet"), None))
    assert report.programs == ["redis", "coordinator", "one", "two"]
    return report.findings


def test_a_fleet_under_supervisor_is_looked_at_as_a_whole() -> None:
    assert supervised() == []


def test_ports_that_collide_are_named() -> None:
    (finding,) = supervised(port="9570")
    assert "two would listen on port 9570, which is metrics_port of one" in finding.text()
    (finding,) = supervised(port="6379")
    assert "two would listen on port 6379, which is redis_port of redis" in finding.text()


def test_a_coordinator_whose_number_stands_for_no_port_is_named() -> None:
    """Two fleets on one host, the second with coordinator-41: it listened on the port of the first one's."""
    Path("coordinator.toml").write_text('coordinator_id = "coordinator-11"\n', encoding="utf-8")
    (finding,) = look(targets(Path("coordinator.toml"), None)).findings
    assert "coordinator-11 listens on port 5550: only coordinator-1 to coordinator-10" in finding.text()
    assert finding.level == "warning"
    for text in (
        'coordinator_id = "coordinator-11"\nbind = "tcp://127.0.0.1:5590"\n',
        'coordinator_id = "coordinator-10"\n',
    ):
        Path("coordinator.toml").write_text(text, encoding="utf-8")
        assert look(targets(Path("coordinator.toml"), None)).findings == []


def test_ids_that_two_programs_have_are_named() -> None:
    found = supervised(flags="--worker-id worker-2")
    assert "two has the id 'worker-2', which one has too" in found[0].text()
    assert found[0].level == "error"


def test_a_program_whose_name_is_mistyped() -> None:
    Path("supervisord.conf").write_text("[program:coordinator]\ncommand=/usr/bin/a2a-coordinater --id coordinator-1\n")
    with pytest.raises(ConfigError, match=r"\[program:coordinator\]: there is no program .*did you mean coordinator\?"):
        targets(Path("supervisord.conf"), None)


def test_a_supervisor_that_does_not_wait_for_the_drain() -> None:
    assert supervised("drain_timeout_s = 15\n") == []
    (finding,) = supervised("drain_timeout_s = 15\n", stop=10)
    assert "one may drain for 15 s, and is killed after 10 s" in finding.text()
    assert "stopwaitsecs of [program:one]" in finding.text()
    assert finding.level == "warning"


def test_a_flag_that_a_program_does_not_know() -> None:
    (finding,) = supervised(flags="--worker-slot 2")
    assert finding.text().startswith("error: command line: --worker-slot: one has an unknown flag")
    assert "did you mean --worker-slots?" in finding.text()


def test_a_mistake_that_two_programs_share_is_told_once() -> None:
    assert [finding.setting for finding in supervised("worker_slots = 0\n")] == ["worker_slots"]


def test_the_stop_time_of_a_unit(somewhere: Path) -> None:
    units = [somewhere / "lib", somewhere / "etc"]
    for directory in units:
        (directory / "a2a-worker@.service.d").mkdir(parents=True)
    assert stop_s(unit_files("worker", units=units)) == (None, "")
    (units[0] / "a2a-worker@.service").write_text("[Service]\nTimeoutStopSec=1min 30s\n")
    assert stop_s(unit_files("worker", units=units))[0] == 90
    (units[1] / "a2a-worker@.service.d" / "mine.conf").write_text("[Service]\nTimeoutStopSec=5\n")
    assert stop_s(unit_files("worker", units=units)) == (
        5,
        f"TimeoutStopSec in {units[1]}/a2a-worker@.service.d/mine.conf",
    )
    Path("worker.toml").write_text("")
    (finding,) = look(targets(Path("worker.toml"), None, units)).findings
    assert "may drain for 10 s, and is killed after 5 s" in finding.problem


# ---------------------------------------------------------------- the command


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["config", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_exit_status_and_summary(capsys: pytest.CaptureFixture[str]) -> None:
    Path("worker.toml").write_text("worker_slots = 2\n")
    assert said(capsys, "check", "worker.toml") == (
        0,
        f"read: {Path('worker.toml').absolute()}\nworker: no errors, no warnings\n",
        "",
    )
    Path("worker.toml").write_text("worker_slots = 0\nworker_slto = 1\n")
    status, out, err = said(capsys, "check", "worker.toml")
    assert (status, err) == (EX_CONFIG, "")
    assert len(out.splitlines()) == 4
    assert out.splitlines()[-1] == "worker: 2 errors, no warnings"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.toml").write_text("worker_slots = 0\n")
    status, out, _ = said(capsys, "check", "my.toml", "--role", "worker", "--json")
    report: dict[str, Any] = json.loads(out)
    assert status == EX_CONFIG
    assert report["ok"] is False
    assert report["programs"] == ["worker"]
    (finding,) = report["findings"]
    assert finding == {
        "level": "error",
        "source": str(Path("my.toml").absolute()),
        "line": 1,
        "setting": "worker_slots",
        "problem": "0: input should be greater than or equal to 1",
        "allowed": "integer from 1 to 1024",
    }


def test_a_file_of_which_nobody_knows_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.toml").write_text("")
    status, _, err = said(capsys, "check", "my.toml")
    assert status == 2
    assert "--role" in err


def test_the_environment_alone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = said(capsys, "check")
    assert status == 0
    assert "read: no file, only the environment\n" in out
    monkeypatch.setenv("A2A_LEASE_TTL_MS", "100")
    status, out, _ = said(capsys, "check")
    assert status == EX_CONFIG
    assert "A2A_LEASE_TTL_MS" in out


def test_a_fleets_own_directory_is_looked_at_where_it_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("worker.toml").write_text("worker_slto = 1\n")
    status, out, _ = said(capsys, "check")
    assert status == EX_CONFIG
    assert f"{Path('worker.toml').absolute()}:1: worker_slto: unknown setting" in out
    assert f"read: {Path('worker.toml').absolute()}\n" in out
    Path("config").mkdir()
    Path("config/coordinator.toml").write_text("")
    assert f"read: {Path('config/coordinator.toml').absolute()}\n" in said(capsys, "check")[1]


def test_handlers_that_cannot_be_imported_are_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tasks_with_a_mistake.py").write_text("import json\nraise ValueError('no such model')\n")
    Path("worker.toml").write_text('worker_slots = 2\nworker_handlers = ["tasks_with_a_mistake"]\n')
    status, out, _ = said(capsys, "check", "worker.toml")
    assert status == 0
    assert "warning: " in out
    assert "worker.toml:2: worker_handlers: cannot import handler module 'tasks_with_a_mistake'" in out
    assert "PYTHONPATH" in out
    monkeypatch.setenv("PYTHONPATH", str(modules))
    status, out, _ = said(capsys, "check", "worker.toml")
    assert status == EX_CONFIG
    assert "worker.toml:2: worker_handlers: cannot import handler module 'tasks_with_a_mistake'" in out
    assert "no such model" in out
    assert not (modules / "__pycache__").exists()


def test_graphs_that_cannot_be_imported_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    project = Path("langgraph.json").absolute()
    project.write_text('{"dependencies": ["."], "graphs": {"report": "./report.py:graph"}}')
    Path("report.py").write_text("graph = 1\n")
    Path("worker.toml").write_text(f'worker_graphs = ["{project}"]\n')
    status, out, _ = said(capsys, "check", "worker.toml")
    assert status == EX_CONFIG
    assert "worker.toml:1: worker_graphs: " in out
    assert "report" in out


def test_the_shipped_files_are_good(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    status, out, _ = said(capsys, "check", str(repository / "config"))
    assert (status, out.count("\n")) == (0, 2), out


def test_what_there_is_to_set_is_printed(capsys: pytest.CaptureFixture[str], repository: Path) -> None:
    for role in ("coordinator", "distributor", "worker", "client", "redis"):
        shipped = (repository / "config" / f"{role}.toml").read_text(encoding="utf-8")
        assert said(capsys, "show-defaults", role)[1] == shipped
        assert json.loads(said(capsys, "schema", role)[1])["additionalProperties"] is False
    assert said(capsys, "schema", "nobody")[0] == 2


@pytest.mark.parametrize("name", ["", "a b", "a\nuser evil on nopass ~* +@all"])
def test_no_line_is_printed_for_what_cannot_be_a_redis_user(capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, out, err = said(capsys, "acl", "--user", name)
    assert (status, out) == (2, "")
    assert "--user" in err
