"""What the coordinator keeps of a task, and how a submission becomes a record."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from a2a_zmq.clock import Now, iso
from a2a_zmq.encoding import kept_json
from a2a_zmq.ids import TASK_ID
from a2a_zmq.models import Task
from a2a_zmq.nesting import MAX_VALUE_DEPTH, too_deep
from a2a_zmq.tasks import Record, read_record
from a2a_zmq.tracing.context import TRACEPARENT
from daemons.coordinator.rules import check_metadata, check_type, sound
from daemons.runtime.shortening import sendable

if TYPE_CHECKING:
    from daemons.coordinator.config import CoordinatorConfig
    from daemons.coordinator.distributors import Distributor
    from daemons.coordinator.lanes import Lane
    from daemons.coordinator.spans import TaskSpans

# Where an entry is. FRESH: accepted in this wake-up, not placed. HELD: in the inbox. PLACED: has a distributor, its
# write is staged. QUEUED: has a distributor that was not told of it yet. SENT: assigned, or read by the distributor
# from the store. MOVING: its distributor stays away; it is on its way to the inbox. DONE: gone.
FRESH: Final = 0
HELD: Final = 1
PLACED: Final = 2
QUEUED: Final = 3
SENT: Final = 4
MOVING: Final = 5
DONE: Final = 6

# Distinct needs that are kept for sharing; forgetting them only costs memory twice.
MAX_NEEDS: Final = 10_000

TASK_MEMBERS: Final = frozenset(Task.model_fields)
# Of these, what a graph's task that is sent around again needs to go on from its last checkpoint.
GRAPH_MEMBERS: Final = frozenset({"graph", "graph_attempt", "resume", "resumed"})
# And what is known of whether the task kills workers, and of failures that were forgiven before.
PAST_MEMBERS: Final = frozenset({"apart", "forgiven", "revived", "worker_deaths"})
# Set by the fleet; whatever a submission says of them is left out.
RESERVED: Final = frozenset(
    {
        *PAST_MEMBERS, "asked", "attempt", "attempts", "client", "decided", "detail", "error_kind", "execution_s",
        "floor", "graph", "graph_attempt", "held_s", "interrupts", "letter", "moved", "pinned", "put_off", "restored",
        "resume", "resumed", "retried", "worker",
    }
)  # fmt: skip

Rejection = dict[str, str]


class Need:
    """What a task asks of its distributor; tasks that ask the same share one object, which is what placement groups
    by.
    """

    __slots__ = ("labels", "pinned", "priority", "task_type")

    def __init__(self, task_type: str, priority: int, pinned: str, labels: dict[str, str] | None) -> None:
        self.task_type = task_type
        self.priority = priority
        self.pinned = pinned
        self.labels = labels


class Needs:
    """The shared needs."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, str, bytes], Need] = {}

    def of(self, task_type: str, metadata: dict[str, Any]) -> Need:
        """The need of a task with this (valid) metadata."""
        labels = metadata.get("labels") or None
        encoded = orjson.dumps(labels, option=orjson.OPT_SORT_KEYS) if labels else b""
        key = (task_type, metadata.get("priority") or 0, metadata.get("distributor") or "", encoded)
        need = self._known.get(key)
        if need is None:
            if len(self._known) >= MAX_NEEDS:
                self._known.clear()
            need = self._known[key] = Need(task_type, key[1], key[2], labels)
        return need


class Floor(NamedTuple):
    """The former life of a task that an operator sent around again.

    Attributes:
        attempt: its last one; whatever is said of that one or of an earlier one does not count.
        letter: the distributor that keeps its dead letter, "" for none.
    """

    attempt: int
    letter: str


