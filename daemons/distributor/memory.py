"""What a distributor remembers: live tasks, recently ended ids, workers, and who owns what.

Every live task is in exactly one *phase*, and each phase has exactly one holder:

========  =================================================================================================
QUEUED    in a lane of the dispatcher: may be sent to a worker now
STORING   its record (a new attempt) waits for the store; in the journal: persist, then send
DELAYED   its record is stored; waits for its backoff to pass
RUNNING   held by one worker (running there, or prefetched)
RESTORED  read from the store by a new owner; a worker may still come back with it
WAITING   its graph asked somebody something; nobody holds it, and nothing runs
ENDED     no longer live: its result is staged, or somebody else finished it
========  =================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from orjson import JSONDecodeError, loads

from a2a_zmq import tasks
from a2a_zmq.fences import FenceGuard
from a2a_zmq.models import AgentStatus
from a2a_zmq.tasks import IN_PROGRESS, PENDING, TERMINAL, Record
from daemons.distributor.config import SUSPECT_DEATHS, DistributorConfig
from daemons.distributor.workers import Worker
from daemons.runtime.contract import Effect, Meter
from daemons.runtime.relaying import Relay

if TYPE_CHECKING:
    from daemons.distributor.spans import AttemptSpans

# A worker is given no more than this at a time, by far.
MAX_STRAYS: Final = 1_000
# What was reported longer ago may be of an earlier task of the same id.
STRAY_S: Final = 10.0
# Numbers that are kept for sharing; forgetting them only costs memory twice.
MAX_LIVES: Final = 256


class Phase(Enum):
    QUEUED = "queued"
    STORING = "storing"
    DELAYED = "delayed"
    RUNNING = "running"
    RESTORED = "restored"
    WAITING = "waiting"
    ENDED = "ended"


# Names of this module, because a member access costs several times a global's.
QUEUED: Final = Phase.QUEUED
STORING: Final = Phase.STORING
DELAYED: Final = Phase.DELAYED
RUNNING: Final = Phase.RUNNING
RESTORED: Final = Phase.RESTORED
WAITING: Final = Phase.WAITING
ENDED: Final = Phase.ENDED


class LiveTask:
    """A task that is not finished.

    Attributes:
        record: the task record; ours to change.
        metadata: the record's metadata.
        attempt: the current attempt: dispatched (RUNNING), or the one that will be dispatched next.
        recorded: attempt in the stored record, 0 if it names none.
        shown: the stored record says ``in_progress`` with this attempt.
        worker: who holds it, "" unless RUNNING.
        seq: position among tasks of its priority; negative for those put in front.
        dispatched_at: monotonic time of the dispatch.
        started_at: wall time or ISO text of the run's start, as the worker told; None before.
        started_mono: when we were told (monotonic), 0 before.
        not_before: monotonic time before which a delayed attempt must not start.
        front: goes to the front of its lane when its record is stored.
        cancelled: a client wants it ended; the worker was told.
        alone: its message could not be sealed together with others.
        pin: only this worker may have it ("" for any).
        slotted: it takes a slot (a child process) of the worker that holds it, or that held it last.
    """

    __slots__ = (
        "alone", "attempt", "cancelled", "dispatched_at", "front", "lane", "metadata", "not_before", "phase", "pin",
        "priority", "record", "recorded", "seq", "shown", "slotted", "started_at", "started_mono", "task_id",
        "task_type", "worker",
    )  # fmt: skip

    def __init__(self, record: Record, metadata: dict[str, Any], attempt: int, recorded: int, phase: Phase) -> None:
        self.record = record
        self.metadata = metadata
        self.task_id: str = record["task_id"]
        self.task_type: str = record["task_type"]
        priority = metadata.get("priority", 0)
        self.priority: int = priority if isinstance(priority, int) else 0
        self.attempt = attempt
        self.recorded = recorded
        self.phase = phase
        self.shown = self.front = self.cancelled = self.alone = self.slotted = False
        self.worker = self.pin = ""
        self.seq = 0
        self.lane: Any = None
        self.started_at: float | str | None = None
        self.dispatched_at = self.started_mono = self.not_before = 0.0

    @property
    def status(self) -> str:
        """Status by the table of moves; a restored task may be running somewhere, so it counts as such."""
        if self.phase is WAITING:
            return tasks.WAITING
        return IN_PROGRESS if self.phase is RUNNING or self.phase is RESTORED else PENDING

    @property
    def failures(self) -> int:
        """Attempts that failed until now."""
        return _count(self.record.get("retry_count"))

    @property
    def deaths(self) -> int:
        """Workers that died while they may have been running it, as far as none of the others there is to blame."""
        return _count(self.metadata.get("worker_deaths"))

    @property
    def apart(self) -> bool:
        """Workers died while they ran it: it runs in a process of its own now, whose death is its own doing."""
        return self.metadata.get("apart") is True

    @property
    def graph(self) -> str:
        """The hash of the graph that its run began with: only workers that have this one may go on with it."""
        graph = self.metadata.get("graph")
        return graph if isinstance(graph, str) else ""

    @property
    def avoid(self) -> frozenset[str]:
        """Workers that it is kept away from, as the user's policy decided when its last attempt failed."""
        decided = self.metadata.get("decided")
        names = decided.get("avoid") if isinstance(decided, dict) else None
        return frozenset(each for each in names if isinstance(each, str)) if isinstance(names, list) else frozenset()

    @property
    def asked(self) -> int:
        """The attempt that asked what it waits for. (If it is moved to another distributor its attempts go on in the
        next thousand, and the question stays what it is.)"""
        asked = self.metadata.get("asked")
        return asked if isinstance(asked, int) else self.attempt

    @property
    def floor(self) -> int:
        """The last attempt before an operator sent it around again: what is said of that one, or of earlier ones, is
        said of a life that has ended."""
        return _count(self.metadata.get("floor"))

    @property
    def timeout_s(self) -> float | None:
        """Time limit of one attempt."""
        limit = self.metadata.get("timeout_s")
        return limit if isinstance(limit, (int, float)) and limit > 0 else None


