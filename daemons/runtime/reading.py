"""Reads of the shared state that are refused while Redis does not hold all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from a2a_zmq.interfaces import Mark, Section, StateStore, Survey, Wanted
from a2a_zmq.models import SharedAgentState
from a2a_zmq.streams import Chunk, EventId


class CheckedReads(ABC):
    """The reading part of :class:`a2a_zmq.interfaces.StateStore`, over another one."""

    _inner: StateStore

    @abstractmethod
    def _check(self) -> None:
        """
        Raises:
            StoreUnavailable: what would be read is not the state.
        """

    async def versions(self, distributor_id: str) -> tuple[int, int]:
        self._check()
        return await self._inner.versions(distributor_id)

    def results_mark(self, section: Section) -> Mark:
        return self._inner.results_mark(section)

    async def results(self, distributor_id: str, task_ids: list[str], since: Mark = ()) -> dict[str, bytes]:
        self._check()
        return await self._inner.results(distributor_id, task_ids, since)

    async def tasks(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        self._check()
        return await self._inner.tasks(distributor_id, task_ids)

    async def newest_results(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        self._check()
        return await self._inner.newest_results(distributor_id, wanted, limit)

    async def letters(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        self._check()
        return await self._inner.letters(distributor_id, task_ids)

    async def newest_letters(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        self._check()
        return await self._inner.newest_letters(distributor_id, wanted, limit)

    async def count_letters(self, distributor_id: str) -> int:
        self._check()
        return await self._inner.count_letters(distributor_id)

    async def lease(self, distributor_id: str) -> tuple[str, int, int] | None:
        self._check()
        return await self._inner.lease(distributor_id)

    async def page(self, distributor_id: str, cursor: str) -> tuple[str, dict[str, bytes]]:
        self._check()
        return await self._inner.page(distributor_id, cursor)

    async def survey(self) -> Survey:
        self._check()
        return await self._inner.survey()

    async def history(self, distributor_id: str, limit: int, task_id: str | None = None) -> list[bytes]:
        self._check()
        return await self._inner.history(distributor_id, limit, task_id)

    async def streams(self, wanted: list[tuple[str, EventId]]) -> list[tuple[list[Chunk], bool]]:
        self._check()
        return await self._inner.streams(wanted)

    async def document(self, distributor_id: str) -> SharedAgentState | None:
        self._check()
        return await self._inner.document(distributor_id)

    async def distributors(self) -> list[str]:
        self._check()
        return await self._inner.distributors()

    async def register_distributor(self, distributor_id: str) -> bool:
        self._check()
        return await self._inner.register_distributor(distributor_id)
