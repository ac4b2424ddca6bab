"""The link's promise: each message once, in order, acknowledged only when durable."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from a2a_zmq.errors import Busy
from a2a_zmq.protocol import MessageType, PortConfig
from a2a_zmq.protocol.link import Entry, Link

HUB, WORKER = "distributor-1", "worker-1"


def entry(n: int) -> Entry:
    return Entry(MessageType.EVENT, b"x" * 10, f"r-{n}", None, None)


def filled(link: Link, count: int) -> list[Entry]:
    for n in range(count):
        link.offer(entry(n))
    return put_on_way(link)


def put_on_way(link: Link, first: int = 1) -> list[Entry]:
    sent: list[Entry] = []
    while (item := link.next()) is not None:
        item.seq = first + len(sent)
        sent.append(item)
    return sent


def test_acknowledgements_are_cumulative() -> None:
    link = Link(PortConfig(window_messages=3))
    sent = filled(link, 5)
    assert [item.request_id for item in sent] == ["r-0", "r-1", "r-2"]
    link.acknowledged(2)
    assert link.backlog() == (3, 30, 1)
    assert [item.request_id for item in put_on_way(link, 4)] == ["r-3", "r-4"]
    link.acknowledged(1)  # an old one changes nothing
    assert link.backlog().messages == 3
    link.acknowledged(5)
    assert link.backlog() == (0, 0, 0)


def test_a_reset_puts_everything_back_in_order() -> None:
    link = Link(PortConfig(window_messages=3))
    filled(link, 5)
    link.acknowledged(1)
    link.reset()
    assert [item.request_id for item in put_on_way(link)] == ["r-1", "r-2", "r-3"]
    link.drop()
    assert link.backlog() == (0, 0, 0)
    assert link.next() is None


def test_bounds_refuse_without_keeping() -> None:
    link = Link(PortConfig(outbox_max_messages=2))
    filled(link, 2)
    with pytest.raises(Busy):
        link.offer(entry(3))
    assert link.room() == 0
    link.acknowledged(1)
    assert link.room() == 1


def test_memory_of_request_ids_is_bounded() -> None:
    link = Link(PortConfig(dedup_ids=8))
    for n in range(100):
        assert link.received(n + 1, f"r-{n}")
    assert not link.received(101, "r-99")
    assert not link.received(102, "r-92")
    assert link.received(103, "r-0")


def test_what_is_owed_follows_what_is_durable() -> None:
    link = Link(PortConfig())
    assert not link.owes_ack
    link.received(1, "a")
    link.received(3, "b")
    assert link.untold
    assert not link.owes_ack
    link.take(2)
    assert link.owes_ack
    assert link.tell() == 2
    assert link.untold  # number 3 still is
    assert not link.owes_ack
    link.take(3)
    assert link.owes_ack
    assert link.tell() == 3
    assert not link.untold
    link.take(1)
    assert link.taken == 3


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("down"), st.integers(1, 4)),
        st.tuples(st.just("up"), st.integers(1, 4)),
        st.tuples(st.just("disconnect"), st.sampled_from(["now", "frames lost first"])),
        st.tuples(st.just("lose"), st.sampled_from(["up", "down"])),
        st.tuples(st.just("double"), st.sampled_from(["up", "down"])),
        st.tuples(st.just("swap"), st.sampled_from(["up", "down"])),
        st.tuples(st.just("durable"), st.booleans()),
        st.tuples(st.just("wait"), st.sampled_from([0.004, 0.05, 0.3])),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_message_arrives_once_and_in_order(make_kit: Any, steps: list[tuple[str, Any]]) -> None:
    """Frames are lost, doubled and swapped, connections break, owners are slow to make things durable."""
    pipe = make_kit(window_messages=4, dead_s=60.0, grace_s=60.0, suspect_s=60.0).pipe()
    sent = {"up": 0, "down": 0}

    def send(way: str) -> None:
        end, peer = (pipe.hub, WORKER) if way == "down" else (pipe.spoke, HUB)
        action = "assign_tasks" if way == "down" else "task_results"
        type_ = MessageType.REQUEST if way == "down" else MessageType.EVENT
        end.port.send(peer, type_, {"action": action, "n": sent[way]}, pipe.now)
        sent[way] += 1

    def fault(kind: str) -> Any:
        done: list[bool] = []

        def apply(frames: list[bytes]) -> list[bytes]:
            if not frames or done:
                return frames
            done.append(True)
            if kind == "lose":
                return frames[1:]
            if kind == "double":
                return [frames[0], *frames]
            return [*frames[1:], frames[0]]

        return apply

    for what, value in steps:
        if what in ("up", "down"):
            for _ in range(value):
                send(what)
            pipe.pump()
        elif what == "disconnect":
            if value == "frames lost first":
                send("up")
                send("down")
            else:
                pipe.pump()
            pipe.disconnect()
            pipe.connect()
        elif what in ("lose", "double", "swap"):
            setattr(pipe, f"{value}ward", fault(what))
            send("up")
            send("down")
            pipe.pump()
            pipe.upward = pipe.downward = lambda frames: frames
        elif what == "durable":
            pipe.durable = value
        else:
            pipe.advance(value)
    pipe.durable = True
    pipe.advance(3)
    assert [payload["n"] for payload in pipe.spoke.got] == list(range(sent["down"]))
    assert [payload["n"] for payload in pipe.hub.got] == list(range(sent["up"]))
    assert pipe.hub.port.backlog(WORKER).messages == pipe.spoke.port.backlog(HUB).messages == 0
    assert pipe.hub.downs() == pipe.spoke.downs() == []
