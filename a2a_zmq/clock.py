"""Time as a value: cores receive it as an argument and never read a clock."""

from __future__ import annotations

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
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_iso(text: str) -> float:
    """Unix seconds of an ISO 8601 text; one without an offset is taken as UTC.

    Raises:
        ValueError: the text is not ISO 8601.
    """
    stamp = datetime.fromisoformat(text)
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=UTC)
    return stamp.timestamp()
