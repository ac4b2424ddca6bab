"""How each fault is done and undone. Each is a context: broken inside, healed when it is left, however that happens."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from typing import Final, cast

from daemons.cli.chaos.ledger import Run
from daemons.cli.chaos.plan import Fault
from daemons.cli.chaos.stage import DISK_MB, OwnFleet, Stage, mount
from daemons.cli.chaos.tasks import CHILD
from daemons.cli.fleet import REDIS
from daemons.cli.processes import die_with_parent, tree

# More than a worker gives its work (drain_timeout_s, 10 s).
DRAIN_S: Final = 15.0
GONE_S: Final = 2.0  # for the kernel to end a process
STORE_FAULTS: Final = 0.3  # share of transactions that go wrong while Redis' replies get lost


class Deed:
    """What was done.

    Attributes:
        at: monotonic moment of the fault.
        wall: the same by the wall clock.
        hit: runs that were under way on the victim then.
        spared: tasks whose child was killed before: further attempts wait a little, and that is not measured.
        healed: monotonic moment of the healing; of Redis: when it answers again.
        gone_ms: how long the kernel took to end the killed process; None where nobody was killed.
        broken: promises that the fault itself found broken.
    """

    def __init__(self, fault: Fault, running: list[Run], spared: Collection[str] = ()) -> None:
        self.fault = fault
        self.spared = spared
        self.running = running
        self.hit = [run for run in running if run.worker == fault.victim]
        self.at = time.monotonic()
        self.wall = time.time()
        self.healed = 0.0
        self.gone_ms: float | None = None
        self.broken: list[str] = []


Act = Callable[[Stage, Deed], AbstractContextManager[None]]


def _kill(stage: Stage, deed: Deed) -> Iterator[None]:
    with _ending(stage.pid(deed.fault.victim)) as ended:
        deed.at, deed.wall = time.monotonic(), time.time()
        stage.signal(deed.fault.victim, signal.SIGKILL)
        if ended():
            deed.gone_ms = (time.monotonic() - deed.at) * 1000
    yield


@contextlib.contextmanager
def _ending(pid: int) -> Iterator[Callable[[], bool]]:
    """Yields what waits until that process is gone; True if it is, in time."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # gone already, or a kernel without
        yield lambda: False
        return
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    try:
        yield lambda: bool(poller.poll(GONE_S * 1000))
    finally:
        os.close(pidfd)


def _kill_child(stage: Stage, deed: Deed) -> Iterator[None]:
    # Any worker's: they are few, and whose it is makes no difference. Only a worker's child, whatever the ledger says.
    found = [run for run in deed.running if run.task_type == CHILD and run.task_id not in deed.spared]
    victims = [run for run in found if run.pid in tree(stage.pid(run.worker))[1:]]
    deed.hit = []
    if victims:
        run = victims[int(deed.fault.coin * len(victims))]
        deed.hit = [run]
        deed.at, deed.wall = time.monotonic(), time.time()
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.pid, signal.SIGKILL)
    yield


def _frozen(pid: int, freeze: Callable[[], int]) -> Iterator[None]:
    """A process that ``freeze`` stops goes on afterwards, if it is still there."""
    try:
        pid = freeze()  # in here: who is interrupted right behind it must not leave it frozen
        yield
    finally:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _freeze(stage: Stage, deed: Deed) -> Iterator[None]:
    victim = deed.fault.victim
    yield from _frozen(stage.pid(victim), lambda: stage.signal(victim, signal.SIGSTOP))


def _drain(stage: Stage, deed: Deed) -> Iterator[None]:
    status = stage.end_and_restart(deed.fault.victim, DRAIN_S)
    deed.healed = time.monotonic()
    if status != 0:
        deed.broken.append(f"{deed.fault.victim} ended with status {status} after SIGTERM")
    yield


def _busy(_stage: Stage, _deed: Deed) -> Iterator[None]:
    burners: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(os.cpu_count() or 1):
            burners.append(_burner())
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _burner() -> subprocess.Popen[bytes]:
    """A process that loads a core. It ends with us, however that happens."""
    parent = os.getpid()

    def tied() -> None:
        die_with_parent()
        if os.getppid() != parent:  # it died before the call
            os._exit(0)

    return subprocess.Popen(
        [sys.executable, "-c", "while True: pass"],
        stdin=subprocess.DEVNULL,
        preexec_fn=tied,  # noqa: PLW1509 - system calls only, no lock is taken
    )


