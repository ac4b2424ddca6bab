"""Runs of the cooperative executors that are not reported yet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from a2a_zmq.handlers import TaskContext
from a2a_zmq.texts import whole_texts
from daemons.runtime.contract import Event, RunFinished, StartRun
from daemons.worker.executors import invoke

Report = Callable[[list[Event]], None]
Key = tuple[str, int]


class Attempt:
    """A run of a cooperative executor. Whoever takes it out of the table of open ones reports it."""

    __slots__ = ("context", "inline", "reference", "run", "started_at", "task")

    def __init__(self, run: StartRun, reference: str, *, inline: bool = False) -> None:
        self.run = run
        self.reference = reference
        self.inline = inline
        self.context = TaskContext(run.task_id, run.attempt, run.task_type, metadata=run.metadata)
        self.started_at = 0.0
        self.task: asyncio.Task[None] | None = None


class OpenRuns:
    """Runs that are not reported yet; each is reported once, by whichever thread claims it first."""

    def __init__(self, max_result_bytes: int, report: Report) -> None:
        self._max_bytes = max_result_bytes
        self.report = report
        self.table: dict[Key, Attempt] = {}
        self._lock = threading.Lock()

    def claim(self, attempt: Attempt) -> bool:
        """True for the one caller that may report this attempt."""
        key = (attempt.run.task_id, attempt.run.attempt)
        with self._lock:
            if self.table.get(key) is not attempt:
                return False
            del self.table[key]
            return True

    def completed(self, attempt: Attempt, value: Any, begun: float) -> RunFinished | None:
        """The handler returned."""
        run = attempt.run
        try:
            encoded = invoke.encode(value, self._max_bytes)
        except BaseException as error:  # what a value does while it is encoded is the handler's, too
            return self.failed(attempt, error, begun)
        if not self.claim(attempt):
            return None
        return RunFinished(
            run.task_id, run.attempt, "completed", encoded, "", "", False, attempt.started_at, time.monotonic() - begun
        )

    def failed(self, attempt: Attempt, error: BaseException, begun: float) -> RunFinished | None:
        """The handler raised, or ended because it was asked to."""
        context = attempt.context
        if context.cancelled and not isinstance(error, (invoke.Unserializable, invoke.InvalidInput)):
            return self.stopped(attempt, {})
        if not self.claim(attempt):
            return None
        try:
            kind, text, retryable, detail = invoke.failure(error, context)
        except BaseException:  # an exception that cannot even be looked at must not leave its run unreported
            kind, text, retryable, detail = "raised", f"{type(error).__name__} (nothing can be told of it)", True, {}
        return RunFinished(
            attempt.run.task_id,
            attempt.run.attempt,
            "failed",
            b"null",
            text,
            kind,
            retryable,
            attempt.started_at,
            time.monotonic() - begun,
            detail,
        )

    def stopped(self, attempt: Attempt, detail: dict[str, Any]) -> RunFinished | None:
        """The run ended on request, or is given up."""
        run, context = attempt.run, attempt.context
        if not self.claim(attempt):
            return None
        outcome, error, kind, retryable = invoke.stopped(context.stop_reason, run.timeout_s)
        if context.lines:
            detail["log"] = whole_texts(context.lines)
        execution_s = time.time() - attempt.started_at if attempt.started_at else 0.0
        return RunFinished(
            run.task_id, run.attempt, outcome, b"null", error, kind, retryable, attempt.started_at, execution_s, detail
        )

    def begun(self, key: Key) -> bool:
        """Has this run begun, and not ended?"""
        attempt = self.table.get(key)
        return attempt is not None and attempt.started_at > 0.0

    def give_up(self, key: Key) -> bool:
        """Report a run that did not end within the grace; False if it has ended."""
        attempt = self.table.get(key)
        finished = None if attempt is None else self.stopped(attempt, {"still_running": True})
        if finished is None:
            return False
        self.report([finished])
        return True
