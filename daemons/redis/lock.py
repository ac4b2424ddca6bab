"""One server for each directory: two would unlink the files that the other one writes to, and what it wrote with them.

The lock (``flock``) belongs to an open file that the server inherits, so it is held for exactly as long as the server
lives, however that ends. The file itself stays; it says who has the lock, for people.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from a2a_zmq.errors import ConfigError

LOCK_NAME: Final = "a2a-redis.lock"
# A child that rewrites the append-only file has the lock, too. Where its server was killed it notices within a second.
ORPHAN_WAIT_S: Final = 3.0
_POLL_S: Final = 0.05


class DirectoryInUse(ConfigError):
    """Another server has its files there."""


def lock(directory: Path) -> int:
    """Lock a server's directory for this process and what inherits the descriptor.

    Returns:
        the descriptor. It is not inherited by default.

    Raises:
        DirectoryInUse: another server has it.
        ConfigError: no file can be locked there.
    """
    path = directory / LOCK_NAME
    deadline = time.monotonic() + ORPHAN_WAIT_S
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _taken(descriptor):
                holder = _holder(descriptor)
                if _lives(holder) or time.monotonic() > deadline:
                    raise DirectoryInUse(
                        f"{directory} is in use by another server{f' (process {holder})' if holder else ''}: "
                        "stop it, or give this one a --state-dir of its own"
                    )
                time.sleep(_POLL_S)
            note_holder(descriptor, os.getpid())
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be locked: {error.strerror}") from None
    return descriptor


def note_holder(descriptor: int, pid: int) -> None:
    """Write down which process the server is, for who finds the directory locked."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{pid}\n".encode(), 0)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _lives(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()
