"""Interfaces of the shared state, and the values that go over them.

Real (Redis/Valkey) and in-memory implementations pass the same contract suite (``tests/contract``).

*Sections.* The state of distributor X has two writers with a section each, so that in normal running they do not
conflict:
``Section(X, "distributor")`` and ``Section(X, "coordinator")``. Tasks that no distributor has yet are in the inbox,
``Section("", "coordinator")``. Each section has a header (version, fence, epoch, last mutation id …) in a key of its
own, which is the
key that its writer WATCHes; the task hash, results, history and the pub/sub channel are shared by both writers of X.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from a2a_zmq.models import SharedAgentState
from a2a_zmq.streams import Chunk, EventId

INBOX = ""  # the "distributor id" of tasks that are not placed
# Header member of the coordinator's section of a distributor: the tasks there that are to be cancelled, in JSON.
CANCELS = "cancels"


# Says of a parsed record whether it is wanted.
Wanted = Callable[[dict[str, Any]], bool]


class Section(NamedTuple):
    distributor_id: str
    writer: str  # "coordinator" | "distributor"


class KeyFact(NamedTuple):
    """What a look at the keys found of one of them.

    Attributes:
        key: its name.
        type: as Redis names types.
        ttl_ms: milliseconds until it ends by itself; -1 if it does not.
        lease: the value, of a lease (``owner|fence``).
        size: members, of a hash of live tasks.
    """

    key: str
    type: str
    ttl_ms: int
    lease: str = ""
    size: int = 0


class Survey(NamedTuple):
    """The keys of the shared state, and what looks like one; ``whole`` is False if there were too many keys to see."""

    keys: list[KeyFact]
    whole: bool


@dataclass(slots=True)
class SectionWrite:
    """One atomic write to one section; cost O(what is in it).

    Attributes:
        section: where.
        fence: the writer's fence; a higher recorded one refuses the write.
        mutation_id: fresh for every cut batch and *kept* over retries: it resolves doubtful outcomes.
        header: header members to set besides version/fence/mutation (``status``, ``assigned_workers`` as JSON text …).
        put_tasks: task id → record (JSON bytes) to set in the live task hash.
        drop_tasks: task ids to remove from it.
        results: task id → result record (JSON bytes) to keep in the bounded result buckets.
        letters: those ids in ``results`` that are dead letters too: kept apart, in a bound of their own, so that a busy
            fleet's results do not push them out.
        drop_letters: ids that are no dead letters any more (an operator's retry of them has ended well).
        history: JSON bytes of history events ``[iso time, task id or "", event name, detail object]``.
        yields: a record in ``put_tasks`` is not set where the same or a later attempt of its task lives already.
    """

    section: Section
    fence: int
    mutation_id: str
    header: dict[str, str] = field(default_factory=dict)
    put_tasks: dict[str, bytes] = field(default_factory=dict)
    drop_tasks: list[str] = field(default_factory=list)
    results: dict[str, bytes] = field(default_factory=dict)
    history: list[bytes] = field(default_factory=list)
    letters: list[str] = field(default_factory=list)
    drop_letters: list[str] = field(default_factory=list)
    yields: bool = False


@dataclass(slots=True)
class Loaded:
    """What a new owner reads: one section's header and all live tasks of its distributor.

    Attributes:
        version: the section's version number, 0 if it never was written.
        fence, epoch: as recorded in the section ("" epoch if none).
        header: further header members.
        tasks: task id → record bytes.
        ended: tasks whose results were handed in from a local spool before this was read.
    """

    version: int
    fence: int
    epoch: str
    header: dict[str, str]
    tasks: dict[str, bytes]
    ended: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Held:
    """A lease that was acquired.

    Attributes:
        fence: the new fence, larger than every one recorded before.
        owner: the owner text as stored in the lease key.
        safe_until: monotonic time until which the holder may act (0.66·TTL after the moment *before*
            the request was sent); renewals move it.
        found_fence: what the section had before. Lower than a fence that we held ourselves: the store has lost state.
    """

    name: str
    owner: str
    fence: int
    safe_until: float
    found_fence: int = 0


# A place in the results of a distributor, see :meth:`StateStore.results_mark`. Empty: before all of them.
Mark = tuple[str, ...]


class StateStore(Protocol):
    """Shared state. Every method may raise StoreUnavailable."""

    async def apply(self, write: SectionWrite) -> int:
        """WATCH header → read → check epoch and fence → MULTI … PUBLISH new version → EXEC.

        Doubtful outcomes (a lost reply, WatchError) are resolved inside by re-reading: own mutation id there → applied.

        Returns:
            the section's new version.

        Raises:
            Fenced: a higher fence is recorded; nothing was written.
            VersionConflict: kept conflicting after the bounded, jittered retries; nothing was written.
            StateLost: the section is older than what this store object wrote or loaded before; nothing was written.
        """

    async def load(self, section: Section) -> Loaded:
        """Header and live tasks, read consistently enough for a new owner (it holds the lease).

        Raises:
            StateLost: as for :meth:`apply`; after :meth:`rebase` the section is taken as it is.
        """

    def rebase(self, section: Section) -> None:
        """Take the section as it is found from now on: called by whoever gains ownership, before it loads.

        Versions written later still continue above every version that this store object has seen.
        """

    def advance(self, section: Section, version: int) -> None:
        """Versions written later are above this one too; for writes that were promised a version before."""

    async def versions(self, distributor_id: str) -> tuple[int, int]:
        """(coordinator_version, distributor_version) now.

        Raises:
            StateLost: as for :meth:`apply`, for sections that this store object wrote or loaded.
        """

    def results_mark(self, section: Section) -> Mark:
        """How far the distributor's results had come when this object last wrote this section of it, or before."""

    async def results(self, distributor_id: str, task_ids: list[str], since: Mark = ()) -> dict[str, bytes]:
        """Result records of those ids that are still kept; the others are absent.

        Args:
            since: leave out what was surely recorded before this mark; that costs little where little was recorded.
        """

    async def newest_results(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        """Records of ended tasks, the newest first; looks at a bounded number of the newest ones."""

    async def letters(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        """Dead letters of those ids; the others are absent."""

    async def newest_letters(self, distributor_id: str, wanted: Wanted, limit: int) -> list[bytes]:
        """Dead letters, the newest first."""

    async def count_letters(self, distributor_id: str) -> int:
        """How many dead letters there are."""

    async def lease(self, distributor_id: str) -> tuple[str, int, int] | None:
        """(owner text, fence, remaining ms) of whoever owns the section (of the inbox for ""); None: nobody."""

    async def tasks(self, distributor_id: str, task_ids: list[str]) -> dict[str, bytes]:
        """Live records of those ids; the others are absent."""

    async def page(self, distributor_id: str, cursor: str) -> tuple[str, dict[str, bytes]]:
        """Some of the live records, and where to go on ("" for the end, and to begin with).

        What is live from the first page to the last is in one of them; what comes or goes meanwhile may be.
        """

    async def survey(self) -> Survey:
        """All keys of the shared state, in steps that hold nobody up."""

    async def history(self, distributor_id: str, limit: int, task_id: str | None = None) -> list[bytes]:
        """Newest first, at most ``limit`` events (as in :attr:`SectionWrite.history`)."""

    async def streams(self, wanted: list[tuple[str, EventId]]) -> list[tuple[list[Chunk], bool]]:
        """For each (task id, event): chunks of the task's stream that have something after that event, and whether
        there are no more; at most some 256 KiB of each."""

    async def document(self, distributor_id: str) -> SharedAgentState | None:
        """The specification's document, put together; None if the distributor is unknown."""

    async def distributors(self) -> list[str]:
        """Ids of all registered distributors."""

    async def register_distributor(self, distributor_id: str) -> bool:
        """Add to the registry; False if it was there already."""

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class LeaseStore(Protocol):
    """Fenced leases; ``name`` is a Section (the lease of its owner)."""

    async def acquire(
        self,
        section: Section,
        owner: str,
        ttl_ms: int,
        *,
        steal_from: str | None = None,
        min_fence: int = 0,
        new_epoch: bool = False,
        expect_fence: int = 0,
    ) -> Held | None:
        """Take the lease if it is free (or is ours already, after a lost reply); None if somebody else holds it.

        Args:
            owner: text ``agent|host_id|pid|start_time|boot_id``.
            steal_from: take it although held, if the holder's owner text equals this one (proof of its death was had).
            min_fence: highest fence known from elsewhere (own memory, workers); the new fence is larger.
            new_epoch: write a new epoch although there is one (after StateLost).
            expect_fence: what the section's fence must have reached: a lease that is free because the state was lost
                is not taken.

        Raises:
            StateLost: the lease is free and the section's fence is below ``expect_fence``; nothing was written.
        """

    async def holder(self, section: Section) -> tuple[str, int, int] | None:
        """(owner text, fence, remaining ms) of the present holder."""

    async def renew(self, section: Section, held: Held, ttl_ms: int) -> bool:
        """Extend if still ours (compared in one Lua step); False if it is lost. Moves ``held.safe_until``."""

    async def release(self, section: Section, held: Held) -> bool: ...


class Hints(Protocol):
    """Pub/sub notifications: hints, never the truth."""

    def listen(self, distributor_ids: list[str]) -> AsyncIterator[tuple[str, str, int]]:
        """Yields (distributor id, writer, version) for ever; ("", "", 0) after every (re)subscription, when
        everything should be read again."""
