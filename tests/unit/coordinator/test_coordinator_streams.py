"""Who reads what a graph's run tells, and what of it the coordinator sends whom."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from a2a_zmq.protocol.message import MessageType
from a2a_zmq.streams import Chunk, EventId, id_text
from daemons.coordinator.streams import MAX_READERS_EACH
from tests.unit.coordinator.fakes import Json
from tests.unit.coordinator.harness import World

ALICE, QUESTION = "alice~1", [{"id": "i1", "value": "go on?"}]


def events(*ids: EventId) -> list[list[Any]]:
    return [[id_text(each), "custom", [], id_text(each)] for each in ids]


def store(world: World, prev: EventId, *ids: EventId, task_id: str = "t1") -> Json:
    """The run stores some events; they as a message has them."""
    chunk = Chunk(prev, ids[-1], orjson.dumps(events(*ids)))
    world.store.streams.setdefault(task_id, []).append(chunk)
    return {"task_id": task_id, "prev": id_text(prev), "last": id_text(ids[-1]), "events": events(*ids)}


def tell(world: World, *items: Json) -> None:
    """They come by."""
    world.say("d1", MessageType.EVENT, {"action": "task_events", "tasks": list(items)})


def read(world: World, name: str = ALICE, number: int = 1, window: int = 100_000, after: str = "", **more: Any) -> Json:
    return world.ask(name, "stream_task", stream=number, task_id="t1", window=window, after=after, **more)


def credit(world: World, total: int, number: int = 1, closed: tuple[int, ...] = ()) -> None:
    payload = {"action": "stream_credit", "credits": [[number, total]], "closed": list(closed)}
    world.say(ALICE, MessageType.EVENT, payload)


def sent(world: World, name: str = ALICE, number: int = 1) -> list[Json]:
    told = [each.payload for each in world.peers[name].told if each.action == "task_events"]
    return [payload for payload in told if payload["stream"] == number]


def ids(world: World, name: str = ALICE, number: int = 1) -> list[str]:
    return [event[0] for payload in sent(world, name, number) for event in payload["events"]]


@pytest.fixture
def streaming(fleet: World) -> World:
    """Alice's task t1 runs, and has told two things."""
    fleet.submit(ALICE, "t1")
    store(fleet, (0, 0), (1, 1), (1, 2))
    return fleet


def test_what_is_stored_comes_first_then_what_comes_by(streaming: World) -> None:
    assert read(streaming) == {"action": "stream_task", "stream": 1, "task_id": "t1"}
    assert ids(streaming) == ["1-1", "1-2"]
    tell(streaming, store(streaming, (1, 2), (1, 3)))
    assert ids(streaming) == ["1-1", "1-2", "1-3"]
    assert [(each["after"], each["last"]) for each in sent(streaming)] == [("0-0", "1-2"), ("1-2", "1-3")]


def test_reading_begins_after_the_event_that_is_named(streaming: World) -> None:
    store(streaming, (1, 2), (1, 3))
    read(streaming, after="1-2")
    assert ids(streaming) == ["1-3"]


def test_what_did_not_come_by_is_looked_for_after_a_while(streaming: World) -> None:
    read(streaming)
    store(streaming, (1, 2), (1, 3))
    streaming.advance(2.0)
    assert ids(streaming) == ["1-1", "1-2", "1-3"]


def test_an_end_comes_behind_everything_that_was_stored_before_it(streaming: World) -> None:
    read(streaming)
    store(streaming, (1, 2), (1, 3))
    streaming.finish("d1", "t1")
    assert ids(streaming) == ["1-1", "1-2", "1-3"]
    assert [each.get("end") for each in sent(streaming)] == [None, None, "completed"]
    read(streaming, number=2)
    assert ids(streaming, number=2) == ["1-1", "1-2", "1-3"]
    assert sent(streaming, number=2)[-1]["end"] == "completed"


def test_a_question_comes_behind_what_led_to_it_and_once(streaming: World) -> None:
    read(streaming)
    store(streaming, (1, 2), (1, 3))
    record = streaming.store.live["d1"]["t1"]
    record["status"] = "waiting"
    record["metadata"] |= {"attempt": 1, "interrupts": QUESTION}
    item = {"task_id": "t1", "attempt": 1, "interrupts": QUESTION}
    for _ in range(2):
        streaming.say("d1", MessageType.EVENT, {"action": "task_waiting", "tasks": [item], "version": 1})
    assert [each.get("waiting") for each in sent(streaming)] == [None, None, {"attempt": 1, "interrupts": QUESTION}]
    assert sent(streaming)[-1]["after"] == "1-3"


