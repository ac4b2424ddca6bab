"""Time as a value: cores receive it as an argument and never read a clock."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple


class Now(NamedTuple):
    """One reading of both clocks.

    Attributes:
        mono: seconds of the monotonic clock; the only one that durations and deadlines use.
        wall: seconds since the Unix epoch; only for what is written down or put on the wire.
    """

    mono: float
    wall: float


def iso(wall: float) -> str:
    """Unix seconds as the wire's ISO 8601 form in UTC, for example ``2025-11-28T10:30:00.000000Z``."""
    second = math.floor(wall)
    micros = round((wall - second) * 1e6)
    if micros == 1_000_000:
        second, micros = second + 1, 0
    return f"{_iso_second(second)}.{micros:06d}Z"


@lru_cache(64)
def _iso_second(second: int) -> str:
    """Texts are made many times a second, and most of their cost is the date."""
    return datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


def parse_iso(text: str) -> float:
    """Unix seconds of an ISO 8601 text; one without an offset is taken as UTC.

    Raises:
        ValueError: the text is not ISO 8601.
    """
    stamp = datetime.fromisoformat(text)
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    return stamp.timestamp()


def timer_delay_s(wait_s: float) -> float:
    """How long an event loop's timer is to be set for a deadline that is ``wait_s`` away: whole milliseconds, upwards.

    uvloop's timers count milliseconds and round to the nearest. One that fires early finds nothing due, is set again
    for less than half a millisecond, fires at once, and so on: until the deadline the loop does nothing but spin.
    """
    return max(0.0, math.ceil(wait_s * 1000) / 1000)
