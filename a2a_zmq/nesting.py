"""How deep values may nest: a bound on payloads and results, so that no message is deeper than the protocol takes."""

from __future__ import annotations

from typing import Any, Final

import orjson

# Levels of arrays and objects in a payload or result. A message adds at most six around it, and takes 32 in all.
MAX_VALUE_DEPTH: Final = 24


def depth_of(value: Any) -> int:
    """Levels of arrays and objects in a parsed value."""
    level: list[Any] = [value] if isinstance(value, (dict, list)) else []
    depth = 0
    while level:
        depth += 1
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
    return depth


def too_deep(encoded: bytes) -> bool:
    """True if this JSON text nests deeper than :data:`MAX_VALUE_DEPTH`.

    Few brackets prove that it does not, so almost every value costs two counts at C speed.
    """
    if encoded.count(b"{") + encoded.count(b"[") <= MAX_VALUE_DEPTH:
        return False
    return depth_of(orjson.loads(encoded)) > MAX_VALUE_DEPTH