class Entry:
    """An unfinished task.

    Attributes:
        record: its JSON as it is in the store and in messages.
        owner: identity of the client that submitted it.
        subscriber: agent id of the client that gets the result ("" for nobody).
        home: its distributor, None in the inbox.
        batch: number of the cut that carried its present write (0: none yet); durable if that cut is applied.
        version: of its section by that write; 0 as long as it is not durable, or if it was read from the store.
        since: monotonic time of acceptance.
        lane: the queue that it waits in.
    """

    __slots__ = (
        "batch", "home", "lane", "need", "owner", "record", "since", "state", "subscriber", "task_id", "version",
    )  # fmt: skip

    def __init__(self, task_id: str, record: bytes, need: Need, owner: str, since: float) -> None:
        self.task_id = task_id
        self.record = record
        self.need = need
        self.owner = owner
        self.subscriber = ""
        self.since = since
        self.home: Distributor | None = None
        self.state = FRESH
        self.batch = 0
        self.version = 0
        self.lane: Lane | None = None


class Admission:
    """Turns the tasks of one submission into entries, or says why not.

    Tasks of one submission mostly share type and metadata, so what follows from these is worked out once for each run
    of equal ones.
    """

    __slots__ = (
        "_config", "_known_types", "_metadata", "_middle", "_need", "_needs", "_now", "_offered", "_offers", "_owner",
        "_problem", "_spans", "_stamp", "_subscriber", "_traceparent", "_type",
    )  # fmt: skip

    def __init__(
        self,
        config: CoordinatorConfig,
        needs: Needs,
        known_types: AbstractSet[str],
        offers: Callable[[str], bool],
        offered: Callable[[], AbstractSet[str]],
        *,
        owner: str,
        subscriber: str,
        now: Now,
        traceparent: str | None = None,
        spans: TaskSpans | None = None,
    ) -> None:
        """
        Args:
            known_types: what the fleet's workers ever offered, as far as it is remembered; empty if none did yet, then
                everything is taken.
            offers: whether a worker offers this type now; asked where a type is not among the known ones.
            offered: all that workers offer now; asked for where a type is refused.
            traceparent: of the message, for tasks that name none.
            spans: None where nothing is traced.
        """
        self._config = config
        self._needs = needs
        self._known_types = known_types
        self._offers = offers
        self._offered = offered
        self._owner = owner
        self._subscriber = subscriber
        self._now = now
        self._stamp = iso(now.wall)
        self._spans = spans
        self._traceparent = traceparent
        self._type: str | None = None
        self._metadata: Any = self  # equal to no metadata, so that the first task is prepared
        self._problem: tuple[str, str] | None = None
        self._middle = b""
        self._need: Need | None = None

    def take(self, task: Any) -> Entry | Rejection:
        """The entry of one submitted task, or its rejection."""
        if type(task) is not dict:
            return {"task_id": "", "code": "INVALID_TASK", "message": "a task must be a JSON object"}
        task_id = task.get("task_id")
        task_type = task.get("task_type")
        payload = task.get("payload")
        metadata = task.get("metadata")
        if self._spans is not None:
            metadata = self._spans.traced(metadata, self._traceparent)
        if (
            type(task_id) is not str
            or TASK_ID.match(task_id) is None
            or type(payload) is not dict
            or metadata is None
            or len(task) != 4  # with these four, and so with no other
        ):
            problem = explain(task)
            if problem is not None:
                return _rejection(task_id, "INVALID_TASK", problem)
            payload = payload or {}
        if task_type != self._type or metadata != self._metadata:
            self._prepare(task_type, metadata)
        if self._problem is not None:
            return _rejection(task_id, *self._problem)
        try:
            body = orjson.dumps(payload)
        except TypeError as error:  # only a call of the in-process API can carry what JSON cannot
            return _rejection(task_id, "INVALID_TASK", f"the payload cannot be written as JSON: {error}")
        if len(body) > self._config.max_payload_bytes:
            limit = self._config.max_payload_bytes
            return _rejection(task_id, "PAYLOAD_TOO_LARGE", f"payload of {len(body)} bytes, the limit is {limit}")
        if too_deep(body):
            return _rejection(task_id, "INVALID_TASK", f"the payload nests deeper than {MAX_VALUE_DEPTH} levels")
        assert isinstance(task_id, str)
        assert self._need is not None
        record = b'{"task_id":"' + task_id.encode() + self._middle + body + b"}"
        entry = Entry(task_id, record, self._need, self._owner, self._now.mono)
        entry.subscriber = self._subscriber
        if self._spans is not None:
            self._spans.taken(task_id, metadata, self._now)
        return entry

    def _prepare(self, task_type: Any, metadata: Any) -> None:
        """Work out what all tasks of this type with this metadata share."""
        self._type = task_type if isinstance(task_type, str) else None
        self._metadata = metadata
        given = metadata if metadata is not None else {}
        problem = check_type(task_type) or check_metadata(given, self._config.max_metadata_bytes)
        if problem is not None:
            self._problem = ("INVALID_TASK", problem)
            return
        if self._known_types and task_type not in self._known_types and not self._offers(task_type):
            self._problem = ("UNKNOWN_TASK_TYPE", unknown_type(task_type, self._known_types, self._offered()))
            return
        self._problem = None
        kept = {key: value for key, value in given.items() if key not in RESERVED and value is not None}
        kept["client"] = self._owner
        if self._traceparent is not None:
            kept.setdefault(TRACEPARENT, self._traceparent)
        shared = {
            "task_type": task_type,
            "status": "pending",
            "created_at": self._stamp,
            "updated_at": self._stamp,
            "metadata": kept,
        }
        self._middle = b'",' + orjson.dumps(shared)[1:-1] + b',"payload":'
        self._need = self._needs.of(task_type, kept)