Parsed = tuple[Record, dict[str, Any], int]


def parse_record(record: Any) -> Parsed | None:
    """(record, its metadata, recorded attempt or 0) if this is a record that we can work with."""
    if not isinstance(record, dict):
        return None
    metadata = record.get("metadata")
    if metadata is None:
        metadata = record["metadata"] = {}
    if not isinstance(metadata, dict) or not isinstance(record.get("task_id"), str):
        return None
    if not isinstance(record.get("task_type"), str) or not isinstance(record.get("status"), str | None):
        return None
    # What tasks are sorted by must be texts: a list, say, is no key.
    if not isinstance(metadata.get("client"), str | None) or not isinstance(record.get("created_at"), str | None):
        return None
    if "retried" in metadata:
        _revive(record, metadata)
    attempt = metadata.get("attempt", 0)
    return record, metadata, attempt if isinstance(attempt, int) and attempt > 0 else 0


def parse_all(tasks: dict[str, bytes]) -> dict[str, Parsed]:
    """Live records that we can work with; others are left where they are, for ``a2actl doctor``."""
    out: dict[str, Parsed] = {}
    for task_id, raw in tasks.items():
        try:
            parsed = parse_record(loads(raw))
        except JSONDecodeError:
            continue
        if parsed is not None and parsed[0]["task_id"] == task_id and parsed[0].get("status") not in TERMINAL:
            out[task_id] = parsed
    return out


def _revive(record: Record, metadata: dict[str, Any]) -> None:
    """An operator sent a finished task around again: attempts go on counting, what failed before is forgiven.

    But a suspect stays one, and what ran apart does so again: it would cost further workers until it did.
    """
    if metadata.get("revived") != metadata["retried"]:
        metadata["revived"] = metadata["retried"]
        metadata["forgiven"] = record.get("retry_count", 0)
        metadata.pop("decided", None)
        metadata["worker_deaths"] = min(_count(metadata.get("worker_deaths")), SUSPECT_DEATHS)


def _count(value: Any) -> int:
    """What is malformed counts as not said."""
    return value if isinstance(value, int) else 0


# How often a task was sent around again: by an operator; and since then by the coordinator, after the store had lost
# it, or from another distributor.
_AGAIN: Final = ("retried", "restored", "moved")
_COUNT_BITS: Final = 8
_AGAIN_BITS: Final = len(_AGAIN) * _COUNT_BITS


def _life_of(record: Record) -> int:
    """When the task was submitted (as a hash), and how often it was sent around again, in one number."""
    metadata = record.get("metadata") or {}
    again = 0
    for name in _AGAIN:
        count = metadata.get(name, 0)
        again <<= _COUNT_BITS
        again += min(count, (1 << _COUNT_BITS) - 1) if isinstance(count, int) and count > 0 else 0
    return hash(record.get("created_at")) << _AGAIN_BITS | again


class RecentIds:
    """Ids of ended tasks, in two generations, so that forgetting costs nothing.

    An id may have several *lives*: an operator sends a task around again, or a client uses an id (or idempotency key)
    anew when the result of its first use has expired. The last one that ended is remembered, so that a record of it,
    read or sent again by whomever, is told from one of a new life.
    """

    def __init__(self, generation: int) -> None:
        self._size = generation
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._lives: dict[int, int] = {}  # lately; tasks that were submitted together share one number

    def add(self, record: Record) -> None:
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        life = _life_of(record)
        if len(self._lives) >= MAX_LIVES:
            self._lives.clear()
        self._young[record["task_id"]] = self._lives.setdefault(life, life)

    def ended(self, record: Record) -> bool:
        """Did this life of the task end here?"""
        task_id = record["task_id"]
        found = self._young.get(task_id)
        if found is None:
            found = self._old.get(task_id)
            if found is None:
                return False
        life = _life_of(record)
        return found >> _AGAIN_BITS == life >> _AGAIN_BITS and found >= life

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._young or task_id in self._old

    def forget(self, task_id: str) -> None:
        """It is to run again."""
        self._young.pop(task_id, None)
        self._old.pop(task_id, None)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


