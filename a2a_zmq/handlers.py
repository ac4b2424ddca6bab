"""User code for workers: the ``@task`` decorator and what a handler gets.

A handler is a function, sync or async, that takes the task's payload and, if it wants, a :class:`TaskContext`::

    from pydantic import BaseModel
    from a2a_zmq.handlers import TaskContext, task

    class Resize(BaseModel):
        path: str
        width: int = 640

    @task("resize", timeout_s=30)
    def resize(job: Resize, ctx: TaskContext) -> dict[str, object]:
        ctx.log(f"resizing {job.path}")
        return {"path": job.path, "width": job.width}

A first parameter annotated with a pydantic model is validated (a payload that does not fit fails the task as
``invalid_input``, without a retry); any other gets the plain dict. A parameter named ``ctx`` or annotated
``TaskContext`` gets the context. What the handler returns becomes the task's result and must be JSON. A decorated
function stays an ordinary function.

Executor processes import this module and little else, so it must stay cheap to import (no dataclasses, inspect or
pydantic).
"""

from __future__ import annotations

import re
import time
from contextvars import ContextVar

from a2a_zmq.errors import A2AError, ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = [
    "EXECUTORS",
    "InvalidInput",
    "TaskContext",
    "TaskOptions",
    "TaskStopped",
    "current_task",
    "options_of",
    "task",
]

EXECUTORS = ("auto", "async", "thread", "process")
# Task types travel as JSON texts and metric labels; "module:function" is one, so dots and a colon are allowed.
TASK_TYPE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}\Z")
# Context log lines that are kept for a failure's detail: enough to see what went on, small enough to travel.
LOG_LINES = 20
LOG_LINE_CHARS = 400

_MARK = "__a2a_tasks__"
_COROUTINE = 0x80  # code flags, as inspect.CO_COROUTINE and inspect.CO_ASYNC_GENERATOR
_ASYNC_GENERATOR = 0x200


class InvalidInput(A2AError):
    """The payload is not what the handler takes; the task fails as ``invalid_input`` and is not tried again."""


class TaskStopped(BaseException):
    """The run is to end now (cancelled, timed out, worker leaving).

    Not an ``Exception``, so that a handler's ``except Exception`` does not swallow it; ``finally`` blocks run.
    """


class TaskOptions:
    """What ``@task`` said of a handler.

    Attributes:
        name: the task type.
        executor: ``async``, ``thread`` or ``process`` ("auto" is resolved already).
        timeout_s: seconds that an attempt may run where the task itself names no limit; None for no limit.
    """

    __slots__ = ("executor", "name", "timeout_s")

    def __init__(self, name: str, executor: str, timeout_s: float | None) -> None:
        self.name = name
        self.executor = executor
        self.timeout_s = timeout_s


class TaskContext:
    """What a handler may know of the attempt it runs.

    Attributes:
        task_id: the task.
        attempt: number of this attempt, from 1; numbers may skip.
        task_type: the handler's task type.
        deadline: monotonic time (``time.monotonic()``) at which the attempt is stopped, or None.
        metadata: the task's metadata, read-only by convention.
    """

    __slots__ = ("_lines", "_stop", "attempt", "deadline", "metadata", "task_id", "task_type")

    def __init__(
        self,
        task_id: str,
        attempt: int,
        task_type: str = "",
        *,
        deadline: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.task_type = task_type
        self.deadline = deadline
        self.metadata = metadata if metadata is not None else {}
        self._stop = ""
        self._lines: list[str] = []

    @property
    def idempotency_key(self) -> str:
        """The same for every delivery of this attempt; hand it to services that deduplicate requests."""
        return f"{self.task_id}:{self.attempt}"

    @property
    def cancelled(self) -> bool:
        """True once the run should end: long loops look at it and return."""
        return self._stop != ""

    @property
    def stop_reason(self) -> str:
        """``cancelled``, ``timeout``, ``drain``, or "" while the run may go on."""
        return self._stop

    def raise_if_cancelled(self) -> None:
        """Leave the handler if the run should end.

        Raises:
            TaskStopped: let it pass.
        """
        if self._stop:
            raise TaskStopped(self._stop)

    def remaining_s(self) -> float | None:
        """Seconds until the deadline (not below 0), None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def log(self, text: str) -> None:
        """Note a line; the last ones become part of the task's record if the attempt fails."""
        self._lines.append(str(text)[:LOG_LINE_CHARS])
        if len(self._lines) > LOG_LINES:
            del self._lines[0]

    @property
    def lines(self) -> list[str]:
        """The last logged lines, oldest first."""
        return list(self._lines)

    def stop(self, reason: str) -> None:
        """For executors: ask the handler to end."""
        self._stop = reason


# Set by executors around a run. Threads that a handler starts itself have none.
running: ContextVar[TaskContext | None] = ContextVar("running", default=None)


def current_task() -> TaskContext | None:
    """The context of the run that this code belongs to; None outside of one."""
    return running.get()


def is_async(function: Callable[..., Any]) -> bool:
    """True for ``async def`` functions, also below ``functools.wraps`` wrappers that are async themselves."""
    code = getattr(function, "__code__", None)
    if code is None:  # an object with __call__, or a partial
        code = getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004 - not asking whether
    return code is not None and bool(code.co_flags & _COROUTINE)


def resolve_executor(name: str, function: Callable[..., Any], executor: str) -> str:
    """The executor kind of a handler: async functions run on an event loop, sync ones in a process that can be killed.

    Raises:
        ConfigError: the kind does not exist or does not fit the function.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"task {name!r}: executor {executor!r} is none of {', '.join(EXECUTORS)}")
    code = getattr(function, "__code__", None)
    if code is not None and code.co_flags & _ASYNC_GENERATOR:
        raise ConfigError(f"task {name!r}: an async generator cannot be a handler; return the value")
    if is_async(function):
        if executor == "thread":
            raise ConfigError(f"task {name!r}: an async function runs in executor 'async' or 'process', not 'thread'")
        return "async" if executor == "auto" else executor
    if executor == "async":
        raise ConfigError(f"task {name!r}: executor 'async' needs an async function")
    return "process" if executor == "auto" else executor


def task(name: str, *, executor: str = "auto", timeout_s: float | None = None) -> Callable[[F], F]:
    """Make a function the handler of a task type.

    Args:
        name: the task type, for example ``"resize"``.
        executor: ``auto`` (async functions on the worker's handler loop, sync ones in a child process), ``async``,
            ``thread`` (cooperative code only: a thread cannot be killed) or ``process``.
        timeout_s: limit of one attempt in seconds where the task itself names none.

    Raises:
        ConfigError: the name or the executor is not possible.
    """
    if not isinstance(name, str) or TASK_TYPE.match(name) is None:
        raise ConfigError(f"task type {name!r}: use up to 128 letters, digits and _ . : / -")
    if timeout_s is not None and not timeout_s > 0:
        raise ConfigError(f"task {name!r}: timeout_s must be above 0, got {timeout_s!r}")

    def mark(function: F) -> F:
        options = TaskOptions(name, resolve_executor(name, function, executor), timeout_s)
        setattr(function, _MARK, (*options_of(function), options))
        return function

    return mark


def options_of(function: object) -> tuple[TaskOptions, ...]:
    """What ``@task`` said of this function; empty if it is not decorated."""
    found = getattr(function, "__dict__", {}).get(_MARK, ())
    return found if isinstance(found, tuple) else ()
