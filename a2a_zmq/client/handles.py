"""Handles: what a caller holds of a task that the fleet has accepted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol

from a2a_zmq.client.base import REACH_CHECK_S
from a2a_zmq.client.entries import Asked, Entry
from a2a_zmq.client.requests import UNSET
from a2a_zmq.client.submission import value_of
from a2a_zmq.errors import FleetError, RequestRefused, TaskWaiting
from a2a_zmq.streams import StreamEvent
from a2a_zmq.tasks import Record


class AsyncOwner(Protocol):
    """What an asynchronous handle needs of its client."""

    async def get(self, task_id: str) -> Record | None: ...

    async def cancel(self, *task_ids: str) -> dict[str, list[Any]]: ...

    async def resume_asked(
        self, task_id: str, value: Any, answers: Mapping[str, Any] | None, asked: Asked | None
    ) -> None: ...

    async def wait_for(self, handle: AsyncTaskHandle, timeout: float | None) -> None: ...

    def stream(
        self, task_id: str, *, after: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[StreamEvent]: ...


class Owner(Protocol):
    """What a handle needs of its client."""

    def get(self, task_id: str) -> Record | None: ...

    def cancel(self, *task_ids: str) -> dict[str, list[Any]]: ...

    def resume_asked(
        self, task_id: str, value: Any, answers: Mapping[str, Any] | None, asked: Asked | None
    ) -> None: ...

    def wait_for(self, handle: TaskHandle, timeout: float | None) -> None: ...

    def stream(
        self, task_id: str, *, after: str | None = None, timeout: float | None = None
    ) -> Iterator[StreamEvent]: ...


class AsyncTaskHandle:
    """A task that the fleet has accepted. Valid through lost connections and replaced coordinators."""

    __slots__ = ("_accepted", "_asked", "_client", "_outcome", "_waiters", "task_id")

    def __init__(self, client: AsyncOwner, accepted: asyncio.Future[None]) -> None:
        self.task_id = ""
        self._client = client
        self._accepted: asyncio.Future[None] | None = accepted
        self._asked: Asked | None = None
        self._outcome: Record | FleetError | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def accepted(self, entry: Entry) -> None:
        if self._accepted is not None and not self._accepted.done():
            self._accepted.set_result(None)
        self._accepted = None

    def finished(self, entry: Entry) -> None:
        self._outcome = entry.outcome
        if self._accepted is not None and not self._accepted.done():
            if isinstance(entry.outcome, FleetError):
                self._accepted.set_exception(entry.outcome)
            else:
                self._accepted.set_result(None)
        self._accepted = None
        self._wake()

    def asked(self, entry: Entry) -> None:
        self._asked = entry.asked
        if entry.asked is not None:
            self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def done(self) -> bool:
        """Whether the result is here."""
        return self._outcome is not None

    @property
    def stands(self) -> bool:
        """Whether there is nothing to wait for: the result is here, or the task asks something."""
        return self._outcome is not None or self._asked is not None

    @property
    def refused(self) -> bool:
        """Whether the fleet did not take it, or is out of reach."""
        return isinstance(self._outcome, FleetError)

    @property
    def interrupts(self) -> list[dict[str, Any]]:
        """The open questions of a task that waits, each with ``id`` and ``value``; empty if it does not."""
        return [] if self._asked is None or self._outcome is not None else list(self._asked.interrupts)

    @property
    def record(self) -> Record | None:
        """The result record (worker, times, attempt …) once the task is done."""
        return self._outcome if isinstance(self._outcome, dict) else None

    async def result(self, timeout: float | None = None) -> Any:
        """The task's value.

        Args:
            timeout: seconds to wait, None for as long as it takes.

        Raises:
            TaskFailed, TaskCancelled: it did not complete.
            TaskTimeout: no result within ``timeout``; the task goes on.
            TaskWaiting: it asks something; :meth:`resume` answers, then its result can be waited for again.
            FleetUnavailable: no coordinator was reachable for the client's ``unavailable_after_s``.
        """
        if not self.stands:
            await self._client.wait_for(self, timeout)
        return _value_of(self.task_id, self._outcome, self._asked)

    async def resume(self, value: Any = UNSET, *, answers: Mapping[str, Any] | None = None) -> None:
        """Answer what the task asks: a value for its only question, or values by the questions' ids.

        Raises:
            RequestRefused: ``NOT_WAITING`` (any more), ``AMBIGUOUS`` (several questions), ``UNKNOWN_TASK``.
        """
        await self._client.resume_asked(self.task_id, value, answers, self._asked)

    def stream(self, *, after: str | None = None, timeout: float | None = None) -> AsyncIterator[StreamEvent]:
        """What the task's runs tell; see :meth:`AsyncFleetClient.stream`."""
        return self._client.stream(self.task_id, after=after, timeout=timeout)

    async def status(self) -> str:
        """The task's status now; asks the coordinator unless the result is here."""
        if isinstance(self._outcome, dict):
            return str(self._outcome.get("status"))
        record = await self._client.get(self.task_id)
        if record is None:
            raise RequestRefused("UNKNOWN_TASK", f"the fleet does not know task {self.task_id}")
        return str(record.get("status", "pending"))

    async def cancel(self) -> dict[str, list[Any]]:
        """Cancel the task."""
        return await self._client.cancel(self.task_id)

    def __repr__(self) -> str:
        return f"<AsyncTaskHandle {self.task_id} {'done' if self.done() else 'under way'}>"


