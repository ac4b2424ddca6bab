"""What a write to a section does, decided without any I/O.

A section's header is a hash. The store's members of it are ``version``, ``fence``, ``epoch``, ``mutations`` (the ids
of the newest writes), ``results`` (which result buckets exist) and ``history`` (mean size of a history entry);
everything else in it belongs to the role that writes the section. The Redis store and the in-memory store both follow
:func:`judge` and :func:`plan_write`, so they cannot come to different verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from a2a_zmq.errors import Fenced, StateError, StateLost
from a2a_zmq.interfaces import INBOX, Section, SectionWrite
from a2a_zmq.state import keys
from a2a_zmq.state.lease_rules import foreign_text

# Read in this order by one HMGET.
FIELDS: Final = ("version", "fence", "epoch", "mutations", "results", "history")
LEASED_AT: Final = "leased_at"  # wall time (Unix seconds) at which the present owner took the lease
RESERVED: Final = frozenset((*FIELDS, LEASED_AT))

# A writer has one write in flight, so one id would do for itself; the others tell a writer that was replaced
# while its reply was lost whether that last write had counted.
MUTATIONS_KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Bounds of what stays of ended tasks, per section (dead letters and history: per distributor).

    A bucket is closed at ``bucket_results`` results, ``bucket_bytes`` bytes or :attr:`closes_after_s`, whichever is
    first. So a section's results take at most ``buckets`` × ``bucket_bytes`` (and one write more), and each result is
    kept for ``result_ttl_s`` unless so many, or so large, newer ones come that its bucket has to go. Dead letters have
    a bound of their own, ``letters`` and ``letter_bytes``: the oldest go.
    """

    bucket_results: int = 8192
    bucket_bytes: int = 4 << 20  # freeing one bucket at a time in the background stays unnoticed
    bucket_age_s: float = 120.0  # at the least
    buckets: int = 32  # 128 MiB or 262,144 results: some 10 s of the highest rate, a day of three a second
    result_ttl_s: float = 3600.0
    letters: int = 10_000
    letter_bytes: int = 32 << 20
    letter_ttl_s: float = 7 * 86_400.0  # a weekend and some days to look at what failed
    history_entries: int = 10_000
    history_bytes: int = 16 << 20

    @property
    def closes_after_s(self) -> float:
        """Age at which a bucket is closed: time alone must not push one out before its results' time is over."""
        return max(self.bucket_age_s, self.result_ttl_s / max(1, self.buckets - 1))


@dataclass(frozen=True, slots=True)
class Buckets:
    """Which result buckets exist: ``tail`` … ``head``; the other members describe the head. No results yet: head 0."""

    head: int = 0
    tail: int = 1
    count: int = 0
    size: int = 0
    since: int = 0  # Unix seconds, rounded down: rounded up it would lie in the future

    def text(self) -> str:
        return f"{self.head} {self.tail} {self.count} {self.size} {self.since}"

    @classmethod
    def parse(cls, text: str, where: str = "a header") -> Buckets:
        """From the field ``results`` of the header at ``where``.

        Raises:
            StateError: no agent wrote this.
        """
        if not text:
            return cls()
        try:
            head, tail, count, size, since = map(int, text.split())
        except ValueError:
            raise _foreign(where, "results", text) from None
        return cls(head, tail, count, size, since)

    def newest_first(self) -> range:
        return range(self.head, self.tail - 1, -1)

    def newer_than(self, then: Buckets) -> range:
        """Those that may hold results which were recorded after ``then``, newest first."""
        if self == then:
            return range(0)
        if self.head < then.head:  # the store went back to an older copy: nothing is known
            return self.newest_first()
        return range(self.head, max(self.tail, then.head) - 1, -1)


def number(value: bytes | None, where: str, field: str) -> int:
    """A number of the header at ``where``; 0 where it is missing.

    Raises:
        StateError: no agent wrote this.
    """
    try:
        return int(value or 0)
    except ValueError:
        raise _foreign(where, field, (value or b"").decode(errors="replace")) from None


def _foreign(where: str, field: str, text: str) -> StateError:
    return foreign_text(where, text, f' in its field "{field}"')


def marks_results(section: Section) -> bool:
    """Whether a write to this section notes where results are: those do by which the coordinator gives tasks out."""
    return section.writer == keys.COORDINATOR and section.distributor_id != INBOX


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The header's own members as read; an absent section reads as version 0."""

    version: int
    fence: int
    epoch: str
    mutations: tuple[str, ...]
    buckets: Buckets
    history_entry_size: int

    @classmethod
    def parse(cls, values: Sequence[bytes | None], where: str = "a header") -> Snapshot:
        """From the values of :data:`FIELDS`, in order.

        Args:
            where: the key at which they were read.

        Raises:
            StateError: no agent wrote one of them.
        """
        version, fence, _, _, _, history = values
        epoch, mutations, results = ((value or b"").decode(errors="replace") for value in values[2:5])
        return cls(
            version=number(version, where, "version"),
            fence=number(fence, where, "fence"),
            epoch=epoch,
            mutations=tuple(mutations.split(",")) if mutations else (),
            buckets=Buckets.parse(results, where),
            history_entry_size=number(history, where, "history"),
        )

    def version_of(self, mutation_id: str) -> int | None:
        """The version that this write made, or None if it is not among the newest writes.

        Every write adds one to the version and one id, so the place of an id tells its version.
        """
        if mutation_id not in self.mutations:
            return None
        return self.version - (len(self.mutations) - 1 - self.mutations.index(mutation_id))


