"""The relay on a link: it passes, holds one direction or both, and cuts; and processes of a running fleet are told."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemons.cli.chaos.relays import Relays, RemoteRelay
from daemons.cli.chaos.running import agents_of, find, listening_ports

WaitUntil = Callable[..., None]


@pytest.fixture
def relays() -> Iterator[Relays]:
    with Relays() as relays:
        yield relays


@pytest.fixture
def ends(relays: Relays) -> Iterator[tuple[RemoteRelay, socket.socket, socket.socket]]:
    """A relay, and both ends of a connection through it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        relay = relays.add()
        relay.aim(*server.getsockname())
        with socket.create_connection(("127.0.0.1", relay.port), 5) as near:
            far, _ = server.accept()
            with far:
                for one in (near, far):
                    one.settimeout(5)
                near.sendall(b"hello")
                assert far.recv(64) == b"hello"
                yield relay, near, far


def silent(end: socket.socket) -> bool:
    end.settimeout(0.05)
    try:
        return not end.recv(64)
    except TimeoutError:
        return True
    finally:
        end.settimeout(5)


def test_it_holds_one_direction_and_lets_go_of_what_piled_up(
    ends: tuple[RemoteRelay, socket.socket, socket.socket],
) -> None:
    relay, near, far = ends
    relay.let(there=False)
    near.sendall(b"question")
    far.sendall(b"answer")
    assert near.recv(64) == b"answer"
    assert silent(far)
    relay.let()
    assert far.recv(64) == b"question"


def test_it_holds_both_directions_and_new_connections(ends: tuple[RemoteRelay, socket.socket, socket.socket]) -> None:
    relay, near, far = ends
    relay.let(there=False, back=False)
    near.sendall(b"question")
    far.sendall(b"answer")
    assert silent(near)
    assert silent(far)
    with socket.create_connection(("127.0.0.1", relay.port), 5):
        assert relay.opened() == 1
    relay.let()
    assert (near.recv(64), far.recv(64)) == (b"answer", b"question")


def test_a_cut_ends_connections_and_serves_new_ones(
    ends: tuple[RemoteRelay, socket.socket, socket.socket], wait_until: WaitUntil
) -> None:
    relay, near, far = ends
    relay.cut()
    for end in (near, far):
        with contextlib.suppress(ConnectionResetError):  # which end is told how is the kernel's choice
            assert end.recv(64) == b""
    with socket.create_connection(("127.0.0.1", relay.port), 5):
        wait_until(lambda: relay.opened() == 2, "it connects again")


# ---------------------------------------------------------------- processes of a running fleet


def test_a_process_is_told_by_its_program_and_its_id(tmp_path: Path, wait_until: WaitUntil) -> None:
    name = f"w-{os.getpid()}"
    program = tmp_path / "a2a-worker"
    program.write_text(
        f"#!{sys.executable}\nimport socket, time\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\ntime.sleep(60)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    env = {**os.environ, "WORKER_ID": f"{name}-b"}
    with (
        subprocess.Popen([program, "--id", name], stdout=subprocess.PIPE) as by_flag,
        subprocess.Popen([program], env=env, stdout=subprocess.DEVNULL) as by_variable,
        subprocess.Popen(["/bin/sleep", "60"], env=env) as other,
    ):
        try:
            wait_until(lambda: find("worker", name) == [by_flag.pid], "it is found by its flag")
            wait_until(lambda: find("worker", f"{name}-b") == [by_variable.pid], "it is found by its variable")
            assert find("distributor", name) == []
            assert by_flag.stdout is not None
            port = int(by_flag.stdout.readline())
            assert listening_ports(by_flag.pid) == {port}
        finally:
            for process in (by_flag, by_variable, other):
                process.kill()


def test_only_agents_that_are_up_are_hit() -> None:
    status = {
        "coordinator": {"id": "c1"},
        "distributors": [
            {"id": "d1", "up": True, "workers": [{"id": "w1", "up": True}, {"id": "w2", "up": False}]},
            {"id": "d2", "up": False, "workers": []},
        ],
    }
    assert agents_of(status) == {"coordinator": ["c1"], "distributor": ["d1"], "worker": ["w1"]}
