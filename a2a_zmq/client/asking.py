"""The requests about tasks and the fleet that both clients offer beside submitting and waiting."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from a2a_zmq.client import requests
from a2a_zmq.client.entries import Asked, Call
from a2a_zmq.client.requests import UNSET, Ask, HistoryEvent, TaskFilter, TaskPage
from a2a_zmq.tasks import Record


def answer_to(answered: asyncio.Future[dict[str, Any]]) -> Callable[[Call], None]:
    """What hands a request's answer to who waits for it."""

    def done(call: Call) -> None:
        if answered.done():
            return
        if isinstance(call.answer, dict):
            answered.set_result(call.answer)
        elif call.answer is not None:
            answered.set_exception(call.answer)

    return done


class FleetRequests(ABC):
    """Of the blocking client."""

    @abstractmethod
    def _ask(self, ask: Ask) -> dict[str, Any]:
        """Send a request, and wait for what it returns."""

    def get(self, task_id: str) -> Record | None:
        """The task's full record, live or finished; None if the fleet does not know it."""
        return requests.record_of(self._ask(requests.get(task_id)))

    def status(self, *, load: bool = False) -> dict[str, Any]:
        """The fleet: ``coordinator``, ``distributors``, ``tasks`` (number by status), ``store``; with ``load`` also
        what each worker does (``load``: ``running``, ``held``, and counters, of which two answers tell the rates)."""
        return requests.without_action(self._ask(requests.status(load=load)))

    def tasks(
        self,
        *,
        status: str | None = None,
        task_type: str | None = None,
        dead: bool = False,
        limit: int = 100,
        **wanted: Unpack[TaskFilter],
    ) -> TaskPage:
        """Tasks of the fleet, without payloads and results: unfinished ones, or with the ``status`` of ended ones the
        newest of these; ``dead`` lists the dead letters. Further conditions: :class:`TaskFilter`."""
        return requests.page_of(self._ask(requests.tasks(status, task_type, limit, dead=dead, wanted=wanted)))

    def explain(self, task_id: str) -> dict[str, Any] | None:
        """Where a task stands and why, how it got there, and who holds what; None if it is unknown. Its members are in
        ``docs/messages.md``.
        """
        answer = requests.without_action(self._ask(requests.explain(task_id)))
        return answer if answer.get("task") else None

    def history(self, task_id: str | None = None, *, limit: int = 100) -> list[HistoryEvent]:
        """The audit history, newest first."""
        return requests.events_of(self._ask(requests.history(task_id, limit)))

    def cancel(self, *task_ids: str) -> dict[str, list[Any]]:
        """Cancel tasks.

        Returns:
            ids by outcome: ``cancelled``, ``requested`` (being stopped), ``terminal``, ``unknown``.
        """
        outcome: dict[str, list[Any]] = {}
        for ask in requests.cancel(task_ids):
            requests.merge_lists(outcome, self._ask(ask))
        return outcome

    def retry(self, *task_ids: str) -> dict[str, list[Any]]:
        """Run failed or abandoned tasks anew (operators only); returns ``retried`` ids and ``refused`` [id, why]."""
        outcome: dict[str, list[Any]] = {}
        for ask in requests.retry(task_ids):
            requests.merge_lists(outcome, self._ask(ask))
        return outcome

    def drain(self, agent_id: str) -> dict[str, Any]:
        """Let an agent finish what it has and take nothing new (operators only)."""
        return requests.without_action(self._ask(requests.drain(agent_id)))

    def failover(self, distributor_id: str) -> dict[str, Any]:
        """Move the tasks of a distributor that does not come back to others that can run them (operators only): how
        many are ``moving``, how many ``stay`` because no other one can, and a ``message``. Refused while it lives."""
        return requests.without_action(self._ask(requests.failover(distributor_id)))

    def audit(self, *, repair: bool = False) -> dict[str, Any]:
        """Compare store, coordinator and distributors, and mend what has one right answer (operators only): ``checked``
        tasks, ``findings``, their ``total``, how many were ``repaired``, and what is ``unchecked``."""
        return requests.without_action(self._ask(requests.audit(repair=repair)))

    def resume(self, task_id: str, value: Any = UNSET, *, answers: Mapping[str, Any] | None = None) -> None:
        """Answer what a task asks: a value for its only question, or values by the questions' ids. Returns when it is
        sure to go on.

        Raises:
            RequestRefused: ``NOT_WAITING`` (any more), ``AMBIGUOUS`` (several questions), ``UNKNOWN_TASK``.
        """
        self.resume_asked(task_id, value, answers, None)

    def resume_asked(self, task_id: str, value: Any, answers: Mapping[str, Any] | None, asked: Asked | None) -> None:
        """The same where it is known what the task asks; what handles call."""
        self._ask(requests.resume(task_id, value, answers, asked))


