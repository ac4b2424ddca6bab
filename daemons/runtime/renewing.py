"""Keeps a lease while its new owner reads what is under it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from a2a_zmq.errors import StateError
from a2a_zmq.interfaces import Held, LeaseStore, Section


@contextlib.asynccontextmanager
async def renewing(leases: LeaseStore, section: Section, held: Held, ttl_ms: int) -> AsyncIterator[None]:
    """Renew a lease that was just acquired.

    Reading a large section may take longer than a lease lasts: two processes would take it from each other for ever,
    each before the other has read it all.
    """

    async def renew() -> None:
        while True:
            await asyncio.sleep(ttl_ms / 3000)
            with contextlib.suppress(StateError):  # whoever reads finds out, too
                await leases.renew(section, held, ttl_ms)

    task = asyncio.ensure_future(renew())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
