"""Every Redis key of the budgets: its name, what it holds, and how long it stays. Pure.

All keys of a provider have its name in their hash tag, so in Redis Cluster one script can change them together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# Part of keys and of metric labels.
PROVIDER_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class KeyClass:
    """One kind of key; ``TAG`` in ``pattern`` is ``{llm:PROVIDER}``. Each has a time to live."""

    name: str
    pattern: str
    redis_type: str
    holds: str


KEY_CLASSES: Final[tuple[KeyClass, ...]] = (
    KeyClass("window", "TAG:window", "hash", "requests and tokens of each second of the last minute; a counter"),
    KeyClass("running", "TAG:running", "zset", "call by when its place expires unless it is renewed"),
    KeyClass("queue", "TAG:queue", "zset", "call that waits, by its place in the order"),
    KeyClass("calls", "TAG:calls", "hash", "call → what it reserved, or wants"),
    KeyClass("pause", "TAG:pause", "string", "the provider asked for less: nothing is sent while this is there"),
)


def of_provider(name: str) -> tuple[str, ...]:
    """All keys of a provider, in the order of :data:`KEY_CLASSES`: what every script gets."""
    return tuple(kind.pattern.replace("TAG", f"{{llm:{name}}}") for kind in KEY_CLASSES)