class Gate:
    """Counts acceptances on the client's thread, for a caller that waits for them on another.

    Attributes:
        arrived: how many tasks were accepted or ended.
        error: why the first of those that were not accepted was not.
    """

    __slots__ = ("_awaited", "_event", "arrived", "error")

    def __init__(self) -> None:
        self.arrived = 0
        self.error: FleetError | None = None
        self._awaited = 0
        self._event = threading.Event()

    def one(self, error: FleetError | None) -> None:
        self.arrived += 1
        if error is not None and self.error is None:
            self.error = error
        if self._awaited and self.arrived >= self._awaited:
            self._awaited = 0
            self._event.set()

    def wait_for(self, count: int, check: Callable[[], None]) -> None:
        """Wait until so many have arrived; the core's deadlines bound the wait.

        Args:
            check: raises if there is nobody any more who could report arrivals.
        """
        while self.arrived < count:
            self._event.clear()
            self._awaited = count
            if self.arrived >= count:
                return
            if not self._event.wait(REACH_CHECK_S):
                check()


class HandleSink:
    """All that the client's thread has of a handle. Filled there, read on any thread.

    It does not know the client: a client that was dropped while its tasks run is closed, as if it had none.

    Attributes:
        outcome: the result record, or the error to raise; None until known.
        question: what the task asks; None if it asks nothing.
        waiters: set when one of the two changes.
    """

    __slots__ = ("_gate", "outcome", "question", "waiters")

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate
        self.outcome: Record | FleetError | None = None
        self.question: Asked | None = None
        self.waiters: list[threading.Event] = []

    def accepted(self, entry: Entry) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.one(None)

    def finished(self, entry: Entry) -> None:
        outcome = self.outcome = entry.outcome
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.one(outcome if isinstance(outcome, FleetError) else None)
        self._wake()

    def asked(self, entry: Entry) -> None:
        self.question = entry.asked
        if entry.asked is not None:
            self._wake()

    def _wake(self) -> None:
        for waiter in list(self.waiters):  # a waiter that gives up takes itself out meanwhile
            waiter.set()


