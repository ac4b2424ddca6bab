"""Hub and spoke over a pipe: joining, carrying, acknowledging, and their bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from a2a_zmq.clock import Now
from a2a_zmq.errors import Busy, MalformedMessage, Refused
from a2a_zmq.protocol import MessageType, PeerUp, Received, Role

HUB, WORKER = "distributor-1", "worker-1"


def assign(pipe: Any, n: int, **more: Any) -> str:
    return str(pipe.hub.port.send(WORKER, MessageType.REQUEST, {"action": "assign_tasks", "n": n}, pipe.now, **more))


def report(pipe: Any, n: int, **more: Any) -> str:
    return str(pipe.spoke.port.send(HUB, MessageType.EVENT, {"action": "task_results", "n": n}, pipe.now, **more))


def numbers(end: Any) -> list[int]:
    return [payload["n"] for payload in end.got]


def test_joining_tells_both_who_the_other_is(pipe: Any) -> None:
    (up,) = pipe.hub.of(PeerUp)
    assert (up.peer.agent_id, up.peer.role, up.peer.boot_id) == (WORKER, Role.WORKER, "spoke-boot")
    assert up.peer.details == {"task_types": ["noop"]}
    assert (up.peer.host_id, up.peer.pid, up.peer.start_time) == ("host-b", 22, 222)
    (up,) = pipe.spoke.of(PeerUp)
    assert (up.peer.agent_id, up.peer.role, up.peer.details) == (HUB, Role.DISTRIBUTOR, {"hello": WORKER})
    assert pipe.hub.port.peer(WORKER).pid == 22
    assert [info.agent_id for info in pipe.spoke.port.peers()] == [HUB]
    assert pipe.hub.reasons() == pipe.spoke.reasons() == []


def test_messages_go_both_ways_in_order_with_their_causes(pipe: Any) -> None:
    for n in range(20):
        assign(pipe, n)
    request_id = report(pipe, 7, reply_to="asked", traceparent="00-aa-bb-01")
    pipe.pump()
    assert numbers(pipe.spoke) == list(range(20))
    (received,) = pipe.hub.of(Received)
    assert received.peer == WORKER
    assert received.role is Role.WORKER
    metadata = received.message.metadata
    assert (metadata.request_id, metadata.parent_request_id, metadata.traceparent) == (
        request_id,
        "asked",
        "00-aa-bb-01",
    )
    assert metadata.origin == received.message.sender == WORKER


def test_fragments_are_embedded_as_they_are(pipe: Any) -> None:
    payload = {"action": "assign_tasks", "n": 1, "tasks": [orjson.Fragment(b'{"task_id":"t-1"}')]}
    pipe.hub.port.send(WORKER, MessageType.REQUEST, payload, pipe.now)
    pipe.pump()
    assert pipe.spoke.got[0]["tasks"] == [{"task_id": "t-1"}]


def test_an_acknowledgement_means_durable_not_received(pipe: Any) -> None:
    pipe.durable = False
    assign(pipe, 1)
    pipe.pump()
    pipe.advance(0.3)
    assert numbers(pipe.spoke) == [1]
    assert pipe.hub.port.backlog(WORKER).messages == 1
    marks = pipe.spoke.port.marks()
    assign(pipe, 2)
    pipe.pump()
    pipe.spoke.port.acknowledge(marks, pipe.now)
    pipe.advance(0.05)
    assert pipe.hub.port.backlog(WORKER).messages == 1  # the second is not covered by these marks
    pipe.spoke.port.acknowledge(pipe.spoke.port.marks(), pipe.now)
    pipe.advance(0.05)
    assert pipe.hub.port.backlog(WORKER).messages == 0


def test_marks_leave_out_what_the_owner_has_not_taken_yet(kit: Any) -> None:
    pipe = kit.pipe()
    pipe.durable = False
    for n in (1, 2):
        assign(pipe, n)
    for _, frame in pipe.hub.port.outgoing:
        pipe.spoke.port.receive(b"", [frame], pipe.now)
    assert len(pipe.spoke.port.events) == 2
    before = pipe.spoke.port.marks()[HUB][1]
    pipe.spoke.take()
    assert pipe.spoke.port.marks()[HUB][1] == before + 2


def test_an_acknowledgement_rides_on_the_next_message(pipe: Any) -> None:
    pipe.advance(0.02)  # what joining left to acknowledge
    assign(pipe, 1)
    pipe.pump()
    sent = len(pipe.tap)
    report(pipe, 1)
    pipe.pump()
    assert pipe.hub.port.backlog(WORKER).messages == 0
    carried = [orjson.loads(frame) for _, frame in pipe.tap[sent:]]
    assert [message["type"] for message in carried] == ["event"]
    assert carried[0]["metadata"]["ack"] > 0


def test_an_acknowledgement_goes_alone_soon_if_nothing_else_does(pipe: Any) -> None:
    assign(pipe, 1)
    pipe.pump()
    assert pipe.hub.port.backlog(WORKER).messages == 1
    pipe.advance(0.006)
    assert pipe.hub.port.backlog(WORKER).messages == 0
    assert orjson.loads(pipe.tap[-1][1])["type"] == "ack"


def test_many_messages_are_acknowledged_without_delay(pipe: Any) -> None:
    for n in range(pipe.hub.port.config.ack_every):
        assign(pipe, n)
    pipe.pump()
    assert pipe.hub.port.backlog(WORKER).messages == 0


def test_acknowledgements_are_not_acknowledged(pipe: Any) -> None:
    assign(pipe, 1)
    pipe.pump()
    pipe.advance(0.1)
    quiet = len(pipe.tap)
    pipe.advance(0.05)
    assert all(orjson.loads(frame)["type"] == "heartbeat" for _, frame in pipe.tap[quiet:])


def test_heartbeats_flow_both_ways_with_the_roles_payload(pipe: Any) -> None:
    pipe.advance(1.05)
    assert pipe.hub.beats == 5
    assert pipe.spoke.beats == 5
    beat = next(event for event in pipe.hub.of(Received) if event.message.type is MessageType.HEARTBEAT)
    assert beat.message.payload == {"action": "heartbeat", "limit": 4}


def test_a_full_outbox_is_busy_and_says_when_to_come_back(make_kit: Callable[..., Any]) -> None:
    pipe = make_kit(outbox_max_messages=3).pipe(connect=False)
    for n in range(3):
        report(pipe, n)
    assert pipe.spoke.port.room(HUB) == 0
    with pytest.raises(Busy) as busy:
        report(pipe, 3)
    assert busy.value.retry_after_s > 0
    pipe.connect()
    pipe.advance(0.05)
    assert numbers(pipe.hub) == [0, 1, 2]
    assert pipe.spoke.port.room(HUB) == 3


def test_an_outbox_is_bounded_in_bytes_too(make_kit: Callable[..., Any]) -> None:
    pipe = make_kit(outbox_max_bytes=1000).pipe(connect=False)
    pipe.spoke.port.send(HUB, MessageType.EVENT, {"action": "task_results", "n": "x" * 900}, pipe.now)
    with pytest.raises(Busy):
        pipe.spoke.port.send(HUB, MessageType.EVENT, {"action": "task_results", "n": "x" * 200}, pipe.now)


def test_only_a_window_is_on_its_way(make_kit: Callable[..., Any]) -> None:
    pipe = make_kit(window_messages=4).pipe()
    pipe.durable = False
    for n in range(10):
        assign(pipe, n)
    pipe.pump()
    assert numbers(pipe.spoke) == [0, 1, 2, 3]
    pipe.durable = True
    pipe.advance(0.1)
    assert numbers(pipe.spoke) == list(range(10))


def test_a_message_larger_than_the_window_still_goes(make_kit: Callable[..., Any]) -> None:
    pipe = make_kit(window_bytes=100).pipe()
    for n in range(3):
        pipe.hub.port.send(WORKER, MessageType.REQUEST, {"action": "assign_tasks", "n": n, "x": "y" * 500}, pipe.now)
    pipe.advance(0.1)
    assert numbers(pipe.spoke) == [0, 1, 2]


def test_what_cannot_be_sent_is_refused_at_once(pipe: Any) -> None:
    port = pipe.hub.port
    with pytest.raises(Refused, match="unroutable"):
        port.send("worker-9", MessageType.REQUEST, {"action": "drain"}, pipe.now)
    assert port.room("worker-9") == 0
    for payload in ({"x": object()}, {"x": {1, 2}}, {"x": "\ud800"}, {"x": "y" * (1 << 20)}):
        with pytest.raises(MalformedMessage):
            port.send(WORKER, MessageType.REQUEST, {"action": "drain", **payload}, pipe.now)
    assert port.backlog(WORKER).messages == 0


def test_a_full_queue_gets_no_heartbeats_on_top(pipe: Any) -> None:
    while not pipe.spoke.beats:
        pipe.advance(0.001)
    pipe.advance(0.19)
    pipe.hub.port.undeliverable(pipe.route[WORKER], b"frame", "full", pipe.now)
    pipe.advance(0.02)
    assert pipe.spoke.beats == 1
    pipe.advance(0.2)
    assert pipe.spoke.beats == 2


def test_unreliable_messages_are_not_kept(pipe: Any) -> None:
    pipe.disconnect()
    report(pipe, 1, reliable=False)
    pipe.connect()
    report(pipe, 2, reliable=False)
    pipe.advance(0.05)
    assert numbers(pipe.hub) == [2]


def test_bulk_goes_once_and_only_while_little_of_it_is_on_its_way(make_kit: Callable[..., Any]) -> None:
    pipe = make_kit(bulk_messages=3).pipe()
    pipe.durable = False
    for n in range(3):
        report(pipe, n, bulk=True)
    with pytest.raises(Busy):
        report(pipe, 3, bulk=True)
    pipe.durable = True
    pipe.advance(0.1)
    report(pipe, 4, bulk=True)
    pipe.disconnect()
    with pytest.raises(Busy):
        report(pipe, 5, bulk=True)
    pipe.connect()
    report(pipe, 6, bulk=True)
    pipe.pump()
    assert numbers(pipe.hub) == [0, 1, 2, 6], "what was on its way as the connection broke is not sent again"


def test_bulk_is_bounded_in_bytes_and_waits_behind_what_is_reliable(make_kit: Callable[..., Any]) -> None:
    pipe = make_kit(bulk_bytes=100, window_messages=1).pipe()
    pipe.durable = False
    report(pipe, 0, bulk=True)
    pipe.spoke.port.send(HUB, MessageType.EVENT, {"action": "task_events", "n": "x" * 200}, pipe.now, bulk=True)
    with pytest.raises(Busy):
        report(pipe, 1, bulk=True)
    pipe.durable = True
    pipe.advance(0.1)
    report(pipe, 2)
    report(pipe, 3)
    with pytest.raises(Busy):
        report(pipe, 4, bulk=True)
    pipe.advance(0.1)
    report(pipe, 5, bulk=True)
    pipe.pump()
    assert numbers(pipe.hub)[2:] == [2, 3, 5]


def test_many_spokes_are_kept_apart(kit: Any, make_pipe: Callable[..., Any]) -> None:
    pipe = make_pipe(kit.hub(), *(kit.spoke(f"worker-{n}") for n in range(5)))
    pipe.connect()
    for n in range(5):
        pipe.hub.port.send(f"worker-{n}", MessageType.REQUEST, {"action": "assign_tasks", "n": n}, pipe.now)
    pipe.disconnect("worker-3")
    pipe.advance(1.0)
    assert [numbers(end) for end in pipe.spokes.values()] == [[0], [1], [2], [], [4]]
    assert pipe.hub.downs() == ["disconnect"]


def test_a_dead_workers_assignments_do_not_reach_it_when_it_returns(pipe: Any) -> None:
    pipe.disconnect()
    assign(pipe, 1)
    pipe.advance(1)
    assert pipe.hub.downs() == ["disconnect"]
    pipe.connect()
    pipe.advance(0.1)
    assert pipe.spoke.got == []


def test_a_workers_results_survive_a_dead_distributor(pipe: Any) -> None:
    pipe.disconnect()
    report(pipe, 1)
    pipe.advance(5)
    pipe.connect()
    pipe.advance(0.1)
    assert numbers(pipe.hub) == [1]


def test_a_long_dead_peer_is_forgotten(make_kit: Callable[..., Any]) -> None:
    pipe = make_kit(forget_s=5.0).pipe()
    pipe.disconnect()
    pipe.advance(6)
    with pytest.raises(Refused, match="unroutable"):
        assign(pipe, 1)


def test_a_closed_port_is_silent(pipe: Any) -> None:
    pipe.hub.port.close(pipe.now)
    pipe.pump()
    sent = len(pipe.tap)
    pipe.hub.port.tick(Now(pipe.now.mono + 10, pipe.now.wall + 10))
    assert pipe.hub.port.outgoing == []
    assert len(pipe.tap) == sent
