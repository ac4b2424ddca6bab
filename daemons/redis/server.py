"""The embedded server's configuration: what it promises, and where its files are."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from a2a_zmq.errors import ConfigError
from daemons.redis.lock import LOCK_NAME, lock
from daemons.runtime.orphans import may_hold

LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
CONFIG_NAME: Final = "redis.conf"


class PortInUse(ConfigError):
    """Somebody else listens on the port."""


class Prepared(NamedTuple):
    """What a server is started with.

    Attributes:
        path: of the configuration file.
        lock: the descriptor that keeps other servers out of the directory; the server is to inherit it.
    """

    path: Path
    lock: int


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """
    Attributes:
        directory: holds the append-only file and the configuration; made if missing.
        host: address to listen on; anything but a loopback address needs a password.
        appendfsync: ``always``, ``everysec`` or ``no``.
        maxmemory_mb: 0 for none. Nothing is ever evicted: a full server refuses writes.
        log_file: "" for standard output.
        extra: further directives, for tests.
    """

    directory: Path
    port: int = 6379
    host: str = "127.0.0.1"
    appendfsync: str = "everysec"
    maxmemory_mb: int = 0
    password: str | None = None
    log_level: str = "notice"
    log_file: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """
        Raises:
            ConfigError: a setting that the embedded server cannot have.
        """
        if self.host not in LOOPBACK and not self.password:
            raise ConfigError(
                f"redis_host {self.host}: the embedded server goes beyond this host only with REDIS_PASSWORD set"
            )
        if self.password is not None and any(character in self.password for character in '"\\\r\n\0'):
            raise ConfigError("REDIS_PASSWORD: quotes, backslashes and line ends are not possible in a server's file")
        if any(character in str(self.directory) for character in '"\\\r\n\0'):
            raise ConfigError(f"state_dir {str(self.directory)!r}: no quotes, backslashes or line ends, please")

    def text(self, *, hide_password: bool = False) -> str:
        """The server's configuration file."""
        host = "127.0.0.1" if self.host == "localhost" else self.host
        lines = {
            "bind": host if host in LOOPBACK else f"127.0.0.1 {host}",
            "port": str(self.port),
            "protected-mode": "yes",
            "daemonize": "no",
            "supervised": "no",
            "dir": f'"{self.directory}"',
            "loglevel": self.log_level,
            "logfile": f'"{self.log_file}"',
            "always-show-logo": "no",
            # A title would be written over the environment, by which one that was left behind is known.
            "set-proc-title": "no",
            "databases": "16",
            "tcp-keepalive": "60",
            # Accepted means persisted: every write goes to the append-only file; no point-in-time dumps beside it.
            "appendonly": "yes",
            "appendfsync": self.appendfsync,
            "save": '""',
            # Bulk work writes tens of MB a second: rewriting at the default of 64 MB would fork all the time.
            "auto-aof-rewrite-min-size": "256mb",
            # The state is no cache: refuse new writes rather than forget old ones.
            "maxmemory": f"{self.maxmemory_mb}mb",
            "maxmemory-policy": "noeviction",
            # A result bucket that expires has thousands of fields: free them off the main thread.
            "lazyfree-lazy-expire": "yes",
            "lazyfree-lazy-server-del": "yes",
        }
        if self.password:
            lines["requirepass"] = "<hidden>" if hide_password else f'"{self.password}"'
        lines.update(self.extra)
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def check_place(self, leaving: Collection[int]) -> None:
        """See that :meth:`prepare` will find everything in order once these processes are gone.

        Raises:
            ConfigError: the directory cannot be made or written to, or the address cannot be listened on.
            PortInUse: somebody else listens there.
        """
        self._make_directory()
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise self._not_writable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        for path in (self.directory / CONFIG_NAME, self.directory / LOCK_NAME):
            if path.exists() and not os.access(path, os.W_OK):
                raise ConfigError(f"{path}: cannot be written: {os.strerror(errno.EACCES)}")
        try:
            check_port(self.host, self.port)
        except PortInUse:
            if not may_hold(leaving, self.port):
                raise

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from None

    def prepare(self) -> Prepared:
        """Make and lock the directory, write the configuration file (readable by us alone), and see that the port is
        free.

        Raises:
            ConfigError: the directory cannot be made or written to, or the address cannot be listened on.
            DirectoryInUse: another server has its files there.
            PortInUse: somebody listens there already.
        """
        self.check()
        path = self.directory / CONFIG_NAME
        self._make_directory()
        locked = lock(self.directory)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self.text())
            check_port(self.host, self.port)
        except BaseException as error:
            os.close(locked)
            if isinstance(error, OSError):
                raise self._not_writable(error) from None
            raise
        return Prepared(path, locked)

    def _not_writable(self, error: OSError) -> ConfigError:
        return ConfigError(f"state_dir {self.directory}: cannot be written: {error.strerror}")


def check_port(host: str, port: int) -> None:
    """
    Raises:
        ConfigError: we may not listen there, or it is no address of this host.
        PortInUse: somebody listens there already.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise ConfigError(f"redis_host {host}: no address of this host") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {port} on {host} is in use: stop what listens there, or choose another --port"
                ) from None
            raise ConfigError(f"port {port} on {host}: {error.strerror}") from None
