"""Where one task is, who holds it, why it does not run yet, and how it got there: the request ``explain``.

Three are asked: our own memory, the store (record, results, history, leases), and the distributor that has the task.
Whoever does not answer is left out, and the answer says so: a view of a fleet in trouble is better than none.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now, iso, parse_iso
from a2a_zmq.interfaces import INBOX
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.tasks import COMPLETED, TERMINAL, Record
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.failover import Failover
from daemons.coordinator.lists import fitting, row
from daemons.coordinator.lives import attempts_of
from daemons.coordinator.placement import capable, eligible
from daemons.coordinator.records import FRESH, HELD, MOVING, PLACED, QUEUED, SENT, Entry, Need, owner_of, unreadable
from daemons.runtime.contract import QueryAnswer, Send

EVENTS: Final = 100
NAMED: Final = 8
STATES: Final = {FRESH: "accepted", HELD: "inbox", PLACED: "placed", QUEUED: "queued", SENT: "sent", MOVING: "moving"}
Json = dict[str, Any]


class Inquiry:
    """One ``explain`` on its way to its answer.

    Attributes:
        entry: the task in our memory as it was when we were asked; None if it had ended.
        open: who has not answered yet.
    """

    __slots__ = ("client", "distributor", "entry", "message", "open", "store", "store_error", "task_id")

    def __init__(self, client: Client, message: Message, task_id: str, entry: Entry | None) -> None:
        self.client = client
        self.message = message
        self.task_id = task_id
        self.entry = entry
        self.open = 1
        self.store: Json = {}
        self.store_error = ""
        self.distributor: Json = {}


class Explaining:
    """See the module's text."""

    def __init__(self, desk: Desk, failover: Failover) -> None:
        self._desk = desk
        self._failover = failover

    def explain(self, client: Client, message: Message, now: Now) -> None:
        desk = self._desk
        task_id = message.payload.get("task_id")
        if not isinstance(task_id, str):
            desk.refuse(message, "INVALID_TASK", "task_id must be a text")
            return
        if not desk.questions.room():
            desk.refuse(message, "BUSY", "too many requests wait for the store")
            return
        entry = desk.ledger.live.get(task_id)
        if entry is not None and not client.may_see(entry.owner):
            desk.out.append(desk.reply(message, {"task": None}))
            return
        inquiry = Inquiry(client, message, task_id, entry)
        home = entry.home if entry is not None else None
        owners = [INBOX, home.agent_id] if home is not None else [INBOX]
        args = {"distributor_ids": desk.everywhere(), "task_id": task_id, "limit": EVENTS, "owners": owners}
        desk.ask("explain", args, partial(self._store_told, inquiry), now)
        if home is not None and home.up:
            inquiry.open += 1
            tag = desk.questions.expect(partial(self._distributor_told, inquiry), now)
            payload = {"action": "explain", "task_id": task_id, "tag": tag}
            desk.out.append(Send(home.agent_id, MessageType.REQUEST, payload, reliable=False))

    def told(self, home: Distributor, message: Message, now: Now) -> None:
        """A distributor's answer; an ERROR is one of an older release, which does not know the question."""
        tag = message.payload.get("tag")
        if isinstance(tag, str):
            view = {name: value for name, value in message.payload.items() if name not in ("action", "tag")}
            self._desk.questions.answered(QueryAnswer(tag, view), now)

    def _store_told(self, inquiry: Inquiry, answer: QueryAnswer, now: Now) -> None:
        if answer.error is not None:
            inquiry.store_error = answer.error
        else:
            inquiry.store = answer.value
        self._one_less(inquiry, now)

    def _distributor_told(self, inquiry: Inquiry, answer: QueryAnswer, now: Now) -> None:
        if answer.error is None and isinstance(answer.value, dict):
            inquiry.distributor = answer.value
        self._one_less(inquiry, now)

    # ------------------------------------------------------------ the answer

    def _one_less(self, inquiry: Inquiry, now: Now) -> None:
        inquiry.open -= 1
        if not inquiry.open:
            desk, message = self._desk, inquiry.message
            entry = desk.ledger.live.get(inquiry.task_id)
            record = self._record(inquiry, entry)
            if record is None and inquiry.store_error:
                desk.refuse(message, "UNAVAILABLE", f"the store could not be read: {inquiry.store_error}")
            elif record is None and inquiry.store.get("unreadable"):
                desk.refuse(message, "UNREADABLE", unreadable(inquiry.task_id))
            elif record is None or not inquiry.client.may_see(owner_of(record)):
                desk.out.append(desk.reply(message, {"task": None}))
            else:
                desk.out.append(desk.reply(message, self._answer(inquiry, entry, record, now)))

    def _record(self, inquiry: Inquiry, entry: Entry | None) -> Record | None:
        """The live record as its holder has it, or the newest result record."""
        store = inquiry.store
        place = entry.home.agent_id if entry is not None and entry.home is not None else INBOX
        raw = store.get("tasks", {}).get(place)
        if entry is not None:
            return orjson.loads(raw or entry.record or b"{}") or None
        raw = (
            self._desk.ended(inquiry.task_id) or store.get("ended") or next(iter(store.get("tasks", {}).values()), None)
        )
        return orjson.loads(raw) if raw is not None else None

    def _answer(self, inquiry: Inquiry, entry: Entry | None, record: Record, now: Now) -> Json:
        store, view = inquiry.store, inquiry.distributor
        ended = store.get("ended")
        if entry is None and ended is not None and record.get("payload") is None:
            record = {**orjson.loads(ended), **record}  # what is remembered here is what clients get: less
        why = [] if entry is None else self._why(entry, view, now)
        places = {name: [place or "inbox" for place in store.get(name, ())] for name in ("tasks", "results", "letters")}
        if len(places["tasks"]) > 1:
            why.append(f"its record is in two places ({', '.join(places['tasks'])}): it is being moved, or was then")
        if places_unread := store.get("unreadable"):
            why.append(f"its record cannot be read in {', '.join(places_unread)}")
        if inquiry.store_error:
            why.append(f"the store could not be read: {inquiry.store_error}")
        return {
            "task": row(record),
            "state": STATES.get(entry.state, "") if entry is not None else "ended",
            "coordinator": self._ourselves(entry, store),
            "distributor": self._holder(inquiry, entry, record),
            "places": places,
            "attempts": view.get("attempts") or _attempts(record, ended=entry is None),
            "hops": _hops(record, view, store.get("events") or []),
            "why": why,
            "events": fitting([orjson.Fragment(event) for event in store.get("events") or []]),
        }

    def _ourselves(self, entry: Entry | None, store: Json) -> Json:
        desk = self._desk
        about: Json = {
            "id": desk.agent_id,
            "fence": desk.fence,
            "epoch": desk.epoch,
            "lease": _lease(store, INBOX),
            "store_available": desk.store_available,
        }
        if entry is not None:
            about["durable"] = desk.durable(entry)
            about["waits_for_result"] = entry.subscriber if entry.subscriber in desk.clients.connected else ""
        return about

    def _holder(self, inquiry: Inquiry, entry: Entry | None, record: Record) -> Json | None:
        """The distributor that has (or had) the task."""
        home = entry.home if entry is not None else None
        if home is None:
            name = (record.get("metadata") or {}).get("distributor") if entry is None else None
            return {"id": name} if name else None
        return {
            "id": home.agent_id,
            "up": home.up,
            "suspect": home.suspect,
            "draining": home.draining,
            "answered": bool(inquiry.distributor),
            "lease": _lease(inquiry.store, home.agent_id),
            **{name: value for name, value in inquiry.distributor.items() if name not in ("id", "why", "attempts")},
        }

    # ------------------------------------------------------------ why it waits

    def _why(self, entry: Entry, view: Json, now: Now) -> list[str]:
        desk = self._desk
        why = []
        if not desk.store_available:
            why.append(f"the store is away ({desk.store_reason}): nothing new is made durable")
        home = entry.home
        if entry.state == HELD and not desk.inbox_checked:
            why.append("the coordinator is still comparing its inbox with the results in the store")
        elif home is None and self._asks_policy(entry):
            why.append("the placement policy is asked where it goes")
        elif home is None:
            why.append(unplaceable(entry.need, desk.ledger.distributors))
        else:
            why.extend(self._why_there(entry, home, view, now))
        return why

    def _asks_policy(self, entry: Entry) -> bool:
        desk = self._desk
        return bool(desk.config.policy_timeout_s) and len(eligible(entry.need, desk.ledger.distributors)) > 1

    def _why_there(self, entry: Entry, home: Distributor, view: Json, now: Now) -> list[str]:
        desk, name = self._desk, home.agent_id
        why = []
        if not home.up:
            seconds = now.mono - max(home.changed_at, desk.leading_since)
            since = (
                f" for {seconds:.1f} s"
                if home.boot_id
                else f" since this coordinator began to lead {seconds:.1f} s ago"
            )
            moves = self._failover.prospect(entry, home, now)
            why.append(f"it is with {name}, which has not been connected{since}; {moves}")
        elif home.suspect:
            why.append(f"the connection to {name} broke a moment ago")
        if entry.task_id in home.cancels:
            why.append(f"{name} was asked to cancel it")
        if entry.state == PLACED:
            why.append(f"{name} is told of it when the store has its record")
        elif entry.state == QUEUED and home.up:
            window = desk.config.assign_window
            why.append(
                f"{name} has {home.sent} tasks, at most {window} are sent ahead; {home.queue.size} wait for that"
            )
        elif entry.state == SENT and home.up and not view:
            why.append(f"{name} did not say in time where it stands (frozen, busy, or of an older release)")
        elif view.get("phase") == "unknown":
            why.append(f"{name} does not know it (yet): it reads the store again, or its result is on the way here")
        said = view.get("why")
        return [*why, *(text for text in (said if isinstance(said, list) else ()) if isinstance(text, str))]


