"""A store that rides out outages, over a backend that can be switched off."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import orjson

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.interfaces import INBOX, Held, Mark, Section
from daemons.runtime.spool import SqliteSpool
from daemons.runtime.spooling import SpoolingStore

MINE = Section("d1", "distributor")
PLACED = Section("d1", "coordinator")
OTHER = Section("d2", "coordinator")
INBOX_SECTION = Section(INBOX, "coordinator")
_numbers = itertools.count()


class Switched:
    """A store whose server can be out of reach, or refuse writes; what it applied is noted."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.fault = ""
        self.only_writes = False
        self.lose_reply = False
        self.applied: list[str] = []

    def rebase(self, section: Section) -> None:
        self.inner.rebase(section)

    def advance(self, section: Section, version: int) -> None:
        self.inner.advance(section, version)

    def results_mark(self, section: Section) -> Mark:
        mark: Mark = self.inner.results_mark(section)
        return mark

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            if self.fault and (name == "apply" or not self.only_writes):
                raise StoreUnavailable(self.fault, "switched off")
            value = await getattr(self.inner, name)(*args)
            if name == "apply":
                self.applied.append(args[0].mutation_id)
                if self.lose_reply:
                    self.fault = "timeout"
                    raise StoreUnavailable("timeout", "the reply was lost")
            return value

        return call


class Rig:
    """One process's store: the switch, the spool file, and the store over both."""

    def __init__(
        self, backend: Any, path: Path, *, enabled: bool = True, limit: int = 1 << 20, rests: bool = False
    ) -> None:
        self.switch = Switched(backend.store())
        self.spool = SqliteSpool(path, limit)
        self.store = SpoolingStore(
            self.switch,
            self.spool,
            off=lambda: "" if enabled else "another may take over",
            new_id=lambda: f"fresh{next(_numbers)}",
            rng=lambda: 0.5,
            rests=rests,
        )

    async def own(self, leases: Any, section: Section = MINE) -> Held:
        """Become the owner, as a daemon does it: lease, merge, load."""
        held = await leases.acquire(section, "a|host|1|1|boot", 60_000, steal_from="a|host|1|1|boot")
        assert held is not None
        await self.spool.look()
        await self.merge(section, held)
        return held  # type: ignore[no-any-return]

    async def merge(self, section: Section, held: Held) -> dict[str, int] | None:
        async def renew() -> bool:
            """The lease is long."""
            return True

        counts = await self.store.merge(section, held, renew)
        self.store.rebase(section)
        self.loaded = await self.store.load(section)
        return counts

    async def back(self, fence: int) -> None:
        self.switch.fault, self.switch.lose_reply = "", False
        await self.store.answered(lambda: fence)


def opened(path: Path) -> bool:
    return path.exists()


def record(attempt: int = 0, *, created_at: str = "", **metadata: Any) -> bytes:
    members = {"created_at": created_at} if created_at else {}
    return orjson.dumps({"status": "pending", **members, "metadata": {"attempt": attempt, **metadata}})


def result(attempt: int = 1, **metadata: Any) -> bytes:
    return orjson.dumps({"status": "completed", "metadata": {"attempt": attempt, **metadata}})
