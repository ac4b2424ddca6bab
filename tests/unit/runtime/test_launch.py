"""How daemons start and end as processes: exit statuses, one clear line where they cannot run, signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import uvloop

from a2a_zmq.protocol.message import Role
from a2a_zmq.security.keydir import KeyDirectory
from daemons.runtime.launch import Daemon
from daemons.settings import WorkerSettings
from tests.conftest import WaitUntil
from tests.unit.runtime.fakes import ScriptedCore, at

SECRET = "sixteen bytes and a few more"
EX_OK, EX_SOFTWARE, EX_TEMPFAIL, EX_CONFIG = 0, 70, 75, 78


class Host:
    """A host without any fleet: a home and a key directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.keys = home / "keys"
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, role: str, *flags: str, code: str = "", **env: str) -> subprocess.Popen[bytes]:
        """Start a daemon; what it says goes to :attr:`said`."""
        command = [sys.executable, "-c", code] if code else [sys.executable, "-m", f"daemons.{role}.main"]
        everything = {**os.environ, "A2A_STATE_DIR": str(self.home), "A2A_METRICS_PORT": "0", **env}
        with (self.home / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [*command, *flags], env=everything, cwd=self.home, stdin=subprocess.DEVNULL, stderr=stderr
            )
        self.running.append(process)
        return process

    def run(self, role: str, *flags: str, code: str = "", **env: str) -> tuple[int, str]:
        """Exit status and last line of a daemon that ends by itself."""
        process = self.start(role, *flags, code=code, **env)
        status = process.wait(20)
        return status, self.said.rstrip("\n").rpartition("\n")[2]

    @property
    def said(self) -> str:
        return (self.home / "stderr").read_text()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait()


