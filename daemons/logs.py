"""Structured logs: one JSON line an event on standard error, or a readable one on a terminal.

Who writes (agent, role) is bound once; what is written while a task runs says which one that is. Secrets are taken out,
a warning that repeats is counted instead of written, and libraries and handlers speak only from warning upward, in the
same form. Payloads are never logged; that is for the callers to keep.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any, BinaryIO, Final, TextIO, cast

import orjson

from a2a_zmq.handlers import current_task
from a2a_zmq.tracing.context import task_fields
from daemons import redaction

_had_rich = "rich" in sys.modules
if not _had_rich:
    # structlog imports rich for pretty tracebacks where it can. That is 4.5 MB in every daemon for a thing that a
    # log of one line an event never shows, so it is made to find none.
    sys.modules["rich"] = None  # type: ignore[assignment]  # None is how the import system marks "not there"
try:
    import structlog
finally:
    if not _had_rich:
        del sys.modules["rich"]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

# The same warning is written this often in a window; the rest of the window is only counted.
REPEATS: Final = 5
WINDOW_S: Final = 10.0
# Different warnings that are told apart; beyond it the oldest is forgotten (which only means it is written again).
MAX_KINDS: Final = 256

EventDict = MutableMapping[str, Any]

_configured: list[bool] = []  # whether this process's logs were set up here


def configure(*, role: str, agent_id: str, level: str = "info", log_format: str = "auto", stream: Any = None) -> None:
    """Set up the logs of this process.

    Args:
        level: least severe level that is written: debug, info, warning, error.
        log_format: ``json``, ``console``, or ``auto`` (console if the stream is a terminal).
        stream: text stream with a ``buffer``; standard error by default.
    """
    _configured[:] = [True]
    stream = sys.stderr if stream is None else stream
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    processors: list[Any] = [
        _Speaker(agent_id, role),
        _of_task,
        structlog.processors.add_log_level,
        _Limiter(time.monotonic),
        structlog.processors.format_exc_info,
        _redact,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
    ]
    factory: Any
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=stream.isatty()))
        factory = structlog.WriteLoggerFactory(file=cast(TextIO, _Unbreakable(stream)))
    else:
        processors.append(_to_json)
        factory = structlog.BytesLoggerFactory(file=cast(BinaryIO, _Unbreakable(stream.buffer)))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=False,  # module-level loggers made before this call must follow it
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.captureWarnings(capture=True)


def set_level(level: str) -> None:
    """Change the least severe level that is written; nothing in a program that has not called :func:`configure`."""
    if structlog.is_configured():
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]))
        logging.getLogger().setLevel(max(LEVELS[level], logging.WARNING))


def get_logger(name: str) -> Any:
    """A logger; ``name`` says which part of the daemon speaks.

    In a program that has agents in it and never called :func:`configure`, lines go where that program wants them: to
    its structlog if it has configured one, else to the standard library's logger ``a2a_zmq.NAME``, which by default
    writes warnings and errors to standard error, and nothing else.
    """
    return _Logger(name)


class _Logger:
    """Looks at every line anew where it is to go: the program may configure its logs after it has made its agents."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __getattr__(self, level: str) -> Callable[..., None]:
        if level not in LEVELS and level != "exception":
            raise AttributeError(level)
        if structlog.is_configured():
            theirs = cast(Callable[..., None], getattr(structlog.get_logger(part=self._part), level))
            if _configured:
                return theirs  # it is ours, with our processors
            return lambda event, **fields: theirs(redaction.text(event), **_redact(None, level, fields))
        logger = logging.getLogger(f"a2a_zmq.{self._part}")

        def write(event: str, **fields: Any) -> None:
            number = LEVELS["error" if level == "exception" else level]
            if logger.isEnabledFor(number):
                told = _redact(logger, level, fields)
                text = " ".join([redaction.text(event), *(f"{name}={value!r}" for name, value in told.items())])
                if level == "exception":  # as logging does it, but without secrets
                    text += "\n" + redaction.text(traceback.format_exc().rstrip())
                logger.log(number, "%s", text)

        return write


def _to_json(_logger: Any, _method: str, event: EventDict) -> bytes:
    line = {name: event.pop(name, None) for name in ("timestamp", "level", "agent", "role", "event")}
    return orjson.dumps(line | dict(event), default=str, option=orjson.OPT_NON_STR_KEYS)


class _Unbreakable:
    """A stream whose reader may die (a supervisor that was killed) or whose disk may be full.

    The line is lost then, and the daemon goes on.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost = 0

    def write(self, data: Any) -> None:
        try:
            self._stream.write(data)
        except (OSError, ValueError):
            self.lost += 1

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self.lost += 1


class _Speaker:
    """Says who writes, in every thread."""

    def __init__(self, agent_id: str, role: str) -> None:
        self._bound = {"agent": agent_id, "role": role}

    def __call__(self, _logger: Any, _method: str, event: EventDict) -> EventDict:
        # "agent" of an event about another agent is that agent's: then the line says of whom it speaks.
        for name, value in self._bound.items():
            event.setdefault(name, value)
        return event


def _of_task(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """What is written while a task runs, by its handler or a library that it uses, says which one that is."""
    task = current_task()
    if task is not None:
        for name, value in task_fields(task.task_id, task.attempt, task.metadata).items():
            event.setdefault(name, value)
    return event


def _redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        event[name] = redaction.MASK if redaction.named(name, value) else redaction.clean(value)
    return event


class _Limiter:
    """Lets a warning or error through :data:`REPEATS` times a window; the next window tells how many were held back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, str], list[float]] = {}  # (level, event) → [window's start, seen in it]

    def __call__(self, _logger: Any, method: str, event: EventDict) -> EventDict:
        if method not in ("warning", "error"):
            return event
        now = self._clock()
        kind = (method, str(event.get("event", "")))
        window = self._kinds.get(kind)
        if window is None or now - window[0] >= WINDOW_S:
            held_back = 0 if window is None else int(window[1]) - REPEATS
            self._kinds.pop(kind, None)
            self._kinds[kind] = [now, 1]
            if len(self._kinds) > MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            if held_back > 0:
                event["held_back"] = held_back
            return event
        window[1] += 1
        if window[1] > REPEATS:
            raise structlog.DropEvent
        return event


class _ToStructlog(logging.Handler):
    """Passes what libraries log through the standard library on, in our form."""

    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for name, number in LEVELS.items() if number >= record.levelno), "critical")
        fields: dict[str, Any] = {"part": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        try:
            getattr(structlog.get_logger(), level)(record.getMessage(), **fields)
        except Exception:
            self.handleError(record)
