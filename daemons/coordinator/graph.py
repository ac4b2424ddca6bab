"""The coordinator's supervision graph over its LocalAgentState.

* ``observe``: looks at every distributor's last sign of life, version and load
* ``detect``: finds distributors that are silent, behind their recorded version, or hold work that they no longer have
* ``recover``: takes over what a lost distributor held, or asks a live one to read its tasks again
* ``reconcile``: compares counts and versions with the shared state and repairs what has one right answer
* ``report``: updates the agent's LocalAgentState and its gauges

What a step decides is in the core (``supervise``); this file says how the steps hang together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemons.runtime.contract import Meter
from daemons.runtime.supervision import Supervisor, build_graph


def build(steps: dict[str, Callable[..., Any]] | None = None) -> Any:
    """The coordinator's graph, compiled; ``steps`` replace built-in nodes by name, or are added. Imports LangGraph."""
    return build_graph(steps)


def supervisor(meter: Meter, steps: dict[str, Callable[..., Any]] | None = None) -> Supervisor:
    """What the coordinator's shell runs once an interval, and a moment after an exceptional event."""
    return Supervisor(lambda: build(steps), meter=meter)