@contextmanager
def redis_of_sorts(answer: bytes = b"") -> Iterator[int]:
    """A port where something like a Redis gives this answer to every command, or is content with all of them."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while said := connection.recv(4096):
                    for command in said.split(b"*")[1:]:
                        good = b"+PONG\r\n" if b"PING" in command else b"+OK\r\n"
                        connection.sendall(answer or good)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=talk, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
    thread.join(5.0)


# ---------------------------------------------------------------- what cannot run


@pytest.mark.parametrize(
    ("role", "flags", "env", "words"),
    [
        ("coordinator", ["--lease-ttl-ms", "soon"], {}, ["--lease-ttl-ms", "'soon'"]),
        ("distributor", [], {"REDIS_PORT": "99999"}, ["REDIS_PORT", "99999"]),
        ("worker", [], {"A2A_WORKER_SLOTS": "0"}, ["A2A_WORKER_SLOTS", "'0'"]),
        ("worker", [], {"A2A_WORKER_SLOT": "2"}, ["A2A_WORKER_SLOT", "did you mean"]),
        ("worker", [], {"A2A_TOKEN_SECRET": "short"}, ["A2A_TOKEN_SECRET", "16 bytes"]),
        (
            "coordinator",
            [],
            {"A2A_STATE_DIR": "/proc/nowhere", "A2A_KEY_DIR": ""},
            ["/proc/nowhere/keys: cannot be made"],
        ),
        ("worker", ["--config", "missing.toml"], {}, ["missing.toml"]),
        ("coordinator", ["--bind", "tcp://0.0.0.0:5550"], {"A2A_USE_MTLS": "false"}, ["use_mtls", "other hosts"]),
        ("worker", [], {"A2A_KEY_PATH": "/nowhere/w.key", "A2A_CERT_PATH": "/nowhere/peers.json"}, ["/nowhere/"]),
        ("worker", [], {"A2A_WORKER_HANDLERS": "no.such.module"}, ["no.such.module"]),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_78(
    host: Host, role: str, flags: list[str], env: dict[str, str], words: list[str]
) -> None:
    status, line = host.run(role, *flags, **env)
    assert status == EX_CONFIG
    assert line.startswith(f"a2a-{role}: ")
    assert all(word in line for word in words), line
    assert host.said.count("\n") == 1, "one line, and no traceback"


def test_a_port_in_use_is_named(host: Host) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, redis_of_sorts() as redis_port:
        port, env = taken.getsockname()[1], {"REDIS_PORT": str(redis_port)}
        status, line = host.run("coordinator", "--bind", f"tcp://127.0.0.1:{port}", **env)
        assert (status, line) == (EX_CONFIG, f"a2a-coordinator: tcp://127.0.0.1:{port} is in use by another process")
        status, line = host.run("coordinator", "--bind", "tcp://127.0.0.1:*", "--metrics-port", str(port), **env)
        assert status == EX_CONFIG
        assert "metrics_port" in line
        assert str(port) in line


def test_a_key_file_that_others_can_read_is_refused(host: Host) -> None:
    KeyDirectory(host.keys).init({"worker-1": Role.WORKER, "distributor-1": Role.DISTRIBUTOR})
    (host.keys / "worker-1.key").chmod(0o640)
    status, line = host.run("worker")
    assert status == EX_CONFIG
    assert "worker-1.key" in line
    assert "chmod 0600" in line


def test_a_hub_whose_key_is_missing_is_named_with_what_to_do(host: Host) -> None:
    issuing = KeyDirectory(host.home / "issuing host")
    issuing.init({"worker-1": Role.WORKER, "distributor-1": Role.DISTRIBUTOR})
    issuing.export("worker-1", host.keys)
    status, line = host.run("worker", "--distributor-id", "d7")
    assert status == EX_CONFIG
    assert line == f"a2a-worker: no key of 'd7' in {host.keys}: make it with `a2actl keys add d7`"


def test_a_key_of_another_role_is_refused(host: Host) -> None:
    KeyDirectory(host.keys).init({"worker-1": Role.CLIENT, "distributor-1": Role.DISTRIBUTOR})
    status, line = host.run("worker")
    assert status == EX_CONFIG
    assert "worker-1 is a client, not a worker" in line


@pytest.mark.parametrize("wrong", ["handlers", "metrics port", "bind", "redis"])
def test_a_start_that_fails_makes_no_keys(host: Host, free_port: Callable[[], int], wrong: str) -> None:
    """A mistyped name with a mistake beside it must not become a member of the fleet."""
    KeyDirectory(host.keys).init({"worker-1": Role.WORKER, "distributor-1": Role.DISTRIBUTOR})
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        if wrong == "handlers":
            status, _ = host.run("worker", "--id", "wroker-1", A2A_WORKER_HANDLERS="no.such.module")
        elif wrong == "metrics port":
            status, _ = host.run("worker", "--id", "wroker-1", A2A_METRICS_PORT=port)
        elif wrong == "bind":
            with redis_of_sorts() as redis_port:
                address = f"tcp://127.0.0.1:{port}"
                status, _ = host.run("distributor", "--id", "dsit-1", "--bind", address, REDIS_PORT=str(redis_port))
        else:
            env = {"REDIS_PORT": str(free_port()), "A2A_REDIS_WAIT_S": "0.2"}
            status, _ = host.run("distributor", "--id", "dsit-1", **env)
    assert status in (EX_CONFIG, EX_TEMPFAIL)
    assert [one.name for one in KeyDirectory(host.keys).list()] == ["distributor-1", "worker-1"]


def test_new_keys_are_told(host: Host, wait_until: WaitUntil) -> None:
    KeyDirectory(host.keys).init({"worker-1": Role.WORKER, "distributor-1": Role.DISTRIBUTOR})
    host.start("worker", "--id", "wroker-1")
    wait_until(lambda: '"event":"started"' in host.said, "the worker has started", timeout_s=15.0)
    (line,) = [line for line in host.said.splitlines() if '"keys_made"' in line]
    assert '"peer":"wroker-1","peer_role":"worker"' in line


def test_a_lost_key_file_is_one_line_and_status_78(host: Host) -> None:
    KeyDirectory(host.keys).init({"worker-1": Role.WORKER, "distributor-1": Role.DISTRIBUTOR})
    (host.keys / "worker-1.key").unlink()
    status, line = host.run("worker")
    assert status == EX_CONFIG
    assert "worker-1.key: missing" in line
    assert "`a2actl keys rotate worker-1`" in line
    assert host.said.count("\n") == 1


def test_a_redis_that_stays_away_is_status_75_and_can_be_tried_again(host: Host, free_port: Callable[[], int]) -> None:
    status, line = host.run("coordinator", REDIS_PORT=str(free_port()), A2A_REDIS_WAIT_S="0.2")
    assert status == EX_TEMPFAIL
    assert line.startswith("a2a-coordinator: Redis at redis://127.0.0.1:")
    assert "connection" in line


def test_a_redis_that_refuses_our_password_is_status_78_and_the_password_is_not_told(host: Host) -> None:
    with redis_of_sorts(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n") as port:
        status, line = host.run("distributor", REDIS_PORT=str(port), REDIS_PASSWORD="not-the-password")
    assert status == EX_CONFIG
    assert "noauth" in line
    assert "not-the-password" not in host.said


BUG = """
import sys
from daemons.worker import main
def settle(self, now):
    raise LookupError("a mistake of ours")
