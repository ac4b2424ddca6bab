"""Start and stop an embedded server from Python: for tests, the demo and benchmarks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import SecretStr

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import ConfigError
from daemons.redis.lock import note_holder
from daemons.redis.resolve import ServerBinary, find_server
from daemons.redis.server import PortInUse, ServerConfig

_READY_S: Final = 10.0  # replaying a large append-only file is a start's slowest part
_STOP_S: Final = 5.0
_POLL_S: Final = 0.01
_PORT_TRIES: Final = 5


class EmbeddedRedis:
    """A server of our own on this host. Use as a context manager, or call :meth:`start` and :meth:`stop`.

    If this process dies, so does the server (where ``setpriv`` is installed, and if it was started by the main thread:
    the kernel ties a child's life to the thread that made it).
    """

    def __init__(
        self,
        *,
        server: ServerBinary | None = None,
        state_dir: Path | None = None,
        port: int | None = None,
        appendfsync: str = "everysec",
        maxmemory_mb: int = 0,
        password: str | None = None,
        extra: dict[str, str] | None = None,
    ) -> None:
        """
        Args:
            server: which program; by default the one that :func:`find_server` prefers.
            state_dir: its files are in ``redis`` below; by default a temporary directory that stop() removes.
            port: by default a free one.
            extra: further configuration directives.

        Raises:
            ConfigError: there is no server program.
        """
        self.server = server or find_server()
        self.port = port or 0
        self._fixed_port = port is not None
        self._state_dir = state_dir
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._appendfsync = appendfsync
        self._maxmemory_mb = maxmemory_mb
        self._password = password
        self._extra = extra or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> RedisConfig:
        """How to reach it."""
        password = SecretStr(self._password) if self._password else None
        return RedisConfig(host="127.0.0.1", port=self.port, password=password)

    @property
    def pid(self) -> int:
        """Process id, 0 if it is not running."""
        return self._process.pid if self._process is not None else 0

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        return self._directory() / "redis.log"

    def start(self) -> Self:
        """Start it (again, on the same port and files, after :meth:`stop` or :meth:`kill`) and wait until it answers.

        Raises:
            DirectoryInUse: another server has its files in that directory.
            ConfigError: it did not come up; the text ends with its last log line.
        """
        if self.running:
            return self
        for attempt in range(_PORT_TRIES):
            if not self.port:
                self.port = free_port()
            try:
                prepared = self._server_config().prepare()
            except PortInUse:
                if self._fixed_port or attempt == _PORT_TRIES - 1:
                    raise
                self.port = 0
                continue
            break
        command = [str(self.server.path), str(prepared.path)]
        setpriv = shutil.which("setpriv")
        if setpriv is not None and threading.current_thread() is threading.main_thread():
            command = [setpriv, "--pdeathsig", "TERM", *command]
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own server program
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[prepared.lock],
            )
            note_holder(prepared.lock, self._process.pid)
        finally:
            os.close(prepared.lock)  # from here on the server's alone
        self._fixed_port = True  # clients know it now
        self._wait_until_ready()
        return self

    def stop(self) -> None:
        """SIGTERM, after five seconds SIGKILL; removes a temporary directory."""
        self._end(signal.SIGTERM)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def kill(self) -> None:
        """SIGKILL; the files stay for a new :meth:`start`."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        if how is signal.SIGTERM:
            process.send_signal(signal.SIGCONT)  # a paused server must wake up to see it
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _directory(self) -> Path:
        if self._state_dir is not None:
            return self._state_dir.absolute() / "redis"
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="a2a-redis-")
        return Path(self._temporary.name)

    def _server_config(self) -> ServerConfig:
        return ServerConfig(
            directory=self._directory(),
            port=self.port,
            appendfsync=self._appendfsync,
            maxmemory_mb=self._maxmemory_mb,
            password=self._password,
            log_file=str(self.log_path),
            extra=self._extra,
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            if not self.running:
                break
            if answers(self.port):
                return
            time.sleep(_POLL_S)
        reason = self._last_log_line()
        self.kill()
        raise ConfigError(f"{self.server.path} did not start on port {self.port}: {reason}")

    def _last_log_line(self) -> str:
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return "no log"
        return lines[-1] if lines else "no log"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether a server on 127.0.0.1 answers PING (asking for a password is an answer; loading its files is none)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as probe:
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
