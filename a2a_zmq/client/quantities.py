"""Numbers that a coordinator names in welcomes and refusals, with what holds where one is missing or makes no sense."""

from __future__ import annotations

from typing import Any


def bounded(value: Any, limit: int) -> int:
    """A positive number from a welcome, or the limit that we assume."""
    return value if isinstance(value, int) and value > 0 else limit


def seconds(value: Any, default: float) -> float:
    """A pause that is not negative, or the default."""
    return float(value) if isinstance(value, int | float) and value >= 0 else default
