"""The payload of a graph task, checked before anything is run. Pure.

``{"input": …, "thread_id": …, "config": {…}, "context": …, "interrupt_before": […], "interrupt_after":
[…], "stream_mode": […], "stream_subgraphs": …}``; all but the input may be left out.
"""

from __future__ import annotations

from typing import Any, Final

from a2a_zmq.handlers import InvalidInput
from a2a_zmq.streams import STREAM_MODES

MEMBERS: Final = (
    "input",
    "thread_id",
    "config",
    "context",
    "interrupt_before",
    "interrupt_after",
    "stream_mode",
    "stream_subgraphs",
)
# What LangGraph's RunnableConfig has and a task may say; callbacks and the like are no JSON.
CONFIG_MEMBERS: Final = ("configurable", "recursion_limit", "max_concurrency", "tags", "metadata", "run_name")
# Ours to set: they say where a run stands.
RESERVED: Final = ("thread_id", "run_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map", "a2a_fence")
MAX_THREAD_ID: Final = 256


class GraphRequest:
    """What a task asks of a graph.

    Attributes:
        thread_id: the conversation; the task's own where it names none.
        config: as LangGraph takes it, without our own members.
        stream_mode: what it is to tell while it runs; empty for nothing.
        stream_subgraphs: also what happens within subgraphs.
    """

    __slots__ = (
        "config",
        "context",
        "input",
        "interrupt_after",
        "interrupt_before",
        "stream_mode",
        "stream_subgraphs",
        "thread_id",
    )

    def __init__(self, payload: dict[str, Any], task_id: str) -> None:
        """
        Raises:
            InvalidInput: a member is not one, or not of the right form.
        """
        for name in payload:
            if name not in MEMBERS:
                raise InvalidInput(f"{name}: a graph's task has only {', '.join(MEMBERS)}")
        if "input" not in payload:
            raise InvalidInput("input: missing")
        self.input = payload["input"]
        if self.input is None:
            # To LangGraph it says "go on", which the task that began a run does by itself, with all that it knows.
            raise InvalidInput("input: null would go on with another run; resume the task that waits, or give an input")
        self.thread_id = _thread_id(payload.get("thread_id", task_id))
        self.config = _config(payload.get("config"))
        self.context = payload.get("context")
        self.interrupt_before = _nodes("interrupt_before", payload.get("interrupt_before"))
        self.interrupt_after = _nodes("interrupt_after", payload.get("interrupt_after"))
        self.stream_mode = _modes(payload.get("stream_mode"))
        self.stream_subgraphs = payload.get("stream_subgraphs", False)
        if not isinstance(self.stream_subgraphs, bool):
            raise InvalidInput("stream_subgraphs: expected true or false")


def _thread_id(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_THREAD_ID:
        raise InvalidInput(f"thread_id: expected a text of 1 to {MAX_THREAD_ID} characters")
    return value


def _config(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput("config: expected an object")
    for name in value:
        if name not in CONFIG_MEMBERS:
            raise InvalidInput(f"config.{name}: a task may set only {', '.join(CONFIG_MEMBERS)}")
    for name in ("configurable", "metadata"):
        given = value.get(name, {})
        if not isinstance(given, dict):
            raise InvalidInput(f"config.{name}: expected an object")
        for member in given:
            if member in RESERVED or member.startswith("__"):
                raise InvalidInput(f"config.{name}.{member}: is set by the fleet")
    for name in ("recursion_limit", "max_concurrency"):
        number = value.get(name, 1)
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise InvalidInput(f"config.{name}: expected a whole number above 0")
    return value


def _nodes(name: str, value: Any) -> list[str] | str | None:
    if value is None or value == "*":
        return value  # type: ignore[no-any-return]  # it is "*"
    if not isinstance(value, list) or not all(isinstance(node, str) for node in value):
        raise InvalidInput(f'{name}: expected a list of nodes, or "*"')
    return value


def _modes(value: Any) -> tuple[str, ...]:
    named = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(named, list) or not all(isinstance(mode, str) and mode in STREAM_MODES for mode in named):
        raise InvalidInput(f"stream_mode: expected some of {', '.join(STREAM_MODES)}")
    return tuple(dict.fromkeys(named))