main.WorkerCore.settle = settle
sys.exit(main.main())
"""


def test_a_mistake_of_ours_is_status_70_with_the_traceback_in_the_log(host: Host) -> None:
    status, line = host.run("worker", code=BUG, A2A_TOKEN_SECRET=SECRET)
    assert (status, line) == (EX_SOFTWARE, "a2a-worker: internal error: LookupError: a mistake of ours")
    assert '"event":"crashed"' in host.said
    assert "in settle" in host.said


HUNG = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from daemons.worker import main
def serve(*_):
    pool = ThreadPoolExecutor(thread_name_prefix=sys.argv[1])
    pool.submit(threading.Event().wait)
    sys.stdout.write("said")
    return int(sys.argv[2])
main.serve = serve
main.command_line = lambda *_: None
sys.exit(main.main())
"""


@pytest.mark.parametrize(("name", "status"), [("a2a-handler-call", EX_OK), ("of-the-users", EX_TEMPFAIL)])
def test_a_pool_in_which_a_handler_hangs_keeps_no_worker(tmp_path: Path, name: str, status: int) -> None:
    """Python waits for the threads of pools at its end. A supervisor ends whom it asked to leave; others nobody."""
    done = subprocess.run(
        [sys.executable, "-c", HUNG, name, str(status)], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (status, b"said")


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_status_0(host: Host, wait_until: WaitUntil, number: signal.Signals) -> None:
    process = host.start("worker", A2A_TOKEN_SECRET=SECRET)
    wait_until(lambda: '"event":"started"' in host.said, "the worker has started", timeout_s=15.0)
    process.send_signal(number)
    assert process.wait(10) == EX_OK
    assert number.name in host.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_waits_for_redis_lets_sighup_go_by_and_ends_at_once_when_asked(
    host: Host, wait_until: WaitUntil, free_port: Callable[[], int], number: signal.Signals
) -> None:
    process = host.start("distributor", A2A_TOKEN_SECRET=SECRET, REDIS_PORT=str(free_port()))
    wait_until(lambda: '"event":"waiting_for_redis"' in host.said, "it waits for Redis", timeout_s=15.0)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(number)
    assert process.wait(10) == EX_OK
    assert "Traceback" not in host.said


def test_a_start_that_imports_handlers_lets_sighup_go_by_and_ends_at_once_when_asked(
    host: Host, wait_until: WaitUntil
) -> None:
    (host.home / "slow.py").write_text("import pathlib, time\npathlib.Path('imports').touch()\ntime.sleep(60)\n")
    process = host.start("worker", A2A_TOKEN_SECRET=SECRET, A2A_WORKER_HANDLERS="slow", PYTHONPATH=str(host.home))
    wait_until((host.home / "imports").exists, "handlers are imported", timeout_s=15.0)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    assert process.wait(10) == EX_OK
    assert "Traceback" not in host.said


ENDS = """
import asyncio, sys, time
from daemons.runtime import serving
from daemons.worker import main
serving.CLOSE_S = 0.2
opened = main.open_worker
async def hang():
    print("closing", file=sys.stderr, flush=True)
    await asyncio.to_thread(time.sleep, 1000)
async def broken():
    raise LookupError("cannot be closed")
async def last():
    print("the last one is closed", file=sys.stderr, flush=True)
async def open_worker(settings):
    daemon = await opened(settings)
    daemon.on_exit += [{}]
    return daemon
main.open_worker = open_worker
sys.exit(main.main())
"""


def test_closing_that_hangs_is_ended_by_a_second_signal(host: Host, wait_until: WaitUntil) -> None:
    """A disk that hangs holds the thread of the spool, for which Python waits at the end of a process."""
    process = host.start("worker", code=ENDS.format("hang"), A2A_TOKEN_SECRET=SECRET)
    wait_until(lambda: '"event":"started"' in host.said, "the worker has started", timeout_s=15.0)
    process.terminate()
    wait_until(lambda: "closing" in host.said, "it closes")
    process.terminate()
    assert process.wait(10) == EX_OK
    assert '"event":"closing_hangs"' in host.said


def test_what_cannot_be_closed_keeps_nothing_else_open(host: Host, wait_until: WaitUntil) -> None:
    process = host.start("worker", code=ENDS.format("broken, last"), A2A_TOKEN_SECRET=SECRET)
    wait_until(lambda: '"event":"started"' in host.said, "the worker has started", timeout_s=15.0)
    process.terminate()
    assert process.wait(10) == EX_SOFTWARE
    assert "the last one is closed" in host.said
    assert host.said.rstrip().endswith("a2a-worker: internal error: LookupError: cannot be closed")


def test_sighup_reads_keys_again(host: Host, wait_until: WaitUntil) -> None:
    keys = KeyDirectory(host.keys)
    keys.init({"worker-1": Role.WORKER, "distributor-1": Role.DISTRIBUTOR})
    process = host.start("worker", A2A_SUPERVISION_INTERVAL_MS="60000")
    wait_until(lambda: '"event":"started"' in host.said, "the worker has started", timeout_s=15.0)
    keys.rotate("distributor-1")
    for times in (1, 2):  # the second time no file shows a change
        process.send_signal(signal.SIGHUP)
        wait_until(lambda times=times: host.said.count('"event":"keys_reloaded"') == times, "the keys are read")
    (host.keys / "peers.json").write_text("{")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: '"event":"keys_not_reloaded"' in host.said, "bad keys are reported")
    process.terminate()
    assert process.wait(10) == EX_OK


