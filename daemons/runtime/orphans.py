"""Takes the place of a daemon whose supervisord was killed, and which went on without it.

Such an orphan holds its name and its ports, and no supervisor can stop it. It is known for certain by what supervisord
puts into the environment of its programs: the same server address, group and name as ours. supervisord never runs two
of these at a time, so another one was left behind by an earlier supervisord of the same configuration. Everything else,
a port that a foreign process holds for example, is left alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Final

# What supervisord tells a program of itself.
MARKS: Final = ("SUPERVISOR_SERVER_URL", "SUPERVISOR_GROUP_NAME", "SUPERVISOR_PROCESS_NAME")
# A daemon has left 2 s after its drain timeout at the latest; this is for a busy host.
GRACE_S: Final = 5.0
# After SIGKILL the kernel may have gigabytes to take back.
KILLED_WAIT_S: Final = 10.0
# State of a socket in ``/proc/net/tcp``.
_LISTENS: Final = "0A"

_hidden: dict[str, str] = {}  # marks of this process that are not in its environment any more


def own_marks() -> dict[str, str]:
    """What supervisord told this process; empty if it was not started by one."""
    marks = {name: os.environ.get(name, "") for name in MARKS}
    return marks if all(marks.values()) else {}


def take_over(marks: dict[str, str], drain_s: float, say: Callable[[str], None]) -> None:
    """End the orphan with our marks, whose place this process is to take, if there is one; returns when it is gone.

    It is asked to drain (SIGTERM) and, if that takes it much longer than ``drain_s``, killed: what supervisord does.
    It may be in good health, so whoever asks it to leave should know that nothing else is in the way of its own start.
    """
    for pid in find_orphans(marks):
        with contextlib.suppress(OSError):  # gone meanwhile
            pidfd = os.pidfd_open(pid)
            try:
                if pid in find_orphans(marks):  # still that one: from here on the descriptor names it
                    _end(pidfd, pid, drain_s + GRACE_S, say)
            finally:
                os.close(pidfd)


def hide_marks() -> None:
    """Take the marks out of the environment of what this process will start: nothing of that is to be taken for it.

    What others read of *this* process stays as it was at its start. :func:`hidden_marks` has them from then on.
    """
    _hidden.clear()
    _hidden.update(own_marks())
    for name in MARKS:
        os.environ.pop(name, None)


def hidden_marks() -> dict[str, str]:
    """Our marks; empty also in a program that is no daemon, which takes nobody's place."""
    return dict(_hidden)


def _end(pidfd: int, pid: int, patience_s: float, say: Callable[[str], None]) -> None:
    say(f"process {pid} was left behind by a supervisord that was killed: it is asked to leave")
    signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    if not _gone(pidfd, patience_s):
        say(f"process {pid} did not leave within {patience_s:g} s and is killed")
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _gone(pidfd, KILLED_WAIT_S)


def _gone(pidfd: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def find_orphans(marks: dict[str, str]) -> list[int]:
    """Process ids of our user with these marks and no supervisord above them, except this process. Without marks
    there are none."""
    if not marks:
        return []
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # another user's, or gone
            if entry.stat().st_uid == os.geteuid() and wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                found[int(entry.name)] = _parent_of(entry)
    # Children of an orphan (a server that forked to write a file) end with it.
    return sorted(pid for pid, parent in found.items() if parent not in found and not _is_supervisord(parent))


def may_hold(pids: Collection[int], port: int) -> bool:
    """Whether it may be one of these processes that listens on a port; False if another one does for certain."""
    listening = {f"socket:[{inode}]" for inode in _listening(port)}
    try:
        return not listening or any(_descriptors(pid) & listening for pid in pids)
    except OSError:  # gone meanwhile
        return True


def _parent_of(entry: Path) -> int:
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def _is_supervisord(pid: int) -> bool:
    """A supervisord that lives looks after its programs itself."""
    try:
        return b"supervisord" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a port, at any address."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _descriptors(pid: int) -> set[str]:
    """What a process has open.

    Raises:
        OSError: it is gone.
    """
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            found.add(str(entry.readlink()))
    return found
