"""The worker's supervision graph over its LocalAgentState.

* ``observe``: looks at the runs in the executors and at the results that are not acknowledged
* ``detect``: finds runs past their time limit and results that wait too long
* ``recover``: stops such runs and sends such results again
* ``reconcile``: compares what it holds with what it last told its distributor
* ``report``: updates the agent's LocalAgentState and its gauges

What a step decides is in the core (``supervise``); this file says how the steps hang together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from daemons.runtime.contract import Meter
from daemons.runtime.supervision import Supervisor, build_graph


def build(steps: dict[str, Callable[..., Any]] | None = None) -> Any:
    """The worker's graph, compiled; ``steps`` replace built-in nodes by name, or are added. Imports LangGraph."""
    return build_graph(steps)


def supervisor(meter: Meter, steps: dict[str, Callable[..., Any]] | None = None) -> Supervisor:
    """What the worker's shell runs once an interval, and a moment after an exceptional event."""
    return Supervisor(lambda: build(steps), meter=meter)
