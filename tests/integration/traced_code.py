"""Handlers that look at their trace, begin spans of their own, and log."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from a2a_zmq import TaskContext, task

Payload = dict[str, Any]

log = logging.getLogger("mine")


def inside(payload: Payload, ctx: TaskContext) -> dict[str, Any]:
    from opentelemetry import trace

    with trace.get_tracer("mine").start_as_current_span(f"inside {ctx.task_type}") as span:
        log.warning("half way of %s, password=%s", ctx.task_type, "hunter2")
        try:
            raise ValueError("redis://user:hunter2@host")
        except ValueError:
            log.exception("all the way")
        return {"trace_id": f"{span.get_span_context().trace_id:032x}"}


@task("traced-async")
async def traced_async(payload: Payload, ctx: TaskContext) -> dict[str, Any]:
    return inside(payload, ctx)


@task("traced-thread", executor="thread")
def traced_thread(payload: Payload, ctx: TaskContext) -> dict[str, Any]:
    return inside(payload, ctx)


@task("traced-process")
def traced_process(payload: Payload, ctx: TaskContext) -> dict[str, Any]:
    return inside(payload, ctx)


def loaded(payload: Payload, ctx: TaskContext) -> dict[str, Any]:
    """What of OpenTelemetry this process has imported, and what the task carries."""
    return {"modules": [name for name in sys.modules if name.startswith("opentelemetry")], "metadata": ctx.metadata}


@task("loaded-async")
async def loaded_async(payload: Payload, ctx: TaskContext) -> dict[str, Any]:
    return loaded(payload, ctx)


@task("loaded-process")
def loaded_process(payload: Payload, ctx: TaskContext) -> dict[str, Any]:
    return loaded(payload, ctx)


@task("logs-much")
def logs_much(payload: Payload) -> str:
    for number in range(payload["lines"]):
        log.warning("line %s", number)
    time.sleep(0.01)
    return "done"
