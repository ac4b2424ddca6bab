"""Who takes the place of a process that a killed supervisord left behind: nobody who could not start there."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from a2a_zmq.protocol.message import Role
from a2a_zmq.security.keyring import KeyDirectory
from daemons.cli.fleet import free_ports
from daemons.redis.embedded import EmbeddedRedis
from daemons.runtime.orphans import MARKS
from tests.integration.rig import PATIENCE_S, clean_environment, run, script, wait_until

EX_OK, EX_TEMPFAIL, EX_CONFIG = 0, 75, 78
NAP = "import time; time.sleep(120)"
ROLES = {"worker-1": Role.WORKER, "distributor-1": Role.DISTRIBUTOR, "coordinator-1": Role.COORDINATOR}


class Host:
    """A host on which a supervisord was killed: its programs run on, and ours is the next one of the same name."""

    def __init__(self, directory: Path, redis_port: int) -> None:
        self.directory = directory
        self.keys = directory / "state" / "keys"
        KeyDirectory(self.keys).init(ROLES)
        self.metrics_port, self.port = free_ports(2)
        marks = dict(zip(MARKS, (f"unix://{directory}/supervisor.sock", "ours", "ours"), strict=True))
        self.env = marks | {
            "A2A_STATE_DIR": str(directory / "state"),
            "A2A_METRICS_PORT": str(self.metrics_port),
            "REDIS_PORT": str(redis_port),
        }
        self.log = directory / "log"

    def export(self, name: str) -> None:
        """From now on there are only the keys of this agent, and no issuer's to make others with."""
        issuing = self.keys.rename(self.directory / "issuing host")
        KeyDirectory(issuing).export(name, self.keys)

    @contextmanager
    def running(self, *command: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process with our marks that no supervisord looks after."""
        with (
            self.log.open("ab") as output,
            subprocess.Popen(
                command,
                env=clean_environment({**self.env, **env}),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def events(self, name: str) -> int:
        return self.log.read_text().count(f'"event":"{name}"')


@pytest.fixture
def host(server: EmbeddedRedis, tmp_path: Path) -> Host:
    return Host(tmp_path, server.port)


@pytest.fixture
def foreign_port() -> Iterator[int]:
    """A port where a program listens that is none of ours."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        yield int(taken.getsockname()[1])


def left_alone(host: Host, program: str, env: dict[str, str], says: str, status: int = EX_CONFIG) -> None:
    """The new process ends by itself, and the one that runs is not asked to leave."""
    with host.running(sys.executable, "-S", "-c", NAP) as healthy:
        done = run(program, env={**host.env, **env}, cwd=host.directory)
        assert (done.returncode, says in done.stderr) == (status, True), (done.returncode, done.stderr)
        assert "it is asked to leave" not in done.stderr + done.stdout
        assert healthy.poll() is None


NOWHERE = "tcp://192.0.2.1:5550"  # of documentation: no host has it


@pytest.mark.parametrize(
    ("program", "env", "says"),
    [
        ("a2a-worker", {"A2A_WORKER_HANDLERS": "no_such_module"}, "cannot import handler module 'no_such_module'"),
        ("a2a-worker", {"A2A_WORKER_GRAPHS": "/nowhere/langgraph.json"}, "/nowhere/langgraph.json"),
        ("a2a-worker", {"A2A_SUPERVISION_NODES": "no_such_module:nodes"}, "no_such_module"),
        ("a2a-worker", {"A2A_WORKER_SLOTS": "0"}, "A2A_WORKER_SLOTS"),
        ("a2a-worker", {"DISTRIBUTOR_ID": "other"}, "no key of 'other'"),
        ("a2a-worker", {"A2A_METRICS_HOST": "192.0.2.1"}, "cannot be bound"),
        ("a2a-distributor", {"A2A_RETRY_POLICY": "no_such_module:graph"}, "no_such_module"),
        ("a2a-distributor", {"COORDINATOR_ID": "other"}, "no key of 'other'"),
        ("a2a-distributor", {"A2A_BIND": NOWHERE}, f"{NOWHERE} is not an address of this host"),
        ("a2a-distributor", {"REDIS_PASSWORD": "another"}, "cannot be used"),
        ("a2a-coordinator", {"A2A_PLACEMENT_POLICY": "no_such_module:graph"}, "no_such_module"),
        ("a2a-coordinator", {"A2A_BIND": NOWHERE}, f"{NOWHERE} is not an address of this host"),
        ("a2a-coordinator", {"A2A_BIND": "ipc:///tmp/a2a.sock"}, "open to other users"),
        ("a2a-coordinator", {"REDIS_PASSWORD": "another"}, "cannot be used"),
        ("a2a-redis", {"REDIS_HOST": "192.0.2.1"}, "192.0.2.1"),
        ("a2a-redis", {"A2A_STATE_DIR": "/proc/nowhere"}, "cannot be written"),
    ],
)
def test_a_wrong_setting_costs_nobody_its_place(host: Host, program: str, env: dict[str, str], says: str) -> None:
    if says.startswith("no key"):
        host.export(program.removeprefix("a2a-") + "-1")
    if program == "a2a-redis":
        env = {"REDIS_PORT": str(host.port), **env}
    left_alone(host, program, {"REDIS_PASSWORD": "right one", **env}, says)


@pytest.mark.parametrize("program", ["a2a-worker", "a2a-distributor", "a2a-coordinator"])
def test_keys_that_others_can_read_cost_nobody_its_place(host: Host, program: str) -> None:
    key = host.keys / f"{program.removeprefix('a2a-')}-1.key"
    key.chmod(0o640)
    left_alone(host, program, {"REDIS_PASSWORD": "right one"}, f"chmod 0600 {key}")


def test_a_port_that_a_stranger_holds_costs_nobody_its_place(host: Host, foreign_port: int) -> None:
    """What the process holds itself will be free; this will not."""
    port = str(foreign_port)
    left_alone(host, "a2a-worker", {"A2A_METRICS_PORT": port}, f"metrics_port: 127.0.0.1:{port} is in use")
    address = f"tcp://127.0.0.1:{port}"
    given = {"A2A_BIND": address, "REDIS_PASSWORD": "right one"}
    left_alone(host, "a2a-coordinator", given, f"{address} is in use by another process")
    left_alone(host, "a2a-redis", {"REDIS_PORT": port}, f"port {port} on 127.0.0.1 is in use", EX_TEMPFAIL)


@pytest.mark.parametrize("program", ["a2a-worker", "a2a-distributor", "a2a-coordinator"])
def test_one_that_can_start_takes_the_place_with_its_ports(host: Host, program: str) -> None:
    env = {"REDIS_PASSWORD": "right one"}
    if program != "a2a-worker":
        env["A2A_BIND"] = f"tcp://127.0.0.1:{host.port}"
    with host.running(script(program), **env) as old:
        wait_until(lambda: host.events("started") == 1 or old.poll() is not None, "the first one has started")
        with host.running(script(program), **env) as new:
            wait_until(lambda: host.events("started") == 2 or new.poll() is not None, "it is followed by the second")
            assert new.poll() is None, host.log.read_text()
            assert old.wait(PATIENCE_S) == EX_OK
            assert f"process {old.pid} was left behind" in host.log.read_text()
            new.send_signal(signal.SIGTERM)
            assert new.wait(PATIENCE_S) == EX_OK


def test_a_place_is_taken_with_a_new_state_directory_too(host: Host) -> None:
    """Its keys are made although the port is not free yet: it is going to be."""
    with host.running(script("a2a-worker")) as old:
        wait_until(lambda: host.events("started") == 1 or old.poll() is not None, "the first one has started")
        with host.running(script("a2a-worker"), A2A_STATE_DIR=str(host.directory / "new")) as new:
            wait_until(lambda: host.events("started") == 2 or new.poll() is not None, "it is followed by the second")
            assert new.poll() is None, host.log.read_text()
            assert old.wait(PATIENCE_S) == EX_OK
            new.terminate()
            assert new.wait(PATIENCE_S) == EX_OK
