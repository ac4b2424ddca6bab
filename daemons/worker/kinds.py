"""What a worker must know of a task type to schedule it. Pure and cheap to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

# The executor whose runs take one of the slots.
PROCESS: Final = "process"


class TaskKind(NamedTuple):
    """How a task type is run.

    Attributes:
        executor: ``async``, ``thread`` or ``process``.
        timeout_s: seconds that an attempt may run where the task names no limit; None for none.
        reference: ``module:function``.
        inline: a sync function so short that the handler thread calls it in bulk (built-ins only).
        graph: the hash of a graph (:mod:`daemons.worker.graphs.fingerprint`), "" for everything else.
    """

    executor: str
    timeout_s: float | None = None
    reference: str = ""
    inline: bool = False
    graph: str = ""


def executor_of(kind: TaskKind, metadata: Mapping[str, Any]) -> str:
    """How a task of this kind is run: in a child process if workers have died while they ran it (see the distributor's
    ``apart``)."""
    return PROCESS if metadata.get("apart") is True else kind.executor
