"""Daemons that cannot start: an exit status that a supervisor understands, and one line that says what to mend."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest

from a2a_zmq.security.keyring import KeyDirectory
from daemons.cli.fleet import free_ports
from daemons.redis.embedded import EmbeddedRedis
from tests.integration.rig import one_line, run

EX_TEMPFAIL, EX_CONFIG = 75, 78
DAEMONS = ("a2a-coordinator", "a2a-distributor", "a2a-worker")


class Host:
    """A host with a Redis that asks for a password, free ports, and an empty state directory."""

    def __init__(self, directory: Path, server: EmbeddedRedis) -> None:
        self.directory = directory
        ports = free_ports(3)
        self.hub = f"tcp://127.0.0.1:{ports[0]}"
        self.metrics_port = ports[1]
        self.env = {
            "A2A_STATE_DIR": str(directory / "state"),
            "A2A_METRICS_PORT": str(self.metrics_port),
            "REDIS_PORT": str(server.port),
            "REDIS_PASSWORD": "right one",
            "A2A_COORDINATOR_ADDRESS": f"tcp://127.0.0.1:{ports[2]}",
        }

    def start(self, program: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        if program in ("a2a-coordinator", "a2a-distributor") and "--bind" not in arguments:
            arguments = ("--bind", self.hub, *arguments)
        return run(program, *arguments, env={**self.env, **env}, cwd=self.directory)


@pytest.fixture
def host(server: EmbeddedRedis, tmp_path: Path) -> Host:
    return Host(tmp_path, server)


def refused(done: subprocess.CompletedProcess[str], status: int, *says: str) -> None:
    """The daemon ended with this status, and one line that has these words; what it logged before is JSON."""
    program = Path(done.args[0]).name
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode == status, (done.returncode, done.stderr)
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"{program}: "), lines[0]
    for text in says:
        assert text in lines[0], lines[0]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("program", [*DAEMONS, "a2a-redis"])
def test_an_unknown_key_in_a_file(host: Host, program: str) -> None:
    file = host.directory / "my.toml"
    file.write_text('log_levle = "debug"\n')
    refused(host.start(program, "--config", str(file)), EX_CONFIG, str(file), "'log_levle'", "did you mean log_level?")


@pytest.mark.parametrize("program", [*DAEMONS, "a2a-redis"])
def test_a_file_that_is_not_toml(host: Host, program: str) -> None:
    file = host.directory / "my.toml"
    file.write_text("log_level = [\n")
    refused(host.start(program, "--config", str(file)), EX_CONFIG, str(file), "not valid TOML")
    refused(host.start(program, "--config", "/nowhere.toml"), EX_CONFIG, "/nowhere.toml", "cannot be read")


@pytest.mark.parametrize("program", [*DAEMONS, "a2a-redis"])
def test_an_unknown_variable(host: Host, program: str) -> None:
    done = host.start(program, A2A_LOG_LEVLE="debug")
    refused(done, EX_CONFIG, "A2A_LOG_LEVLE", "environment", "did you mean A2A_LOG_LEVEL?")


def test_a_wrong_line_in_a_dotenv_file(host: Host) -> None:
    file = host.directory / ".env"
    file.write_text("# settings\nREDIS_PORT=6379\nlog level = info\n")
    refused(host.start("a2a-worker"), EX_CONFIG, f"{file}, line 3")


@pytest.mark.parametrize(
    ("program", "name", "value"),
    [
        ("a2a-coordinator", "A2A_METRICS_PORT", "70000"),
        ("a2a-coordinator", "REDIS_PORT", "none"),
        ("a2a-coordinator", "A2A_BIND", "127.0.0.1:5550"),
        ("a2a-coordinator", "COORDINATOR_ID", "no id"),
        ("a2a-distributor", "A2A_COORDINATOR_ADDRESS", "http://somewhere"),
        ("a2a-distributor", "A2A_USE_MTLS", "perhaps"),
        ("a2a-worker", "A2A_WORKER_SLOTS", "0"),
        ("a2a-worker", "A2A_WORKER_LABELS", "gpu"),
        ("a2a-worker", "A2A_DEAD_AFTER_MS", "100"),
        ("a2a-worker", "A2A_WORKER_HANDLERS", "no.such.module"),
    ],
)
def test_a_wrong_value_names_its_variable(host: Host, program: str, name: str, value: str) -> None:
    done = run(program, env={**host.env, name: value}, cwd=host.directory)
    wanted = {"A2A_DEAD_AFTER_MS": "dead_after_ms", "A2A_WORKER_HANDLERS": "no.such.module"}.get(name, name)
    refused(done, EX_CONFIG, wanted)


def test_secrets_are_not_repeated(host: Host) -> None:
    done = host.start("a2a-worker", A2A_TOKEN_SECRET="tooshort")
    refused(done, EX_CONFIG, "A2A_TOKEN_SECRET", "16 bytes")
    assert "tooshort" not in done.stderr


def test_without_encryption_only_this_host_is_served(host: Host) -> None:
    done = run(
        "a2a-coordinator",
        "--bind",
        "tcp://0.0.0.0:5550",
        env={**host.env, "A2A_USE_MTLS": "false"},
        cwd=host.directory,
    )
    refused(done, EX_CONFIG, "use_mtls=false", "tcp://0.0.0.0:5550")


def test_a_handler_module_that_does_not_load_is_named(host: Host) -> None:
    (host.directory / "my_handlers.py").write_text("raise RuntimeError('not today')\n")
    done = host.start("a2a-worker", A2A_WORKER_HANDLERS="my_handlers", PYTHONPATH=str(host.directory))
    refused(done, EX_CONFIG, "worker_handlers", "my_handlers", "not today")


# ---------------------------------------------------------------- ports


@pytest.mark.parametrize("program", ["a2a-coordinator", "a2a-distributor"])
def test_the_messages_port_is_in_use(host: Host, program: str) -> None:
    with socket.create_server(("127.0.0.1", int(host.hub.rpartition(":")[2]))):
        refused(host.start(program), EX_CONFIG, host.hub, "in use")


@pytest.mark.parametrize("program", DAEMONS)
def test_the_metrics_port_is_in_use(host: Host, program: str) -> None:
    with socket.create_server(("127.0.0.1", host.metrics_port)):
        refused(host.start(program), EX_CONFIG, f"metrics_port: 127.0.0.1:{host.metrics_port} is in use")


def test_the_port_of_redis_is_in_use(host: Host, server: EmbeddedRedis) -> None:
    """Not a wrong setting: the last server may be about to leave it."""
    done = host.start("a2a-redis")
    assert done.returncode == EX_TEMPFAIL
    assert str(server.port) in one_line(done, "a2a-redis")


# ---------------------------------------------------------------- Redis


@pytest.mark.parametrize("program", ["a2a-coordinator", "a2a-distributor"])
def test_redis_is_not_there(host: Host, program: str) -> None:
    began = time.monotonic()
    (port,) = free_ports(1)
    done = host.start(program, REDIS_PORT=str(port), A2A_REDIS_WAIT_S="0.5")
    refused(done, EX_TEMPFAIL, f"127.0.0.1:{port}", "cannot be used")
    assert time.monotonic() - began > 0.5
    assert "right one" not in done.stderr


@pytest.mark.parametrize("program", ["a2a-coordinator", "a2a-distributor"])
@pytest.mark.parametrize("password", ["wrong one", ""])
def test_redis_refuses_the_password(host: Host, program: str, password: str) -> None:
    done = host.start(program, REDIS_PASSWORD=password)
    refused(done, EX_CONFIG, "cannot be used", "noauth")
    assert "wrong one" not in done.stderr


def test_what_listens_there_is_no_redis(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = host.start("a2a-coordinator", REDIS_PORT=str(silent.getsockname()[1]), A2A_REDIS_WAIT_S="0.5")
    refused(done, EX_TEMPFAIL, "cannot be used")


def test_the_embedded_server_does_not_listen_to_the_world_without_a_password(host: Host) -> None:
    done = host.start("a2a-redis", REDIS_HOST="0.0.0.0", REDIS_PASSWORD="", REDIS_PORT=str(free_ports(1)[0]))
    assert done.returncode == EX_CONFIG
    assert "password" in one_line(done, "a2a-redis").lower()


# ---------------------------------------------------------------- keys


@pytest.fixture
def keys(host: Host) -> KeyDirectory:
    directory = KeyDirectory(host.directory / "state" / "keys")
    directory.init({"coordinator-1": "coordinator", "distributor-1": "distributor", "worker-1": "worker"})
    return directory


def test_key_files_that_others_can_read(host: Host, keys: KeyDirectory) -> None:
    keys.key_file("worker-1").chmod(0o644)
    refused(host.start("a2a-worker"), EX_CONFIG, str(keys.key_file("worker-1")), "0644", "chmod 0600")
    keys.key_file("worker-1").chmod(0o600)
    keys.path.chmod(0o755)
    refused(host.start("a2a-worker"), EX_CONFIG, str(keys.path), "0755", "chmod 0700")


def test_a_damaged_key_file(host: Host, keys: KeyDirectory) -> None:
    keys.key_file("worker-1").write_text("{")
    refused(host.start("a2a-worker"), EX_CONFIG, str(keys.key_file("worker-1")))


def test_a_revoked_agent(host: Host, keys: KeyDirectory) -> None:
    keys.revoke("worker-1")
    refused(host.start("a2a-worker"), EX_CONFIG, "worker-1 is revoked", "a2actl keys add")


def test_a_name_in_another_role(host: Host, keys: KeyDirectory) -> None:
    refused(host.start("a2a-worker", "--id", "distributor-1"), EX_CONFIG, "distributor-1 is a distributor")


def test_keys_of_another_fleet(host: Host, keys: KeyDirectory) -> None:
    other = KeyDirectory(host.directory / "other")
    other.init({"worker-1": "worker"})
    done = host.start("a2a-worker", A2A_KEY_PATH=str(other.key_file("worker-1")), A2A_CERT_PATH=str(keys.peers_json))
    refused(done, EX_CONFIG, "another fleet's")


def test_a_host_without_the_keys_it_needs(host: Host, keys: KeyDirectory) -> None:
    keys.export("worker-1", host.directory / "exported")
    done = host.start("a2a-worker", "--id", "worker-2", A2A_KEY_DIR=str(host.directory / "exported"))
    refused(done, EX_CONFIG, "worker-2", "a2actl keys export worker-2")
