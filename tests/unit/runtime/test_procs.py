"""What the operating system knows of processes, asked of real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from daemons.runtime.procs import (
    ProcessIdentity,
    is_gone,
    own_identity,
    owner_is_dead,
    owner_text,
    start_time_of,
    wait_gone,
)
from tests.conftest import WaitUntil

T = TypeVar("T")
Start = Callable[[], "subprocess.Popen[bytes]"]

NAP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
# A name with what separates the fields of /proc/PID/stat, and bytes that are no text.
RENAMED = [
    sys.executable,
    "-S",
    "-c",
    "open('/proc/self/comm', 'wb').write(b'a) R (b\\xff'); import time; time.sleep(60)",
]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process that does nothing for a minute; it is killed after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(command: list[str] = NAP) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(command))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine on either kind of event loop."""
    return uvloop.run if request.param == "uvloop" else asyncio.run


def started_at(process: subprocess.Popen[bytes]) -> int:
    found = start_time_of(process.pid)
    assert found is not None
    return found


def test_our_own_identity_is_that_of_this_process() -> None:
    identity = own_identity()
    assert identity.pid == os.getpid()
    assert identity.start_time == start_time_of(os.getpid())
    assert identity.start_time > 0
    assert "|" not in identity.host_id


def test_processes_of_a_host_agree_on_its_name() -> None:
    code = "from daemons.runtime.procs import own_identity; print(own_identity().host_id)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    assert other.stdout.strip() == own_identity().host_id


def test_a_process_is_gone_once_it_was_killed_though_nobody_waited_for_it(start: Start, wait_until: WaitUntil) -> None:
    process = start()
    began = started_at(process)
    assert not is_gone(process.pid, began)
    process.kill()
    wait_until(lambda: is_gone(process.pid, began), "the zombie counts as gone")
    process.wait()
    assert is_gone(process.pid, began)
    assert start_time_of(process.pid) is None


def test_a_recycled_pid_is_not_taken_for_the_old_process(start: Start) -> None:
    process = start()
    began = started_at(process)
    assert is_gone(process.pid, began - 1), "another process had this pid"
    assert not is_gone(process.pid, 0), "of this one only the pid is known"


def test_a_stopped_process_is_not_gone(start: Start) -> None:
    process = start()
    process.send_signal(signal.SIGSTOP)
    assert not is_gone(process.pid, started_at(process))


def test_names_with_brackets_spaces_and_foreign_bytes_confuse_nobody(
    start: Callable[[list[str]], subprocess.Popen[bytes]], wait_until: WaitUntil
) -> None:
    process = start(RENAMED)
    before = started_at(process)

    def renamed() -> bool:
        return Path(f"/proc/{process.pid}/comm").read_bytes() == b"a) R (b\xff\n"

    wait_until(renamed, "the process has its name")
    assert started_at(process) == before


def test_waiting_for_a_process_that_ends_takes_no_longer_than_its_end(
    start: Start, run: Callable[[Coroutine[Any, Any, bool]], bool]
) -> None:
    process = start()
    began = started_at(process)

    async def kill_meanwhile() -> bool:
        asyncio.get_running_loop().call_later(0.05, process.kill)
        return await wait_gone(process.pid, began, timeout_s=5.0)

    before = time.monotonic()
    assert run(kill_meanwhile())
    assert time.monotonic() - before < 2.0


def test_waiting_for_a_process_that_lives_ends_with_the_timeout(
    start: Start, run: Callable[[Coroutine[Any, Any, bool]], bool]
) -> None:
    process = start()
    began = started_at(process)
    assert not run(wait_gone(process.pid, began, timeout_s=0.05))
    assert run(wait_gone(process.pid, began - 1, timeout_s=5.0)), "it is another process"


def test_waiting_for_what_is_gone_already_does_not_wait(
    start: Start, run: Callable[[Coroutine[Any, Any, bool]], bool], wait_until: WaitUntil
) -> None:
    process = start()
    began = started_at(process)
    process.kill()
    wait_until(lambda: is_gone(process.pid, began), "it is a zombie")
    assert run(wait_gone(process.pid, began, timeout_s=60.0))
    process.wait()
    assert run(wait_gone(process.pid, began, timeout_s=60.0))


def test_a_number_that_no_process_can_have_proves_nothing(run: Callable[[Coroutine[Any, Any, bool]], bool]) -> None:
    assert not run(wait_gone(2**40, 1, timeout_s=0.05))


def test_many_may_wait_for_the_same_process(start: Start, run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    process = start()
    began = started_at(process)

    async def story() -> None:
        waits = [asyncio.ensure_future(wait_gone(process.pid, began, timeout_s=5.0)) for _ in range(10)]
        await asyncio.sleep(0.02)
        process.kill()
        assert await asyncio.gather(*waits) == [True] * 10

    run(story())
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]  # noqa: PTH115
    assert not [link for link in links if "pidfd" in link], "descriptors are closed"


def test_a_lease_holder_is_dead_only_if_its_very_process_of_this_host_is_gone(
    start: Start, wait_until: WaitUntil
) -> None:
    process, here = start(), own_identity()
    identity = ProcessIdentity(here.host_id, process.pid, started_at(process))
    holder = owner_text("d1", identity, "boot")
    elsewhere = owner_text("d1", identity._replace(host_id="another host"), "boot")
    assert not owner_is_dead(holder, here)
    process.kill()
    wait_until(lambda: owner_is_dead(holder, here), "the holder is proved dead")
    assert not owner_is_dead(elsewhere, here), "pids of another host mean nothing here"


@pytest.mark.parametrize(
    "text", ["", "d1", "d1|host|1|2", "d1|{host}|x|2|boot", "d1|{host}|1|-2|boot", "a|{host}|b|c|d|e"]
)
def test_owner_texts_that_are_none_prove_nothing(text: str) -> None:
    here = own_identity()
    assert not owner_is_dead(text.format(host=here.host_id), here)