class AsyncFleetRequests(ABC):
    """Of the asynchronous client."""

    @abstractmethod
    async def _ask(self, ask: Ask) -> dict[str, Any]:
        """Send a request, and wait for what it returns."""

    async def get(self, task_id: str) -> Record | None:
        """The task's full record, live or finished; None if the fleet does not know it."""
        return requests.record_of(await self._ask(requests.get(task_id)))

    async def status(self, *, load: bool = False) -> dict[str, Any]:
        """The fleet: ``coordinator``, ``distributors``, ``tasks`` (number by status), ``store``; with ``load`` also
        what each worker does (``load``: ``running``, ``held``, and counters, of which two answers tell the rates)."""
        return requests.without_action(await self._ask(requests.status(load=load)))

    async def tasks(
        self,
        *,
        status: str | None = None,
        task_type: str | None = None,
        dead: bool = False,
        limit: int = 100,
        **wanted: Unpack[TaskFilter],
    ) -> TaskPage:
        """Tasks of the fleet, without payloads and results: unfinished ones, or with the ``status`` of ended ones the
        newest of these; ``dead`` lists the dead letters. Further conditions: :class:`TaskFilter`."""
        return requests.page_of(await self._ask(requests.tasks(status, task_type, limit, dead=dead, wanted=wanted)))

    async def explain(self, task_id: str) -> dict[str, Any] | None:
        """Where a task stands and why, how it got there, and who holds what; None if it is unknown. Its members are in
        ``docs/messages.md``.
        """
        answer = requests.without_action(await self._ask(requests.explain(task_id)))
        return answer if answer.get("task") else None

    async def history(self, task_id: str | None = None, *, limit: int = 100) -> list[HistoryEvent]:
        """The audit history, newest first."""
        return requests.events_of(await self._ask(requests.history(task_id, limit)))

    async def cancel(self, *task_ids: str) -> dict[str, list[Any]]:
        """Cancel tasks.

        Returns:
            ids by outcome: ``cancelled``, ``requested`` (being stopped), ``terminal``, ``unknown``.
        """
        outcome: dict[str, list[Any]] = {}
        for ask in requests.cancel(task_ids):
            requests.merge_lists(outcome, await self._ask(ask))
        return outcome

    async def retry(self, *task_ids: str) -> dict[str, list[Any]]:
        """Run failed or abandoned tasks anew (operators only); returns ``retried`` ids and ``refused`` [id, why]."""
        outcome: dict[str, list[Any]] = {}
        for ask in requests.retry(task_ids):
            requests.merge_lists(outcome, await self._ask(ask))
        return outcome

    async def drain(self, agent_id: str) -> dict[str, Any]:
        """Let an agent finish what it has and take nothing new (operators only)."""
        return requests.without_action(await self._ask(requests.drain(agent_id)))

    async def failover(self, distributor_id: str) -> dict[str, Any]:
        """As :meth:`FleetRequests.failover` (operators only)."""
        return requests.without_action(await self._ask(requests.failover(distributor_id)))

    async def audit(self, *, repair: bool = False) -> dict[str, Any]:
        """As :meth:`FleetRequests.audit` (operators only)."""
        return requests.without_action(await self._ask(requests.audit(repair=repair)))

    async def resume(self, task_id: str, value: Any = UNSET, *, answers: Mapping[str, Any] | None = None) -> None:
        """Answer what a task asks: a value for its only question, or values by the questions' ids. Returns when it is
        sure to go on.

        Raises:
            RequestRefused: ``NOT_WAITING`` (any more), ``AMBIGUOUS`` (several questions), ``UNKNOWN_TASK``.
        """
        await self.resume_asked(task_id, value, answers, None)

    async def resume_asked(
        self, task_id: str, value: Any, answers: Mapping[str, Any] | None, asked: Asked | None
    ) -> None:
        """The same where it is known what the task asks; what handles call."""
        await self._ask(requests.resume(task_id, value, answers, asked))
