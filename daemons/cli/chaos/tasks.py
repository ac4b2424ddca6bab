"""The load's handlers: each run is written down in a file that knows nothing of the fleet."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, Final

from a2a_zmq.handlers import TaskContext, task

LEDGER: Final = "A2ACTL_CHAOS_LEDGER"  # no A2A_ variable: it is no setting of the daemons
TICK, NAP, CHILD = "chaos-tick", "chaos-nap", "chaos-child"


def note(event: str, ctx: TaskContext) -> None:
    """One line; appended by one write, so lines never mix."""
    path = os.environ.get(LEDGER, "")
    if path:
        line = (
            f"{event} {ctx.task_id} {ctx.attempt} {os.environ.get('WORKER_ID', '?')} {os.getpid()} "
            f"{ctx.task_type} {time.monotonic():.6f}\n"
        )
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


@task(TICK)
@task(NAP)
async def waits(payload: dict[str, Any], ctx: TaskContext) -> Any:
    """Runs for ``seconds`` on the worker's own loop."""
    note("b", ctx)
    await asyncio.sleep(payload["seconds"])
    note("e", ctx)
    return payload["n"]


@task(CHILD)
def works(payload: dict[str, Any], ctx: TaskContext) -> Any:
    """Runs for ``seconds`` in a child process."""
    note("b", ctx)
    time.sleep(payload["seconds"])
    note("e", ctx)
    return payload["n"]