def test_who_takes_nothing_is_sent_a_windowful_and_no_more(streaming: World) -> None:
    read(streaming, window=10)
    assert ids(streaming) == ["1-1", "1-2"]
    for number in range(3, 9):
        tell(streaming, store(streaming, (1, number - 1), (1, number)))
    streaming.advance(5.0)
    assert ids(streaming) == ["1-1", "1-2"]
    credit(streaming, 150)
    assert ids(streaming)[:3] == ["1-1", "1-2", "1-3"]
    assert len(ids(streaming)) < 8
    credit(streaming, 10_000)
    assert ids(streaming) == [f"1-{number}" for number in range(1, 9)]


def test_what_finds_no_room_on_the_link_is_sent_again(streaming: World) -> None:
    read(streaming)
    streaming.busy.add(ALICE)
    tell(streaming, store(streaming, (1, 2), (1, 3)))
    streaming.advance(1.0)
    streaming.busy.clear()
    streaming.advance(1.0)
    assert ids(streaming) == ["1-1", "1-2", "1-3"]


def test_an_end_that_finds_no_room_is_told_later(streaming: World) -> None:
    read(streaming)
    streaming.busy.add(ALICE)
    streaming.finish("d1", "t1")
    streaming.busy.clear()
    streaming.advance(1.0)
    assert sent(streaming)[-1]["end"] == "completed"


def test_while_the_store_is_away_the_reader_waits(streaming: World) -> None:
    streaming.query_error = "connection"
    read(streaming)
    streaming.advance(1.0)
    assert ids(streaming) == []
    streaming.query_error = None
    streaming.advance(1.0)
    assert ids(streaming) == ["1-1", "1-2"]


def test_what_went_by_and_is_gone_from_the_store_is_told_at_the_end(streaming: World) -> None:
    read(streaming, window=10)
    tell(streaming, store(streaming, (1, 2), (1, 3)))
    streaming.store.streams.clear()
    credit(streaming, 1000)
    streaming.finish("d1", "t1")
    assert sent(streaming)[-1]["end"] == "completed"
    assert sent(streaming)[-1]["lost"] == "1-3"


def test_readers_do_not_disturb_each_other(streaming: World) -> None:
    streaming.operator("root~1")
    read(streaming, window=10)
    read(streaming, number=2)
    read(streaming, "root~1")
    for number in range(3, 6):
        tell(streaming, store(streaming, (1, number - 1), (1, number)))
    assert ids(streaming) == ["1-1", "1-2"]
    everything = [f"1-{number}" for number in range(1, 6)]
    assert ids(streaming, number=2) == ids(streaming, "root~1") == everything


def test_only_its_owner_and_operators_read_a_task(streaming: World) -> None:
    streaming.client("bob~1")
    assert read(streaming, "bob~1")["code"] == "UNKNOWN_TASK"
    streaming.finish("d1", "t1")
    assert read(streaming, "bob~1")["code"] == "UNKNOWN_TASK"
    assert streaming.ask(ALICE, "stream_task", stream=1, task_id="t9", window=1)["code"] == "UNKNOWN_TASK"
    assert streaming.ask(ALICE, "stream_task", stream="1", task_id="t1", window=1)["code"] == "INVALID_TASK"


def test_the_number_of_readers_is_bounded(streaming: World) -> None:
    for number in range(MAX_READERS_EACH):
        assert "code" not in read(streaming, number=number)
    assert read(streaming, number=MAX_READERS_EACH)["code"] == "BUSY"
    credit(streaming, 0, closed=(3,))
    assert "code" not in read(streaming, number=MAX_READERS_EACH)


def test_a_reader_that_left_is_forgotten(streaming: World) -> None:
    read(streaming)
    streaming.gone(ALICE)
    tell(streaming, store(streaming, (1, 2), (1, 3)))
    streaming.client(ALICE)
    streaming.advance(3.0)
    assert ids(streaming) == ["1-1", "1-2"], "in its new session it has not asked yet"
    read(streaming, number=2, after="1-2")
    assert ids(streaming, number=2) == ["1-3"]


def test_what_is_malformed_is_passed_over(streaming: World) -> None:
    read(streaming)
    good = {"task_id": "t1", "prev": "1-2", "last": "1-3", "events": events((1, 3))}
    for bad in (7, {}, {**good, "prev": "x"}, {**good, "last": None}, {**good, "events": []}, {**good, "events": "x"}):
        tell(streaming, bad)  # type: ignore[arg-type]
    streaming.say(ALICE, MessageType.EVENT, {"action": "stream_credit", "credits": [1, [1], ["x", 2]], "closed": ["y"]})
    assert ids(streaming) == ["1-1", "1-2"]
