"""Every Redis key of the shared state: its name, what it holds, and how long it stays.

The specification's ``shared:distributor:{distributor_id}`` is the header of the distributor's section. Every other
key of that distributor has this whole name as its hash tag, so all of them share one slot in Redis Cluster. The
coordinator's own keys do the same with ``shared:coordinator``. Agent ids hold no braces or colons
(:mod:`a2a_zmq.ids`), so no two names are the same.

What a graph's run tells is in a stream for each task, in a slot of its own: the worker that runs it writes there, and
knows nothing of sections. Task ids hold no braces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from a2a_zmq.interfaces import INBOX, Section

COORDINATOR: Final = "coordinator"
DISTRIBUTOR: Final = "distributor"


class Retention(StrEnum):
    """Why a kind of key cannot grow without a bound."""

    PERMANENT = "permanent"  # one small key for each agent that exists
    LIVE = "live"  # holds what is live and nothing else; its owner removes what has ended
    TRIMMED = "trimmed"  # every write trims it to a bound
    TTL = "ttl"  # carries a time to live from the moment it is created


@dataclass(frozen=True, slots=True)
class KeyClass:
    """One kind of key; ``{}`` in ``pattern`` stands for ``shared:distributor:ID`` or ``shared:coordinator``."""

    name: str
    pattern: str
    redis_type: str
    retention: Retention
    holds: str


KEY_CLASSES: Final[tuple[KeyClass, ...]] = (
    KeyClass("header", "{}", "hash", Retention.PERMANENT, "section of the distributor (or the coordinator's inbox)"),
    KeyClass("coordinator_header", "coordinator:{{}}", "hash", Retention.PERMANENT, "the coordinator's section"),
    KeyClass("tasks", "tasks:{{}}", "hash", Retention.LIVE, "task id → record of each task that has not ended"),
    KeyClass("results", "results:{{}}:N", "hash", Retention.TTL, "task id → result record; the N-th bucket"),
    KeyClass("dead", "dead:{{}}", "zset", Retention.TTL, "ids of dead letters by the time of their end"),
    KeyClass("letters", "letters:{{}}", "hash", Retention.TTL, 'task id → dead letter; "" → bytes of all'),
    KeyClass("history", "history:{{}}", "stream", Retention.TRIMMED, "audit events, one entry a write"),
    KeyClass("stream", "stream:{TASK}", "stream", Retention.TTL, "what a graph's run tells, trimmed at every write"),
    KeyClass("lease", "lease:{{}}", "string", Retention.TTL, "who may write, and its fence"),
    KeyClass("registry", "distributors:{{}}", "hash", Retention.PERMANENT, "distributor id → when it was registered"),
)
_BY_NAME: Final = {kind.name: kind for kind in KEY_CLASSES}
_BASE: Final = r"(?:shared:distributor:[A-Za-z0-9._~-]+|shared:coordinator)"
_SHAPE: Final = re.compile(
    rf"(?P<prefix>coordinator|tasks|results|dead|letters|history|lease|distributors):\{{{_BASE}\}}(?P<bucket>(?::coordinator)?:\d+)?\Z"
)
_STREAM: Final = re.compile(r"stream:\{[A-Za-z0-9._:@-]{1,128}\}\Z")
_HEADER: Final = re.compile(rf"{_BASE}\Z")
_PREFIX_KIND: Final = {"coordinator": "coordinator_header", "distributors": "registry"}


def base(distributor_id: str) -> str:
    """The specification's name, which is also the hash tag of all other keys."""
    return "shared:coordinator" if distributor_id == INBOX else f"shared:distributor:{distributor_id}"


def header(section: Section) -> str:
    """The key that the section's writer WATCHes.

    Raises:
        ValueError: there is no such section (the inbox is the coordinator's alone).
    """
    name = base(section.distributor_id)
    if section.distributor_id == INBOX:
        if section.writer != COORDINATOR:
            raise ValueError(f"the inbox has no section of a {section.writer}")
        return name
    if section.writer == DISTRIBUTOR:
        return name
    if section.writer == COORDINATOR:
        return f"coordinator:{{{name}}}"
    raise ValueError(f"unknown writer {section.writer!r}")


def tasks(distributor_id: str) -> str:
    return f"tasks:{{{base(distributor_id)}}}"


def results(section: Section, bucket: int) -> str:
    """One bucket of results; each section numbers its own buckets, so that its header alone says which exist."""
    tag = f"results:{{{base(section.distributor_id)}}}"
    if section.writer == COORDINATOR and section.distributor_id != INBOX:
        return f"{tag}:coordinator:{bucket}"
    return f"{tag}:{bucket}"


def dead(distributor_id: str) -> str:
    """Which dead letters there are, by age."""
    return f"dead:{{{base(distributor_id)}}}"


def letters(distributor_id: str) -> str:
    """The dead letters themselves."""
    return f"letters:{{{base(distributor_id)}}}"


def history(distributor_id: str) -> str:
    return f"history:{{{base(distributor_id)}}}"


def stream(task_id: str) -> str:
    """What the runs of a graph's task tell; see :mod:`a2a_zmq.streams`."""
    return f"stream:{{{task_id}}}"


def lease(section: Section) -> str:
    """The lease of a section's owner.

    Raises:
        ValueError: the coordinator's sections of distributors have no lease of their own; the inbox's covers them.
    """
    if (section.distributor_id == INBOX) != (section.writer == COORDINATOR):
        raise ValueError(f"section {section_name(section)} has no lease of its own")
    return f"lease:{{{base(section.distributor_id)}}}"


def events(distributor_id: str) -> str:
    """Pub/sub channel (not a key): a message is ``writer:version``."""
    return f"events:{{{base(distributor_id)}}}"


def registry() -> str:
    return f"distributors:{{{base(INBOX)}}}"


def sections(distributor_id: str) -> tuple[Section, ...]:
    """All sections of a distributor; the first one's header is the specification's key."""
    if distributor_id == INBOX:
        return (Section(INBOX, COORDINATOR),)
    return (Section(distributor_id, DISTRIBUTOR), Section(distributor_id, COORDINATOR))


def section_name(section: Section) -> str:
    """For logs and errors: ``inbox``, or ``X/coordinator``."""
    return "inbox" if section.distributor_id == INBOX else f"{section.distributor_id}/{section.writer}"


def classify(key: str) -> KeyClass | None:
    """What kind of key this is; None if it is not one of ours."""
    if _HEADER.match(key):
        return _BY_NAME["header"]
    if _STREAM.match(key):
        return _BY_NAME["stream"]
    match = _SHAPE.match(key)
    if match is None:
        return None
    prefix = match["prefix"]
    if (match["bucket"] is not None) != (prefix == "results"):
        return None
    return _BY_NAME[_PREFIX_KIND.get(prefix, prefix)]


def distributor_of(key: str) -> str | None:
    """Id of the distributor that one of our keys belongs to ("" for the coordinator's own); None for other keys."""
    kind = classify(key)
    if kind is None or kind.name == "stream":
        return None
    tag = key[key.index("{") + 1 : key.index("}")] if "{" in key else key
    return INBOX if tag == base(INBOX) else tag.removeprefix(base("x")[:-1])
