"""Hints of changed shared state: pub/sub as long as it works, and a look at the versions every second or two in any
case."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from a2a_zmq.errors import StateError, StateLost
from a2a_zmq.interfaces import StateStore
from daemons.runtime.contract import Hint

# Versions are read this often although no hint came: pub/sub is lossy. Jittered, so that agents do not ask in step.
READ_EVERY_S = 1.5
# Under load there is a hint for every batch; the core needs only the newest, and not at once.
GATHER_S = 0.1


class Listener:
    """Delivers :class:`Hint` events; at most one for each section and :data:`GATHER_S`."""

    def __init__(
        self,
        hints: Any,
        store: StateStore,
        ids: Callable[[], list[str]],
        deliver: Callable[[Hint], None],
        rng: Callable[[], float],
        *,
        writers: tuple[str, ...] = ("coordinator", "distributor"),
        lost: Callable[[str], None] = lambda _why: None,
    ) -> None:
        """
        Args:
            hints: implements :class:`a2a_zmq.interfaces.Hints`.
            ids: the distributors that matter now; asked again and again.
            writers: whose versions matter: an agent needs no hints of its own writes.
            lost: told if a section of ours is older than what we wrote: an idle owner would not notice for long.
        """
        self._hints = hints
        self._store = store
        self._ids = ids
        self._deliver = deliver
        self._rng = rng
        self._writers = writers
        self._lost = lost
        self._newest: dict[tuple[str, str], int] = {}
        self._fresh: dict[tuple[str, str], int] = {}
        self._noted = asyncio.Event()
        self._read_now = asyncio.Event()

    async def run(self) -> None:
        """For ever.

        Raises:
            StoreUnavailable: hints cannot be had, and trying again cannot help.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                group.create_task(self._read())
                group.create_task(self._hand_over())
        except ExceptionGroup as failed:
            # Which status a daemon ends with is told by the kind of its error, and a group is of none.
            raise failed.exceptions[0] from None

    async def _listen(self) -> None:
        while True:
            ids = self._ids()
            if not ids:
                await asyncio.sleep(READ_EVERY_S)
                continue
            async with aclosing(self._hints.listen(ids)) as hints:
                async for distributor_id, writer, version in hints:
                    if not distributor_id:
                        self._read_now.set()  # subscribed: whatever was published before is lost
                    else:
                        self._note(distributor_id, writer, version)
                    if self._ids() != ids:
                        break

    async def _read(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):  # nothing was published for a while: look all the same
                async with asyncio.timeout(READ_EVERY_S * (0.8 + 0.4 * self._rng())):
                    await self._read_now.wait()
            self._read_now.clear()
            for distributor_id in self._ids():
                try:
                    coordinator, distributor = await self._store.versions(distributor_id)
                except StateLost as error:
                    self._lost(str(error))
                    break
                except StateError:
                    break  # the batches find out that the store is away, and when it is back
                self._note(distributor_id, "coordinator", coordinator)
                self._note(distributor_id, "distributor", distributor)

    def _note(self, distributor_id: str, writer: str, version: int) -> None:
        key = (distributor_id, writer)
        if writer in self._writers and version > self._newest.get(key, 0):
            self._newest[key] = self._fresh[key] = version
            self._noted.set()

    async def _hand_over(self) -> None:
        while True:
            await self._noted.wait()
            await asyncio.sleep(GATHER_S)
            self._noted.clear()
            fresh, self._fresh = self._fresh, {}
            for (distributor_id, writer), version in fresh.items():
                self._deliver(Hint(distributor_id, writer, version))
