"""Redis, as ``a2actl doctor`` sees it from this host: is it in reach, does it keep what it is told, is it quick?"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2a_zmq.config import RedisConfig
from a2a_zmq.errors import ConfigError, StateError
from daemons.cli.findings import Check
from daemons.cli.invocation import Invocation

if TYPE_CHECKING:
    import redis

CONNECT_TIMEOUT_S = 1.0
RULES = "give it these rules (`ACL SETUSER`); `a2actl config acl` prints all that are needed"
LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
PINGS = 20
# Each write to the state costs one round trip, so this is on the way of every task.
SLOW_PING_S = 0.02
LEAST_VERSION = (7, 0)
# Redis refuses writes at its limit; from here on somebody should look.
FULL_PART = 0.9


def redis_checks(run: Invocation) -> list[Check]:
    """Reachable from here, and does it keep what it is told?"""
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthorizationError, NoPermissionError
    from redis.retry import Retry

    config = run.settings.redis_config()
    where = config.url(mask=True)
    try:
        config.tls_context()
    except ConfigError as error:
        return [Check("redis", False, f"{where}: {error}", "correct A2A_REDIS_CA_PATH, _CERT_PATH and _KEY_PATH")]
    connection = redis.Redis.from_url(
        config.url(),
        socket_timeout=CONNECT_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        **config.tls_options(),
    )
    try:
        setting = _configured(connection)
        found = [_settings(where, connection.info, setting), _latency(connection), _permissions(config)]
        found.append(_access(config, where, setting))
        pid = int(connection.info("server").get("process_id") or 0)
        if config.host in LOCAL_HOSTS and writes_to_removed(pid, setting("dir"), setting("appenddirname")):
            return [_removed(where, pid, setting("dir")), *found[1:]]
        return found
    except (redis.AuthenticationError, AuthorizationError) as error:
        return [Check("redis", False, f"{where}: {error}", "correct REDIS_PASSWORD and A2A_REDIS_USERNAME")]
    except NoPermissionError as error:
        return [Check("redis", False, f"{where}: {error}", RULES), _permissions(config)]
    except redis.RedisError as error:
        return [Check("redis", False, f"{where}: {error}", _fix(str(error), config))]
    finally:
        connection.close()


def _fix(error: str, config: RedisConfig) -> str:
    """What would mend a connection that does not come about."""
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return "A2A_REDIS_CA_PATH names the authority of its certificate, and REDIS_HOST has to be a name in that one"
    if config.use_tls and ("WRONG_VERSION_NUMBER" in error or "RECORD_LAYER_FAILURE" in error):
        return "no TLS is spoken on that port: correct REDIS_PORT, or REDIS_USE_TLS=false"
    if "Protocol error" in error:
        return "what answers there is no Redis: correct REDIS_HOST and REDIS_PORT; if it speaks TLS: REDIS_USE_TLS=true"
    hung_up = any(word in error.upper() for word in ("ALERT", "EOF OCCURRED", "RESET BY PEER", "CLOSED"))
    if config.use_tls and hung_up:
        return (
            "it wants a certificate of ours, by an authority that it knows: A2A_REDIS_CERT_PATH and A2A_REDIS_KEY_PATH"
        )
    if hung_up:
        return "if it speaks TLS on that port: REDIS_USE_TLS=true"
    return "start a2a-redis or your own Redis, or correct REDIS_HOST and REDIS_PORT"


def _permissions(config: RedisConfig) -> Check:
    """May our user do what the fleet has to do?"""
    import asyncio

    from daemons.runtime import permissions

    user = config.username or "default"
    try:
        lacks = asyncio.run(permissions.missing(config, permissions.ALL))
    except StateError as error:
        return Check("redis permissions", False, f"{user}: {error}", "see the line above")
    if lacks:
        return Check("redis permissions", False, f"the ACL user {user!r} lacks {' '.join(lacks)}", RULES)
    return Check("redis permissions", True, f"the user {user!r} may do all that the fleet needs")


def writes_to_removed(pid: int, directory: str | None, name: str | None) -> bool:
    """Does this process of our host write to an append-only file that somebody else has removed? (Another server with
    the same directory does that.) No where we may not look.
    """
    if not directory or not name:
        return False
    files = str(Path(directory) / name) + os.sep
    try:
        opened = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    ours = [path for path in opened if path.startswith(files)]
    # Just after a rewrite a server still has the file before open, besides the present one.
    return bool(ours) and all(path.endswith(" (deleted)") for path in ours)


def _removed(where: str, pid: int, directory: str | None) -> Check:
    text = f"{where}: process {pid} writes to files in {directory} that were removed: a restart loses its data"
    fix = (
        "stop whatever else uses that directory (another server?), then `redis-cli BGREWRITEAOF` writes all data anew;"
        " each server needs a directory of its own"
    )
    return Check("redis", False, text, fix)


def _configured(connection: redis.Redis) -> Callable[[str], str | None]:
    """Reads a setting; None where the server does not let us (a hosted one)."""
    import redis

    def get(name: str) -> str | None:
        try:
            found: Any = connection.config_get(name)
        except redis.ResponseError:
            return None
        value = found.get(name)
        return None if value is None else str(value)

    return get


def _access(config: RedisConfig, where: str, setting: Callable[[str], str | None]) -> Check:
    """Is everybody else let in as well?"""
    name = "redis access"
    bound = (setting("bind") or "").split()
    far = [address for address in bound if address.lstrip("-") not in LOCAL_HOSTS] if bound else ["all addresses"]
    if not _lets_anybody_in(config):
        return Check(name, True, "it asks for a password")
    protected = setting("protected-mode")
    if far and protected == "no":
        fix = "`requirepass` (and REDIS_PASSWORD), or `bind 127.0.0.1`: who can write there can forge tasks and results"
        return Check(name, False, f"{where}: listens on {', '.join(far)}, and asks nobody for a password", fix)
    if far and protected is None:  # a hosted server does not tell
        return Check(name, True, "it asks nobody for a password; who reaches it cannot be seen from here")
    text = "it asks nobody for a password, but answers this host only: all its users could forge tasks and results"
    return Check(name, True, text)


def _lets_anybody_in(config: RedisConfig) -> bool:
    """Does it answer somebody without a password? (Asking for its rules takes a right that the fleet's user lacks.)"""
    import redis

    anybody = config.model_copy(update={"username": None, "password": None})
    connection = redis.Redis.from_url(
        anybody.url(),
        socket_timeout=CONNECT_TIMEOUT_S,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        **anybody.tls_options(),
    )
    try:
        return bool(connection.ping())
    except redis.RedisError:
        return False
    finally:
        connection.close()


def _latency(connection: redis.Redis) -> Check:
    took: list[float] = []
    for _ in range(PINGS):
        began = time.perf_counter()
        connection.ping()
        took.append(time.perf_counter() - began)
    middle = statistics.median(took)
    text = f"PING takes {middle * 1000:.2f} ms (median of {PINGS}), at most {max(took) * 1000:.2f} ms"
    fix = "run Redis nearer to the coordinator and the distributors; look for slow commands (SLOWLOG GET) and swapping"
    return Check("redis latency", middle < SLOW_PING_S, text, fix if middle >= SLOW_PING_S else "")


def _number(version: Any) -> tuple[int, ...]:
    """A version to compare. (Valkey tells which Redis it is like.)"""
    parts = str(version or "").split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else (0, 0)


def _settings(where: str, info: Callable[[], Any], setting: Callable[[str], str | None]) -> Check:
    found: dict[str, Any] = info()
    version = f"{found.get('server_name', 'redis')} {found.get('valkey_version') or found.get('redis_version')}"
    if not found.get("aof_enabled"):
        fix = (
            "`appendonly yes` in its configuration; without it a crash loses what was accepted since the last snapshot"
        )
        return Check("redis", False, f"{where}: {version} keeps no append-only file", fix)
    policy = setting("maxmemory-policy")
    if policy not in (None, "noeviction"):
        return Check(
            "redis",
            False,
            f"{where}: evicts keys ({policy})",
            "`maxmemory-policy noeviction`: state must not be evicted",
        )
    if _number(found.get("redis_version")) < LEAST_VERSION:
        needed = ".".join(map(str, LEAST_VERSION))
        return Check(
            "redis", False, f"{where}: {version} is too old", f"install Redis {needed}, or Valkey, or newer ones"
        )
    sync = setting("appendfsync") or "?"
    for name, what in (("aof_last_write_status", "append-only file"), ("rdb_last_bgsave_status", "snapshot")):
        if found.get(name, "ok") != "ok":
            fix = "look at its log: is the disk full, or not writable?"
            return Check("redis", False, f"{where}: {version}: its last {what} could not be written", fix)
    used, most = int(found.get("used_memory") or 0), int(found.get("maxmemory") or 0)
    memory = f"{used >> 20} MiB used" + (f" of {most >> 20}" if most else ", no limit")
    if most and used > FULL_PART * most:
        fix = "raise `maxmemory`: at the limit Redis refuses writes, and no task is accepted"
        return Check("redis", False, f"{where}: {version}: {memory}", fix)
    return Check("redis", True, f"{where}: {version}, append-only file, fsync {sync}, {memory}")
