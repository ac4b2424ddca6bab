"""The contract between role cores and the engine that runs them.

A role core is pure: no clock, no randomness of its own, no socket, no Redis. It is driven so:

1. ``handle(event, now)`` once for every event. It changes the core's memory; its effects need no durability.
2. ``settle(now)`` once after all events of a wake-up: batch work that should see all of them (dispatch, placement).
3. ``cut(now)`` when no batch is in flight: everything that waits to be made durable, as one :class:`Batch`, or None.
   While a batch is in flight the core goes on; what it stages then goes into the next batch.
4. ``supervise(step, now)`` for each of the five steps of the supervision graph, once a heartbeat interval.

Ordering duties of whoever performs them: a batch's ``writes`` are all applied, in order, before any of its ``after``
effects is performed; messages that the core had handled before the cut are acknowledged only when the batch is applied.
A batch whose store is unavailable is retried unchanged (same mutation ids); it is never dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Loaded, Section, SectionWrite
from a2a_zmq.llm.calls import Call
from a2a_zmq.models import LocalAgentState
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.protocol.ports import PeerDown, PeerSuspect, PeerUp, Received, Refusal
from a2a_zmq.streams import Chunk
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.consults import Consult, Consulted
from daemons.runtime.exemplars import Exemplar
from daemons.runtime.reconfigured import Reconfigured

# ---------------------------------------------------------------- events


@dataclass(slots=True)
class OwnershipGained:
    """The lease of our section is held and the state was loaded; from here on the core may write.

    The coordinator gets one for every section: ``loaded`` has the inbox first, then each distributor's.

    ``state_lost``: Redis was wiped or went back to an older copy. What the core remembers is merged into what was
    loaded, not the other way round: a live task that is absent from ``loaded`` is staged again, not taken for finished.
    """

    fence: int
    epoch: str
    loaded: dict[Section, Loaded]
    state_lost: bool = False


@dataclass(slots=True)
class OwnershipLost:
    """The lease is gone or we were fenced: stage nothing, dispatch nothing, until OwnershipGained comes again."""

    reason: str


@dataclass(slots=True)
class FenceMoved:
    """All goes on, under this fence: our lease had expired, nobody had it in between, and it is ours again; or our
    fence had to rise above one that peers obeyed (see :class:`Outranked`)."""

    fence: int


@dataclass(slots=True)
class StandsBy:
    """Somebody else holds the lease: we wait for it. Comes again when the holder changes. ``holder``: agent id of who
    acts instead of us (our own where another process of our name is meant)."""

    holder: str


@dataclass(slots=True)
class BatchApplied:
    """The batch with this id is durable. ``versions``: section → new version."""

    batch_id: int
    versions: dict[Section, int]


@dataclass(slots=True)
class StoreChanged:
    """Availability of the store: a core refuses new work that it could not persist (BUSY).

    ``spooling``: Redis is away, and what is written is durable on the local spool; reads fail all the same.
    ``spool_off``: why that is not done when Redis is away; "" where it is, or nothing is known.
    """

    available: bool
    reason: str = ""
    spooling: bool = False
    spool_off: str = ""


@dataclass(slots=True)
class Hint:
    """A section of a distributor's shared state is at this version (pub/sub, or read because time passed). A hint,
    never the truth: it may be late, repeated, or missing."""

    distributor_id: str
    writer: str  # "coordinator" | "distributor"
    version: int


@dataclass(slots=True)
class QueryAnswer:
    """Answer to a :class:`Query`; ``error`` is set instead if the store could not be read.

    Attributes:
        unreadable: of ``results``: tasks with a record that cannot be read; it is left out.
    """

    tag: str
    value: Any = None
    error: str | None = None
    unreadable: frozenset[str] = frozenset()


@dataclass(slots=True)
class RunFinished:
    """Worker: an executor ended a run.

    Attributes:
        outcome: ``completed``, ``failed`` (``error_kind`` says how) or ``abandoned`` (cancelled); of graphs also
            ``waiting`` (for somebody's answers), ``moved`` (stopped at the end of a step, to go on elsewhere) and
            ``put_off`` (to be begun again ``detail["delay_s"]`` later).
        result: JSON bytes of the value if completed, of the questions if waiting, else ``b"null"``.
        error: one line; "" if completed.
        error_kind: ``raised``, ``timeout``, ``exited``, ``killed``, ``unserializable``, ``invalid_input``,
            ``unknown_task_type``, ``cancelled``, ``drain``, ``thread_busy``, ``store``, "".
        retryable: False where another attempt must end the same (invalid input, unserializable, unknown type).
        execution_s: seconds from start to end of the run.
        detail: exit signal, last log lines, traceback …, JSON-able and small.
    """

    task_id: str
    attempt: int
    outcome: str
    result: bytes
    error: str
    error_kind: str
    retryable: bool
    started_at: float
    execution_s: float
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class RunStarted:
    """Worker: an executor began a run (wall time)."""

    task_id: str
    attempt: int
    started_at: float


@dataclass(slots=True)
class RunEvents:
    """Worker: a run told of its progress, which is stored already (see :mod:`a2a_zmq.streams`)."""

    task_id: str
    attempt: int
    chunk: Chunk


@dataclass(slots=True)
class ChildrenReady:
    """Worker: so many child processes run something or could at once."""

    count: int


@dataclass(slots=True)
class ModelCalled:
    """Worker: a run asked a chat model, or was refused to."""

    call: Call


@dataclass(slots=True)
class DrainRequested:
    """SIGTERM, or ``a2actl drain``: finish or hand back, then :class:`Exit`."""

    reason: str
    deadline_s: float


Event = (
    PeerUp
    | PeerSuspect
    | PeerDown
    | Received
    | Refusal
    | OwnershipGained
    | OwnershipLost
    | FenceMoved
    | StandsBy
    | BatchApplied
    | StoreChanged
    | Hint
    | QueryAnswer
    | Consulted
    | Reconfigured
    | RunFinished
    | RunStarted
    | RunEvents
    | ChildrenReady
    | ModelCalled
    | DrainRequested
    | LocalCall
)

# ---------------------------------------------------------------- effects


@dataclass(slots=True)
class Send:
    """Send a message through the port that has this peer; a bulk one only where it holds nothing up. What is reliable
    or bulk comes back as :class:`Undelivered` from unreachable peers and full outboxes."""

    to: str
    type: MessageType
    payload: dict[str, Any]
    reply_to: str | None = None
    reliable: bool = True
    traceparent: str | None = None
    bulk: bool = False


@dataclass(slots=True)
class Query:
    """Read from the store; the answer comes as QueryAnswer with the same tag.

    ``op`` and ``args``: ``results``/``tasks`` (``distributor_ids``, ``task_ids``; value: id → record bytes, merged;
    results with ``letters`` true: dead letters, too, where there is no result any more),
    ``load`` (``section``; value: Loaded), ``history`` (``distributor_ids``, ``limit``, ``task_id``; value: events),
    ``ended`` (``distributor_ids``, ``wanted``, ``limit``, ``dead``; value: newest records of ended tasks or dead
    letters, and id → result record by now), ``count_letters`` (``distributor_ids``; value: int),
    ``explain`` (``distributor_ids``, ``task_id``, ``limit``, ``owners``: whose leases; value: see its performer),
    ``streams`` (``wanted``: (task id, event after which) each; value: chunks of each, and whether that is all),
    ``register`` (``distributor_id``; value: Loaded of the coordinator's section of it), ``document``
    (``distributor_id``), ``page`` (``distributor_id``, ``cursor``; value: (next cursor, records)), ``survey`` (value:
    (Survey, ids of registered distributors)), ``lease`` (``distributor_id``; value: as :meth:`StateStore.lease`),
    ``seize`` and ``evict`` (see :mod:`daemons.runtime.seizing`).
    """

    tag: str
    op: str
    args: dict[str, Any]


@dataclass(slots=True)
class StartRun:
    """Worker: run this attempt. ``payload`` is the parsed object; ``deadline_s`` the attempt's time limit or None."""

    task_id: str
    attempt: int
    task_type: str
    payload: dict[str, Any]
    timeout_s: float | None
    metadata: dict[str, Any]


@dataclass(slots=True)
class StopRun:
    """Worker: end a run early: cooperative, then SIGTERM, then SIGKILL; RunFinished follows in every case.

    ``at_step``: a graph's run; it is let come to the end of its present step, and nothing is forced.
    ``unbegun``: only if it has not begun, in an executor that is stuck; what has begun is left alone.
    """

    task_id: str
    attempt: int
    reason: str  # "cancelled" | "timeout" | "drain"
    at_step: bool = False
    unbegun: bool = False


@dataclass(slots=True)
class Log:
    """One structured log line. ``fields`` hold no secret and no payload."""

    level: str
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Exit:
    """Leave: flush, release the lease, close, exit with this status.

    Attributes:
        until: monotonic time until which peers are given the chance to acknowledge what they were sent.
    """

    status: int
    reason: str
    until: float = -math.inf


@dataclass(slots=True)
class Outranked:
    """A peer obeyed this fence of our epoch, which is higher than ours: the store has lost that owner (it went back to
    an older copy before we took over), or it comes after us, and we have not noticed yet. The store decides."""

    fence: int
    epoch: str
    peer: str


Effect = Send | Query | Consult | StartRun | StopRun | LocalAnswer | Log | Outranked | Exit


@dataclass(slots=True)
class Undelivered:
    """A reliable or bulk Send could not be queued (``busy`` or ``unroutable``); the core decides what becomes of it."""

    effect: Send
    reason: str


@dataclass(slots=True)
class Batch:
    """Staged writes (applied in this order, each atomically) and the effects that wait for them."""

    writes: list[SectionWrite]
    after: list[Effect]


# The five steps of every role's supervision graph, in order.
SUPERVISION_STEPS = ("observe", "detect", "recover", "reconcile", "report")


class Meter(Protocol):
    """Where cores and ports count; the names are those of ``daemons.metrics`` without the ``a2a_`` prefix. ``forget``:
    show this series of a gauge no more, for what it was about is gone for good."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None: ...

    def observe(self, name: str, value: float, exemplar: Exemplar | None = None, **labels: str) -> None: ...

    def gauge(self, name: str, value: float, **labels: str) -> None: ...

    def forget(self, name: str, **labels: str) -> None: ...


class NoMeter:
    """Counts nothing."""

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        return

    def observe(self, name: str, value: float, exemplar: Exemplar | None = None, **labels: str) -> None:
        return

    def gauge(self, name: str, value: float, **labels: str) -> None:
        return

    def forget(self, name: str, **labels: str) -> None:
        return


class Core(Protocol):
    """A role's decisions.

    A core may also have ``withholds() -> bool``: True while nothing that it has handled may be acknowledged yet.
    """

    agent_id: str

    def handle(self, event: Event | Undelivered, now: Now) -> list[Effect]: ...

    def settle(self, now: Now) -> list[Effect]: ...

    def cut(self, now: Now) -> Batch | None: ...

    def supervise(self, step: str, now: Now) -> list[Effect]: ...

    def announce(self, now: Now) -> dict[str, Any]:
        """What we tell a hub of ourselves when a session to it is made (capabilities, inventory)."""

    def welcome(self, peer: str, now: Now) -> dict[str, Any]:
        """What we tell a peer that joins our hub (fence, limits, known task types)."""

    def heartbeat(self, peer: str, now: Now) -> dict[str, Any]:
        """Payload of the next heartbeat to this peer (load, credit); small."""

    def local_state(self, now: Now) -> LocalAgentState: ...

    def ready(self) -> tuple[bool, str]:
        """(able to claim work, why not)."""

    def next_deadline(self) -> float:
        """Monotonic time at which settle() wants to be called again (inf for never)."""
