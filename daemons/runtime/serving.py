"""Runs a daemon as a process of its own: log, event loop, and the status that it ends with."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

import uvloop
from pydantic import BaseModel, SecretStr

from a2a_zmq.errors import ConfigError, StoreUnavailable
from a2a_zmq.protocol.message import Role
from a2a_zmq.transport.router import SelfTestLate
from daemons import logs, redaction
from daemons.runtime.deathwatch import hold_life_mark
from daemons.runtime.heap import HeapTrimmer, trim_function
from daemons.runtime.launch import EX_OK, EX_TEMPFAIL, Daemon
from daemons.runtime.orphans import hide_marks
from daemons.runtime.slices import short_slices
from daemons.runtime.spool_rows import SpoolBroken, SpoolRefused
from daemons.runtime.systemd import Notifier
from daemons.settings import DaemonSettings, RedisUser
from daemons.settings_sources import EX_CONFIG, Sources

EX_SOFTWARE: Final = 70
EX_IOERR: Final = 74

# Objects made before the youngest are collected (Python's default is 700). What tasks are kept in has no cycles and
# lives for milliseconds, so looking at it early only finds it alive: a twelfth of the processor time under load.
GC_THRESHOLD: Final = 25_000

# How long closing may take where a daemon is to leave at once. A disk that hangs holds the spool's thread, for which
# Python waits at the end.
CLOSE_S: Final = 5.0

S = TypeVar("S", bound=DaemonSettings)


def serve(sources: Sources[S], role: Role, open_daemon: Callable[[S], Awaitable[Daemon]]) -> int:
    """Run a daemon process to its end; returns its exit status, with one clear line where it could not run."""
    _end_on_signals()
    settings = sources.load_or_exit()
    logs.configure(
        role=role.value, agent_id=settings.agent_id, level=settings.log_level, log_format=settings.log_format
    )
    gc.set_threshold(GC_THRESHOLD, 10, 10)
    redaction.hide(secrets_of(settings))
    log = logs.get_logger("launch")
    hide_marks()
    if why := short_slices():
        log.debug("no_short_slices", why=why)
    notifier = Notifier.of_environment()
    if why := hold_life_mark():
        log.debug("no_life_mark", why=why)

    async def main() -> int:
        daemon = await open_daemon(settings)
        daemon.reloader.read = sources.load
        daemon.on_signals()
        daemon.at_once = partial(_end_in_time, log)
        if (trim := trim_function()) is not None:
            daemon.shell.chores.append(HeapTrimmer(trim).look)
        if notifier is not None:
            notifier.follow(daemon.shell, ready=daemon.ready, leaving=lambda: daemon.stopped_by or daemon.left_because)
        return await daemon.run()

    try:
        return uvloop.run(main())
    except ConfigError as error:
        return _fail(role, EX_CONFIG, str(error))
    except SelfTestLate as error:
        return _fail(role, EX_TEMPFAIL, str(error))
    except StoreUnavailable as error:
        redis = settings.redis_config().url(mask=True) if isinstance(settings, RedisUser) else "?"
        status = EX_CONFIG if error.fatal else EX_TEMPFAIL
        return _fail(role, status, f"Redis at {redis} cannot be used: {error}")
    except (SpoolBroken, SpoolRefused) as error:
        return _fail(role, EX_IOERR, f"the local spool fails, what it holds is read at the next start: {error}")
    except KeyboardInterrupt:
        return EX_OK
    except Exception as error:
        log.exception("crashed")
        return _fail(role, EX_SOFTWARE, f"internal error: {type(error).__name__}: {error}")
    finally:
        if notifier is not None:
            notifier.close()


def _end_on_signals() -> None:
    """Until a daemon runs there is nothing that it would have to finish, or to read anew: SIGTERM and SIGINT end it at
    once, however long it waits for Redis, and SIGHUP is let go by. (It is not ignored, which programs that are started
    meanwhile would inherit.)"""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(EX_OK))
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def _end_in_time(log: Any, status: int) -> None:
    """End the process with this status if it has not ended by itself within :data:`CLOSE_S`; what was promised is on
    disk or in Redis, as for any kill."""

    def end() -> None:
        with contextlib.suppress(Exception):
            log.error("closing_hangs", status=status)
        os._exit(status)

    timer = threading.Timer(CLOSE_S, end)
    timer.daemon = True
    timer.start()


def secrets_of(settings: BaseModel) -> Iterator[str]:
    """The values of all settings that are secret."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()


def _fail(role: Role, status: int, text: str) -> int:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"a2a-{role.value}: {redaction.text(text)}\n")
    return status
