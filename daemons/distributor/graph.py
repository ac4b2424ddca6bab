"""The distributor's supervision graph over its LocalAgentState.

* ``observe``: looks at every worker's last sign of life, what it holds and its limit
* ``detect``: finds workers that are silent, tasks that none holds, attempts that run past their time
* ``recover``: takes a lost worker's tasks back and queues them again with the next attempt
* ``reconcile``: compares what workers hold with what is recorded, and the coordinator's version with the one last seen
* ``report``: updates the agent's LocalAgentState and its gauges

What a step decides is in the core (``supervise``); this file says how the steps hang together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemons.runtime.contract import Meter
from daemons.runtime.supervision import Supervisor, build_graph


def build(steps: dict[str, Callable[..., Any]] | None = None) -> Any:
    """The distributor's graph, compiled; ``steps`` replace built-in nodes by name, or are added. Imports LangGraph."""
    return build_graph(steps)


def supervisor(meter: Meter, steps: dict[str, Callable[..., Any]] | None = None) -> Supervisor:
    """What the distributor's shell runs once an interval, and a moment after an exceptional event."""
    return Supervisor(lambda: build(steps), meter=meter)