def test_sighup_changes_how_much_is_logged(host: Host, wait_until: WaitUntil) -> None:
    KeyDirectory(host.keys).init({"worker-1": Role.WORKER, "distributor-1": Role.DISTRIBUTOR})
    file = host.home / "worker.toml"
    file.write_text("")
    process = host.start("worker", "--config", "worker.toml")
    wait_until(lambda: '"event":"started"' in host.said, "the worker has started", timeout_s=15.0)

    def hang_up(text: str, until: str, times: int) -> None:
        file.write_text(text)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: host.said.count(until) == times, f"{until} stands in the log {times} times")

    hang_up('log_level = "error"\n', '"event":"settings_reloaded"', 1)
    hang_up('log_level = "error"\nworker_slots = 0\n', '"event":"settings_not_reloaded"', 1)
    hang_up('log_level = "info"\nworker_slots = 7\n', '"event":"settings_reloaded"', 2)
    hang_up('log_level = "info"\nworker_slots = 7\n', '"event":"settings_kept"', 2)
    assert "worker_slots in" in host.said
    process.terminate()
    assert process.wait(10) == EX_OK


# ---------------------------------------------------------------- metrics


async def _exposition(settings: WorkerSettings) -> str:
    daemon = Daemon(settings, Role.WORKER)
    core = ScriptedCore()
    for _ in range(3):
        assert daemon._counted(core.heartbeat)("d", at(1.0)) == {}
    return daemon.meter.exposition()[1].decode()


def test_heartbeats_that_ports_send_are_counted(tmp_path: Path) -> None:
    text = uvloop.run(_exposition(WorkerSettings(worker_id="w", key_dir=tmp_path / "keys")))
    assert 'a2a_heartbeats_total{direction="out"} 3.0' in text
    assert 'a2a_messages_total{direction="out",type="heartbeat"} 3.0' in text
