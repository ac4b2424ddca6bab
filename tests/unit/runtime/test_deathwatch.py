"""Deaths that are known before the kernel has cleaned up, of real processes; and what must not be taken for one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from a2a_zmq.protocol.ports import WatchWanted
from daemons.runtime import deathwatch
from daemons.runtime.deathwatch import DeathWatch
from daemons.runtime.procs import is_ending, start_time_of
from tests.conftest import WaitUntil

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="robust futexes")

# Holds a mark and then does what it is told, line by line.
WATCHED = """
import ctypes, os, signal, subprocess, sys, threading
from daemons.runtime.deathwatch import hold_life_mark, own_life_fd
assert hold_life_mark() == "", hold_life_mark()
fd = own_life_fd()
def fork():
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
def spawn():
    subprocess.run(["true"], check=True)
def thread():
    one = threading.Thread(target=int)
    one.start()
    one.join()
def scribble():
    os.pwrite(fd, (0xC0000000).to_bytes(4, sys.byteorder), 0)
def truncate():
    os.ftruncate(fd, 0)
def become():
    os.execv(sys.executable, [sys.executable, "-S", "-c", "print('done', flush=True); import time; time.sleep(60)"])
def hide():
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
print(fd, flush=True)
for line in sys.stdin:
    if line == "end\\n":
        break
    globals()[line.strip()]()
    print("done", flush=True)
