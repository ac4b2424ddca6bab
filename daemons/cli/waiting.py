"""``a2actl resume``, and how tasks that wait for an answer are shown."""

from __future__ import annotations

import sys
from typing import Any

import orjson
import typer

from a2a_zmq.client.handles import TaskHandle
from a2a_zmq.client.requests import UNSET
from a2a_zmq.errors import TaskWaiting
from daemons.cli.invocation import DEFAULT_TIMEOUT_S, EX_TEMPFAIL, CommandFailed, Invocation, print_json
from daemons.cli.json_input import JsonRefused, parse_json
from daemons.cli.output import short
from daemons.cli.progress import Busy
from daemons.cli.tables import printable_lines

QUESTION_CHARS = 200


def question(interrupts: Any, limit: int = QUESTION_CHARS) -> str:
    """What is asked, in one line."""
    asked = [each for each in interrupts if isinstance(each, dict)] if isinstance(interrupts, list) else []
    texts = [text if isinstance(text := each.get("value"), str) else orjson.dumps(text).decode() for each in asked]
    if len(texts) == 1:
        return short(texts[0], limit)
    return short("; ".join(f"{each.get('id')}: {text}" for each, text in zip(asked, texts, strict=True)), limit)


def how_to_answer(task_id: str, interrupts: list[dict[str, Any]]) -> str:
    """How to answer."""
    which = "" if len(interrupts) == 1 else " --interrupt ID"
    return f"Answer: a2actl resume {task_id}{which} --value JSON (or --text TEXT)"


def standing(waiting: TaskWaiting) -> str:
    """What is said of a task that waits."""
    how = how_to_answer(waiting.task_id, waiting.interrupts)
    return f"task {waiting.task_id} asks: {question(waiting.interrupts)}\n{how}"


def value_of(value: str | None, text: str | None) -> Any:
    """The answer given on the command line."""
    if (value is None) == (text is None):
        raise typer.BadParameter("give the answer as --value JSON or as --text TEXT")
    if value is None:
        return text
    try:
        return parse_json(value)
    except JsonRefused as error:
        raise typer.BadParameter(f"--value {error} (--text takes any text)") from None


def resume(run: Invocation, task_id: str, value: Any, interrupt: str | None, *, wait: bool) -> None:
    """Answer, and wait for what comes next if wanted.

    Raises:
        CommandFailed: the task did not complete, or asks something else.
    """
    with run.client() as client:
        handle = client.attach(task_id) if wait else None
        if interrupt is None:
            client.resume(task_id, value)
        else:
            client.resume(task_id, UNSET, answers={interrupt: value})
        if handle is None:
            run.show({"task_id": task_id, "resumed": True}, lambda: print(f"{task_id}  goes on"))
            return
        show_result(run, handle)


def show_result(run: Invocation, handle: TaskHandle) -> None:
    """Wait for a task's result and print it.

    Raises:
        CommandFailed, FleetError: it did not complete, or asks something.
    """
    from a2a_zmq.client.submission import error_of

    error = None
    value = None
    try:
        with Busy(f"waiting for {handle.task_id}", enabled=not run.json):
            value = handle.result(run.timeout_s or DEFAULT_TIMEOUT_S)
    except TaskWaiting as waiting:
        if run.json:
            head = {"task_id": handle.task_id, "status": "waiting", "result": None, "error": None}
            print_json({**head, "interrupts": waiting.interrupts})
        raise CommandFailed(standing(waiting), EX_TEMPFAIL) from None
    except Exception:
        if handle.record is None:
            raise
        error = error_of(handle.task_id, handle.record)
        if error is None:  # it came in the moment in which the waiting ended
            value = handle.record.get("result")
    record = handle.record or {}
    if run.json:
        head = {"task_id": handle.task_id, "status": record.get("status", "")}
        print_json({**head, "result": value, "error": record.get("error")})
        if error is not None:
            raise CommandFailed(str(error))
    elif error is not None:
        raise error
    else:
        print_value(value)


def print_value(value: Any) -> None:
    """A result: JSON, or a text as it is. On a terminal without what that would obey."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() if isinstance(value, dict | list) else str(value)
    print(printable_lines(text.removesuffix("\n")) if sys.stdout.isatty() else text)