@dataclass(frozen=True, slots=True)
class Known:
    """What a store object knows of a section from its own writes and loads; it must never read less."""

    version: int
    fence: int
    epoch: str


def check_not_lost(section: str, found: Snapshot, known: Known | None) -> None:
    """Recognise a Redis that was wiped, or that went back to an older copy.

    Raises:
        StateLost: the epoch is another one, or the version or fence is lower than known.
    """
    if known is None:
        return
    if known.epoch and found.epoch != known.epoch:
        raise StateLost(section, known.version, found.version, f"epoch {found.epoch or 'none'}")
    if found.version < known.version:
        raise StateLost(section, known.version, found.version)
    if found.fence < known.fence:
        raise StateLost(section, known.version, found.version, f"fence {known.fence} became {found.fence}")


def check_versions(found: dict[Section, int], before: dict[Section, Known], now: dict[Section, Known]) -> None:
    """The same for versions that were read beside other operations of a store object.

    Args:
        found: versions by section.
        before, now: what the object knew before it asked, and knows by now: a section that was taken as it was found
            meanwhile is not judged.

    Raises:
        StateLost: a version is lower than known.
    """
    for section, version in found.items():
        known = before.get(section)
        if known is not None and version < known.version and section in now and now[section].version >= known.version:
            raise StateLost(keys.section_name(section), known.version, version)


def judge(write: SectionWrite, found: Snapshot, known: Known | None) -> int | None:
    """May this write be applied to this snapshot?

    Returns:
        None if it may; the version it made if it was applied already (its reply was lost).

    Raises:
        Fenced: somebody with a higher fence has been here.
        StateLost: see :func:`check_not_lost`.
    """
    applied = found.version_of(write.mutation_id)
    if applied is not None:
        return applied
    if found.fence > write.fence:
        raise Fenced(write.fence, found.fence)
    check_not_lost(keys.section_name(write.section), found, known)
    return None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one write changes besides the tasks, results and events that it carries itself.

    Attributes:
        after: the header's own members once the plan is carried out.
        header: members to set in the header hash.
        bucket: number of the result bucket to write to, if there are results.
        bucket_ttl_s: how long a bucket lives from its creation.
        drop_buckets: numbers of the buckets that are pushed out.
        history_maxlen: entries that the history keeps.
    """

    after: Snapshot
    header: dict[str, str]
    bucket: int
    bucket_ttl_s: int
    drop_buckets: range
    history_maxlen: int

    @property
    def version(self) -> int:
        return self.after.version


def plan_write(
    write: SectionWrite,
    found: Snapshot,
    *,
    floor: int,
    wall: float,
    policy: RetentionPolicy,
    new_epoch: Callable[[], str],
) -> Plan:
    """Work out what a permitted write sets.

    Args:
        floor: highest version that this store object ever saw; a version never runs backwards for a reader.
        wall: Unix seconds.
        new_epoch: gives a fresh random epoch for a section that has none.

    Raises:
        ValueError: the write names a header member that is not the role's.
    """
    if not RESERVED.isdisjoint(write.header):
        raise ValueError(f"header members {sorted(RESERVED.intersection(write.header))} belong to the store")
    version = max(found.version, floor) + 1
    epoch = found.epoch or new_epoch()
    # A jump of the version (after a loss) would make the ids' places lie, so it starts the list anew.
    kept = found.mutations if version == found.version + 1 else ()
    mutations = (*kept, write.mutation_id)[-MUTATIONS_KEPT:]
    buckets = _next_buckets(found.buckets, write.results, wall, policy)
    entry_size = _next_entry_size(found.history_entry_size, write.history)

    header = {"version": str(version), "mutations": ",".join(mutations)}
    if write.fence != found.fence:
        header["fence"] = str(write.fence)
    if epoch != found.epoch:
        header["epoch"] = epoch
    if write.results:
        header["results"] = buckets.text()
    if write.history:
        header["history"] = str(entry_size)
    header.update(write.header)
    return Plan(
        after=Snapshot(version, write.fence, epoch, mutations, buckets, entry_size),
        header=header,
        bucket=buckets.head,
        bucket_ttl_s=int(policy.result_ttl_s + policy.closes_after_s) + 1,
        drop_buckets=range(found.buckets.tail, buckets.tail),
        history_maxlen=max(1, min(policy.history_entries, policy.history_bytes // max(1, entry_size))),
    )


def _next_buckets(old: Buckets, results: dict[str, bytes], wall: float, policy: RetentionPolicy) -> Buckets:
    if not results:
        return old
    count, size = len(results), sum(map(len, results.values()))
    fits = old.head > 0 and old.count < policy.bucket_results and old.size < policy.bucket_bytes
    # A clock that went back (another host took over) closes the bucket as well: its age is unknown then.
    if fits and 0 <= wall - old.since < policy.closes_after_s:
        return Buckets(old.head, old.tail, old.count + count, old.size + size, old.since)
    head = old.head + 1
    return Buckets(head, max(old.tail, head - policy.buckets + 1), count, size, int(wall))


def _next_entry_size(old: int, history: list[bytes]) -> int:
    """Running mean of a history entry's bytes: it turns the bound in bytes into XADD's bound in entries.

    A mean over about 16 entries, so that one large batch does not throw away a long quiet past, while
    a minute of large batches does make room for itself.
    """
    if not history:
        return old
    size = sum(map(len, history)) + len(history) + 1
    return size if old == 0 else (15 * old + size) // 16
