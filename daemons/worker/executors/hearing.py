"""What child processes are told first, and what they tell besides the ends of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from a2a_zmq.llm.calls import Call
from a2a_zmq.tracing.context import task_fields
from daemons import logs
from daemons.runtime.contract import Event, ModelCalled, StartRun
from daemons.worker.config import WorkerConfig
from daemons.worker.executors import endings

if TYPE_CHECKING:
    from a2a_zmq.tracing.runs import Runs

LEVELS: Final = frozenset({"warning", "error", "critical"})


class Hearing:
    """Used by the pool's thread."""

    def __init__(self, runs: Runs | None = None) -> None:
        """
        Args:
            runs: has children report spans, and counts these; None where nothing is traced.
        """
        self._runs = runs
        self._log = logs.get_logger("handlers")

    def options(
        self, config: WorkerConfig, checkpoints: dict[str, Any] | None, models: dict[str, Any] | None
    ) -> dict[str, Any]:
        """What each child is told first."""
        return {
            "max_result_bytes": config.max_result_bytes,
            "checkpoints": checkpoints or {},
            "models": models,
            "traces": self._runs.for_child() if self._runs is not None else None,
        }

    def hear(self, run: StartRun | None, head: Sequence[Any], body: bytes) -> list[Event]:
        """A frame of a child; ``run`` is what it runs.

        Raises:
            ValueError, LookupError, TypeError: it is not of the protocol.
        """
        if head[0] == "events":
            return [endings.told(head, body)]
        if head[0] == "model":
            return [ModelCalled(Call.parse(list(head[1:])))]
        if head[0] == "spans" and self._runs is not None:
            exported, failed, dropped = map(int, head[1:])
            self._runs.child_counted((exported, failed, dropped))
        elif head[0] == "log":
            self._write(run, head)
        return []

    def _write(self, run: StartRun | None, head: Sequence[Any]) -> None:
        """A handler's log line goes into the worker's log, as if it had been written here."""
        _, level, part, text, error, held_back = head
        fields: dict[str, Any] = {"part": str(part)}
        if run is not None:
            fields |= task_fields(run.task_id, run.attempt, run.metadata)
        if error:
            fields["exception"] = str(error)
        if held_back:
            fields["held_back"] = int(held_back)
        write = getattr(self._log, level if level in LEVELS else "warning")
        write(str(text), **fields)