def unplaceable(need: Need, distributors: dict[str, Distributor]) -> str:
    """Why no distributor gets a task with this need."""
    known = list(distributors.values())
    if need.pinned:
        site = distributors.get(need.pinned)
        if site is not None and site.draining:
            return f"it is for {need.pinned} only, which is draining"
        if site is None or not site.registered:
            names = ", ".join(sorted(each.agent_id for each in known)[:NAMED]) or "none"
            return f"it is for {need.pinned} only, and no such distributor is registered (there are: {names})"
        return "it is about to be placed"
    up = [each for each in known if each.up]
    if not up:
        names = ", ".join(sorted(each.agent_id for each in known)[:NAMED])
        return "no distributor is connected" + (f" (known: {names})" if names else "")
    open_ = [each for each in up if not each.draining]
    if not open_:
        return "every connected distributor is draining"
    typed = [each for each in open_ if need.task_type in each.task_types]
    if not typed:
        return f"no connected worker handles {need.task_type!r}"
    if not any(capable(need, each) for each in typed):
        return _labels_missing(need, typed)
    return "it is about to be placed"


def _labels_missing(need: Need, typed: list[Distributor]) -> str:
    offers = [labels for each in typed for types, labels in each.offers if need.task_type in types]
    wanted = (need.labels or {}).items()
    missing = [f"{name}={value}" for name, value in wanted if all(each.get(name) != value for each in offers)]
    if missing:
        return f"no worker that handles {need.task_type!r} has {' or '.join(missing)}"
    return f"no single worker that handles {need.task_type!r} has all the labels that it asks for"


