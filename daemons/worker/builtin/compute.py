"""``compute``: arithmetic over a list of numbers.

Payload ``{"operation": NAME, "numbers": [...]}`` (no numbers count as an empty list); result
``{"operation": NAME, "count": n, "result": value}``. Bad input fails the task at once, with the reason.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any, Final

from a2a_zmq.handlers import InvalidInput

Number = int | float

# JSON integers of the fleet are 64 bits wide.
INT_MIN, INT_MAX = -(2**63), 2**64 - 1


def _total(numbers: list[Number]) -> Number:
    # fsum where floats are involved: the plain sum loses digits that depend on the order.
    return sum(numbers) if all(isinstance(number, int) for number in numbers) else math.fsum(numbers)


def _mean(numbers: list[Number]) -> float:
    return math.fsum(numbers) / len(numbers)


# name → (function, how many numbers it needs at least)
OPERATIONS: Final[dict[str, tuple[Callable[[list[Number]], Any], int]]] = {
    "sum": (_total, 0),
    "product": (math.prod, 0),
    "count": (len, 0),
    "sort": (sorted, 0),
    "mean": (_mean, 1),
    "min": (min, 1),
    "max": (max, 1),
    "range": (lambda numbers: max(numbers) - min(numbers), 1),
    "median": (statistics.median, 1),
    "mode": (statistics.mode, 1),
    "variance": (statistics.variance, 2),
    "stdev": (statistics.stdev, 2),
}


def compute(payload: dict[str, Any]) -> dict[str, Any]:
    """Apply ``operation`` to ``numbers``.

    Raises:
        InvalidInput: unknown operation, something that is no number, too few numbers, or a result beyond 64 bits.
    """
    operation, numbers = payload.get("operation"), payload.get("numbers", [])
    if not isinstance(operation, str) or operation not in OPERATIONS:
        raise InvalidInput(f"unknown operation {operation!r:.80}; there are {', '.join(OPERATIONS)}")
    if not isinstance(numbers, list):
        raise InvalidInput(f"numbers must be a list, got {type(numbers).__name__}")
    for position, number in enumerate(numbers):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise InvalidInput(f"numbers[{position}] is no number: {number!r:.80}")
    function, at_least = OPERATIONS[operation]
    if len(numbers) < at_least:
        raise InvalidInput(f"{operation} needs at least {at_least} number{'s' * (at_least > 1)}, got {len(numbers)}")
    try:
        result = function(numbers)
    except OverflowError:
        raise InvalidInput(f"the {operation} is too large") from None
    if isinstance(result, int) and not INT_MIN <= result <= INT_MAX:
        raise InvalidInput(f"the {operation} has more than 64 bits; use floats")
    if isinstance(result, float) and not math.isfinite(result):
        raise InvalidInput(f"the {operation} is too large")
    return {"operation": operation, "count": len(numbers), "result": result}
