"""What the process pool reports of runs that no child reported itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from a2a_zmq.streams import Chunk, parse_id
from daemons.runtime.contract import RunEvents, RunFinished, StartRun
from daemons.worker.executors import invoke


def failed(
    run: StartRun, kind: str, error: str, *, retryable: bool, detail: dict[str, object] | None = None
) -> RunFinished:
    """It could not be run."""
    return RunFinished(
        run.task_id, run.attempt, "failed", b"null", error, kind, retryable, time.time(), 0.0, detail or {}
    )


def unstarted(run: StartRun, reason: str) -> RunFinished:
    """It was stopped before it began: it has no start time, by which a drain knows it may be handed back."""
    outcome, error, kind, retryable = invoke.stopped(reason, run.timeout_s)
    return RunFinished(run.task_id, run.attempt, outcome, b"null", error, kind, retryable, 0.0, 0.0)


def taken_along(
    run: StartRun, report: tuple[str, str, dict[str, Any]], stop_reason: str, execution_s: float
) -> RunFinished:
    """Its child ended.

    Args:
        report: of :func:`~daemons.worker.executors.process_child.exit_report`.
        stop_reason: why it had been asked to stop, "" if it had not.
    """
    error, kind, detail = report
    outcome, retryable = "failed", True
    if not stop_reason:
        detail = {**detail, "process_died": True}
    else:
        outcome, error, kind, retryable = invoke.stopped(stop_reason, run.timeout_s)
    begun = time.time() - execution_s
    return RunFinished(run.task_id, run.attempt, outcome, b"null", error, kind, retryable, begun, execution_s, detail)


def told(head: Sequence[object], body: bytes) -> RunEvents:
    """A child's frame of events.

    Raises:
        ValueError, IndexError: it is none.
    """
    prev, last = parse_id(head[3]), parse_id(head[4])
    if prev is None or last is None:
        raise ValueError("events without a place")
    return RunEvents(str(head[1]), int(str(head[2])), Chunk(prev, last, body))
