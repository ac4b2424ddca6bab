"""Time as a value: cores receive it as an argument and never read a clock."""

from __future__ import annotations

import math
from datetime import UTC, datetime
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
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


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
