"""``a2a-redis``: the embedded server in the foreground.

This process becomes the server (``exec``), so that a supervisor's signals reach it and nothing is left behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from a2a_zmq.errors import ConfigError
from daemons.redis.lock import DirectoryInUse
from daemons.redis.resolve import ServerBinary, find_server
from daemons.redis.server import PortInUse, Prepared, ServerConfig
from daemons.runtime.orphans import find_orphans, own_marks, take_over
from daemons.runtime.slices import short_slices
from daemons.settings import RedisServerSettings
from daemons.settings_sources import EX_CONFIG, load_or_exit

# Not a configuration error: port and directory may be free again in a moment (the last server is still stopping).
EX_TEMPFAIL: Final = 75
# What a server that was left behind gets to write its files out.
DRAIN_S: Final = 15.0
_LOG_LEVELS: Final = {"debug": "verbose", "info": "notice", "warning": "warning", "error": "warning"}
# Short names of this program's own settings.
_SHORT: Final = {
    "--port": "--redis-port",
    "--appendfsync": "--redis-appendfsync",
    "--maxmemory": "--redis-maxmemory-mb",
}
_PRINT: Final = "--print-config"
MORE_HELP: Final = f"""
short names:
  {"  ".join(f"{short} = {long}" for short, long in _SHORT.items())}
  {_PRINT}  print the server program and its configuration file, start nothing
The server's files are in STATE_DIR/redis. Exit status: 78 wrong setting, 75 port or directory in use, otherwise
the server's own.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Become the server; returns only after ``--print-config`` or an error."""
    given = list(sys.argv[1:] if argv is None else argv)
    only_print = _PRINT in given
    settings = _settings([long_form(text) for text in given if text != _PRINT])
    try:
        config = server_config(settings)
        config.check()
        server = find_server()
        if only_print:
            print(f"# {server.path} ({server.kind} {server.version[0]}.{server.version[1]})")
            print(config.text(hide_password=True), end="")
            return 0
        marks = own_marks()
        if orphans := find_orphans(marks):
            config.check_place(orphans)
        take_over(marks, DRAIN_S, lambda text: print(f"a2a-redis: {text}", flush=True))
        _become(server, config, config.prepare())
    except (PortInUse, DirectoryInUse) as error:
        print(f"a2a-redis: {error}", file=sys.stderr)
        return EX_TEMPFAIL
    except ConfigError as error:
        print(f"a2a-redis: {error}", file=sys.stderr)
        return EX_CONFIG


def server_config(settings: RedisServerSettings) -> ServerConfig:
    """
    Raises:
        ConfigError: a setting that only a server elsewhere can have.
    """
    if settings.redis_use_tls:
        raise ConfigError("REDIS_USE_TLS: the embedded server speaks no TLS; run a server of your own for that")
    if settings.redis_username:
        raise ConfigError("redis_username: the embedded server has the default user only; run one of your own for ACLs")
    password = settings.redis_password
    return ServerConfig(
        directory=settings.state_dir.absolute() / "redis",
        port=settings.redis_port,
        host=settings.redis_host,
        appendfsync=settings.redis_appendfsync,
        maxmemory_mb=settings.redis_maxmemory_mb,
        password=password.get_secret_value() if password is not None else None,
        log_level=_LOG_LEVELS[settings.log_level],
    )


def _become(server: ServerBinary, config: ServerConfig, prepared: Prepared) -> NoReturn:
    print(
        f"a2a-redis: {server.kind} {server.path} on {config.host}:{config.port}, files in {config.directory}",
        flush=True,
    )
    short_slices(inherited=False)  # its children write whole files
    os.umask(0o077)
    os.set_inheritable(prepared.lock, True)
    try:
        os.execv(server.path, [server.path.name, str(prepared.path)])  # noqa: S606  # this is what the program is for
    except OSError as error:
        raise ConfigError(f"{server.path}: cannot be run: {error.strerror}") from None


def long_form(text: str) -> str:
    """A flag under its setting's name."""
    name, equals, value = text.partition("=")
    return _SHORT.get(name, name) + equals + value


def _settings(argv: list[str]) -> RedisServerSettings:
    try:
        return load_or_exit(RedisServerSettings, argv)
    except SystemExit:
        if {"-h", "--help"}.intersection(argv):
            print(MORE_HELP, end="")
        raise


if __name__ == "__main__":
    sys.exit(main())