class TaskHandle:
    """A task that the fleet has accepted.

    Valid through lost connections and replaced coordinators, and usable from any thread.

    Attributes:
        task_id: what the fleet calls it; ``attach`` gives a handle of it to another program.
    """

    __slots__ = ("_fleet", "_sink", "task_id")

    def __init__(self, fleet: Owner, gate: Gate) -> None:
        self.task_id = ""
        self._sink = HandleSink(gate)
        self._fleet = fleet

    # ------------------------------------------------------------ for callers

    def done(self) -> bool:
        """Whether the result is here."""
        return self._sink.outcome is not None

    @property
    def stands(self) -> bool:
        """Whether there is nothing to wait for: the result is here, or the task asks something."""
        return self._sink.outcome is not None or self._sink.question is not None

    @property
    def refused(self) -> bool:
        """Whether the fleet did not take it, or is out of reach."""
        return isinstance(self._sink.outcome, FleetError)

    @property
    def interrupts(self) -> list[dict[str, Any]]:
        """The open questions of a task that waits, each with ``id`` and ``value``; empty if it does not."""
        asked = self._sink.question
        return [] if asked is None or self._sink.outcome is not None else list(asked.interrupts)

    @property
    def record(self) -> Record | None:
        """The result record (worker, times, attempt …) once the task is done."""
        return self._sink.outcome if isinstance(self._sink.outcome, dict) else None

    def result(self, timeout: float | None = None) -> Any:
        """The task's value.

        Args:
            timeout: seconds to wait, None for as long as it takes.

        Raises:
            TaskFailed, TaskCancelled: it did not complete.
            TaskTimeout: no result within ``timeout``; the task goes on.
            TaskWaiting: it asks something; :meth:`resume` answers, then its result can be waited for again.
            FleetUnavailable: no coordinator was reachable for the client's ``unavailable_after_s``.
        """
        while True:
            if not self.stands:
                self._fleet.wait_for(self, timeout)
            outcome, asked = self._sink.outcome, self._sink.question
            if outcome is not None or asked is not None:  # else somebody else has answered in this very moment
                return _value_of(self.task_id, outcome, asked)

    def resume(self, value: Any = UNSET, *, answers: Mapping[str, Any] | None = None) -> None:
        """Answer what the task asks: a value for its only question, or values by the questions' ids.

        Raises:
            RequestRefused: ``NOT_WAITING`` (any more), ``AMBIGUOUS`` (several questions), ``UNKNOWN_TASK``.
        """
        self._fleet.resume_asked(self.task_id, value, answers, self._sink.question)

    def stream(self, *, after: str | None = None, timeout: float | None = None) -> Iterator[StreamEvent]:
        """What the task's runs tell; see :meth:`FleetClient.stream`."""
        return self._fleet.stream(self.task_id, after=after, timeout=timeout)

    def status(self) -> str:
        """The task's status now; asks the coordinator unless the result is here."""
        if isinstance(self._sink.outcome, dict):
            return str(self._sink.outcome.get("status"))
        record = self._fleet.get(self.task_id)
        if record is None:
            raise RequestRefused("UNKNOWN_TASK", f"the fleet does not know task {self.task_id}")
        return str(record.get("status", "pending"))

    def cancel(self) -> dict[str, list[Any]]:
        """Cancel the task."""
        return self._fleet.cancel(self.task_id)

    def waiter(self) -> threading.Event:
        """An event that is set when the task is done or asks something (at once if it is so)."""
        event = threading.Event()
        self._sink.waiters.append(event)
        if self.stands:
            event.set()
        return event

    def no_longer(self, waiter: threading.Event) -> None:
        if waiter in self._sink.waiters:
            self._sink.waiters.remove(waiter)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task_id} {'done' if self.done() else 'under way'}>"


def _value_of(task_id: str, outcome: Record | FleetError | None, asked: Asked | None) -> Any:
    if outcome is not None:
        return value_of(task_id, outcome)
    if asked is None:  # it was answered, by somebody else, in this very moment
        raise TaskWaiting(task_id, [])
    raise TaskWaiting(task_id, list(asked.interrupts), asked.attempt)
