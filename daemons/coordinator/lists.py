"""Lists of tasks: live ones from memory, ended ones and dead letters from the store."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now, iso
from a2a_zmq.protocol.message import Message
from a2a_zmq.tasks import WAITING, Record, attempt_of, dead_letter, read_record
from daemons.coordinator.asking import as_answered
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.filters import Filter
from daemons.coordinator.records import SENT, Entry
from daemons.coordinator.supervision import Supervision
from daemons.runtime.contract import QueryAnswer

# Lists are cut here: half of the largest frame, whatever the records' metadata or the events' details add up to.
ANSWER_BYTES: Final = 512 * 1024


class Listing:
    """One ``list_tasks`` on its way to its answer."""

    __slots__ = ("chosen", "filter", "limit", "message", "partial", "total")

    def __init__(self, wanted: Filter, message: Message, limit: int) -> None:
        self.filter = wanted
        self.message = message
        self.limit = limit
        self.chosen: list[Entry] = []
        self.total = 0
        self.partial = False  # more may match than were looked at

    def counts_all(self) -> bool:
        """The fleet's own counts are the answer's total."""
        wanted = self.filter
        return wanted.client.operator and wanted.task_type is None and not wanted.narrow


class Lists:
    """See the module's text."""

    def __init__(self, desk: Desk, supervision: Supervision) -> None:
        self._desk = desk
        self._supervision = supervision

    def list_tasks(self, client: Client, message: Message, now: Now) -> None:
        """Tasks without payload and result: live ones, or (with their status, or ``dead``) the newest ended ones.

        Looks at a bounded number of live tasks, the oldest unless ``newest`` is asked for; ``total`` with a status is
        what the distributors' last heartbeats say; where more may match than were looked at, the answer is ``partial``.
        """
        desk = self._desk
        wanted = Filter(client, message.payload, now)
        listing = Listing(wanted, message, limit_of(message.payload.get("limit"), desk.config.list_limit))
        if wanted.ended:
            self._ask_ended(listing, now)
            return
        self._choose(listing)
        sent = [entry for entry in listing.chosen if entry.state == SENT and entry.home is not None]
        homes = sorted({entry.home.agent_id for entry in sent if entry.home is not None})
        if sent and desk.questions.room():
            args = {"distributor_ids": homes, "task_ids": [entry.task_id for entry in sent]}
            desk.ask("tasks", args, partial(self._listed, listing), now)
        else:
            self._listed(listing, QueryAnswer("", {}), now)

    def _choose(self, listing: Listing) -> None:
        """Live tasks whose records are worth a look: as many as are wanted, or where only their records can tell as
        many as may be read at a time (and as many more, of those whose ids or types have the text).
        """
        config, wanted, live = self._desk.config, listing.filter, self._desk.ledger.live
        count = config.list_limit if wanted.deep else listing.limit
        found, taken = 0, {True: 0, False: 0}
        for entry in islice(self._candidates(wanted), config.list_scan):
            if wanted.may_be(entry):
                found += 1
                named = wanted.names(entry)
                if taken[named] < count:
                    taken[named] += 1
                    listing.chosen.append(entry)
                else:
                    listing.partial = wanted.deep
        listing.partial |= len(live) > config.list_scan and (wanted.deep or not listing.counts_all())
        listing.total = self._total(listing, found)

    def _candidates(self, wanted: Filter) -> Iterable[Entry]:
        ledger = self._desk.ledger
        if wanted.status != WAITING:
            return reversed(ledger.live.values()) if wanted.newest else ledger.live.values()
        return (ledger.live[task_id] for task_id, wait in ledger.waits.items() if wait.open)

    def _total(self, listing: Listing, found: int) -> int:
        """How many match as far as memory knows; 0 where only the records that are read next can tell."""
        ledger, wanted = self._desk.ledger, listing.filter
        if wanted.deep:
            counted = wanted.status is not None and listing.counts_all()
            return self._supervision.counts().get(str(wanted.status), 0) if counted else 0
        if wanted.narrow or wanted.task_type is not None:
            return found
        return len(ledger.live) if wanted.client.operator else ledger.owners.get(wanted.client.identity, 0)

    def _listed(self, listing: Listing, answer: QueryAnswer, now: Now) -> None:
        records = answer.value if answer.error is None else {}
        rows: list[Record] = []
        matching = 0
        for entry in listing.chosen:
            stored = read_record(records.get(entry.task_id) or b"") or read_record(entry.record) or {}
            record = as_answered(stored, self._desk.ledger.waits.get(entry.task_id))
            if record and listing.filter.is_live(record):
                matching += 1
                if len(rows) < listing.limit:
                    rows.append(row(record))
        payload: dict[str, Any] = {"tasks": fitting(rows), "total": max(listing.total, matching)}
        if listing.partial:
            payload["partial"] = True
        self._desk.out.append(self._desk.reply(listing.message, payload))

    # ------------------------------------------------------------ ended tasks

    def _ask_ended(self, listing: Listing, now: Now) -> None:
        desk = self._desk
        if not desk.questions.room():
            desk.refuse(listing.message, "BUSY", "too many requests wait for the store")
            return
        args = {
            "distributor_ids": desk.everywhere(),
            "wanted": listing.filter.is_ended,
            "limit": listing.limit,
            "dead": listing.filter.dead,
        }
        desk.ask("ended", args, partial(self._list_ended, listing), now)

    def _list_ended(self, listing: Listing, answer: QueryAnswer, now: Now) -> None:
        desk = self._desk
        if desk.unread(listing.message, answer):
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
        if listing.counts_all():
            if not listing.filter.dead:
                payload["total"] = desk.finished[str(listing.filter.status)]
                payload["since"] = iso(self._supervision.started(now).wall)
            elif listing.filter.status is None:
                payload["total"] = max(len(rows), desk.letters)
        elif len(stored) >= listing.limit:
            payload["partial"] = True  # the look ended with the last one wanted
        desk.out.append(desk.reply(listing.message, payload))

    def _as_it_is(self, listing: Listing, record: Record, later: Record) -> Record | None:
        """The record that counts if there are two of one task (it was retried); None if that is not to be listed."""
        if attempt_of(later) <= attempt_of(record):
            return record
        if listing.filter.dead and not dead_letter(later):
            # It ended well, and whoever was to take its letter away did not come to it.
            place = (record.get("metadata") or {}).get("distributor")
            self._desk.drop_letter(record["task_id"], str(place))
            return None
        return later if listing.filter.is_ended(later) else None


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
