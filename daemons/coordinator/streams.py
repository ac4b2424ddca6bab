"""Readers of tasks' streams: who reads what, reads of the store for them, ends.

What runs tell comes by from distributors, once or not at all, and stands in the store; :mod:`feeds` says what of it a
reader gets. What a task's end or question follows is read from the store once more: a run stores all that it tells
before it reports. So a reader is told of an end behind everything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.encoding import kept_json
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.streams import START, Chunk, id_text, joined, parse_id
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.feeds import Delivery, Feed
from daemons.coordinator.records import owner_of
from daemons.coordinator.waits import Questions, Waits
from daemons.runtime.contract import QueryAnswer, Send

MAX_READERS: Final = 4096
MAX_READERS_EACH: Final = 256  # of one client's process
MAX_WINDOW: Final = 1024 * 1024
# Reads of the store: readers in one (each gets some 256 KiB), and how many are under way.
READERS_A_READ: Final = 16
READS: Final = 4

Key = tuple[str, int]  # client, its number for the stream


class Reader:
    """Somebody who reads a task's stream.

    Attributes:
        ended: the task's status when it has ended, else "".
        told: the reader knows of the end.
        told_wait: the last question that it knows of, by the attempt that asked.
    """

    __slots__ = ("ended", "feed", "key", "task_id", "told", "told_wait")

    def __init__(self, key: Key, task_id: str, feed: Feed, ended: str) -> None:
        self.key = key
        self.task_id = task_id
        self.feed = feed
        self.ended = ended
        self.told = False
        self.told_wait = 0


@dataclass(slots=True)
class SendEvents(Send):
    """A message to a reader that may find no room."""

    reader: Reader | None = None
    delivery: Delivery | None = None


class Streams:
    """See the module's text."""

    def __init__(self, desk: Desk, waits: Waits) -> None:
        self._desk = desk
        self._waits = waits
        self._readers: dict[Key, Reader] = {}
        self._of_task: dict[str, list[Reader]] = {}
        self._wanting: dict[Key, Reader] = {}  # a read of the store
        self._reads = 0
        self._look_at = math.inf

    # ------------------------------------------------------------ readers

    def open(self, client: Client, message: Message, now: Now) -> None:
        """``stream_task``: what the task's runs tell, from after an event on."""
        desk, payload = self._desk, message.payload
        number, task_id, window = payload.get("stream"), payload.get("task_id"), payload.get("window")
        if not isinstance(number, int) or not isinstance(task_id, str) or not isinstance(window, int):
            desk.refuse(message, "INVALID_TASK", "wanted: stream, task_id, window, and after (the id of an event)")
            return
        each = sum(key[0] == client.agent_id for key in self._readers)
        if len(self._readers) >= MAX_READERS or each >= MAX_READERS_EACH:
            desk.refuse(message, "BUSY", "too many streams are being read")
            return
        entry = desk.ledger.live.get(task_id)
        if entry is not None:
            if client.may_see(entry.owner):
                self._opened(client, message, "", now)
            else:
                self._unknown(message)
        elif (stored := desk.ended(task_id)) is not None:
            self._open_ended(client, message, stored, now)
        elif desk.questions.room():
            desk.ask_results([task_id], partial(self._looked_up, client, message), now, letters=True)
        else:
            desk.refuse(message, "BUSY", "too many requests wait for the store")

    def _unknown(self, message: Message) -> None:
        self._desk.refuse(message, "UNKNOWN_TASK", f"no task {message.payload.get('task_id')} of yours is known")

    def _looked_up(self, client: Client, message: Message, found: QueryAnswer, now: Now) -> None:
        task_id = message.payload["task_id"]
        if self._desk.unread(message, found, task_id):
            return
        if task_id in self._desk.ledger.live:  # it came meanwhile
            self.open(client, message, now)
        elif (stored := found.value.get(task_id)) is None:
            self._unknown(message)
        else:
            self._open_ended(client, message, stored, now)

    def _open_ended(self, client: Client, message: Message, stored: bytes, now: Now) -> None:
        record = orjson.loads(stored)
        if client.may_see(owner_of(record)):
            self._opened(client, message, str(record.get("status")), now)
        else:
            self._unknown(message)

    def _opened(self, client: Client, message: Message, ended: str, now: Now) -> None:
        payload, desk = message.payload, self._desk
        if desk.clients.connected.get(client.agent_id) is not client:
            return  # it left while we looked
        key, task_id = (client.agent_id, payload["stream"]), payload["task_id"]
        self._close(key)
        feed = Feed(parse_id(payload.get("after")) or START, min(payload["window"], MAX_WINDOW))
        reader = self._readers[key] = Reader(key, task_id, feed, ended)
        self._of_task.setdefault(task_id, []).append(reader)
        desk.streamed.add(task_id)
        desk.out.append(desk.reply(message, {"stream": payload["stream"], "task_id": task_id}))
        self._consider(reader, now)

    def credit(self, client: str, message: Message, now: Now) -> None:
        """``stream_credit``: a client takes more, or no more."""
        for item in _list(message.payload.get("credits")):
            if isinstance(item, list) and len(item) == 2 and isinstance(item[0], int) and isinstance(item[1], int):
                reader = self._readers.get((client, item[0]))
                if reader is not None:
                    reader.feed.grant(item[1])
                    self._consider(reader, now)
        for number in _list(message.payload.get("closed")):
            if isinstance(number, int):
                self._close((client, number))

    def went(self, client: str) -> None:
        """Its session is over; in the next one it says from where it reads on."""
        for key in [key for key in self._readers if key[0] == client]:
            self._close(key)

    def _close(self, key: Key) -> None:
        reader = self._readers.pop(key, None)
        self._wanting.pop(key, None)
        if reader is not None:
            rest = [each for each in self._of_task[reader.task_id] if each is not reader]
            self._of_task[reader.task_id] = rest
            if not rest:
                del self._of_task[reader.task_id]
                self._desk.streamed.discard(reader.task_id)

    # ------------------------------------------------------------ what runs tell

    def told(self, home: Distributor, message: Message, now: Now) -> None:
        """``task_events``: what runs tell comes by."""
        for item in _list(message.payload.get("tasks")):
            task_id = item.get("task_id") if isinstance(item, dict) else None
            readers = self._of_task.get(task_id) if isinstance(task_id, str) else None
            if not readers:
                continue
            prev, last, events = parse_id(item.get("prev")), parse_id(item.get("last")), item.get("events")
            if prev is None or last is None or not isinstance(events, list) or not events:
                continue
            chunk = Chunk(prev, last, kept_json(events))
            for reader in readers:
                delivery = reader.feed.live(chunk, now.mono)
                if delivery is not None:
                    self._deliver(reader, delivery)
                self._consider(reader, now)

    def settle(self, now: Now) -> None:
        """Ends and questions of tasks, time that passed, reads of the store."""
        stopped, self._desk.stopped = self._desk.stopped, []
        for task_id, status in stopped:
            for reader in self._of_task.get(task_id, ()):
                reader.ended = status
                reader.feed.stops()
                self._consider(reader, now)
        if now.mono >= self._look_at:
            self._look_at = math.inf
            for reader in self._readers.values():
                reader.feed.look(now.mono)
                self._consider(reader, now)
        while self._wanting and self._reads < READS and self._desk.questions.room():
            self._read(now)

    def next_deadline(self) -> float:
        return self._look_at

    def _consider(self, reader: Reader, now: Now) -> None:
        """Something changed for this reader."""
        feed = reader.feed
        if feed.wants_read(now.mono):
            self._wanting[reader.key] = reader
        elif feed.caught_up:
            self._say_where_it_stands(reader, now)
        self._look_at = min(self._look_at, feed.look_at)

    def _read(self, now: Now) -> None:
        batch: list[Reader] = []
        while self._wanting and len(batch) < READERS_A_READ:
            reader = self._wanting.pop(next(iter(self._wanting)))
            if reader.feed.wants_read(now.mono):
                reader.feed.begins_read()
                batch.append(reader)
        if batch:
            self._reads += 1
            wanted = [(reader.task_id, reader.feed.position) for reader in batch]
            self._desk.ask("streams", {"wanted": wanted}, partial(self._answered, batch), now)

    def _answered(self, batch: list[Reader], answer: QueryAnswer, now: Now) -> None:
        self._reads -= 1
        found = answer.value if answer.error is None else [None] * len(batch)
        for reader, told in zip(batch, found, strict=True):
            if self._readers.get(reader.key) is not reader:
                continue
            if told is None:
                reader.feed.unread(now.mono)
            else:
                chunks, whole = told
                delivery = reader.feed.read(chunks, now.mono, whole=whole)
                if delivery is not None:
                    self._deliver(reader, delivery)
            self._consider(reader, now)

    # ------------------------------------------------------------ to the reader

    def _deliver(self, reader: Reader, delivery: Delivery) -> None:
        more: dict[str, Any] = {}
        if delivery.lost is not None:
            more["lost"] = id_text(delivery.lost)
        events = orjson.Fragment(joined(delivery.events))
        payload = self._payload(reader, id_text(delivery.after), id_text(delivery.last), events)
        self._send(reader, {**payload, "size": delivery.size, **more}, delivery)

    def _payload(self, reader: Reader, after: str, last: str, events: Any) -> dict[str, Any]:
        head = {"action": "task_events", "stream": reader.key[1], "task_id": reader.task_id}
        return {**head, "after": after, "last": last, "events": events}

    def _send(self, reader: Reader, payload: dict[str, Any], delivery: Delivery | None = None) -> None:
        client = reader.key[0]
        self._desk.out.append(
            SendEvents(client, MessageType.EVENT, payload, reliable=False, bulk=True, reader=reader, delivery=delivery)
        )

    def _say_where_it_stands(self, reader: Reader, now: Now) -> None:
        """It has everything: is that all?"""
        position = id_text(reader.feed.position)
        if reader.ended:
            if not reader.told:
                reader.told = True
                lost = {"lost": id_text(reader.feed.heard)} if reader.feed.lacking else {}
                self._send(reader, {**self._payload(reader, position, position, []), **lost, "end": reader.ended})
            return
        wait = self._desk.ledger.waits.get(reader.task_id)
        entry = self._desk.ledger.live.get(reader.task_id)
        if wait is None or entry is None or not wait.open or wait.attempt <= reader.told_wait:
            return
        reader.told_wait = wait.attempt

        def known(questions: Questions, _now: Now) -> None:
            if wait.open and self._readers.get(reader.key) is reader:
                waiting = {"attempt": wait.attempt, "interrupts": questions}
                self._send(reader, {**self._payload(reader, position, position, []), "waiting": waiting})

        self._waits.with_questions(entry, known, now)

    def undelivered(self, effect: SendEvents, now: Now) -> None:
        """The reader's link had no room."""
        reader = effect.reader
        if reader is None or self._readers.get(reader.key) is not reader:
            return
        if effect.delivery is not None:
            reader.feed.undelivered(effect.delivery, now.mono)
        else:
            reader.told, reader.told_wait = False, 0
            reader.feed.unread(now.mono)
        self._consider(reader, now)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
