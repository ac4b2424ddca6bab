"""Lists of tasks: live ones from memory, ended ones and dead letters from the store."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now, iso
from a2a_zmq.protocol.message import Message
from a2a_zmq.tasks import PENDING, TERMINAL, WAITING, Record, attempt_of, dead_letter
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.records import SENT, Entry, owner_of
from daemons.coordinator.supervision import Supervision
from daemons.runtime.contract import QueryAnswer

# Lists are cut here: half of the largest frame, whatever the records' metadata or the events' details add up to.
ANSWER_BYTES: Final = 512 * 1024


class Listing:
    """One ``list_tasks`` on its way to its answer."""

    __slots__ = ("chosen", "client", "dead", "limit", "message", "status", "task_type", "total")

    def __init__(self, client: Client, message: Message, limit: int) -> None:
        self.client = client
        self.message = message
        self.limit = limit
        self.status = message.payload.get("status")
        self.task_type = message.payload.get("task_type")
        self.dead = message.payload.get("dead") is True
        self.chosen: list[Entry] = []
        self.total = 0

    def wants(self, entry: Entry) -> bool:
        return self.task_type in (None, entry.need.task_type) and self.client.may_see(entry.owner)

    def wants_ended(self, record: Record) -> bool:
        return (
            self.status in (None, record.get("status"))
            and self.task_type in (None, record.get("task_type"))
            and self.client.may_see(owner_of(record))
        )


class Lists:
    """See the module's text."""

    def __init__(self, desk: Desk, supervision: Supervision) -> None:
        self._desk = desk
        self._supervision = supervision

    def list_tasks(self, client: Client, message: Message, now: Now) -> None:
        """Tasks without payload and result: live ones, or (with their status, or ``dead``) the newest ended ones.

        Looks at a bounded number of the oldest live tasks, so ``total`` with a status is what the distributors' last
        heartbeats say, and a filter that matches only young tasks of a long backlog may show fewer than there are.
        """
        desk = self._desk
        listing = Listing(client, message, limit_of(message.payload.get("limit"), desk.config.list_limit))
        if listing.dead or (isinstance(listing.status, str) and listing.status in TERMINAL):
            self._ask_ended(listing, now)
            return
        # With a status the candidates' true status must be read first, so more of them are taken.
        count = listing.limit if listing.status is None else desk.config.list_limit
        candidates = islice(self._candidates(listing), desk.config.list_scan)
        found = [each for each in candidates if listing.wants(each)]
        listing.chosen = found[:count]
        listing.total = self._total(listing, len(found))
        sent = [entry for entry in listing.chosen if entry.state == SENT and entry.home is not None]
        homes = sorted({entry.home.agent_id for entry in sent if entry.home is not None})
        if sent and desk.questions.room():
            args = {"distributor_ids": homes, "task_ids": [entry.task_id for entry in sent]}
            desk.ask("tasks", args, partial(self._listed, listing), now)
        else:
            self._listed(listing, QueryAnswer("", {}), now)

    def _candidates(self, listing: Listing) -> Iterable[Entry]:
        ledger = self._desk.ledger
        if listing.status != WAITING:
            return ledger.live.values()
        return (ledger.live[task_id] for task_id, wait in ledger.waits.items() if wait.open)

    def _total(self, listing: Listing, found: int) -> int:
        """How many match as far as memory knows; 0 where only the records that are read next can tell."""
        ledger = self._desk.ledger
        client, status = listing.client, listing.status
        if status is not None:
            counted = listing.task_type is None and client.operator
            return self._supervision.counts().get(status, 0) if counted else 0
        if listing.task_type is not None:
            return found
        return len(ledger.live) if client.operator else ledger.owners.get(client.identity, 0)

    def _listed(self, listing: Listing, answer: QueryAnswer, now: Now) -> None:
        records = answer.value if answer.error is None else {}
        rows: list[Record] = []
        matching = 0
        for entry in listing.chosen:
            record = orjson.loads(records.get(entry.task_id) or entry.record or b"{}")
            if record and listing.status in (None, record.get("status", PENDING)):
                matching += 1
                if len(rows) < listing.limit:
                    rows.append(row(record))
        payload = {"tasks": fitting(rows), "total": max(listing.total, matching)}
        self._desk.out.append(self._desk.reply(listing.message, payload))

    # ------------------------------------------------------------ ended tasks

    def _ask_ended(self, listing: Listing, now: Now) -> None:
        desk = self._desk
        if not desk.questions.room():
            desk.refuse(listing.message, "BUSY", "too many requests wait for the store")
            return
        args = {
            "distributor_ids": desk.everywhere(),
            "wanted": listing.wants_ended,
            "limit": listing.limit,
            "dead": listing.dead,
        }
        desk.ask("ended", args, partial(self._list_ended, listing), now)

    def _list_ended(self, listing: Listing, answer: QueryAnswer, now: Now) -> None:
        desk = self._desk
        if answer.error is not None:
            desk.refuse(listing.message, "UNAVAILABLE", f"the store could not be read: {answer.error}")
            return
        stored, later = answer.value
        rows: list[Record] = []
        for raw in stored:
            record = orjson.loads(raw)
            task_id = record["task_id"]
            if task_id in desk.ledger.live:  # an operator sent it around again
                continue
            if task_id in later:
                record = self._as_it_is(listing, record, orjson.loads(later[task_id]))
            if record is not None:
                rows.append(row(record))
        payload: dict[str, Any] = {"tasks": fitting(rows), "total": len(rows)}
        if listing.client.operator and listing.task_type is None:
            if not listing.dead:
                payload["total"] = desk.finished[str(listing.status)]
                payload["since"] = iso(self._supervision.started(now).wall)
            elif listing.status is None:
                payload["total"] = max(len(rows), desk.letters)
        desk.out.append(desk.reply(listing.message, payload))

    def _as_it_is(self, listing: Listing, record: Record, later: Record) -> Record | None:
        """The record that counts if there are two of one task (it was retried); None if that is not to be listed."""
        if attempt_of(later) <= attempt_of(record):
            return record
        if listing.dead and not dead_letter(later):
            # It ended well, and whoever was to take its letter away did not come to it.
            place = (record.get("metadata") or {}).get("distributor")
            self._desk.drop_letter(record["task_id"], str(place))
            return None
        return later if listing.wants_ended(later) else None


def row(record: Record) -> Record:
    """A record as lists show it."""
    return {key: value for key, value in record.items() if key not in ("payload", "result")}


def limit_of(wanted: object, most: int) -> int:
    """How many a request asks for, within the limit."""
    return min(wanted if isinstance(wanted, int) and wanted > 0 else 100, most)


def fitting(rows: Iterable[Any]) -> orjson.Fragment:
    """The first rows of a list, as many as one answer holds, encoded."""
    parts: list[bytes] = []
    size = 0
    for each in rows:
        part = orjson.dumps(each)
        size += len(part) + 1
        if size > ANSWER_BYTES:
            break
        parts.append(part)
    return orjson.Fragment(b"[" + b",".join(parts) + b"]")