# ---------------------------------------------------------------- links


def _cut_worker(stage: Stage, deed: Deed) -> Iterator[None]:
    _own(stage).links[deed.fault.victim].cut()
    yield


def _part(stage: Stage, deed: Deed) -> Iterator[None]:
    link = _own(stage).links[deed.fault.victim or REDIS]
    link.let(there=False, back=False)
    try:
        yield
    finally:
        link.let()


def _part_one_way(stage: Stage, deed: Deed) -> Iterator[None]:
    link = _own(stage).links[deed.fault.victim]
    there = deed.fault.coin < 0.5
    link.let(there=there, back=not there)
    try:
        yield
    finally:
        link.let()


def _link_down(stage: Stage, deed: Deed) -> Iterator[None]:
    space = _own(stage).spaces[deed.fault.victim]
    space.link(up=False)
    try:
        yield
    finally:
        space.link(up=True)


def _lossy(stage: Stage, deed: Deed) -> Iterator[None]:
    link = _own(stage).links[REDIS]
    link.lose(STORE_FAULTS, deed.fault.coin)
    try:
        yield
    finally:
        link.lose(0.0)


# ---------------------------------------------------------------- Redis


def _redis_away(stage: Stage, deed: Deed, *, number: int = signal.SIGTERM, wipe: bool = False) -> Iterator[None]:
    own = _own(stage)
    own.fleet.kill(REDIS, number, restart=False)
    own.fleet.daemons[REDIS].wait(10.0)
    try:
        yield
    finally:
        if wipe and not own.wipe():
            deed.broken.append("there was nothing to wipe: is the server's directory another one?")
        own.fleet.restart(REDIS, wait=False)
        deed.healed = own.wait_store()


def _redis_kill(stage: Stage, deed: Deed) -> Iterator[None]:
    return _redis_away(stage, deed, number=signal.SIGKILL)


def _redis_wipe(stage: Stage, deed: Deed) -> Iterator[None]:
    return _redis_away(stage, deed, wipe=True)


def _redis_freeze(stage: Stage, _deed: Deed) -> Iterator[None]:
    yield from _frozen(stage.pid(REDIS), lambda: stage.signal(REDIS, signal.SIGSTOP))


def _redis_memory(stage: Stage, _deed: Deed) -> Iterator[None]:
    with _own(stage).store() as connection:
        before = connection.config_get("maxmemory")["maxmemory"]
        connection.config_set("maxmemory", 1024)
        try:
            yield
        finally:
            connection.config_set("maxmemory", before)


def _redis_disk(stage: Stage, _deed: Deed) -> Iterator[None]:
    own = _own(stage)
    used_kb = sum(path.stat().st_blocks for path in own.disk.rglob("*")) // 2
    mount(own.disk, f"remount,size={used_kb + 8}k")
    try:
        yield
    finally:
        mount(own.disk, f"remount,size={DISK_MB}m")


def _own(stage: Stage) -> OwnFleet:
    return cast(OwnFleet, stage)


_ACTS: Final[dict[str, Callable[[Stage, Deed], Iterator[None]]]] = {
    "worker-kill": _kill,
    "child-kill": _kill_child,
    "freeze": _freeze,
    "drain": _drain,
    "distributor-kill": _kill,
    "coordinator-kill": _kill,
    "detector-freeze": _freeze,
    "busy": _busy,
    "cut-worker": _cut_worker,
    "part-worker": _part,
    "link-worker": _link_down,
    "part-distributor": _part,
    "part-one-way": _part_one_way,
    "part-redis": _part,
    "redis-lossy": _lossy,
    "redis-kill": _redis_kill,
    "redis-down": _redis_away,
    "redis-freeze": _redis_freeze,
    "redis-wipe": _redis_wipe,
    "redis-memory": _redis_memory,
    "redis-disk": _redis_disk,
}
ACTS: Final[dict[str, Act]] = {name: contextlib.contextmanager(act) for name, act in _ACTS.items()}
