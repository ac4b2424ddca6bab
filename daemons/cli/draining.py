"""``a2actl drain --wait``: until the agent has left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from a2a_zmq.errors import FleetUnavailable
from daemons.cli.invocation import EX_TEMPFAIL, CommandFailed, Invocation
from daemons.cli.progress import Busy

POLL_S = 0.25


def wait_left(run: Invocation, agent_id: str) -> bool:
    """Wait; a terminal shows how much it still has.

    Raises:
        CommandFailed: it has not left within ``--timeout``.
    """
    until = None if run.timeout_s is None else time.monotonic() + run.timeout_s
    with Busy(f"{agent_id} drains", enabled=not run.json) as busy, run.client() as client:
        while True:
            try:
                left = left_to_do(client.status(load=True), agent_id)
            except FleetUnavailable:
                return True  # the only coordinator was drained, and nobody is left to ask
            if left is None:
                return True
            busy.say(f"{agent_id} drains: {left:,} tasks left")
            if until is not None and time.monotonic() >= until:
                raise CommandFailed(f"{agent_id} drains still, with {left:,} tasks", EX_TEMPFAIL)
            time.sleep(POLL_S)


def left_to_do(status: dict[str, Any], agent_id: str) -> int | None:
    """How many tasks an agent that drains still has; None if it has left, or is back already as another process."""
    for agent, draining, count in _agents(status):
        if agent == agent_id and draining:
            return count
    return None


def _agents(status: dict[str, Any]) -> Iterator[tuple[str, bool, int]]:
    """(id, whether it drains, its tasks) of all that are there."""
    coordinator = status.get("coordinator") or {}
    yield str(coordinator.get("id")), coordinator.get("draining") is True, 0
    for site in status.get("distributors") or ():
        if not site.get("up"):
            continue
        yield str(site.get("id")), site.get("status") == "draining", int(site.get("in_progress") or 0)
        for worker in site.get("workers") or ():
            load = worker.get("load") or {}
            if worker.get("up"):
                yield str(worker.get("id")), load.get("draining") is True, int(load.get("held") or 0)
