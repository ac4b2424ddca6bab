"""From a caller's arguments to the JSON of a task, and from a result record to a value. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson

from a2a_zmq.config import split_address
from a2a_zmq.errors import ConfigError, FleetError, RequestRefused, TaskCancelled, TaskFailed
from a2a_zmq.ids import valid_task_id
from a2a_zmq.nesting import MAX_VALUE_DEPTH, too_deep
from a2a_zmq.tasks import COMPLETED, Record
from a2a_zmq.tracing.context import TraceContext

MAX_TASK_TYPE_LENGTH = 128
# The coordinator's bound: priorities are few classes.
MAX_PRIORITY = 1_000
# Arguments that methods of the client have besides the options of all tasks, for who mistypes one.
OWN = {
    "submit": ("idempotency_key", "task_id"),
    "submit_graph": (
        "thread_id",
        "config",
        "context",
        "interrupt_before",
        "interrupt_after",
        "stream_mode",
        "idempotency_key",
        "task_id",
    ),
    "map": ("as_completed", "in_flight", "return_exceptions", "records"),
}
# Between a task's metadata and its payload.
_AFTER_METADATA = b'},"payload":'


class InvalidTask(RequestRefused):
    """The arguments of a submission are wrong; nothing was sent."""

    def __init__(self, text: str) -> None:
        super().__init__("INVALID_TASK", text)


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """The payload as JSON.

    Raises:
        RequestRefused: it is not a JSON object, or holds something that JSON cannot carry.
    """
    if not isinstance(payload, dict):
        payload = _as_dict(payload)
    try:
        encoded = orjson.dumps(payload)
    except TypeError as error:
        raise InvalidTask(f"the payload cannot be written as JSON: {error}") from error
    if too_deep(encoded):
        raise InvalidTask(f"the payload nests deeper than {MAX_VALUE_DEPTH} levels")
    return encoded


def _as_dict(payload: object) -> dict[str, Any]:
    if isinstance(payload, Mapping):
        return dict(payload)
    raise InvalidTask(f"the payload must be a JSON object (a dict), not {type(payload).__name__}")


def graph_task(  # noqa: PLR0917 - as submit_graph has them
    options: Mapping[str, Any],
    input_: Any,
    thread_id: str | None,
    config: Mapping[str, Any] | None,
    context: Mapping[str, Any] | None,
    interrupt_before: str | Sequence[str],
    interrupt_after: str | Sequence[str],
    stream_mode: str | Sequence[str],
) -> dict[str, Any]:
    """The payload of a graph's task.

    Raises:
        TypeError: as :func:`known_options`.
    """
    members: dict[str, Any] = {"thread_id": thread_id, "config": config, "context": context}
    for name, nodes in (("interrupt_before", interrupt_before), ("interrupt_after", interrupt_after)):
        if nodes:
            members[name] = nodes if isinstance(nodes, str) else list(nodes)
    known_options("submit_graph", options)
    if stream_mode:
        members["stream_mode"] = [stream_mode] if isinstance(stream_mode, str) else list(stream_mode)
    return {"input": input_, **{name: value for name, value in members.items() if value is not None}}


def known_options(method: str, options: Mapping[str, Any]) -> None:
    """See that a method of the client got only options that it has.

    Raises:
        TypeError: as of any function, with the name that may be meant.
    """
    known = TaskForm.__init__.__kwdefaults__ or {}
    for name in options:
        if name not in known:
            hint = _meant(name, (*known, *OWN.get(method, ())))
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}{hint}")


def known_keys(index: int, spec: Mapping[str, Any], known: Collection[str], required: Iterable[str]) -> None:
    """See that one of ``submit_tasks``' tasks has only known keys, and those that are required.

    Raises:
        TypeError: with the key, the task's index, and the name that may be meant.
    """
    if not isinstance(spec, Mapping):
        raise TypeError(f"submit_tasks() needs a dict for each task; tasks[{index}] is of type {type(spec).__name__}")
    for name in spec:
        if name not in known:
            hint = _meant(str(name), known)
            raise TypeError(f"submit_tasks() got an unexpected key {name!r} in tasks[{index}]{hint}")
    for name in required:
        if name not in spec:
            raise TypeError(f"submit_tasks() misses the key {name!r} in tasks[{index}]")


def _meant(name: str, known: Iterable[str]) -> str:
    """What is said of the known name that is most like this unknown one; "" if none is."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class TaskForm:
    """What all tasks of one call have in common, encoded once.

    Args:
        task_type: name of the handler.
        priority: higher first.
        timeout_s: time limit of one attempt, or None.
        max_attempts: how often it is tried before it counts as failed; None: as its distributor is set, 3 times.
        distributor: run it there only.
        labels: labels that a worker must have.

    Raises:
        RequestRefused: an argument is out of range.
    """

    __slots__ = ("_middle", "task_type")

    def __init__(
        self,
        task_type: str,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        max_attempts: int | None = None,
        distributor: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(task_type, str) or not 0 < len(task_type) <= MAX_TASK_TYPE_LENGTH:
            raise InvalidTask(f"the task type must be a text of 1 to {MAX_TASK_TYPE_LENGTH} characters")
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise InvalidTask("priority must be a whole number (higher runs first)")
        if abs(priority) > MAX_PRIORITY:
            raise InvalidTask(f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {shown(priority)}")
        if timeout_s is not None and not (is_number(timeout_s) and 0 < timeout_s < float("inf")):
            raise InvalidTask("timeout_s must be a positive number of seconds")
        if max_attempts is not None and not is_count(max_attempts):
            raise InvalidTask("max_attempts must be a whole number, at least 1")
        if distributor is not None and not isinstance(distributor, str):
            raise InvalidTask(f"distributor must be a text, not {type(distributor).__name__}")
        check_labels(labels)
        metadata: dict[str, Any] = {"priority": priority}
        if max_attempts is not None:
            metadata["max_attempts"] = max_attempts
        if timeout_s is not None:
            metadata["timeout_s"] = timeout_s
        if distributor is not None:
            metadata["distributor"] = distributor
        if labels:
            metadata["labels"] = dict(labels)
        self.task_type = task_type
        try:
            fields = orjson.dumps({"task_type": task_type, "metadata": metadata})
        except TypeError as error:
            raise InvalidTask(f"the options cannot be written as JSON: {error}") from error
        self._middle = b'",' + fields[1:-2] + _AFTER_METADATA

    def body(self, task_id: str, payload: bytes) -> bytes:
        """One task of a ``submit_tasks`` message; the id must be a valid one."""
        return b'{"task_id":"' + task_id.encode() + self._middle + payload + b"}"

    def traced(self, task_id: str, body: bytes, trace: TraceContext) -> bytes:
        """The same task with its trace."""
        end = len(b'{"task_id":"') + len(task_id.encode()) + len(self._middle) - len(_AFTER_METADATA)
        return body[:end] + b"," + orjson.dumps(trace.members())[1:-1] + body[end:]


def check_labels(labels: object) -> None:
    """Labels travel with other callers' tasks in one message, which the coordinator takes or refuses as a whole.

    Raises:
        RequestRefused: they are no texts by texts.
    """
    if labels is None:
        return
    if not isinstance(labels, Mapping):
        raise InvalidTask(f"labels must be a dict of texts, not {type(labels).__name__}")
    for name, value in labels.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidTask(f"labels must be texts by texts, not {name!r:.60}: {type(value).__name__}")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Is it a whole number, at least 1?"""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def shown(number: int) -> str:
    """A number for a message, however many digits it has."""
    return str(number) if abs(number) < 10**18 else "a number of more than 18 digits"


def checked_task_id(task_id: str) -> str:
    if not valid_task_id(task_id):
        raise InvalidTask(f"{task_id!r} is not a task id (letters, digits and ._:@- , at most 128)")
    return task_id


def value_of(task_id: str, outcome: Record | FleetError) -> Any:
    """The value of a finished task.

    Raises:
        TaskFailed, TaskCancelled: as its record says.
        FleetError: what ended the waiting instead.
    """
    error = error_of(task_id, outcome)
    if error is not None:
        raise error
    return outcome.get("result") if isinstance(outcome, dict) else None


def error_of(task_id: str, outcome: Record | FleetError) -> FleetError | None:
    """The error that a finished task stands for; None if it completed."""
    if not isinstance(outcome, dict):
        return outcome.with_traceback(None)
    if outcome.get("status") == COMPLETED:
        return None
    kind = str((outcome.get("metadata") or {}).get("error_kind") or "")
    if kind == "cancelled":
        return TaskCancelled(task_id)
    return TaskFailed(task_id, str(outcome.get("error") or "no reason recorded"), kind or "raised")


def address_list(addresses: str | list[str] | tuple[str, ...]) -> list[str]:
    """One address (``[NAME@]tcp://HOST:PORT``), several, or several in one text with commas between them.

    Raises:
        ConfigError: none, or one that is not of a form that can be connected to.
    """
    texts = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    found = [text.strip() for text in texts if text.strip()]
    for text in found:
        try:
            split_address(text)
        except ValueError as error:
            raise ConfigError(f"coordinator address: {error}") from None
    if not found:
        raise ConfigError("no coordinator address was given")
    return found
