"""Calling a handler: find it, fit its arguments, encode its result, describe its failure. Used by every executor.

Imported by child processes: nothing heavy at module level.
"""

from __future__ import annotations

import importlib
import sys

import orjson

from a2a_zmq.errors import ConfigError
from a2a_zmq.handlers import InvalidInput, TaskContext, TaskStopped, is_async
from a2a_zmq.nesting import MAX_VALUE_DEPTH, too_deep
from a2a_zmq.texts import whole, whole_texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

# Errors are one line on a terminal and in a record; the traceback is in the detail.
ERROR_CHARS = 500
TRACEBACK_LINES = 12
TRACEBACK_CHARS = 3000
_OURS = __file__.rpartition("executors")[0]
NODE_NOTE = "During task with name '"
NODE_CHARS = 200


class Unserializable(Exception):
    """The result cannot be carried as JSON, or is too large; caused by TaskStopped if encoding was interrupted."""


class Ended(Exception):
    """A run that ended otherwise than by a value or an error of the handler.

    Attributes:
        outcome: as in :class:`daemons.runtime.contract.RunFinished`.
        body: JSON of what it tells besides.
    """

    def __init__(
        self,
        outcome: str,
        error: str,
        kind: str,
        *,
        retryable: bool = True,
        body: bytes = b"null",
        detail: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = whole(error[:ERROR_CHARS])
        self.kind = kind
        self.retryable = retryable
        self.body = body
        self.detail = detail or {}


class Handler:
    """A handler as executors call it.

    Attributes:
        call: the function.
        is_async: it gives a coroutine.
        takes_payload, takes_context: which arguments it has.
        context_name: keyword of the context if it stands before the payload or alone; None where it is the second
            argument.
        model: pydantic model of the payload, or None for the plain dict.
    """

    __slots__ = ("call", "context_name", "is_async", "model", "takes_context", "takes_payload")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.call = function
        self.is_async = is_async(function)
        names, hints = _parameters(function)
        context = next((name for name in names if hints.get(name) is TaskContext or name == "ctx"), None)
        others = [name for name in names if name != context]
        self.takes_payload = bool(others)
        self.takes_context = context is not None
        self.context_name = context
        hint = hints.get(others[0]) if others else None
        self.model = hint if isinstance(hint, type) and hasattr(hint, "model_validate") else None

    def arguments(self, payload: Any, context: TaskContext) -> tuple[list[Any], dict[str, Any]]:
        """Arguments for this payload.

        Raises:
            InvalidInput: the payload does not fit the handler's model.
        """
        positional: list[Any] = []
        if self.takes_payload:
            positional.append(payload if self.model is None else _validate(self.model, payload))
        if self.context_name is not None:
            return positional, {self.context_name: context}
        return positional, {}


def _parameters(function: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """Names of the positional parameters, and the types of those that are annotated."""
    signed = function
    while hasattr(signed, "__wrapped__"):
        signed = signed.__wrapped__
    code = getattr(signed, "__code__", None)
    if code is not None:
        names = list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        if getattr(signed, "__self__", None) is not None:
            names = names[1:]
    else:
        import inspect

        names = list(inspect.signature(signed).parameters)
    annotations = getattr(signed, "__annotations__", {})
    if not any(name in annotations and annotations[name] not in (dict, "dict[str, Any]") for name in names):
        return names, {}
    import typing

    try:
        return names, typing.get_type_hints(signed)
    except Exception as error:
        where = f"{getattr(signed, '__module__', '?')}:{getattr(signed, '__qualname__', '?')}"
        raise ConfigError(f"handler {where}: its annotations cannot be read: {one_line(error)}") from error


def _validate(model: Any, payload: Any) -> Any:
    try:
        return model.model_validate(payload)
    except ValueError as error:  # pydantic's ValidationError is one
        errors = getattr(error, "errors", None)
        if errors is None:
            raise InvalidInput(one_line(error)) from None
        parts = [f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg']}" for item in errors()[:3]]
        raise InvalidInput("; ".join(parts)[:ERROR_CHARS]) from None


_loaded: dict[str, Handler] = {}


def load(reference: str) -> Handler:
    """The handler behind ``module:function``, imported once.

    Raises:
        ConfigError: there is no such module or function.
    """
    handler = _loaded.get(reference)
    if handler is None:
        handler = _loaded[reference] = Handler(find(reference))
    return handler


def find(reference: str) -> Callable[..., Any]:
    """Import ``module:function``.

    Raises:
        ConfigError: there is no such module or function; the text names it.
    """
    module_name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(f"cannot import handler module {module_name!r}: {one_line(error)}{place(error)}") from error
    for name in path.split("."):
        found = getattr(found, name, None)
    if not callable(found):
        raise ConfigError(f"module {module_name!r} has no function {path!r}")
    function: Callable[..., Any] = found
    return function


def encode(value: Any, max_bytes: int, what: str = "result") -> bytes:
    """The result, or what else it is called, as JSON.

    Raises:
        Unserializable: it is not JSON (not even NaN is), or has more than ``max_bytes``.
    """
    try:
        return _encode(value, max_bytes, what)
    except Unserializable:
        raise
    except Exception as error:  # whatever the value's own methods raise
        raise Unserializable(f"the {what} is not JSON: {one_line(_cause(error))}") from _stop_in(error)


def _encode(value: Any, max_bytes: int, what: str) -> bytes:
    encoded = orjson.dumps(value, default=_default)
    if len(encoded) > max_bytes:
        raise Unserializable(f"the {what} has {len(encoded)} bytes, at most {max_bytes} are carried")
    if too_deep(encoded):
        raise Unserializable(f"the {what} nests deeper than {MAX_VALUE_DEPTH} levels")
    # orjson writes NaN and infinities as null, which would change the result silently.
    if b"null" in encoded and _has_nan(value):
        raise Unserializable(f"the {what} holds NaN or an infinity, which JSON cannot carry")
    return encoded


def _default(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    raise TypeError(f"type {type(value).__name__} is not JSON")


def _has_nan(value: Any) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float):
            if item != item or item in (float("inf"), float("-inf")):  # noqa: PLR0124 - what NaN is
                return True
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
    return False


def _cause(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else error.__cause__


def _stop_in(error: BaseException) -> TaskStopped | None:
    """orjson, and pydantic in it, raise an error of their own for one that passes."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen and not isinstance(cause, TaskStopped):
        seen.add(id(cause))
        cause = cause.__cause__
    return cause if isinstance(cause, TaskStopped) else None


def one_line(error: BaseException) -> str:
    """``Type: text`` on one line, bounded, as JSON can carry it; with the node of a graph that raised it."""
    text = _text(error)
    name = type(error).__name__
    where = _node(error)
    return whole((f"{name}: {text}" if text else name)[: ERROR_CHARS - len(where)] + where)


def place(error: BaseException) -> str:
    """File and line at which an import failed; "" where they are known without it, or are the importer's own."""
    if isinstance(error, SyntaxError):
        return ""
    found, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(("<frozen ", _OURS, importlib.__file__)):
            found = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


def _text(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())
    except BaseException:  # whatever its __str__() raises
        return "(its text cannot be made)"


def _node(error: BaseException) -> str:
    """LangGraph notes the node on an error that passes, the innermost first."""
    notes = getattr(error, "__notes__", ())
    if not isinstance(notes, (list, tuple)):
        return ""
    nodes = [note.split("'")[1] for note in notes if isinstance(note, str) and note.startswith(NODE_NOTE)]
    return f" (in node {' of '.join(repr(node) for node in dict.fromkeys(nodes))})"[:NODE_CHARS] if nodes else ""


def ended_on_request(error: BaseException, context: TaskContext) -> bool:
    """It was asked to end, and did; it would not have failed by itself."""
    if isinstance(error, Unserializable):
        return context.cancelled and isinstance(error.__cause__, TaskStopped)
    return context.cancelled and not isinstance(error, InvalidInput)


def failure(error: BaseException, context: TaskContext) -> tuple[str, str, bool, dict[str, Any]]:
    """What to report of a handler's failure: (error_kind, error, retryable, detail), as JSON can carry it."""
    try:
        kind, text, retryable, detail = _failure(error, context)
        return kind, whole(text), retryable, whole_texts(detail)
    except Exception:  # an error that cannot be looked at: told in few words, but told
        refused = isinstance(error, InvalidInput)
        text = f"{type(error).__name__}: (it cannot be described)"
        return "invalid_input" if refused else "raised", whole(text), not refused, {}


def _failure(error: BaseException, context: TaskContext) -> tuple[str, str, bool, dict[str, Any]]:
    detail: dict[str, Any] = {}
    lines = context.lines
    if lines:
        detail["log"] = lines
    if isinstance(error, InvalidInput):
        return "invalid_input", _text(error)[:ERROR_CHARS], False, detail
    if isinstance(error, Unserializable):
        return "unserializable", str(error), False, detail
    if isinstance(error, SystemExit):
        code = _exit_code(error)
        detail["exit_code"] = code
        return "exited", f"the handler called sys.exit({code!r})"[:ERROR_CHARS], True, detail
    detail["traceback"] = _traceback(error.__traceback__)
    # A module that cannot be imported fails everywhere alike, but another worker may have what this one lacks.
    return "raised", one_line(_cause(error) if isinstance(error, ConfigError) else error), True, detail


def _exit_code(error: SystemExit) -> int | str:
    code = error.code
    if isinstance(code, str):
        return code[:ERROR_CHARS]
    if not isinstance(code, int):
        return 0
    # JSON carries 64 bits; and beyond some thousand digits Python writes no decimal text.
    return int(code) if -(2**63) <= code < 2**63 else hex(code)[:ERROR_CHARS]


def _traceback(trace: TracebackType | None) -> str:
    """The innermost frames, without those of this package."""
    lines: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_HERE):
            lines.append(f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return "\n".join(lines[-TRACEBACK_LINES:])[-TRACEBACK_CHARS:]


_HERE = sys.modules[__name__].__file__.rpartition("/")[0]  # type: ignore[union-attr]  # it was loaded from a file


def stopped(reason: str, timeout_s: float | None) -> tuple[str, str, str, bool]:
    """What to report of a run that was ended on request: (outcome, error, error_kind, retryable)."""
    if reason == "timeout":
        limit = "" if timeout_s is None else f" after {timeout_s:g} s"
        return "failed", f"timed out{limit}", "timeout", True
    if reason == "drain":
        return "failed", "stopped: its worker had to leave", "killed", True
    return "abandoned", "cancelled", "cancelled", False


__all__ = [
    "Ended",
    "Handler",
    "InvalidInput",
    "TaskContext",
    "TaskStopped",
    "Unserializable",
    "encode",
    "ended_on_request",
    "failure",
    "find",
    "load",
    "one_line",
    "stopped",
]
