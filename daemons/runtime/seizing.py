"""What a coordinator does in the section of a distributor that is gone: shut its last owner out, and take tasks away.

Both hold the distributor's lease for a moment, so the fence goes up each time. Nobody took the section in between if
the fence is the one that we left there.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from a2a_zmq.errors import Fenced, StoreUnavailable
from a2a_zmq.interfaces import Held, Section, SectionWrite, StateStore
from daemons.runtime.spooling import SpoolingStore


class Borrower(Protocol):
    """Takes leases for a moment (:class:`daemons.runtime.ownership.Ownership`)."""

    def borrow(self, section: Section) -> AbstractAsyncContextManager[Held | None]:
        """The lease; None while somebody else holds it."""

    def safe(self, held: Held) -> bool:
        """Whether it may still be relied on."""


async def seize(store: StateStore, leases: Borrower, *, distributor_id: str) -> tuple[int | None, dict[str, bytes]]:
    """Shut the last owner out, then read its live tasks; from here on only a next owner can change them, and us.

    Returns:
        the fence, None if somebody holds the lease; and the live tasks by id.
    """
    async with leases.borrow(Section(distributor_id, "distributor")) as held:
        fence = held.fence if held is not None else None
    return fence, (await store.load(Section(distributor_id, "coordinator"))).tasks


async def evict(
    store: StateStore, leases: Borrower, *, distributor_id: str, fence: int, task_ids: list[str], mutation_id: str
) -> int | None:
    """Take these tasks out of the section, unless somebody took it since we left it with this fence.

    Returns:
        the fence that we leave there now; None if nothing was done.
    """
    section = Section(distributor_id, "distributor")
    async with leases.borrow(section) as held:
        if held is None or held.found_fence != fence:
            return None
        through = store.through() if isinstance(store, SpoolingStore) else store
        if not leases.safe(held):
            raise StoreUnavailable("timeout", "the lease took too long")
        through.rebase(section)  # what we know of it is from before its owner's last writes
        try:
            await through.apply(SectionWrite(section, held.fence, mutation_id, drop_tasks=task_ids))
        except Fenced:
            return None
        finally:
            through.rebase(section)
        return held.fence
