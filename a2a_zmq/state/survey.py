"""A look at all keys of the shared state, and at what looks like one."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from a2a_zmq.interfaces import KeyFact, Survey
from a2a_zmq.state import keys
from a2a_zmq.state.link import Link
from a2a_zmq.state.wire import Command

# Every name of ours has this in it; keys of others in the same Redis mostly have not.
_PATTERN: Final = "*shared:*"
_STEP: Final = 1000
# A Redis that we share with somebody may be large: steps of SCAN at most, some tenths of a second of its time in all.
_STEPS_MAX: Final = 1000
# Ours are some forty for each distributor.
_KEYS_MAX: Final = 50_000


async def survey(link: Link) -> Survey:
    """
    Raises:
        StateError: Redis could not be read.
    """
    found: dict[str, KeyFact] = {}
    cursor = b"0"
    for _ in range(_STEPS_MAX):
        ((cursor, names),) = await link.ask([("SCAN", cursor, "MATCH", _PATTERN, "COUNT", _STEP)], again=True)
        for fact in await _facts(link, [name for name in names if name.decode(errors="replace") not in found]):
            found[fact.key] = fact
        if cursor == b"0" or len(found) > _KEYS_MAX:
            break
        await asyncio.sleep(0)
    return Survey(list(found.values()), whole=cursor == b"0")


async def _facts(link: Link, names: list[bytes]) -> list[KeyFact]:
    if not names:
        return []
    commands: list[Command] = []
    for name in names:
        commands += [("TYPE", name), ("PTTL", name)]
    replies = await link.ask(commands, again=True)
    facts: list[KeyFact] = []
    for index, name in enumerate(names):
        type_, ttl_ms = _text(replies[2 * index]), int(replies[2 * index + 1])
        if type_ == "none":
            continue  # it ended meanwhile
        key = name.decode(errors="replace")
        facts.append(await _detailed(link, KeyFact(key, type_, max(-1, ttl_ms))))
    return facts


async def _detailed(link: Link, fact: KeyFact) -> KeyFact:
    """With what only leases and live tasks have; there are one and two of these for each agent."""
    kind = keys.classify(fact.key)
    if kind is None or kind.redis_type != fact.type or kind.name not in ("lease", "tasks"):
        return fact
    if kind.name == "lease":
        (value,) = await link.ask([("GET", fact.key)], again=True)
        return fact._replace(lease=(value or b"").decode(errors="replace"))
    (size,) = await link.ask([("HLEN", fact.key)], again=True)
    return fact._replace(size=int(size))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