"""


class Watched:
    """A process with a life mark."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCHED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdout is not None
        fd = int(self.process.stdout.readline())
        self.wanted = WatchWanted(name, f"boot of {name}", self.process.pid, start_time_of(self.process.pid) or 0, fd)

    def do(self, what: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        assert what == "end" or self.process.stdout.readline() == "done\n"


class Watcher:
    """A death watch on a loop in a thread."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.watch = DeathWatch(self.loop, lambda port, wanted: self.told.append(f"{port} {wanted.boot_id}"))

    def on_loop(self, function: Callable[[], None]) -> None:
        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(5)

    def want(self, wanted: WatchWanted, port: int = 0) -> None:
        self.on_loop(lambda: self.watch.want(port, wanted))

    def close(self) -> None:
        self.on_loop(self.watch.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def waits_for(name: str) -> bool:
    """Whether a thread of ours has the mark of this peer before it (as all who watch have, then)."""
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("watch-")]
    return f"watch-{name}" in names and Path("/proc/self/maps").read_text().count("/memfd:a2a-life") == len(names)


def gives_up(name: str) -> bool:
    return all(thread.name != f"watch-{name}" for thread in threading.enumerate())


@pytest.fixture
def start() -> Iterator[Callable[[str], Watched]]:
    started: list[Watched] = []

    def begin(name: str) -> Watched:
        started.append(Watched(name))
        return started[-1]

    yield begin
    for watched in started:
        watched.process.kill()
        watched.process.communicate()


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    made = Watcher()
    yield made
    made.close()


Start = Callable[[str], Watched]


@pytest.fixture
def watched(start: Start, watcher: Watcher, wait_until: WaitUntil) -> Watched:
    """A process that is watched as "w"."""
    process = start("w")
    watcher.want(process.wanted)
    wait_until(lambda: waits_for("w"), "it is watched")
    return process


def another_dies(start: Start, watcher: Watcher, wait_until: WaitUntil) -> None:
    """Until this is told, everything before it would have been told."""
    other = start("other")
    watcher.want(other.wanted)
    wait_until(lambda: waits_for("other"), "the other is watched")
    other.process.kill()
    wait_until(lambda: "0 boot of other" in watcher.told, "the other's death is told")


def test_a_process_that_is_killed_is_told_of_once(start: Start, watcher: Watcher, wait_until: WaitUntil) -> None:
    victim = start("w")
    watcher.want(victim.wanted, port=3)
    wait_until(lambda: waits_for("w"), "it is watched")
    victim.process.kill()
    wait_until(lambda: watcher.told, "its death is told")
    another_dies(start, watcher, wait_until)
    assert watcher.told == ["3 boot of w", "0 boot of other"]
    assert is_ending(victim.wanted.pid, victim.wanted.start_time)


def test_all_who_watch_a_process_are_told(start: Start, watcher: Watcher, wait_until: WaitUntil) -> None:
    """The kernel wakes only one of them."""
    victim = start("w")
    for port in range(3):
        watcher.want(replace(victim.wanted, agent_id=f"w{port}"), port)
    wait_until(lambda: all(waits_for(f"w{port}") for port in range(3)), "it is watched three times")
    victim.process.kill()
    wait_until(lambda: len(watcher.told) == 3, "all are told")


def test_a_process_that_ends_by_itself_is_told_of(watched: Watched, watcher: Watcher, wait_until: WaitUntil) -> None:
    watched.do("end")
    wait_until(lambda: watcher.told == ["0 boot of w"], "its end is told")


@pytest.mark.parametrize("what", ["fork", "spawn", "thread"])
def test_what_a_process_starts_and_what_ends_is_not_the_process(
    start: Start, watched: Watched, watcher: Watcher, wait_until: WaitUntil, what: str
) -> None:
    watched.do(what)
    another_dies(start, watcher, wait_until)
    assert watcher.told == ["0 boot of other"]
    watched.process.kill()
    wait_until(lambda: "0 boot of w" in watcher.told, "its own death is told")


def test_a_process_that_is_stopped_is_not_dead(
    start: Start, watched: Watched, watcher: Watcher, wait_until: WaitUntil
) -> None:
    watched.process.send_signal(signal.SIGSTOP)
    status = Path(f"/proc/{watched.wanted.pid}/status")
    wait_until(lambda: "State:\tT" in status.read_text(), "it is stopped")
    another_dies(start, watcher, wait_until)
    assert watcher.told == ["0 boot of other"]
    watched.process.kill()
    wait_until(lambda: "0 boot of w" in watcher.told, "its death is told")


@pytest.mark.parametrize("what", ["scribble", "truncate", "become"])
def test_a_mark_that_is_not_as_expected_proves_nothing(
    start: Start, watched: Watched, watcher: Watcher, wait_until: WaitUntil, what: str
) -> None:
    """Also one that says that its owner died, while the process lives; or runs another program now."""
    watched.do(what)
    wait_until(lambda: gives_up("w"), "the watch ends")
    assert not is_ending(watched.wanted.pid, watched.wanted.start_time)
    another_dies(start, watcher, wait_until)
    assert watcher.told == ["0 boot of other"]


def test_what_is_no_mark_of_that_process_is_not_watched(
    start: Start, watcher: Watcher, wait_until: WaitUntil, tmp_path: Path
) -> None:
    watched = start("w")
    foreign = start("foreign")
    file = (tmp_path / "/memfd:a2a-life").name
    ours = os.open(tmp_path / file, os.O_RDWR | os.O_CREAT)
    os.pwrite(ours, (deathwatch.WAITERS | os.getpid()).to_bytes(4, sys.byteorder) + bytes(8192), 0)
    memory = os.memfd_create("a2a-life")
    os.ftruncate(memory, 100)
    read, write = os.pipe()
    me = WatchWanted("w", "b", os.getpid(), start_time_of(os.getpid()) or 0)
    try:
        for name, wanted in {
            "file": replace(me, life_fd=ours),
            "short": replace(me, life_fd=memory),
            "pipe": replace(me, life_fd=read),
            "closed": replace(me, life_fd=10**15),
            "other": replace(watched.wanted, life_fd=1),
            "recycled": replace(watched.wanted, start_time=watched.wanted.start_time + 1),
            "unknown": replace(watched.wanted, start_time=0),
            "gone": replace(watched.wanted, pid=2**22 + 1),
            "first": replace(watched.wanted, pid=1),
        }.items():
            watcher.want(replace(wanted, agent_id=name, boot_id=name))
            wait_until(lambda name=name: gives_up(name), f"{name} is not watched")
        os.close(memory)
        memory = os.open(f"/proc/{foreign.wanted.pid}/fd/{foreign.wanted.life_fd}", os.O_RDONLY)
        watcher.want(replace(me, agent_id="lent", boot_id="lent", life_fd=memory))
        wait_until(lambda: gives_up("lent"), "the mark of another process is not watched")
    finally:
        for fd in (ours, memory, read, write):
            os.close(fd)
    another_dies(start, watcher, wait_until)
    assert watcher.told == ["0 boot of other"]


def test_a_process_that_does_not_let_us_look_is_not_watched(start: Start) -> None:
    watched = start("w")
    watched.do("hide")
    child = os.fork()
    if child == 0:
        refused = False
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            deathwatch._open_mark(watched.wanted)
        except PermissionError:
            refused = True
        finally:
            os._exit(0 if refused else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_watch_that_is_not_wanted_any_more_tells_nothing(
    start: Start, watcher: Watcher, wait_until: WaitUntil
) -> None:
    former, down = start("former"), start("down")
    latter = start("latter")
    watcher.want(replace(former.wanted, agent_id="w"))
    watcher.want(down.wanted)
    wait_until(lambda: waits_for("w") and waits_for("down"), "they are watched")
    watcher.want(replace(latter.wanted, agent_id="w"))
    watcher.want(WatchWanted("down"))
    former.process.kill()
    down.process.kill()
    another_dies(start, watcher, wait_until)
    assert watcher.told == ["0 boot of other"]
    latter.process.kill()
    wait_until(lambda: "0 boot of latter" in watcher.told, "the latter is watched")


def test_a_session_made_anew_with_the_same_process_keeps_its_watch(
    watched: Watched, watcher: Watcher, wait_until: WaitUntil
) -> None:
    for _ in range(100):
        watcher.want(watched.wanted)
    assert [thread.name for thread in threading.enumerate()].count("watch-w") == 1
    watched.process.kill()
    wait_until(lambda: watcher.told == ["0 boot of w"], "told once")


def test_more_than_can_be_watched_are_left_alone(
    start: Start, watcher: Watcher, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deathwatch, "MAX_WATCHES", 2)
    watcher.watch = DeathWatch(watcher.loop, lambda port, wanted: watcher.told.append(f"{port} {wanted.boot_id}"))
    watched = start("w")
    for name in ("a", "b", "c"):
        watcher.want(replace(watched.wanted, agent_id=name, boot_id=name))
    wait_until(lambda: waits_for("a") and waits_for("b"), "two are watched")
    assert gives_up("c")
    watched.process.kill()
    wait_until(lambda: sorted(watcher.told) == ["0 a", "0 b"], "these two are told")
    another_dies(start, watcher, wait_until)


def test_only_a_main_thread_holds_a_mark() -> None:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(deathwatch.hold_life_mark()))
    thread.start()
    thread.join()
    assert "main thread" in said[0]
    assert deathwatch.own_life_fd() == 0
