"""Key files: read only if nobody else could have; replaced in one step, so that no reader sees half of one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from a2a_zmq.errors import ConfigError

# A second process may be making its keys in a new directory; that takes milliseconds.
LOCK_WAIT_S = 10.0
# No key file comes near; a mistaken path must not fill the memory.
MAX_FILE_BYTES = 16 << 20


class Stamp(NamedTuple):
    """What changes whenever a file is replaced, or may be read by others than before."""

    mtime_ns: int
    ctime_ns: int  # chmod and chown change this alone
    inode: int
    size: int


def stamp_of(path: Path) -> Stamp | None:
    """The file's stamp, None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Stamp(found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)


def check_directory(path: Path) -> None:
    """Raises ConfigError unless it is a directory that only its owner (us, or root) can enter."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"key directory {path}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"key directory {path}: not a directory")
    _check_owner(path, found)
    if found.st_mode & 0o077:
        advice = "name another" if found.st_mode & stat.S_ISVTX else f"chmod 0700 {path}"  # /tmp is everybody's
        raise ConfigError(f"key directory {path}: mode is {found.st_mode & 0o777:04o}, others can enter it; {advice}")


def read_private(path: Path) -> bytes:
    """Contents of a secret file.

    Raises:
        ConfigError: it is missing, not ours, or group or others have any right on it.
    """
    return _read(path, forbidden=0o077, advice="0600")


def read_public(path: Path) -> bytes:
    """Contents of a file that everybody may read and only its owner may write.

    Raises:
        ConfigError: it is missing, not ours, or group or others can write it.
    """
    return _read(path, forbidden=0o022, advice="0644")


def _read(path: Path, *, forbidden: int, advice: str) -> bytes:
    try:
        with path.open("rb") as file:
            # Of the opened file, not of the path: the path may be replaced in between.
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"key file {path}: not a regular file")
            _check_owner(path, found)
            if found.st_mode & forbidden:
                raise ConfigError(
                    f"key file {path}: mode is {found.st_mode & 0o777:04o}, must be {advice}; chmod {advice} {path}"
                )
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"key file {path}: larger than {MAX_FILE_BYTES} bytes")
    return data


def _check_owner(path: Path, found: os.stat_result) -> None:
    # Root may look after a service user's keys; anybody else's files are a trap or a mistake.
    user = os.geteuid()
    if found.st_uid not in {user, 0} and user != 0:
        raise ConfigError(f"{path}: belongs to user id {found.st_uid}, we run as {user}")


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace the file in one step, durably; it gets the directory's owner if root writes.

    Raises:
        ConfigError: it cannot be written.
    """
    directory = path.parent
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=directory)  # 0600 from the start
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                if os.geteuid() == 0:
                    owner = directory.stat()
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        _sync_directory(directory)
    except OSError as error:
        raise ConfigError(f"key file {path}: {error.strerror}") from None


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock against every other process (and thread) that changes it.

    Raises:
        ConfigError: somebody else held it for longer than :data:`LOCK_WAIT_S`.
    """
    path = directory / ".lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(f"key directory {directory}: cannot lock: {error.strerror}") from None
    try:
        if os.geteuid() == 0:  # it may be the first here; the directory's owner needs the lock, too
            owner = directory.stat()
            os.fchown(handle, owner.st_uid, owner.st_gid)
        give_up = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise ConfigError(f"key directory {directory}: locked by another process") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)  # the lock goes with it
