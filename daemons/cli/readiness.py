"""``a2actl status --wait``: until the fleet can run tasks."""

from __future__ import annotations

import time
from typing import Any

from daemons.cli.invocation import DEFAULT_TIMEOUT_S, EX_TEMPFAIL, CommandFailed, Invocation
from daemons.cli.progress import Busy

POLL_S = 0.25
# Who has been away for so long, and has no tasks, need not come back before the fleet can run some.
GONE_S = 60.0


def wait_ready(run: Invocation) -> dict[str, Any]:
    """Wait for at most ``--timeout`` seconds; returns the status that shows it.

    Raises:
        CommandFailed: it is not ready in time; says what is missing.
        FleetError: no coordinator is in reach in time, or it refused.
    """
    timeout_s = run.timeout_s or DEFAULT_TIMEOUT_S
    until = time.monotonic() + timeout_s
    with Busy("waiting for the fleet", enabled=not run.json) as busy, run.client() as client:
        while True:
            status = client.status()
            lacks = missing(status)
            if not lacks:
                return status
            busy.say(f"waiting for the fleet: {lacks}")
            if time.monotonic() >= until:
                raise CommandFailed(f"the fleet is not ready after {timeout_s:g} s: {lacks}", EX_TEMPFAIL)
            time.sleep(POLL_S)


def missing(status: dict[str, Any]) -> str:
    """What the fleet lacks before it can run tasks; "" if nothing: a coordinator leads, and each distributor that is
    known is there and has a worker."""
    coordinator = status.get("coordinator") or {}
    if coordinator.get("leading") is False:
        return f"{coordinator.get('id')} does not lead (yet)"
    sites = status.get("distributors") or ()
    if not sites:
        return "no distributor has joined yet"
    sites = [one for one in sites if not _gone(one)] or sites
    away = [str(one.get("id")) for one in sites if not one.get("up")]
    if away:
        return f"not connected: {', '.join(away)}"
    idle = [str(one.get("id")) for one in sites if not any(worker.get("up") for worker in one.get("workers") or ())]
    return f"without a worker: {', '.join(idle)}" if idle else ""


def _gone(one: dict[str, Any]) -> bool:
    tasks = sum(int(one.get(count) or 0) for count in ("pending", "in_progress", "waiting", "moving"))
    return not one.get("up") and not tasks and float(one.get("away_s") or 0.0) >= GONE_S