class Memory:
    """Everything that the parts of the core share. Plain data: the parts decide."""

    def __init__(self, agent_id: str, coordinator_id: str, config: DistributorConfig, meter: Meter) -> None:
        self.agent_id = agent_id
        self.config = config
        self.meter = meter
        self.spans: AttemptSpans | None = None  # where something is traced
        self.out: list[Effect] = []

        self.live: dict[str, LiveTask] = {}
        self.restored: dict[str, LiveTask] = {}
        self.waiting: dict[str, LiveTask] = {}
        self.adopted: list[LiveTask] = []  # in this wake-up
        self.recent = RecentIds(config.recent_ids)
        self.strangers: dict[str, int] = {}  # ids that workers named and we did not know → highest attempt
        self.refused: dict[str, float] = {}  # cancelled before we knew them → until when they are not to be read in

        self.workers: dict[str, Worker] = {}
        self.registered: dict[str, None] = {}
        self.departed: dict[str, Worker] = {}
        self.awaited: set[str] = set()  # workers of an earlier owner that may come back within the grace
        self.workers_changed = False

        self.coordinator = coordinator_id  # whom we follow: who leads, or led last
        self.coordinators: dict[str, bool | None] = {}  # id → says that it leads; None without a session
        self.coordinator_boots: dict[str, str] = {}  # id → its process, as of its last session
        self.coordinator_up = False
        self.coordinator_was_up = False
        self.coordinator_seen: float | None = None  # wall time of its last message
        self.coordinator_guard = FenceGuard()

        self.owner = False
        self.holder = ""  # while we stand by: who has the lease of our section
        self.ever_owner = False
        self.fence = 0
        self.epoch = ""
        self.version = 0
        self.read_version = 0  # of the coordinator's section, before we read all live records as its new owner
        self.store_available = True
        self.spooling = False  # what we record is not in the store yet, but on our disk

        self.draining = ""
        self.drain_until = math.inf
        self.ended_total = {"completed": 0, "failed": 0, "abandoned": 0}
        self.late_results = 0
        # Reports of unknown tasks by id, with their workers and when they came: another owner may have given them.
        self.strays: dict[str, tuple[str, dict[str, Any], float]] = {}
        self.strayed = False  # one came, and the store was not asked for its task yet
        self.reports_dropped = 0
        self.dead_letters = 0  # in this wake-up
        self.first_dead_letter: dict[str, Any] = {}
        self.told = Relay(config.message_bytes)  # what runs tell, in this wake-up
        self.accepted = 0  # since the last history line

    def stray(self, worker: Worker, item: dict[str, Any], mono: float) -> None:
        """This worker reports a task that we do not know (yet)."""
        self.strays[item["task_id"]] = worker.agent_id, item, mono
        self.strayed = True
        if len(self.strays) > MAX_STRAYS:
            del self.strays[next(iter(self.strays))]

    def stranger(self, task_id: str, attempt: int) -> None:
        """A worker has, or had, this attempt of a task that we do not know (yet).

        An earlier owner may have been told of it by a coordinator whose record still stands in its local spool.
        """
        self.strangers[task_id] = max(attempt, self.strangers.get(task_id, 0))
        if len(self.strangers) > self.config.recent_ids:
            del self.strangers[next(iter(self.strangers))]

    def refuses(self, record: Record, mono: float) -> bool:
        """Was the task of this record, read from the store, cancelled before we knew it? (One that an operator sent
        around again is wanted.)"""
        return self.refused.get(record["task_id"], -math.inf) > mono and "retried" not in record["metadata"]

    def running(self) -> int:
        """Tasks that workers hold."""
        return sum(len(worker.held) for worker in self.workers.values())

    def status(self) -> AgentStatus:
        if not self.owner or self.restored:
            return AgentStatus.RECOVERING
        if not self.store_available:
            return AgentStatus.ERROR
        return AgentStatus.BUSY if self.live else AgentStatus.IDLE

    def task_types(self) -> list[str]:
        """What the connected workers offer together."""
        return sorted({name for worker in self.workers.values() for name in worker.task_types})

    def assigned_workers(self) -> list[str]:
        """The header's ``assigned_workers``, sorted: connected, registered, and those that we still wait for."""
        return sorted({*self.workers, *self.registered, *self.awaited})


def as_pairs(value: Any) -> Iterable[tuple[str, int]]:
    """(task id, attempt) of each well-formed entry of a peer's list ``[[task_id, attempt, …], …]``."""
    if not isinstance(value, list):
        return
    for entry in value:
        if isinstance(entry, (list, tuple)) and len(entry) >= 2:
            task_id, attempt = entry[0], entry[1]
            if isinstance(task_id, str) and isinstance(attempt, int):
                yield task_id, attempt


def names_in(text: str) -> set[str]:
    """The header's ``assigned_workers``: a JSON list of ids."""
    try:
        value = loads(text) if text else []
    except JSONDecodeError:
        return set()
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()
