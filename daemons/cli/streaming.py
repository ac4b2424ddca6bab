"""``a2actl submit --stream`` and ``a2actl stream``: what a graph's run tells, as it happens."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import typer

from a2a_zmq.client.handles import TaskHandle
from a2a_zmq.errors import TaskTimeout, TaskWaiting
from a2a_zmq.streams import DEFAULT_STREAM_MODES, STREAM_MODES, StreamEvent, parse_id
from daemons.cli.invocation import EX_INTERRUPTED, EX_TEMPFAIL, CommandFailed, Invocation, print_json
from daemons.cli.output import short
from daemons.cli.tables import printable, printable_lines
from daemons.cli.waiting import show_result, standing

DATA_CHARS = 300


def modes_of(text: str | None) -> list[str]:
    """``--stream-mode``: names with commas between them."""
    modes = [mode.strip() for mode in text.split(",")] if text is not None else list(DEFAULT_STREAM_MODES)
    for mode in modes:
        if mode not in STREAM_MODES:
            raise typer.BadParameter(f"--stream-mode: {mode!r} is none of {', '.join(STREAM_MODES)}")
    return modes


def submit(run: Invocation, spec: dict[str, Any], modes: list[str]) -> None:
    """Submit a graph's task, show what it tells, and its result.

    Raises:
        CommandFailed: it did not complete, or asks something.
    """
    task_type = str(spec["task_type"])
    if not task_type.startswith("graph:"):
        raise typer.BadParameter(f"--stream: {task_type} is no graph; only tasks graph:NAME stream")
    payload = {"stream_mode": modes, **spec["payload"]}
    with run.client() as client:
        watch(run, client.submit_tasks([{**spec, "payload": payload}])[0], None)  # type: ignore[typeddict-item]


def attach(run: Invocation, task_id: str, after: str | None) -> None:
    """The same for a task that was submitted before, from after an event on."""
    if after is not None and parse_id(after) is None:
        raise typer.BadParameter(f"--from {after!r} is not the id of an event: ATTEMPT-NUMBER, as in 1-17")
    with run.client() as client:
        watch(run, client.attach(task_id), after)


def watch(run: Invocation, handle: TaskHandle, after: str | None) -> None:
    """Show events to the end of the task, then its result."""
    shown = JsonLines() if run.json else Lines()
    seen = after
    try:
        for event in handle.stream(after=after, timeout=run.timeout_s):
            seen = event.id
            shown.show(event)
            if event.type == "waiting":
                shown.close()
                waits = TaskWaiting(handle.task_id, event.data["interrupts"], event.data["attempt"])
                raise CommandFailed(f"{standing(waits)}\n{_on(handle, seen)} shows what follows", EX_TEMPFAIL)
        shown.close()
        show_result(run, handle)
    except KeyboardInterrupt:
        shown.close()
        raise CommandFailed(f"interrupted; the task goes on: {_on(handle, seen)}", EX_INTERRUPTED) from None
    except TaskTimeout as error:
        shown.close()
        raise CommandFailed(f"{error}\n{_on(handle, seen)} shows what follows", EX_TEMPFAIL) from None


def _on(handle: TaskHandle, seen: str | None) -> str:
    return f"a2actl stream {handle.task_id}" + (f" --from {seen}" if seen is not None else "")


class JsonLines:
    """One event a line."""

    def show(self, event: StreamEvent) -> None:
        print_json({"id": event.id, "type": event.type, "ns": event.ns, "data": event.data})
        sys.stdout.flush()

    def close(self) -> None:
        """Nothing is open."""


class Lines:
    """An event a line, and each message of a model as one text that grows; with colours on a terminal."""

    def __init__(self) -> None:
        self._console: Any = None
        self._message: tuple[Any, ...] | None = None  # the one that is being shown
        if sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False, soft_wrap=True)

    def show(self, event: StreamEvent) -> None:
        if event.type == "messages":
            self._token(event)
            return
        self.close()
        place = f"{printable('/'.join(event.ns))} " if event.ns else ""
        text = event.data if isinstance(event.data, str) else orjson.dumps(event.data).decode()
        self._print(f"{event.id:<6} ", f"{printable(event.type):<8} ", f"{place}{short(text, DATA_CHARS)}\n")

    def close(self) -> None:
        """End the line that is being shown."""
        if self._message is not None:
            self._message = None
            self._print("", "", "\n")

    def _token(self, event: StreamEvent) -> None:
        message, told = event.data
        node = printable(told.get("langgraph_node", ""))
        key = (event.ns, node, message.get("id"))
        text = printable_lines(_text_of(message.get("content")))
        if key == self._message:
            self._print("", "", text)
        elif text:
            self.close()
            self._message = key
            self._print(f"{event.id:<6} ", f"{node}: ", text)

    def _print(self, dim: str, name: str, text: str) -> None:
        if self._console is None:
            sys.stdout.write(dim + name + text)
            sys.stdout.flush()
        else:
            from rich.text import Text

            self._console.print(Text.assemble((dim, "dim"), (name, "bold cyan"), text), end="")


def _text_of(content: Any) -> str:
    """A message's text: its content, or the texts in it."""
    if isinstance(content, list):
        return "".join(_text_of(part.get("text") if isinstance(part, dict) else part) for part in content)
    return content if isinstance(content, str) else ""
