"""A distributor as the coordinator sees it: what it can do, how loaded it is, what it has been told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from a2a_zmq.interfaces import Section
from daemons.coordinator.lanes import PriorityLanes
from daemons.runtime.sightings import forgotten

if TYPE_CHECKING:
    from daemons.coordinator.records import Entry

# Without a version that moved there was probably nothing to report: wait so many times longer.
PATIENCE = 5
# Heartbeats in a row that count more tasks waiting for answers than we know of; one may be ahead of the message.
UNHEARD_BEATS = 3


class Distributor:
    """State of one distributor.

    Attributes:
        registered: in the store's registry, so that its section will be loaded by the next coordinator.
        follows: it reports its results to us; from then on we hear of all of them.
        said: what it said last of the coordinator that it obeys (``obeys``).
        coordinators: those that it has a session with, as (id, leads).
        up, suspect: its session; a suspect one may still come back within the grace.
        draining: it was told to; it gets no new tasks.
        needs_sync: its memory and ours may differ: tell it to read the store, and compare with the store ourselves.
        boot_id, host_id: of the process that we talk to.
        task_types: what its live workers offer together. ``offers``: types and labels of each that has labels.
        slots: runs that its live workers can hold at a time.
        workers: as it reported them last.
        live: unfinished tasks that are placed here; ``sent`` of them it was told of.
        queue: placed here and durable, to be told when the window opens.
        cancels: ids that it was asked, or is to be asked, to cancel, each with the life of the task that is meant;
            ``cancels_kept`` is how many of them our header in the store names, of which some may have ended.
        moved_cancels: of tasks that are not (any more) here, but may be in the inbox; our header names them, too, until
            they have ended there.
        waiting: of its tasks, those that wait for an answer: no load, and outside of its window.
        pending, in_progress, held_waiting, held_version, dropped: its last heartbeat (``dropped``: reports that it had
            no room to keep for us). ``told_version``: what its results brought.
        short_since: monotonic time since which it has held less than it was sent and reported nothing; None if it has
            not.
        blocked_until: its outbox was full.
        suite: version of the software that it runs, "" if it did not say.
        clock_off_s: its clock minus ours, when its last heartbeat came; a slow way makes it lower.
        whereabouts: what it said of its metrics' address (``metrics``) and its ``host``.
        changed_at: monotonic time at which it came or went.
        left: it went in good order.
        lease_seen: monotonic time at which it, away, was last seen to hold its lease.
        given_up: an operator wants its tasks moved elsewhere as soon as it is away.
        moving: tasks that are being moved.
    """

    __slots__ = (
        "agent_id", "blocked_until", "boot_id", "cancels", "cancels_kept", "changed_at", "clock_off_s",
        "coordinators", "draining", "dropped", "follows", "given_up", "held_version", "held_waiting", "host_id",
        "in_progress", "lease_seen", "left", "live", "moved_cancels", "moving", "needs_sync", "offers",
        "pending", "queue", "reconciled_at", "reconciling", "registered", "registering", "said", "section",
        "sent", "short_since", "slots", "status", "suite", "suspect", "task_types", "told_version", "unheard",
        "up", "waiting", "whereabouts", "workers",
    )  # fmt: skip

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.section = Section(agent_id, "coordinator")
        self.registered = False
        self.registering = False
        self.up = False
        self.suspect = False
        self.follows = False
        self.said: dict[str, Any] = {}
        self.coordinators: list[tuple[str, bool]] = []
        self.draining = False
        self.needs_sync = True
        self.reconciling = False
        self.reconciled_at = float("-inf")
        self.boot_id = self.host_id = ""
        self.status = "idle"
        self.task_types: frozenset[str] = frozenset()
        self.offers: list[tuple[frozenset[str], dict[str, str]]] = []
        self.slots = 1
        self.workers: list[dict[str, Any]] = []
        self.live = 0
        self.sent = 0
        self.waiting = self.held_waiting = self.unheard = 0
        self.queue = PriorityLanes()
        self.cancels: dict[str, str] = {}
        self.cancels_kept = 0
        self.moved_cancels: dict[str, str] = {}
        self.pending = 0
        self.in_progress = 0
        self.held_version = 0
        self.dropped = 0
        self.told_version = 0
        self.short_since: float | None = None
        self.blocked_until = float("-inf")
        self.changed_at = 0.0
        self.lease_seen = float("-inf")
        self.given_up = False
        self.moving: dict[str, Entry] = {}
        self.suite = ""
        self.clock_off_s = 0.0
        self.whereabouts: dict[str, Any] = {}
        self.left = False

    @property
    def load(self) -> int:
        """Unfinished tasks, but for those that wait for an answer."""
        return self.live - self.waiting

    def forget_tasks(self) -> None:
        """The tasks are about to be loaded anew."""
        self.live = self.sent = self.waiting = 0
        self.queue = PriorityLanes()
        self.cancels.clear()
        self.moved_cancels.clear()
        self.moving.clear()
        self.needs_sync = True
        self.reconciling = self.registering = False

    def came_up(self, boot_id: str, details: dict[str, Any], now: float) -> None:
        self.up = True
        self.suspect = self.given_up = self.left = False
        self.boot_id = boot_id
        self.blocked_until = float("-inf")
        self.changed_at = now
        self.describe(details)
        self.suite = str(details.get("version") or "")[:64]
        self.said = {"obeys": details.get("obeys")}
        self.whereabouts = {name: details.get(name) for name in ("metrics", "host")}
        workers = details.get("live")
        if not self.workers and isinstance(workers, int) and workers > 0:
            self.slots = workers  # until it says more: one slot each

    def went_down(self, now: float, *, left: bool) -> None:
        self.up = False
        self.left = left
        self.suspect = False
        self.follows = False
        self.coordinators = []
        self.changed_at = now
        self.needs_sync = True
        self.short_since = None

    def forgotten(self, now: float) -> bool:
        """It is away and need not be shown: nothing waits for it, and who had to see that it is away has seen it.

        The registry keeps all that ever were, so one that we never met may be gone for years.
        """
        if self.up or self.live:
            return False
        return not self.boot_id or forgotten(now - self.changed_at, left=self.left)

    def describe(self, details: dict[str, Any]) -> bool:
        """Take over ``workers`` and ``task_types`` of an announcement or a ``workers_changed``.

        Returns:
            True if more can be placed here now than before.
        """
        before = (self.task_types, self.slots, self.draining, self.offers)
        types = details.get("task_types")
        if isinstance(types, list):
            self.task_types = _names(types)
        coordinators = details.get("coordinators")
        if isinstance(coordinators, list):
            self.coordinators = [
                (each[0], each[1] is True)
                for each in coordinators
                if isinstance(each, list) and len(each) == 2 and isinstance(each[0], str)
            ]
        draining = details.get("draining")
        if isinstance(draining, bool):
            self.draining = draining
        workers = details.get("workers")
        if isinstance(workers, list):
            self.workers = [each for each in workers if isinstance(each, dict)]
            live = [each for each in self.workers if each.get("up", True)]
            self.slots = max(1, sum(_count(each.get("slots"), 1) for each in live))
            self.offers = [
                (_names(each.get("task_types")), labels)
                for each in live
                if isinstance(labels := each.get("labels"), dict) and labels
            ]
        return before != (self.task_types, self.slots, self.draining, self.offers)

    def beat(self, payload: dict[str, Any], now: float) -> None:
        """A heartbeat's load and version."""
        self.said = {"obeys": payload.get("obeys")}
        self.pending = _count(payload.get("pending"), self.pending)
        self.in_progress = _count(payload.get("in_progress"), self.in_progress)
        self.held_waiting = _count(payload.get("waiting"), 0)
        self.unheard = self.unheard + 1 if self.held_waiting > self.waiting else 0
        if self.unheard >= UNHEARD_BEATS:  # it was asked for answers, and we were not told
            self.needs_sync, self.unheard = True, 0
        slots = _count(payload.get("slots"), 0)
        if slots:
            self.slots = slots
        status = payload.get("status")
        if isinstance(status, str):
            self.status = status
        self.held_version = max(self.held_version, version_of(payload.get("version")))
        dropped = _count(payload.get("dropped"), 0)
        self.needs_sync = self.needs_sync or (dropped > 0 and dropped != self.dropped)
        self.dropped = dropped
        if self.pending + self.in_progress + self.held_waiting >= self.sent:
            self.short_since = None
        elif self.short_since is None:
            self.short_since = now

    def told(self, version: int) -> None:
        """Its results reached this version: as long as results come, counts that differ prove nothing."""
        self.told_version = max(self.told_version, version)
        self.short_since = None

    def lags(self, now: float, longest_s: float) -> bool:
        """True if results (or assignments) seem lost: for so long it has held less than it was sent, and reported
        nothing.

        The counts tell, and not the version alone, because that moves with every write, also with those that end no
        task. Where the version says that there was something to report, we are less patient.
        """
        if not self.up or self.short_since is None:
            return False
        patience_s = longest_s if self.held_version > self.told_version else PATIENCE * longest_s
        return now - self.short_since > patience_s


def _names(value: Any) -> frozenset[str]:
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else frozenset()


def _count(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default


def version_of(value: Any) -> int:
    """A version as number, also from the specification's text form ``v12``; 0 if it is neither."""
    if isinstance(value, str) and value[:1] == "v" and value[1:].isdecimal():
        return int(value[1:])
    return _count(value, 0)
