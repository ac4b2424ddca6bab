"""JSON that a user gives: on the command line, in files."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 64) - 1
# No shorter one can be out of range; whoever has none is not parsed twice.
LONG_NUMBER: Final = re.compile(r"[0-9]{19}")
SHOWN_DIGITS: Final = 24


class JsonRefused(ValueError):
    """The text is no JSON, or none that the fleet can carry; what is said goes on after the name of its source."""


def parse_json(text: str | bytes) -> Any:
    """The value that it stands for.

    Raises:
        JsonRefused: it is no JSON, or has an integer of more than 64 bits: orjson would make a float of that.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise JsonRefused(f"is not JSON: {error}") from None
    whole = text if isinstance(text, str) else text.decode()
    if LONG_NUMBER.search(whole):
        try:
            json.loads(whole, parse_int=_checked)
        except RecursionError:
            raise JsonRefused("is nested too deeply") from None
    return value


def _checked(digits: str) -> int:
    # Not by int() alone: that refuses thousands of digits in words of its own.
    number = int(digits) if len(digits) <= SHOWN_DIGITS else INT_MAX + 1
    if INT_MIN <= number <= INT_MAX:
        return number
    shown = digits if len(digits) <= 2 * SHOWN_DIGITS else f"{digits[:SHOWN_DIGITS]}…"
    raise JsonRefused(f"has an integer that exceeds the 64-bit range: {shown} (give it as a text, or as a float)")
