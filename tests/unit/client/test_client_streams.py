"""A client that reads streams: what it asks for, what it takes, and what it does where something is missing."""

from __future__ import annotations

from typing import Any

import pytest

from a2a_zmq.client.streams import WINDOW_BYTES, Stream, StreamTable, place
from a2a_zmq.clock import Now
from a2a_zmq.errors import FleetUnavailable, RequestRefused
from a2a_zmq.protocol.message import MessageType
from a2a_zmq.streams import START, StreamEvent, id_text, parse_id

NOW = Now(1.0, 1.0)


def reading(table: StreamTable, after: str = "0-0") -> Stream:
    """A stream that was asked for."""
    stream = Stream("t", parse_id(after) or START, lambda: None)
    table.add(stream)
    asked(table)
    return stream


def asked(table: StreamTable, request_id: str = "r") -> dict[str, Any]:
    message = table.next(NOW, request_id)
    assert message is not None
    assert message.type is MessageType.REQUEST
    return message.payload


def message(number: int, after: str, *names: str, size: int = 100, **more: Any) -> dict[str, Any]:
    events = [[name, "custom", [], name] for name in names]
    return {
        "stream": number,
        "after": after,
        "last": names[-1] if names else after,
        "events": events,
        "size": size,
    } | more


def names(stream: Stream) -> list[str]:
    return [event.id for events, _ in stream.arrived for event in events]


def credit(table: StreamTable) -> dict[str, Any] | None:
    sent = table.next(NOW, "c")
    return None if sent is None else sent.payload


def test_what_comes_is_taken_in_order() -> None:
    table = StreamTable()
    stream = Stream("t", START, lambda: None)
    table.add(stream)
    assert asked(table) == {
        "action": "stream_task", "task_id": "t", "after": "0-0", "stream": 1, "window": WINDOW_BYTES,
    }  # fmt: skip
    table.take(message(1, "0-0", "1-1", "1-2"))
    table.take(message(1, "1-2", "1-3", end="completed"))
    assert names(stream) == ["1-1", "1-2", "1-3"]
    assert stream.over


def test_what_was_seen_before_is_passed_over() -> None:
    table = StreamTable()
    stream = reading(table, "1-2")
    table.take(message(1, "1-2", "1-1", "1-2", "1-3"))
    assert names(stream) == ["1-3"]


def test_where_a_message_is_missing_it_asks_anew_and_takes_nothing_of_before() -> None:
    table = StreamTable()
    stream = reading(table)
    table.take(message(1, "0-0", "1-1"))
    table.take(message(1, "1-2", "1-3"))
    again = asked(table)
    assert again["after"] == "1-1"
    table.take(message(1, "1-1", "1-2"))
    assert names(stream) == ["1-1"]
    table.take(message(again["stream"], "1-1", "1-2", "1-3"))
    assert names(stream) == ["1-1", "1-2", "1-3"]
    told = credit(table)
    assert told is not None
    assert set(told["closed"]) == {1}, "the coordinator need not send that any more"


def test_credit_is_given_when_enough_was_taken() -> None:
    table = StreamTable()
    stream = reading(table)
    for number in range(4):
        table.take(message(1, f"1-{number}" if number else "0-0", f"1-{number + 1}", size=WINDOW_BYTES // 4))
    assert credit(table) is None
    assert not table.took(stream, WINDOW_BYTES // 4)
    assert table.took(stream, WINDOW_BYTES // 4)
    assert credit(table) == {"action": "stream_credit", "credits": [[1, WINDOW_BYTES * 3 // 2]], "closed": []}


def test_credit_that_was_not_sent_is_given_later() -> None:
    table = StreamTable()
    stream = reading(table)
    table.take(message(1, "0-0", "1-1", size=WINDOW_BYTES))
    table.took(stream, WINDOW_BYTES)
    first = credit(table)
    assert table.unsent("c", 2.0)
    assert credit(table) == first


def test_a_new_session_begins_with_what_there_is_room_for() -> None:
    table = StreamTable()
    stream = reading(table)
    table.take(message(1, "0-0", "1-1", size=WINDOW_BYTES - 1000))
    table.restart()
    again = asked(table)
    assert (again["after"], again["window"]) == ("1-1", 1000)
    assert table.took(stream, WINDOW_BYTES - 1000)
    told = credit(table)
    assert told is not None
    assert told["credits"] == [[2, WINDOW_BYTES]]


def test_a_refusal_for_good_ends_it_and_others_are_asked_again() -> None:
    table = StreamTable()
    stream = reading(table)
    assert table.refused("r", RequestRefused("BUSY", ""), 5.0)
    assert table.next(NOW, "r") is None
    assert table.next_deadline() == 5.0
    later = table.next(Now(6.0, 6.0), "r2")
    assert later is not None
    assert table.refused("r2", RequestRefused("UNKNOWN_TASK", "no"), None)
    assert stream.over
    assert isinstance(stream.error, RequestRefused)
    assert not table.refused("r2", RequestRefused("UNKNOWN_TASK", "no"), None)


def test_a_refusal_that_comes_late_changes_nothing() -> None:
    table = StreamTable()
    stream = reading(table)
    table.take(message(1, "1-1", "1-2"))
    asked(table, "r2")
    assert table.refused("r", RequestRefused("UNKNOWN_TASK", "no"), None)
    assert not stream.over


def test_gaps_and_questions_are_events() -> None:
    table = StreamTable()
    stream = reading(table, "1-1")
    table.take(message(1, "1-1", "1-8", lost="1-7"))
    for _ in range(2):
        table.take(message(1, "1-8", waiting={"attempt": 1, "interrupts": []}))
    found = [event for events, _ in stream.arrived for event in events]
    assert found == [
        StreamEvent("1-7", "gap", {"after": "1-1"}),
        StreamEvent("1-8", "custom", "1-8"),
        StreamEvent("1-8", "waiting", {"attempt": 1, "interrupts": []}),
    ]
    assert found[0].attempt == 1


def test_who_does_not_read_any_more_says_so() -> None:
    table = StreamTable()
    table.close(reading(table))
    assert credit(table) == {"action": "stream_credit", "credits": [], "closed": [1]}
    table.take(message(1, "0-0", "1-1"))
    assert credit(table) == {"action": "stream_credit", "credits": [], "closed": [1]}


def test_the_end_of_the_client_ends_all_reading() -> None:
    table = StreamTable()
    streams = [reading(table), reading(table)]
    table.fail(FleetUnavailable("closed"))
    assert all(stream.over and stream.error is not None for stream in streams)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-1-1", "01-1", "1-x", 7, None])
def test_what_is_no_events_id(text: Any) -> None:
    assert parse_id(text) is None
    if isinstance(text, str):
        with pytest.raises(RequestRefused):
            place(text)


def test_ids_are_what_they_were() -> None:
    assert [id_text(parse_id(text) or START) for text in ("0-0", "1-17", "1001-2")] == ["0-0", "1-17", "1001-2"]
    assert place(None) == START
