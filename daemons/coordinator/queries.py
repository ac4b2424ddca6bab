"""Answers about tasks: from memory where it knows, from the store where it does not."""

from __future__ import annotations

from functools import partial

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import Message
from a2a_zmq.tasks import PENDING, WAITING, read_record
from daemons.coordinator.asking import as_answered
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.lists import fitting, limit_of
from daemons.coordinator.records import SENT, Entry, owner_of, public_result
from daemons.runtime.contract import QueryAnswer
from daemons.runtime.shortening import sendable


class Watch:
    """One ``watch_tasks`` on its way to its answer.

    Attributes:
        full: there was no room for one of its subscriptions.
        early: one of its results is not durable yet.
    """

    __slots__ = ("client", "early", "full", "live", "message", "results", "unknown")

    def __init__(self, client: Client, message: Message) -> None:
        self.client = client
        self.message = message
        self.full = self.early = False
        self.results: list[bytes] = []
        self.live: list[tuple[str, str]] = []
        self.unknown: list[str] = []


class Queries:
    """See the module's text. Nothing here changes a task."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    # ------------------------------------------------------------ watch_tasks

    def watch(self, client: Client, message: Message, now: Now) -> None:
        """Results of what has ended; a subscription to what has not."""
        desk = self._desk
        task_ids = task_ids_of(desk, message)
        if task_ids is None:
            return
        watch = Watch(client, message)
        elsewhere = [task_id for task_id in task_ids if not self._watch_known(watch, task_id)]
        if watch.full:
            desk.refuse(message, "BUSY", "too many subscriptions")
        elif not elsewhere:
            self._watched(watch)
        elif not desk.questions.room():
            desk.refuse(message, "BUSY", "too many requests wait for the store")
        else:
            desk.ask_results(elsewhere, partial(self._watch_found, watch, elsewhere), now)

    def _watch_known(self, watch: Watch, task_id: str) -> bool:
        """True if memory has the answer for this id."""
        desk = self._desk
        entry = desk.ledger.live.get(task_id)
        if entry is not None:
            if not watch.client.may_see(entry.owner):
                watch.unknown.append(task_id)
            else:
                watch.full |= not desk.subscribe(watch.client, entry)
                wait = desk.ledger.waits.get(task_id)
                watch.live.append((task_id, PENDING if wait is None or not wait.open else WAITING))
            return True
        stored = desk.ended(task_id)
        if stored is None:
            return False
        watch.early |= desk.recent.get(task_id) is None
        self._watch_result(watch, task_id, stored)
        return True

    def _watch_result(self, watch: Watch, task_id: str, stored: bytes) -> None:
        record = orjson.loads(stored)
        if watch.client.may_see(owner_of(record)):
            watch.results.append(public_result(record))
        else:
            watch.unknown.append(task_id)

    def _watch_found(self, watch: Watch, task_ids: list[str], answer: QueryAnswer, now: Now) -> None:
        if self._desk.unread(watch.message, answer):
            return
        for task_id in task_ids:
            if self._watch_known(watch, task_id):  # submitted or ended while we looked
                continue
            stored = answer.value.get(task_id)
            if stored is None:
                watch.unknown.append(task_id)
            else:
                self._watch_result(watch, task_id, stored)
        self._watched(watch)

    def _watched(self, watch: Watch) -> None:
        """As many results as one message holds go with the answer, the others follow it."""
        desk = self._desk
        if watch.full:
            desk.refuse(watch.message, "BUSY", "too many subscriptions")
            return
        runs = desk.result_messages(watch.client.agent_id, watch.results)
        first = runs[0].payload["results"] if runs else []
        answer = {"results": first, "live": watch.live, "unknown": watch.unknown}
        # That a task is unknown ends it for the client: only who certainly leads may say so, as it may write.
        out = desk.staging.after if watch.early or watch.unknown else desk.out
        out.append(desk.reply(watch.message, answer))
        out.extend(runs[1:])

    # ------------------------------------------------------------ get_task

    def get(self, client: Client, message: Message, now: Now) -> None:
        """The full record: the live one as it is in the store, or the result record; null if there is none for this
        client.
        """
        desk = self._desk
        task_id = message.payload.get("task_id")
        if not isinstance(task_id, str):
            desk.refuse(message, "INVALID_TASK", "task_id must be a text")
            return
        entry = desk.ledger.live.get(task_id)
        if entry is not None:
            if not client.may_see(entry.owner):
                self._got(client, message, None)
            elif entry.state != SENT or entry.home is None or not desk.questions.room():
                self._got(client, message, entry.record)
            else:
                # The distributor's copy says whether it runs, where, and in which attempt.
                args = {"distributor_ids": [entry.home.agent_id], "task_ids": [task_id]}
                desk.ask("tasks", args, partial(self._get_live, client, message, entry), now)
            return
        stored = desk.ended(task_id)
        if stored is not None:
            self._got(client, message, stored, early=desk.recent.get(task_id) is None)
        elif desk.questions.room():
            desk.ask_results([task_id], partial(self._get_stored, client, message, task_id), now, letters=True)
        else:
            desk.refuse(message, "BUSY", "too many requests wait for the store")

    def _get_live(self, client: Client, message: Message, entry: Entry, answer: QueryAnswer, now: Now) -> None:
        task_id = entry.task_id
        stored = answer.value.get(task_id) if answer.error is None else None
        if stored is not None and (read_record(stored) or {}).get("task_id") != task_id:
            stored = None  # somebody else wrote it: ours is the better copy
        ended = self._desk.recent.get(task_id) if self._desk.ledger.live.get(task_id) is not entry else None
        self._got(client, message, ended or stored or entry.record or None)

    def _get_stored(self, client: Client, message: Message, task_id: str, answer: QueryAnswer, now: Now) -> None:
        if not self._desk.unread(message, answer, task_id):
            self._got(client, message, answer.value.get(task_id))

    def _got(self, client: Client, message: Message, stored: bytes | None, *, early: bool = False) -> None:
        record = orjson.loads(sendable(stored)) if stored is not None else None
        if record is not None and self._desk.ledger.waits:
            record = as_answered(record, self._desk.ledger.waits.get(record["task_id"]))
        if record is not None and not client.may_see(owner_of(record)):
            record = None
        out = self._desk.staging.after if early else self._desk.out  # early: it is not durable yet
        out.append(self._desk.reply(message, {"task": record}))

    # ------------------------------------------------------------ history

    def history(self, client: Client, message: Message, now: Now) -> None:
        """Audit events; a client gets those of its own tasks, one task at a time."""
        desk = self._desk
        task_id = message.payload.get("task_id")
        if task_id is not None and not isinstance(task_id, str):
            desk.refuse(message, "INVALID_TASK", "task_id must be a text")
        elif not desk.questions.room():
            desk.refuse(message, "BUSY", "too many requests wait for the store")
        elif client.operator or (task_id is not None and self._owns(client, task_id)):
            self._read_history(message, task_id, now)
        elif task_id is None:
            desk.refuse(
                message, "FORBIDDEN", "only operators read the history of the whole fleet; name one of your tasks"
            )
        else:
            desk.ask_results([task_id], partial(self._history_of, client, message, task_id), now, letters=True)

    def _owns(self, client: Client, task_id: str) -> bool:
        entry = self._desk.ledger.live.get(task_id)
        return entry is not None and client.may_see(entry.owner)

    def _history_of(self, client: Client, message: Message, task_id: str, answer: QueryAnswer, now: Now) -> None:
        if self._desk.unread(message, answer, task_id):
            return
        stored = answer.value.get(task_id)
        if stored is None or not client.may_see(owner_of(orjson.loads(stored))):
            self._desk.refuse(message, "UNKNOWN_TASK", f"no task {task_id} of yours is known")
        else:
            self._read_history(message, task_id, now)

    def _read_history(self, message: Message, task_id: str | None, now: Now) -> None:
        desk = self._desk
        limit = limit_of(message.payload.get("limit"), desk.config.history_limit)
        args = {"distributor_ids": desk.everywhere(), "limit": limit, "task_id": task_id}
        desk.ask("history", args, partial(self._history_read, message, limit), now)

    def _history_read(self, message: Message, limit: int, answer: QueryAnswer, now: Now) -> None:
        if self._desk.unread(message, answer):
            return
        events = fitting([orjson.Fragment(event) for event in answer.value[:limit]])
        self._desk.out.append(self._desk.reply(message, {"events": events}))


def task_ids_of(desk: Desk, message: Message) -> list[str] | None:
    """The request's ``task_ids``; None if they are not a list of texts within the limit (then the request was
    refused).
    """
    task_ids = message.payload.get("task_ids")
    if not isinstance(task_ids, list) or not all(isinstance(task_id, str) for task_id in task_ids):
        desk.refuse(message, "INVALID_TASK", "task_ids must be a list of texts")
        return None
    if len(task_ids) > desk.config.max_batch:
        desk.refuse(
            message, "PAYLOAD_TOO_LARGE", f"{len(task_ids)} ids in one message, the limit is {desk.config.max_batch}"
        )
        return None
    return list(dict.fromkeys(task_ids))
