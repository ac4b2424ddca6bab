"""What the operating system knows of processes: our own identity, and whether a peer on this host is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from pathlib import Path
from typing import NamedTuple

# After its sockets are closed a killed process needs a moment until it is a zombie; longer than this it is alive.
PROBE_WAIT_S = 0.25
# A thread that ends, among the flags in ``/proc/PID/stat`` (field 9).
PF_EXITING = 0x4


class ProcessIdentity(NamedTuple):
    """Names a process so that a recycled pid cannot be taken for it.

    Attributes:
        host_id: kernel boot id and pid namespace: between equal host ids a pid is meaningful.
        pid: process id.
        start_time: start in clock ticks since boot, ``/proc/PID/stat`` field 22; 0 if unknown.
    """

    host_id: str
    pid: int
    start_time: int


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/PID/stat`` from the third on, or None if the process is gone or only a zombie."""
    try:
        # A process chooses its name, and the kernel shows its bytes, which need be no text.
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in ("Z", "X") else fields


def start_time_of(pid: int) -> int | None:
    """Start time in clock ticks, or None if the process is gone or only a zombie."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def own_identity() -> ProcessIdentity:
    pid = os.getpid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot, namespace = os.uname().nodename, ""
    return ProcessIdentity(f"{boot[:13]}{namespace[4:]}", pid, start_time_of(pid) or 0)


def is_gone(pid: int, start_time: int) -> bool:
    """True if that very process does not run any more on this host."""
    found = start_time_of(pid)
    return found is None or start_time not in {0, found}


def is_ending(pid: int, start_time: int) -> bool:
    """True if that very process is gone, or its main thread has begun to end, which nothing can stop any more."""
    fields = _stat(pid)
    return fields is None or start_time not in {0, int(fields[19])} or bool(int(fields[6]) & PF_EXITING)


async def wait_gone(pid: int, start_time: int, timeout_s: float = PROBE_WAIT_S) -> bool:
    """Wait a moment for a process to be gone; True as soon as it is, False if it still runs after the timeout.

    Uses a pidfd, so it takes no polling and answers within a millisecond of the process's end.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except (OverflowError, ValueError):  # no process can have this number: whoever named it proves nothing by it
        return False
    except OSError:  # no pidfd on this kernel: one look must do
        return is_gone(pid, start_time)
    try:
        if is_gone(pid, start_time):
            return True
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if poller.poll(0):
            return True
        loop.add_reader(pidfd, _end, ended)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await ended
                return True
        finally:
            loop.remove_reader(pidfd)
        return is_gone(pid, start_time)
    finally:
        os.close(pidfd)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def owner_text(agent_id: str, identity: ProcessIdentity, boot_id: str) -> str:
    """How a lease names its holder: enough to tell whether that process is dead."""
    return "|".join((agent_id, identity.host_id, str(identity.pid), str(identity.start_time), boot_id))


def owner_is_dead(owner: str, identity: ProcessIdentity) -> bool:
    """True if the lease holder is a process of this host that is gone: its lease need not be waited for."""
    parts = owner.split("|")
    if len(parts) != 5 or parts[1] != identity.host_id:
        return False
    pid, start = parts[2], parts[3]
    return pid.isdigit() and start.isdigit() and is_gone(int(pid), int(start))
