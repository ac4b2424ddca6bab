"""One reader of a stream, whatever is lost on the way, however slow it is, and whatever the store still has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2a_zmq.client.streams import WINDOW_BYTES, Stream, StreamTable
from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.streams import START, Chunk, EventId, id_text, joined, parse_id
from daemons.coordinator.feeds import MESSAGE_BYTES, Delivery, Feed

MUCH = 1 << 30
EVENT_BYTES = 9_000


def chunk(prev: EventId, *ids: EventId, size: int = 0) -> Chunk:
    events = [[id_text(each), "custom", [], "x" * size] for each in ids]
    return Chunk(prev, ids[-1], orjson.dumps(events))


def caught_up(*ids: EventId, window: int = MUCH) -> Feed:
    """A feed that has read these from the store."""
    feed = Feed(START, window)
    feed.begins_read()
    feed.read([chunk(START, *ids)] if ids else [], 0.0, whole=True)
    assert feed.caught_up
    return feed


def test_what_follows_passes_live() -> None:
    feed = caught_up((1, 1))
    delivery = feed.live(chunk((1, 1), (1, 2), (1, 3)), 0.0)
    assert delivery is not None
    assert (delivery.after, delivery.last, delivery.lost) == ((1, 1), (1, 3), None)
    assert feed.caught_up


def test_what_does_not_follow_is_read_from_the_store() -> None:
    feed = caught_up((1, 1))
    assert feed.live(chunk((1, 4), (1, 5)), 0.0) is None
    assert feed.wants_read(0.0)
    feed.begins_read()
    delivery = feed.read([chunk((1, 1), (1, 2), (1, 3), (1, 4)), chunk((1, 4), (1, 5))], 0.0, whole=True)
    assert delivery is not None
    assert delivery.last == (1, 5)
    assert feed.caught_up


def test_the_first_of_an_attempt_is_read_so_that_the_last_of_the_one_before_is_not_missed() -> None:
    feed = caught_up((1, 1))
    assert feed.live(chunk((1, 1), (2, 1)), 0.0) is None
    assert feed.wants_read(0.0)


def test_what_went_by_during_a_read_is_read_again() -> None:
    feed = caught_up((1, 1))
    feed.stops()
    feed.begins_read()
    assert feed.live(chunk((1, 1), (1, 2)), 0.0) is None
    assert feed.read([], 0.0, whole=True) is None
    assert feed.wants_read(0.0)


def test_what_is_not_kept_is_a_gap() -> None:
    feed = caught_up((1, 1))
    feed.stops()
    feed.begins_read()
    delivery = feed.read([chunk((1, 7), (1, 8))], 0.0, whole=True)
    assert delivery is not None
    assert delivery.lost == (1, 7)


def test_without_credit_nothing_is_sent_or_read() -> None:
    feed = caught_up((1, 1), window=10)
    assert feed.live(chunk((1, 1), (1, 2)), 0.0) is None
    assert not feed.wants_read(0.0)
    feed.grant(MUCH)
    assert feed.wants_read(0.0)


def test_a_quiet_stream_is_looked_at() -> None:
    feed = caught_up((1, 1))
    feed.look(0.5)
    assert not feed.wants_read(0.5)
    feed.look(1.5)
    assert feed.wants_read(1.5)


def test_what_found_no_room_is_sent_again_a_moment_later() -> None:
    feed = caught_up((1, 1))
    delivery = feed.live(chunk((1, 1), (1, 2)), 5.0)
    assert delivery is not None
    feed.undelivered(delivery, 5.0)
    assert feed.position == (1, 1)
    assert not feed.wants_read(5.0)
    assert feed.wants_read(5.2)


def test_a_delivery_fits_a_frame() -> None:
    feed = Feed(START, MUCH)
    feed.begins_read()
    chunks = [chunk((1, number), (1, number + 1), size=60_000) for number in range(8)]
    delivery = feed.read(chunks, 0.0, whole=True)
    assert delivery is not None
    assert delivery.size < MESSAGE_BYTES + 61_000
    assert feed.wants_read(0.0)


class Pipe:
    """A stream in a store that keeps little, a feed, and the real reader's half of the client, between them links and
    sessions that lose what they like."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.now = 0.0
        self.stored: list[Chunk] = []
        self.every: list[EventId] = []
        self.last: EventId = START
        self.table = StreamTable()
        self.stream = Stream("t", START, lambda: None)
        self.table.add(self.stream)
        self.feed: Feed | None = None
        self.number = 0
        self.ended = False
        self.seen: list[tuple[str, str]] = []
        self.waiting: list[dict[str, Any]] = []  # on their way to the client

    def tell(self, count: int, size: int, *, attempt: bool, live: bool) -> None:
        first = (self.last[0] + 1, 1) if attempt or self.last == START else (self.last[0], self.last[1] + 1)
        ids = [(first[0], first[1] + number) for number in range(count)]
        told = chunk(self.last, *ids, size=size)
        self.last = ids[-1]
        self.every += ids
        self.stored = [*self.stored, told][-self.keep :]
        if live and self.feed is not None:
            self.send(self.feed.live(told, self.now))

    def read(self) -> None:
        feed = self.feed
        if feed is None:
            return
        feed.look(self.now)
        if feed.wants_read(self.now):
            feed.begins_read()
            found = [each for each in self.stored if each.last > feed.position]
            self.send(feed.read(found[:3], self.now, whole=len(found) <= 3))
        if self.ended and feed.caught_up:
            self.put(feed.position, feed.position, [], 0, "completed" if not feed.lacking else "lost")

    def send(self, delivery: Delivery | None) -> None:
        if delivery is not None:
            events = orjson.loads(joined(delivery.events))
            lost = {} if delivery.lost is None else {"lost": id_text(delivery.lost)}
            self.put(delivery.after, delivery.last, events, delivery.size, "", **lost)

    def put(self, after: EventId, last: EventId, events: list[Any], size: int, end: str, **more: Any) -> None:
        head = {"stream": self.number, "after": id_text(after), "last": id_text(last), "events": events, "size": size}
        self.waiting.append({**head, **({"end": end} if end else {}), **more})

    def ask(self) -> None:
        while (message := self.table.next(Now(self.now, 0.0), "r")) is not None:
            payload = message.payload
            if message.type is MessageType.REQUEST:
                self.number = payload["stream"]
                self.feed = Feed(parse_id(payload["after"]) or START, payload["window"])
                self.table.answered("r")
            else:
                for number, total in payload["credits"]:
                    if number == self.number and self.feed is not None:
                        self.feed.grant(total)
                if self.number in payload["closed"]:
                    self.feed = None

    def carry(self, count: int) -> None:
        for _ in range(min(count, len(self.waiting))):
            self.table.take(self.waiting.pop(0))
        assert self.stream.held < WINDOW_BYTES + MESSAGE_BYTES + EVENT_BYTES * 8

    def lose(self) -> None:
        if self.waiting:
            self.waiting.pop(0)

    def session(self) -> None:
        """A new one, perhaps with another coordinator."""
        self.waiting.clear()
        self.feed = None
        self.table.restart()

    def take(self) -> None:
        if self.stream.arrived:
            events, size = self.stream.arrived.popleft()
            self.seen += [(event.id, event.type) for event in events]
            self.table.took(self.stream, size)

    def to_the_end(self) -> None:
        self.ended = True
        if self.feed is not None:
            self.feed.stops()
        for _ in range(2000):
            self.now += 0.5
            self.ask()
            self.read()
            self.carry(99)
            self.take()
            if self.stream.over and not self.stream.arrived:
                return
        raise AssertionError("the stream does not end")


