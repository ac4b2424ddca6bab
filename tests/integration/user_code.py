"""Handlers as users write them; the fleets of these tests load them by A2A_WORKER_HANDLERS.

Those that take a ``ledger`` write down each of their runs, so that tests can say what ran where, and how often.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from a2a_zmq import InvalidInput, TaskContext, task

Payload = dict[str, Any]


def note(payload: Payload, ctx: TaskContext, event: str) -> None:
    """One line in the ledger: event, task, attempt, process; appended in one write, so lines never mix."""
    path = payload.get("ledger")
    if path is not None:
        line = f"{event} {ctx.task_id} {ctx.attempt} {os.getpid()} {time.monotonic():.6f}\n"
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(handle, line.encode())
        os.close(handle)


@task("counted")
async def counted(payload: Payload, ctx: TaskContext) -> Any:
    """Runs for ``seconds`` on the worker's own loop."""
    note(payload, ctx, "begin")
    await asyncio.sleep(payload.get("seconds", 0))
    note(payload, ctx, "end")
    return payload.get("n")


@task("held")
async def held(payload: Payload, ctx: TaskContext) -> Any:
    """Runs until the file ``until`` is there; its result has as many ``bytes`` as are asked for, if any."""
    note(payload, ctx, "begin")
    while not os.path.exists(payload["until"]):  # noqa: PTH110, ASYNC110, ASYNC240 - a file wakes nobody
        await asyncio.sleep(0.02)
    note(payload, ctx, "end")
    return "x" * payload["bytes"] if "bytes" in payload else payload.get("n")


@task("in-process")
def in_process(payload: Payload, ctx: TaskContext) -> int:
    """Runs for ``seconds`` in a child process."""
    note(payload, ctx, "begin")
    time.sleep(payload.get("seconds", 0))
    note(payload, ctx, "end")
    return os.getpid()


@task("flaky")
async def flaky(payload: Payload, ctx: TaskContext) -> int:
    """Fails as often as ``failures`` says, then succeeds."""
    note(payload, ctx, "begin")
    runs = Path(payload["ledger"]).read_text().count(f"begin {ctx.task_id} ")  # noqa: ASYNC240
    if runs <= payload["failures"]:
        raise RuntimeError(f"failure {runs}")
    return ctx.attempt


@task("dies-talking")
def dies_talking(payload: Payload) -> None:
    """Prints, then takes its process with it."""
    print("these were its last words", flush=True)
    os.kill(os.getpid(), signal.SIGABRT)


class Order(BaseModel):
    """What ``typed`` takes."""

    name: str
    count: int


@task("typed")
def typed(payload: Order) -> dict[str, int]:
    return {payload.name: payload.count}


# ---------------------------------------------------------------- those that misbehave


@task("raises")
def raises(payload: Payload, ctx: TaskContext) -> None:
    note(payload, ctx, "begin")
    raise ValueError(payload.get("text", "it went wrong"))


@task("invalid")
def invalid(payload: Payload, ctx: TaskContext) -> None:
    note(payload, ctx, "begin")
    raise InvalidInput("this payload will never do")


@task("hangs")
def hangs(payload: Payload, ctx: TaskContext) -> None:
    note(payload, ctx, "begin")
    while True:
        time.sleep(60)


@task("deaf")
def deaf(payload: Payload, ctx: TaskContext) -> None:
    """Ignores every request to end but SIGKILL."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(payload, ctx, "begin")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


@task("exits")
def exits(payload: Payload, ctx: TaskContext) -> None:
    note(payload, ctx, "begin")
    sys.exit(3)


@task("dies")
def dies(payload: Payload, ctx: TaskContext) -> None:
    note(payload, ctx, "begin")
    os.kill(os.getpid(), signal.SIGKILL)


@task("not-json")
def not_json(payload: Payload) -> Any:
    return {"numbers": {1, 2, 3}}


@task("not-json-async")
async def not_json_async(payload: Payload) -> Any:
    return object()


@task("too-large")
def too_large(payload: Payload) -> str:
    return "x" * int(payload["bytes"])


@task("blocks-loop")
async def blocks_loop(payload: Payload) -> str:
    """What one must not do: block in an async handler, for ``seconds`` or until the file ``until`` is there."""
    while not os.path.exists(payload.get("until", "/")):  # noqa: PTH110, ASYNC240
        time.sleep(0.02)  # noqa: ASYNC251 - on purpose
    time.sleep(payload.get("seconds", 0))  # noqa: ASYNC251
    return "done"


@task("kills-worker", executor="thread")
def kills_worker(payload: Payload, ctx: TaskContext) -> None:
    """A poison task: takes the process that it runs in with it, every time, a moment after it has begun."""
    note(payload, ctx, "begin")
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


@task("kills-worker-at-once")
async def kills_worker_at_once(payload: Payload) -> None:
    """A poison task that nothing is known of when its worker dies."""
    os._exit(7)


@task("kills-parent", executor="process")
def kills_parent(payload: Payload, ctx: TaskContext) -> None:
    """Takes the worker with it from a process of its own, as where a container is killed as a whole for its memory."""
    note(payload, ctx, "begin")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