def _rejection(task_id: Any, code: str, message: str) -> Rejection:
    return {"task_id": task_id if isinstance(task_id, str) else "", "code": code, "message": message}


def unknown_type(task_type: str, known: AbstractSet[str], offered: AbstractSet[str]) -> str:
    told = [f"workers have now: {_names(offered) or 'nothing'}"]
    if known - offered:
        told.append(f"without a worker now: {_names(known - offered)}")
    return f"no worker of this fleet handles {task_type!r}; {'; '.join(told)}"


def _names(types: AbstractSet[str]) -> str:
    names = sorted(types)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def explain(task: dict[str, Any]) -> str | None:
    """What is wrong with a submitted task's members (besides type and metadata); None if nothing is."""
    task_id = task.get("task_id")
    if not isinstance(task_id, str) or TASK_ID.match(task_id) is None:
        return "task_id must be 1 to 128 letters, digits or ._:@- and begin with a letter or digit"
    payload = task.get("payload")
    if payload is not None and not isinstance(payload, dict):
        return f"payload must be a JSON object, not {type(payload).__name__}"
    unknown = task.keys() - TASK_MEMBERS
    if unknown:
        return f"unknown member {min(unknown)!r}"
    return None


def entry_of(record: bytes, needs: Needs, since: float) -> tuple[Entry, Floor | None] | None:
    """The entry of a stored record, and what is to be known of its former life if it was retried by an operator.

    Returns:
        None if the record cannot be read.
    """
    found = read_record(record)
    if found is None or not sound(found):
        return None
    try:
        metadata = found.get("metadata") or {}
        need = needs.of(found["task_type"], metadata)
        floor = metadata.get("floor")
        before = None
        if isinstance(floor, int) and metadata.get("retried"):
            before = Floor(floor, str(metadata.get("letter") or ""))
        return Entry(found["task_id"], record, need, str(metadata.get("client") or ""), since), before
    except (AttributeError, KeyError, TypeError):
        return None


def public_result(record: Record) -> bytes:
    """A result record as clients get it: without the payload, and as one message carries it."""
    return sendable(kept_json({key: value for key, value in record.items() if key != "payload"}))


def restored_record(record: bytes) -> bytes:
    """The record of a task that the store has lost. It says so, for its distributor may believe that it has ended."""
    found: Record = orjson.loads(record)
    metadata = found["metadata"] = found.get("metadata") or {}
    metadata["restored"] = count_of(metadata.get("restored")) + 1
    return kept_json(found)


def count_of(value: Any) -> int:
    """A number in a record's metadata; 0 for what is none."""
    return value if type(value) is int else 0


def unreadable(task_id: str) -> str:
    """What a client is told of a record that somebody else must have written."""
    return f"the record of task {task_id} in the store cannot be read"


def owner_of(record: Record) -> str:
    return str((record.get("metadata") or {}).get("client") or "")
