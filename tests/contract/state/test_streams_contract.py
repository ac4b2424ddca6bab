"""What runs tell, written by the process that runs a graph, and read by coordinators."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.state import keys
from a2a_zmq.streams import START, Chunk, EventId
from daemons.worker.graphs.telling import Teller

OPTIONS = {"max_bytes": 100_000, "stream_bytes": 10_000_000, "stream_ttl_s": 100, "question_ttl_s": 1000}


class Ups:
    """What went upwards."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def __call__(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def ids(self) -> list[str]:
        return [event[0] for chunk in self.chunks for event in orjson.loads(chunk.events)]


def teller(backend: Any, attempt: int = 1, ups: Ups | None = None, **options: Any) -> Teller:
    return Teller(backend.client, "t", attempt, up=ups or Ups(), options={**OPTIONS, **options})


async def told(backend: Any, after: EventId = START) -> list[list[Any]]:
    """All events that a reader finds, in the order of the store."""
    store = backend.store()
    found: list[list[Any]] = []
    while True:
        ((chunks, whole),) = await store.streams([("t", after)])
        for chunk in chunks:
            assert chunk.last > after
            found += orjson.loads(chunk.events)
            after = chunk.last
        if whole:
            return found


async def test_what_was_told_is_stored_and_goes_up_in_order(redis_backend: Any) -> None:
    ups = Ups()
    telling = teller(redis_backend, ups=ups)
    await telling.begin()
    for number in range(500):
        telling.tell("custom", ("a", "b"), {"n": number})
    await telling.stored()
    events = await told(redis_backend)
    assert [event[0] for event in events] == [f"1-{number}" for number in range(1, 502)] == ups.ids()
    assert events[0][1:] == ["metadata", [], {"run_id": "t", "attempt": 1}]
    assert [event[3]["n"] for event in events[1:]] == list(range(500))
    assert events[7][1:3] == ["custom", ["a", "b"]]
    assert len(ups.chunks) < 10, "many events are one write"
    assert all(second.prev == first.last for first, second in zip(ups.chunks, ups.chunks[1:], strict=False))
    await telling.end()
    rest = await told(redis_backend, (1, 499))
    assert rest == events[-len(rest) :], "chunks stay whole: a reader passes over what it has seen"
    assert len(rest) >= 2
    assert 0 < await redis_backend.client.ttl(keys.stream("t")) <= 100


async def test_what_a_checkpoint_waits_for_is_stored_before_it(redis_backend: Any) -> None:
    telling = teller(redis_backend)
    await telling.begin()
    for number in range(20):
        telling.tell("updates", (), number)
        await telling.before_checkpoint()
        assert (await told(redis_backend))[-1][3] == number
    await telling.end()


async def test_a_later_attempt_goes_on_behind_and_shuts_the_earlier_one_out(redis_backend: Any) -> None:
    first, second = teller(redis_backend), teller(redis_backend, 3, ups := Ups())
    await first.begin()
    first.tell("custom", (), "one")
    await first.stored()
    await second.begin()
    second.tell("custom", (), "two")
    await second.stored()
    first.tell("custom", (), "too late")
    await first.stored()
    assert [event[0] for event in await told(redis_backend)] == ["1-1", "1-2", "3-1", "3-2"]
    assert ups.chunks[0].prev == (1, 2)
    await first.end()
    await second.end()
    third = teller(redis_backend, 2)
    await third.begin()
    third.tell("custom", (), "later still")
    await third.end()
    assert (await told(redis_backend))[-1][3] == "two"


async def test_an_attempt_that_begins_again_goes_on_counting(redis_backend: Any) -> None:
    for word in ("one", "two"):
        telling = teller(redis_backend)
        await telling.begin()
        telling.tell("custom", (), word)
        await telling.end()
    assert [event[0] for event in await told(redis_backend)] == ["1-1", "1-2", "1-3", "1-4"]


async def test_the_stream_is_bounded_in_bytes(redis_backend: Any) -> None:
    telling = teller(redis_backend, stream_bytes=200_000)
    await telling.begin()
    for number in range(2000):
        telling.tell("custom", (), f"{number} {'x' * 1000}")
        await telling.room()
    await telling.stored()
    assert await redis_backend.client.memory_usage(keys.stream("t")) < 400_000
    events = await told(redis_backend)
    assert events[-1][0] == "1-2001"
    assert events[0][0] != "1-1"
    await telling.end()


async def test_what_waits_for_an_answer_is_kept_as_long_as_its_checkpoints(redis_backend: Any) -> None:
    telling = teller(redis_backend)
    await telling.begin()
    await telling.end(waits=True)
    assert 100 < await redis_backend.client.ttl(keys.stream("t")) <= 1000


async def test_while_redis_is_away_a_checkpoint_hears_of_it_and_nothing_is_lost_or_twice(own_backend: Any) -> None:
    ups = Ups()
    telling = teller(own_backend, ups=ups)
    await telling.begin()
    await telling.stored()
    own_backend.server.kill()
    telling.tell("custom", (), "while it was away")
    with pytest.raises(StoreUnavailable):
        await telling.before_checkpoint()
    own_backend.server.start()
    while True:
        try:
            await telling.stored()
            break
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    assert [event[0] for event in await told(own_backend)] == ["1-1", "1-2"] == ups.ids()
    await telling.end()


async def test_many_readers_are_answered_in_one_round_trip(redis_backend: Any) -> None:
    telling = teller(redis_backend)
    await telling.begin()
    await telling.end()
    store = redis_backend.store()
    answers = await store.streams([("t", START), ("unknown", START), ("t", (1, 1)), ("t", (7, 0))])
    assert [(len(chunks), whole) for chunks, whole in answers] == [(1, True), (0, True), (0, True), (0, True)]


async def test_readers_go_past_what_others_wrote_into_a_stream(redis_backend: Any) -> None:
    await redis_backend.client.xadd(keys.stream("t"), {"foreign": "entry"}, id="1-1")
    await redis_backend.client.xadd(keys.stream("t"), {b"\xff": b"\xff"}, id="1-2")
    ((chunks, whole),) = await redis_backend.store().streams([("t", START)])
    assert ([chunk.last for chunk in chunks], whole) == ([(1, 1), (1, 2)], True)
    assert [orjson.loads(chunk.events)[0][:2] for chunk in chunks] == [["1-1", "omitted"], ["1-2", "omitted"]]
