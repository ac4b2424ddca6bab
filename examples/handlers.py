"""Handlers of one's own: ``a2a-worker --worker-handlers examples.handlers`` offers the task types below.

Try them: ``a2actl submit checksum --payload '{"path": "/etc/hostname"}' --wait``
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from a2a_zmq.handlers import InvalidInput, TaskContext, task


class Checksum(BaseModel):
    """What ``checksum`` takes; a payload that does not fit fails the task at once, and says where."""

    path: Path
    algorithm: str = "sha256"


@task("checksum", timeout_s=60)
def checksum(job: Checksum) -> dict[str, Any]:
    """Sync functions run in a child process: they may block, compute, even crash, and can always be stopped."""
    if job.algorithm not in hashlib.algorithms_available:
        raise InvalidInput(f"unknown algorithm {job.algorithm!r}")
    with job.path.open("rb") as file:
        digest = hashlib.file_digest(file, job.algorithm)
    return {"path": str(job.path), job.algorithm: digest.hexdigest()}


class Probe(BaseModel):
    """What ``tcp_probe`` takes."""

    host: str
    port: int = Field(ge=1, le=65535)
    wait_s: float = Field(3.0, gt=0, le=60)


@task("tcp_probe")
async def tcp_probe(job: Probe) -> dict[str, Any]:
    """Async functions run together on the worker's handler loop: hundreds at a time, as long as they await."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(job.wait_s):
            _, writer = await asyncio.open_connection(job.host, job.port)
    except (OSError, TimeoutError) as error:
        return {"open": False, "why": str(error) or "timed out"}
    writer.close()
    return {"open": True, "connect_ms": round((time.monotonic() - begun) * 1000, 1)}


@task("countdown", executor="thread")
def countdown(payload: dict[str, Any], ctx: TaskContext) -> dict[str, Any]:
    """A thread costs less than a process but cannot be killed: the handler itself looks at ``ctx.cancelled``."""
    left = int(payload.get("from", 10))
    while left > 0 and not ctx.cancelled:
        ctx.log(f"{left} left")
        time.sleep(0.1)
        left -= 1
    ctx.raise_if_cancelled()
    return {"done_as": ctx.idempotency_key}
