"""JSON that is kept: for an answer of the store, for an acknowledgement, for questions about what just finished."""

from __future__ import annotations

from typing import Any

import orjson


def kept_json(value: Any) -> bytes:
    """Compact JSON, in no more memory than it has bytes.

    orjson hands out its whole buffer: since its version 3.12 that is 4 KiB for a record of 400 bytes, and up to
    100 times the text for a list of numbers. Where such texts are kept no bound in bytes holds. Copying one costs a
    tenth of encoding it. (Joining a single text would return the same object.)

    Raises:
        orjson.JSONEncodeError (a TypeError): the value is not JSON.
    """
    return b"".join((orjson.dumps(value), b""))