STEPS: dict[str, Callable[[Pipe], None]] = {
    "live": lambda pipe: pipe.tell(3, 100, attempt=False, live=True),
    "lost on its way": lambda pipe: pipe.tell(2, 100, attempt=False, live=False),
    "large": lambda pipe: pipe.tell(7, EVENT_BYTES, attempt=False, live=True),
    "another attempt": lambda pipe: pipe.tell(2, 10, attempt=True, live=True),
    "read": Pipe.read,
    "ask": Pipe.ask,
    "carry": lambda pipe: pipe.carry(1),
    "carry all": lambda pipe: pipe.carry(99),
    "lose": Pipe.lose,
    "session": Pipe.session,
    "take": Pipe.take,
}


@pytest.mark.parametrize("keep", [4, 1000])
@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=80))
def test_everything_comes_once_and_in_order_or_is_told_to_be_gone(keep: int, steps: list[str]) -> None:
    pipe = Pipe(keep)
    for step in steps:
        pipe.now += 0.05
        STEPS[step](pipe)
    pipe.to_the_end()
    expected = iter([id_text(each) for each in pipe.every])
    for name, type_ in pipe.seen:
        if type_ == "gap":
            while next(expected) != name:
                continue
        else:
            assert name == next(expected), "nothing is left out without a word, and nothing comes twice"
    assert next(expected, None) is None, "all of it has come"
    if keep == 1000:
        assert all(type_ != "gap" for _, type_ in pipe.seen)
