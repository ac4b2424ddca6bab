"""What is counted, logged and traced of an attempt that has ended. Pure."""

from __future__ import annotations

from typing import Final

from a2a_zmq.tracing.context import sampled_in, task_fields
from a2a_zmq.tracing.spans import CONSUMER, RUN, Span, Tracer, attempt_span, ending, run_span
from daemons.runtime.contract import Effect, Log, Meter, RunFinished
from daemons.worker.runs import Run

OUTCOMES: Final = ("completed", "failed", "abandoned", "waiting", "moved", "put_off")
ERROR_CHARS: Final = 200


class Tally:
    """Counts of ended attempts.

    Attributes:
        ended: by outcome.
    """

    def __init__(self, meter: Meter, tracer: Tracer | None) -> None:
        self.ended = dict.fromkeys(OUTCOMES, 0)
        self._meter = meter
        self._tracer = tracer

    def note(self, run: Run, event: RunFinished) -> list[Effect]:
        """An attempt is about to be reported."""
        self.ended[event.outcome] += 1
        if self._tracer is not None:
            self._trace(self._tracer, run, event)
        if event.outcome == "completed":
            self._meter.observe("task_execution_seconds", event.execution_s, run.exemplar(), task_type=run.task_type)
        elif event.outcome == "failed":
            self._meter.count("task_failures_total", reason=event.error_kind)
            fields = {"task_type": run.task_type, "kind": event.error_kind, "error": event.error[:ERROR_CHARS]}
            told = {**task_fields(run.task_id, run.attempt, run.metadata), **fields}
            return [Log("warning", "attempt_failed", told)]
        return []

    @staticmethod
    def _trace(tracer: Tracer, run: Run, event: RunFinished) -> None:
        trace = sampled_in(run.metadata)
        if trace is None or not event.started_at:  # it never began
            return
        span = Span(
            trace,
            RUN,
            run.task_type,
            run_span(trace, run.task_id, run.attempt),
            attempt_span(trace, run.task_id, run.attempt),
            event.started_at,
            event.started_at + event.execution_s,
            CONSUMER,
            event.error if event.outcome == "failed" else "",
            {
                "a2a.task_id": run.task_id,
                "a2a.task_type": run.task_type,
                "a2a.attempt": run.attempt,
                "a2a.executor": run.kind,
                **ending(event.outcome, event.error_kind, event.detail),
            },
        )
        tracer.span(span)
