"""What a worker must know of a task type to schedule it. Pure and cheap to import."""

from __future__ import annotations

from typing import NamedTuple


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
