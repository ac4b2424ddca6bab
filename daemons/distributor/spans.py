"""Spans of attempts and of recording: made where an attempt ends, from what is known of it anyway. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from a2a_zmq.clock import Now, parse_iso
from a2a_zmq.tracing.context import TraceContext, sampled_in, span_id
from a2a_zmq.tracing.spans import ATTEMPT, PRODUCER, RECORD, Span, Tracer, attempt_span, ending
from daemons.distributor.memory import LiveTask

# Tasks of which something is kept; there are fewer, unless the store is away for long.
MAX_KEPT: Final = 65_536

FAILED: Final = frozenset({"failed", "worker_lost"})


class _Ended(NamedTuple):
    """A task whose result is not durable yet."""

    trace: TraceContext
    task_type: str
    status: str
    wall: float


class _End(NamedTuple):
    """How an attempt ended."""

    outcome: str
    kind: str
    error: str
    item: dict[str, Any] | None


class AttemptSpans:
    """See the module's text."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._last: dict[str, int] = {}  # task → its last attempt that has a span
        self._recording: dict[str, _Ended] = {}

    def finished(
        self,
        task: LiveTask,
        now: Now,
        status: str,
        *,
        kind: str = "",
        error: str = "",
        item: dict[str, Any] | None = None,
    ) -> None:
        """The task ends with this status, and with it its present attempt, if a worker has it."""
        trace = sampled_in(task.metadata)
        if trace is not None:
            self.ended(task, now, status, kind=kind, error=error, item=item)
            self._last.pop(task.task_id, None)
            _keep(self._recording, task.task_id, _Ended(trace, task.task_type, status, now.wall))

    def ended(
        self,
        task: LiveTask,
        now: Now,
        outcome: str,
        *,
        kind: str = "",
        error: str = "",
        item: dict[str, Any] | None = None,
    ) -> None:
        """The present attempt of a task is over; told again it changes nothing.

        Args:
            outcome: ``completed``, ``failed``, ``abandoned``, ``worker_lost``, ``moved``, ``put_off``, ``waiting``,
                ``handed_back``, ``replaced``.
            item: the worker's report.
        """
        trace = sampled_in(task.metadata)
        before = self._last.get(task.task_id) or _before(task)
        if trace is None or not task.worker or before == task.attempt:
            return
        self._tracer.span(_attempt(trace, task, now, _End(outcome, kind, error, item), before))
        _keep(self._last, task.task_id, task.attempt)

    def recorded(self, task_ids: Iterable[str], now: Now) -> None:
        """The results of these tasks are durable."""
        for task_id in task_ids if self._recording else ():
            ended = self._recording.pop(task_id, None)
            if ended is not None:
                trace = ended.trace
                self._tracer.span(
                    Span(
                        trace,
                        RECORD,
                        ended.task_type,
                        span_id(trace, RECORD, task_id),
                        trace.span_id,
                        ended.wall,
                        now.wall,
                        attributes={"a2a.task_id": task_id, "a2a.status": ended.status},
                    )
                )


def _attempt(trace: TraceContext, task: LiveTask, now: Now, end: _End, before: int) -> Span:
    item = end.item or {}
    kind = end.kind or item.get("error_kind")
    error = str(end.error or kind or end.outcome) if end.outcome in FAILED else ""
    return Span(
        trace,
        ATTEMPT,
        task.task_type,
        attempt_span(trace, task.task_id, task.attempt),
        trace.span_id,
        _begin(task, now, item),
        now.wall,
        PRODUCER,
        error,
        {
            "a2a.task_id": task.task_id,
            "a2a.task_type": task.task_type,
            "a2a.attempt": task.attempt,
            "a2a.worker": task.worker,
            **ending(end.outcome, kind, item.get("detail")),
        },
        (attempt_span(trace, task.task_id, before),) if before else (),
    )


def _begin(task: LiveTask, now: Now, item: dict[str, Any]) -> float:
    """The dispatch; or the start of the run, where an earlier owner had dispatched it."""
    dispatched = now.wall - (now.mono - task.dispatched_at)
    try:
        return min(dispatched, parse_iso(item["started_at"]))
    except (KeyError, TypeError, ValueError):
        return dispatched


def _keep(kept: dict[str, Any], task_id: str, value: Any) -> None:
    if len(kept) >= MAX_KEPT and task_id not in kept:
        del kept[next(iter(kept))]
    kept[task_id] = value


def _before(task: LiveTask) -> int:
    """The last attempt that failed, of a task that an earlier owner had."""
    told = task.metadata.get("attempts")
    last = told[-1] if isinstance(told, list) and told else None
    attempt = last.get("attempt") if isinstance(last, dict) else None
    return attempt if isinstance(attempt, int) and attempt < task.attempt else 0