def _lease(store: Json, place: str) -> Json | None:
    found = store.get("leases", {}).get(place)
    if found is None:
        return None
    owner, fence, remaining_ms = found
    return {"owner": owner, "fence": fence, "remaining_s": round(remaining_ms / 1000, 3)}


def _attempts(record: Record, *, ended: bool) -> list[Json]:
    """What the record tells of attempts that failed."""
    if ended and record.get("status") in TERMINAL and record.get("status") != COMPLETED:
        return attempts_of(record)
    found = (record.get("metadata") or {}).get("attempts")
    return found if isinstance(found, list) else []


def _hops(record: Record, view: Json, events: list[bytes]) -> list[list[Any]]:
    """``[name, time, detail]`` of each step that has a known time, oldest first."""
    metadata = record.get("metadata") or {}
    worker = view.get("worker") or metadata.get("worker")
    attempt = view.get("attempt") or metadata.get("attempt")
    hops: list[list[Any]] = [["accepted", record.get("created_at"), "by the coordinator, and answered when durable"]]
    if view.get("dispatched_at"):
        hops.append(["dispatched", view["dispatched_at"], f"attempt {attempt} to {worker}"])
        if view.get("started_at"):
            hops.append(["started", view["started_at"], f"by {worker}'s clock"])
    completed = record.get("completed_at")
    if record.get("status") in TERMINAL and completed:
        held_s = metadata.get("held_s")
        if isinstance(held_s, int | float):
            detail = f"attempt {attempt} to {worker}; reported {held_s:.3f} s later"
            hops.append(["dispatched", _before(completed, held_s), detail])
        if record.get("started_at"):
            hops.append(["started", record["started_at"], f"by {worker}'s clock"])
        hops.append(["ended", completed, str(record.get("status"))])
        for event in map(orjson.loads, events):
            if event[2] in ("progress", "dead_letter", "abandoned"):
                hops.append(["recorded", event[0], "result and history in one transaction"])
                break
    return sorted((hop for hop in hops if hop[1]), key=lambda hop: str(hop[1]))


def _before(time: Any, seconds: float) -> str | None:
    try:
        return iso(parse_iso(str(time)) - seconds)
    except (ValueError, OverflowError):
        return None
