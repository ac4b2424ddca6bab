"""Handles: what a caller holds of a task that the fleet has accepted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol

from a2a_zmq.client.base import REACH_CHECK_S
from a2a_zmq.client.entries import Entry
from a2a_zmq.client.submission import value_of
from a2a_zmq.errors import FleetError, RequestRefused
from a2a_zmq.tasks import Record


class AsyncOwner(Protocol):
    """What an asynchronous handle needs of its client."""

    async def get(self, task_id: str) -> Record | None: ...

    async def cancel(self, *task_ids: str) -> dict[str, list[Any]]: ...

    async def wait_for(self, handle: AsyncTaskHandle, timeout: float | None) -> None: ...


class Owner(Protocol):
    """What a handle needs of its client."""

    def get(self, task_id: str) -> Record | None: ...

    def cancel(self, *task_ids: str) -> dict[str, list[Any]]: ...

    def wait_for(self, handle: TaskHandle, timeout: float | None) -> None: ...


class AsyncTaskHandle:
    """A task that the fleet has accepted. Valid through lost connections and replaced coordinators."""

    __slots__ = ("_accepted", "_client", "_outcome", "_waiters", "task_id")

    def __init__(self, client: AsyncOwner, accepted: asyncio.Future[None]) -> None:
        self.task_id = ""
        self._client = client
        self._accepted: asyncio.Future[None] | None = accepted
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
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def done(self) -> bool:
        """Whether the result is here."""
        return self._outcome is not None

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
            FleetUnavailable: no coordinator was reachable for the client's ``unavailable_after_s``.
        """
        if self._outcome is None:
            await self._client.wait_for(self, timeout)
        assert self._outcome is not None
        return value_of(self.task_id, self._outcome)

    async def status(self) -> str:
        """The task's status now; asks the coordinator unless the result is here."""
        if isinstance(self._outcome, dict):
            return str(self._outcome.get("status"))
        record = await self._client.get(self.task_id)
        if record is None:
            raise RequestRefused("UNKNOWN_TASK", f"the fleet does not know task {self.task_id}")
        return str(record.get("status", "pending"))

    async def cancel(self) -> dict[str, list[Any]]:
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


class TaskHandle:
    """A task that the fleet has accepted.

    Valid through lost connections and replaced coordinators, and usable from any thread.
    """

    __slots__ = ("_fleet", "_gate", "_outcome", "_waiters", "task_id")

    def __init__(self, fleet: Owner, gate: Gate) -> None:
        self.task_id = ""
        self._fleet = fleet
        self._gate: Gate | None = gate
        self._outcome: Record | FleetError | None = None
        self._waiters: list[threading.Event] | None = None

    # ------------------------------------------------------------ sink, on the client's thread

    def accepted(self, entry: Entry) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.one(None)

    def finished(self, entry: Entry) -> None:
        outcome = self._outcome = entry.outcome
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.one(outcome if isinstance(outcome, FleetError) else None)
        for waiter in list(self._waiters or ()):  # a waiter that gives up takes itself out meanwhile
            waiter.set()

    # ------------------------------------------------------------ for callers

    def done(self) -> bool:
        """Whether the result is here."""
        return self._outcome is not None

    @property
    def record(self) -> Record | None:
        """The result record (worker, times, attempt …) once the task is done."""
        return self._outcome if isinstance(self._outcome, dict) else None

    def result(self, timeout: float | None = None) -> Any:
        """The task's value.

        Args:
            timeout: seconds to wait, None for as long as it takes.

        Raises:
            TaskFailed, TaskCancelled: it did not complete.
            TaskTimeout: no result within ``timeout``; the task goes on.
            FleetUnavailable: no coordinator was reachable for the client's ``unavailable_after_s``.
        """
        if self._outcome is None:
            self._fleet.wait_for(self, timeout)
        assert self._outcome is not None
        return value_of(self.task_id, self._outcome)

    def status(self) -> str:
        """The task's status now; asks the coordinator unless the result is here."""
        if isinstance(self._outcome, dict):
            return str(self._outcome.get("status"))
        record = self._fleet.get(self.task_id)
        if record is None:
            raise RequestRefused("UNKNOWN_TASK", f"the fleet does not know task {self.task_id}")
        return str(record.get("status", "pending"))

    def cancel(self) -> dict[str, list[Any]]:
        return self._fleet.cancel(self.task_id)

    def waiter(self) -> threading.Event:
        """An event that is set when the task is done (at once if it is)."""
        event = threading.Event()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(event)
        if self._outcome is not None:
            event.set()
        return event

    def no_longer(self, waiter: threading.Event) -> None:
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task_id} {'done' if self.done() else 'under way'}>"
