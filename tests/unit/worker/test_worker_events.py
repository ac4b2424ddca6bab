"""What runs tell on its way through the worker."""

from __future__ import annotations

from typing import Any

import orjson

from a2a_zmq.streams import Chunk
from daemons.runtime.contract import RunEvents, Send, Undelivered


def told(task_id: str, number: int, size: int = 10) -> RunEvents:
    events = orjson.dumps([[f"1-{number}", "custom", [], "x" * size]])
    return RunEvents(task_id, 1, Chunk((1, number - 1), (1, number), events))


def test_what_runs_told_since_the_last_settling_is_one_message(desk: Any) -> None:
    desk.event(*[told(f"t{number}", number) for number in range(1, 30)])
    (message,) = desk.sent("task_events")
    assert len(message["tasks"]) == 29
    assert message["tasks"][1] == {
        "task_id": "t2",
        "attempt": 1,
        "prev": "1-1",
        "last": "1-2",
        "events": [["1-2", "custom", [], "x" * 10]],
    }


def test_much_is_several_messages(desk: Any) -> None:
    desk.event(*[told("t1", number, 100_000) for number in range(1, 7)])
    assert [len(message["tasks"]) for message in desk.sent("task_events")] == [2, 2, 2]


def test_without_a_session_it_is_let_go(desk: Any) -> None:
    desk.down()
    desk.event(told("t1", 1))
    desk.up()
    desk.event(told("t1", 2))
    (message,) = desk.sent("task_events")
    assert [item["last"] for item in message["tasks"]] == ["1-2"]


def test_what_the_link_does_not_take_holds_up_no_result(desk: Any) -> None:
    desk.assign(("t1", "noop"))
    desk.event(told("t1", 1))
    (send,) = [each for each in desk.messages if isinstance(each, Send) and each.bulk]
    assert not send.reliable
    desk.event(Undelivered(send, "busy"))
    desk.finish("t1")
    assert "t1" in desk.results()
