"""Settings: precedence, strictness, relations, and the one line that a wrong one gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.errors import ConfigError
from daemons.settings import (
    MODELS,
    ClientSettings,
    CoordinatorSettings,
    DistributorSettings,
    RedisServerSettings,
    Settings,
    WorkerSettings,
)
from daemons.settings_forms import env_name, number_of, scrape_target
from daemons.settings_reference import reference
from daemons.settings_sources import load, load_or_exit


def toml_file(directory: Path, text: str) -> Path:
    path = directory / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_go_before_environment_before_env_file_before_toml_before_default(tmp_path: Path) -> None:
    config = toml_file(tmp_path, 'redis_host = "toml"\nredis_port = 1\nredis_db = 1\nlease_ttl_ms = 7000\n')
    (tmp_path / ".env").write_text("REDIS_PORT=2\nREDIS_DB=2\nLEASE=ignored\nREDIS_USE_TLS=true\n", encoding="utf-8")
    environ = {"REDIS_DB": "3", "A2A_RESULT_TTL_S": "600"}
    settings = load(
        CoordinatorSettings, {"result_ttl_s": "900", "bind": None}, config=config, environ=environ, directory=tmp_path
    )
    assert settings.redis_host == "toml"
    assert settings.redis_port == 2
    assert settings.redis_use_tls is True
    assert settings.redis_db == 3
    assert settings.result_ttl_s == 900
    assert settings.lease_ttl_ms == 7000
    assert settings.heartbeat_interval_ms == 200


# What the specification's .env has, by its headings.
SPECIFIED = {
    "REDIS_HOST": "redis.example",
    "REDIS_PORT": "6380",
    "REDIS_DB": "2",
    "REDIS_PASSWORD": "hunter2",
    "REDIS_USE_TLS": "true",
    "COORDINATOR_ID": "coordinator-2",
    "DISTRIBUTOR_ID": "gpu-7",
    "WORKER_ID": "gpu-7-1",
    "A2A_USE_MTLS": "false",
    "A2A_CERT_PATH": "/keys/peers.json",
    "A2A_KEY_PATH": "/keys/gpu-7.key",
    "A2A_TOKEN_SECRET": "0123456789abcdef",
}


def env_file(directory: Path, values: dict[str, str]) -> None:
    (directory / ".env").write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")


@pytest.mark.parametrize("name", SPECIFIED)
def test_each_name_of_the_specifications_env_file_is_honoured(tmp_path: Path, name: str) -> None:
    pair = {"A2A_CERT_PATH", "A2A_KEY_PATH"}  # these two go together
    given = pair if name in pair else {name}
    setting = name.removeprefix("A2A_").lower()
    readers = 0
    for model in MODELS:
        (tmp_path / ".env").unlink(missing_ok=True)
        before = load(model, environ={}, directory=tmp_path)
        env_file(tmp_path, {each: SPECIFIED[each] for each in given})
        after = load(model, environ={}, directory=tmp_path)
        changed = {
            each for each in model.model_fields if each != "state_dir" and getattr(before, each) != getattr(after, each)
        }
        assert changed == (
            {each.removeprefix("A2A_").lower() for each in given} if setting in model.model_fields else set()
        )
        readers += setting in model.model_fields
    assert readers


def test_the_specifications_env_file_configures_redis_and_messages(tmp_path: Path) -> None:
    env_file(tmp_path, SPECIFIED)
    settings = load(DistributorSettings, environ={}, directory=tmp_path)
    redis, a2a = settings.redis_config(), settings.a2a_config()
    assert redis.url() == "rediss://:hunter2@redis.example:6380/2"
    assert (settings.agent_id, settings.coordinator_id) == ("gpu-7", "coordinator-2")
    assert (a2a.agent_id, a2a.cert_path, a2a.key_path) == ("gpu-7", Path("/keys/peers.json"), Path("/keys/gpu-7.key"))
    assert not a2a.use_mtls
    assert a2a.token_secret is not None
    assert "hunter2" not in repr(settings)
    assert "0123456789abcdef" not in repr(settings)


def test_the_specifications_env_file_as_it_stands_there_is_valid(tmp_path: Path) -> None:
    given = {
        "REDIS_HOST": "localhost",
        "REDIS_PORT": "6379",
        "REDIS_DB": "0",
        "REDIS_PASSWORD": "",
        "REDIS_USE_TLS": "false",
        "COORDINATOR_ID": "coordinator-1",
        "DISTRIBUTOR_ID": "distributor-1",
        "WORKER_ID": "worker-1",
        "A2A_USE_MTLS": "false",
        "A2A_CERT_PATH": "/path/to/cert.pem",
        "A2A_KEY_PATH": "/path/to/key.pem",
        "A2A_TOKEN_SECRET": "your-secret-token",
    }
    assert set(given) == set(SPECIFIED)
    env_file(tmp_path, given)
    for model in MODELS:
        load(model, environ={}, directory=tmp_path)


def test_an_empty_variable_is_one_that_is_not_set(tmp_path: Path) -> None:
    settings = load(CoordinatorSettings, environ={"REDIS_PASSWORD": "", "REDIS_PORT": " "}, directory=tmp_path)
    assert settings.redis_password is None
    assert settings.redis_port == 6379


@pytest.mark.parametrize(
    ("model", "environ", "words"),
    [
        (CoordinatorSettings, {"REDIS_PORT": "many"}, ["REDIS_PORT in the environment", "'many'", "integer"]),
        (CoordinatorSettings, {"REDIS_PORT": "70000"}, ["REDIS_PORT", "70000"]),
        (WorkerSettings, {"A2A_WORKR_SLOTS": "3"}, ["unknown variable A2A_WORKR_SLOTS", "A2A_WORKER_SLOTS?"]),
        (WorkerSettings, {"A2A_TOKEN_SECRET": "hunter2"}, ["A2A_TOKEN_SECRET", "16 bytes"]),
        (WorkerSettings, {"WORKER_ID": "a b"}, ["WORKER_ID", "'a b'"]),
        (WorkerSettings, {"A2A_WORKER_LABELS": "gpu"}, ["A2A_WORKER_LABELS", "name=value"]),
        (WorkerSettings, {"A2A_DISTRIBUTOR_ADDRESS": "localhost:5560"}, ["A2A_DISTRIBUTOR_ADDRESS", "tcp://HOST:PORT"]),
        (WorkerSettings, {"A2A_HEARTBEAT_INTERVAL_MS": "400"}, ["heartbeat_interval_ms", "400, 500, 800"]),
        (WorkerSettings, {"A2A_DEAD_AFTER_MS": "500"}, ["suspect_after_ms < dead_after_ms"]),
        (WorkerSettings, {"A2A_KEY_PATH": "/k"}, ["cert_path and key_path go together"]),
        (WorkerSettings, {"A2A_REDIS_KEY_PATH": "/k"}, ["redis_cert_path and redis_key_path go together"]),
        (WorkerSettings, {"A2A_REDIS_CA_PATH": "/c"}, ["redis_ca_path is for TLS", "nothing is encrypted"]),
        (WorkerSettings, {"A2A_REDIS_USERNAME": "a2a"}, ["redis_username needs redis_password"]),
        (CoordinatorSettings, {"A2A_LEASE_TTL_MS": "600"}, ["lease_ttl_ms (600)", "heartbeat_interval_ms (200)"]),
        (CoordinatorSettings, {"A2A_USE_MTLS": "no", "A2A_BIND": "tcp://*:5550"}, ["use_mtls=false", "tcp://*:5550"]),
        (CoordinatorSettings, {"A2A_LOG_FORMAT": "xml"}, ["A2A_LOG_FORMAT", "'json'"]),
        (DistributorSettings, {"A2A_COORDINATOR_ADDRESS": ","}, ["A2A_COORDINATOR_ADDRESS"]),
    ],
)
def test_a_wrong_value_gets_one_line_that_names_setting_and_source(
    tmp_path: Path, model: type[Settings], environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(model, environ=environ, directory=tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert "hunter2" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\nredis_prot = 1\n", ["some.toml:2: ", "unknown key 'redis_prot'", "redis_port?"]),
        ("#\nredis_port = \n", ["some.toml:2: not valid TOML: Invalid value"]),
        ('#\n\nredis_port = "x"\n', ["redis_port in", "some.toml:3: ", "'x'"]),
        ("[redis]\nport = 1\n", ["unknown key 'redis'"]),
        ('coordinator_address = "tcp://h:1"\n', ["unknown key 'coordinator_address'"]),
    ],
)
def test_a_wrong_toml_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    config = toml_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(CoordinatorSettings, config=config, environ={}, directory=tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_toml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(WorkerSettings, config=tmp_path / "none.toml", environ={}, directory=tmp_path)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("REDIS_HOST=a.example", "a.example"),
        ("export REDIS_HOST = a.example   # the big one", "a.example"),
        ("REDIS_HOST='a # b'", "a # b"),
        ('REDIS_HOST="a b"  # quoted', "a b"),
        ("# a comment\n\nREDIS_HOST=x=y", "x=y"),
    ],
)
def test_env_file_lines(tmp_path: Path, line: str, value: str) -> None:
    (tmp_path / ".env").write_text(line + "\n", encoding="utf-8")
    assert load(CoordinatorSettings, environ={}, directory=tmp_path).redis_host == value


@pytest.mark.parametrize("text", ["REDIS_HOST\n", "REDIS_HOST='a\n", "A2A_WORKR_SLOTS=1\n"])
def test_a_wrong_env_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\.env"):
        load(WorkerSettings, environ={}, directory=tmp_path)


def test_one_environment_may_serve_all_roles(tmp_path: Path) -> None:
    environ = {env_name(name): "" for model in MODELS for name in model.model_fields}
    environ["A2A_WORKER_SLOTS"] = "7"
    environ["A2A_REDIS_APPENDFSYNC"] = "always"
    for model in MODELS:
        load(model, environ=environ, directory=tmp_path)


def test_default_ports_follow_the_number_of_the_agent(tmp_path: Path) -> None:
    def of(model: type[Settings], **environ: str) -> Settings:
        return load(model, environ=environ, directory=tmp_path)

    coordinator = of(CoordinatorSettings)
    assert isinstance(coordinator, CoordinatorSettings)
    assert coordinator.hub_address() == "tcp://127.0.0.1:5550"
    assert coordinator.metrics_address == ("127.0.0.1", 9550)
    distributor = of(DistributorSettings, DISTRIBUTOR_ID="distributor-3")
    assert isinstance(distributor, DistributorSettings)
    assert distributor.hub_address() == "tcp://127.0.0.1:5562"
    assert distributor.metrics_address[1] == 9562
    assert distributor.spoke_addresses() == ("tcp://127.0.0.1:5550",)
    worker = of(WorkerSettings, WORKER_ID="worker-2", DISTRIBUTOR_ID="distributor-3")
    assert isinstance(worker, WorkerSettings)
    assert worker.spoke_addresses() == ("tcp://127.0.0.1:5562",)
    assert worker.metrics_address[1] == 9571
    assert (number_of("gpu"), number_of("a0"), number_of("site-12")) == (1, 1, 12)


def test_several_coordinators_with_names(tmp_path: Path) -> None:
    text = "coordinator-1@tcp://10.0.0.1:5550, coordinator-2@tcp://10.0.0.2:5550"
    settings = load(ClientSettings, environ={"A2A_COORDINATOR_ADDRESS": text}, directory=tmp_path)
    assert settings.a2a_config().connect_addresses == tuple(text.split(", "))


def test_state_directory_default_is_below_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/etc/a2a-zmq").is_dir():
        pytest.skip("this host is set up for a system-wide fleet")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load(WorkerSettings, environ={}, directory=tmp_path).keys == tmp_path / "a2a-zmq" / "keys"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(WorkerSettings, environ={}, directory=tmp_path).state_dir == tmp_path / ".local/state/a2a-zmq"
    given = load(WorkerSettings, environ={"A2A_STATE_DIR": "~/fleet"}, directory=tmp_path)
    assert given.state_dir == tmp_path / "fleet"


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = toml_file(tmp_path, "worker_slots = 5\nredis_wait_s = 1\n".partition("redis")[0])
    argv = ["--config", str(config), "--id", "worker-9", "--worker-labels", "site=a,gpu=no", "--log-level=debug"]
    settings = load_or_exit(WorkerSettings, argv)
    assert (settings.agent_id, settings.worker_slots, settings.log_level) == ("worker-9", 5, "debug")
    assert settings.worker_labels == {"site": "a", "gpu": "no"}


@pytest.mark.parametrize(
    ("argv", "ends"),
    [
        (["--worker-slots", "none"], (78, "--worker-slots: 'none'")),
        (["--id", "bad name!"], (78, "--id: 'bad name!': an agent id has")),
        (["--worker-id", "bad name!"], (78, "--worker-id: 'bad name!': an agent id has")),
        (
            ["--distributor-address", "tcp://h:99999"],
            (78, "--distributor-address: 'tcp://h:99999': port 99999 is too high"),
        ),
        (["--config", "/nowhere/a.toml"], (78, "/nowhere/a.toml: cannot be read")),
        (["--worker-slot", "1"], (2, "unrecognized arguments: --worker-slot")),
        (["--token-secret", "x"], (2, "unrecognized arguments")),
        (["--id"], (2, "expected one argument")),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2_or_78(
    argv: list[str],
    ends: tuple[int, str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        load_or_exit(WorkerSettings, argv)
    assert caught.value.code == ends[0]
    err = capsys.readouterr().err
    assert err.startswith("a2a-worker: ")
    assert err.count("\n") == 1
    assert ends[1] in err


@pytest.mark.parametrize("model", MODELS)
def test_help_and_version_exit_0(model: type[Settings], capsys: pytest.CaptureFixture[str]) -> None:
    for flag, word in (("--help", "--config FILE.toml"), ("--version", f"a2a-{model.role} ")):
        with pytest.raises(SystemExit) as caught:
            load_or_exit(model, [flag])
        assert caught.value.code == 0
        assert word in capsys.readouterr().out


@given(st.dictionaries(st.sampled_from(sorted(WorkerSettings.model_fields)), st.text(max_size=20), max_size=4))
def test_any_text_is_a_value_or_a_one_line_error(values: dict[str, str]) -> None:
    message = ""
    try:
        load(WorkerSettings, values, environ={}, directory=Path("/nonexistent"))
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message


def test_reference_in_the_documentation_is_up_to_date(repository: Path) -> None:
    text = (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert reference() in text, (
        "run `python -m daemons.settings_reference` and put its table into docs/configuration.md"
    )


def test_env_example_is_valid(repository: Path, tmp_path: Path) -> None:
    text = (repository / ".env.example").read_text(encoding="utf-8")
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    for model in MODELS:
        load(model, environ={}, directory=tmp_path)
    uncommented = "\n".join(line.removeprefix("#") for line in text.splitlines() if "=" in line)
    (tmp_path / ".env").write_text(uncommented, encoding="utf-8")
    assert load(RedisServerSettings, environ={}, directory=tmp_path).redis_appendfsync == "everysec"


@pytest.mark.parametrize(
    ("listens", "advertise", "target"),
    [
        ("127.0.0.1", "", "127.0.0.1:9570"),
        ("10.0.0.7", "", "10.0.0.7:9570"),
        ("0.0.0.0", "", "box:9570"),
        ("0.0.0.0", "w7.example.org", "w7.example.org:9570"),
        ("127.0.0.1", "proxy:1234", "proxy:1234"),
        ("0.0.0.0", "[2001:db8::7]", "[2001:db8::7]:9570"),
        ("0.0.0.0", "[2001:db8::7]:80", "[2001:db8::7]:80"),
    ],
)
def test_where_prometheus_is_told_to_look(listens: str, advertise: str, target: str, tmp_path: Path) -> None:
    given = {"metrics_host": listens, "metrics_advertise": advertise}
    settings = load(WorkerSettings, given, environ={}, directory=tmp_path)
    assert scrape_target(settings.metrics_host, 9570, settings.metrics_advertise, "box") == target


@pytest.mark.parametrize("advertise", ["http://w7", "w7:", "w7:x", "2001:db8::7", "w 7", "w7:9570/metrics"])
def test_what_prometheus_cannot_look_at_is_no_address(advertise: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics-advertise: .* expected HOST"):
        load(WorkerSettings, {"metrics_advertise": advertise}, environ={}, directory=tmp_path)
