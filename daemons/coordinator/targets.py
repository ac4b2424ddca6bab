"""Where Prometheus finds the fleet: what ``/sd`` answers (HTTP service discovery). Pure.

Each agent says in its announcement where its metrics are and on which host; a distributor passes that on for its
workers. An agent of an earlier release says nothing and is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from daemons.coordinator.distributors import Distributor
from daemons.runtime.sightings import LOST_S

# A coordinator that has just started has not heard of everybody (seconds). Until then it gives no answer, and
# Prometheus keeps the list that it has.
LEARNING_S: Final = 10.0

_TARGET: Final = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):\d{1,5}\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}\Z")
_LOOPBACK: Final = re.compile(r"127\.|localhost:|\[::1\]:")

# No label of a metric has one of these names (a test compares): Prometheus would rename that one.
LABELS: Final = ("agent_id", "agent_role", "agent_host")

Group = dict[str, Any]


def groups(agent_id: str, own: Mapping[str, Any], homes: Iterable[Distributor], mono: float) -> list[Group]:
    """One group for each agent: ourselves, distributors, their workers.

    Args:
        own: ``metrics`` and ``host`` of this coordinator.
        mono: now.
    """
    listed = [(agent_id, "coordinator", own), *_agents(homes, mono)]
    return [group for each in listed if (group := _group(*each, here=own.get("host")))]


def _agents(homes: Iterable[Distributor], mono: float) -> Iterator[tuple[Any, str, Mapping[str, Any]]]:
    for home in homes:
        if not home.forgotten(mono):
            yield home.agent_id, "distributor", home.whereabouts
        if home.up or mono - home.changed_at < LOST_S:  # while it is away they live on
            for worker in home.workers:
                yield worker.get("id"), "worker", worker


def _group(agent_id: Any, role: str, says: Mapping[str, Any], *, here: Any) -> Group | None:
    target, host = says.get("metrics"), says.get("host")
    if not isinstance(agent_id, str) or not isinstance(target, str) or not _TARGET.match(target):
        return None
    if not isinstance(host, str) or not _HOST.match(host):
        host = ""
    if host != here and _LOOPBACK.match(target):
        return None  # only its own host reaches it there
    return {"targets": [target], "labels": dict(zip(LABELS, (agent_id, role, host), strict=True))}
