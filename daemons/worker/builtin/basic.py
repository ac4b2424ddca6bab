"""``noop`` and ``sleep``."""

from __future__ import annotations

import asyncio
from typing import Any

from a2a_zmq.handlers import InvalidInput

# A day: longer waits belong to whoever submits.
MAX_SLEEP_S = 86_400.0


def noop(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload."""
    return payload


async def sleep(payload: dict[str, Any]) -> dict[str, float]:
    """Wait ``seconds`` (default 1) without using a processor."""
    seconds = payload.get("seconds", 1.0)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= MAX_SLEEP_S:
        raise InvalidInput(f"seconds must be a number from 0 to {MAX_SLEEP_S:g}, got {seconds!r:.80}")
    await asyncio.sleep(seconds)
    return {"slept_s": float(seconds)}
