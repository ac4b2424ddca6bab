"""Identifiers: how agents, tasks and requests are named."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

# Agent ids become parts of Redis keys, file names and MAC contexts, so they hold no braces, slashes,
# spaces, '>' or '|'. A client process appends '~' and an instance suffix to its identity's name.
AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}(~[A-Za-z0-9]{1,16})?\Z")
# Task ids are hash fields and file names of logs.
TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}\Z")

_IDEMPOTENCY_NAMESPACE = uuid.UUID("6a2f6d63-7a1f-5d0e-9d6e-2f0b3c1b9a77")


def valid_agent_id(text: object) -> bool:
    return isinstance(text, str) and AGENT_ID.match(text) is not None


def valid_task_id(text: object) -> bool:
    return isinstance(text, str) and TASK_ID.match(text) is not None


def identity_of(agent_id: str) -> str:
    """The identity (token subject, key name) behind an agent id: what stands before ``~``."""
    return agent_id.partition("~")[0]


def make_id_factory(random_bytes: Callable[[int], bytes]) -> Callable[[], str]:
    """A fast source of unique ids: a random prefix drawn once and a counter.

    Args:
        random_bytes: source of randomness, ``os.urandom`` outside of simulations.

    Returns:
        a function that gives a new id of 28 characters at each call (80 random bits, 32 counted).
    """
    prefix = random_bytes(10).hex()
    count = 0

    def new_id() -> str:
        nonlocal count
        count += 1
        return f"{prefix}{count:08x}"

    return new_id


def idempotent_task_id(identity: str, key: str) -> str:
    """The task id that a client identity's idempotency key stands for; the same key, the same task."""
    return uuid.uuid5(_IDEMPOTENCY_NAMESPACE, f"{identity}\x00{key}").hex
