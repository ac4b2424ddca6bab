"""The built-in task types: how each is run. Their code is imported where it runs, not here."""

from __future__ import annotations

from typing import Final

from daemons.worker.kinds import TaskKind

# noop measures the fleet itself; sleep only waits; the others compute, so they get a process that can be killed.
BUILTIN: Final[dict[str, TaskKind]] = {
    "noop": TaskKind("async", None, "daemons.worker.builtin.basic:noop", inline=True),
    "sleep": TaskKind("async", None, "daemons.worker.builtin.basic:sleep"),
    "compute": TaskKind("process", None, "daemons.worker.builtin.compute:compute"),
    "data_processing": TaskKind("process", None, "daemons.worker.builtin.data_processing:data_processing"),
    "python_source_stats": TaskKind("process", None, "daemons.worker.builtin.python_source_stats:python_source_stats"),
}
