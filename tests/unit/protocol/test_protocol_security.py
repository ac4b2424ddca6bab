"""What an attacker, a broken clock or a peer of the wrong role gets: a counted refusal, and no answer to strangers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from a2a_zmq.clock import Now, iso
from a2a_zmq.errors import Refused
from a2a_zmq.protocol import Message, MessageType, Metadata, Received, Refusal, Role, StaticKeys, handshake, seal
from a2a_zmq.protocol.crypto import Mac, hello_key, mac_context

HUB, WORKER = "distributor-1", "worker-1"


def new_refusals(end: Any) -> list[tuple[str, str, str]]:
    found = [(r.kind, r.reason, r.agent_id) for r in end.of(Refusal)]
    end.seen.clear()
    return found


def at_hub(pipe: Any, frame: bytes, route: bytes | None = None, user_id: str = "") -> list[tuple[str, str, str]]:
    pipe.hub.take()
    pipe.hub.seen.clear()
    pipe.hub.port.receive(pipe.route[WORKER] if route is None else route, [frame], pipe.now, user_id)
    return new_refusals(pipe.hub)


def sealed(pipe: Any, type_: MessageType, payload: dict[str, Any], **metadata: Any) -> bytes:
    """A frame with the live session's keys but any content: what a buggy or hostile authenticated worker could send."""
    session = pipe.spoke.port._hub.session
    session.send_seq += 1
    fields = {
        "origin": WORKER,
        "timestamp": iso(pipe.now.wall),
        "request_id": f"forged-{session.send_seq}",
        "sequence_number": session.send_seq,
        "session": session.sid,
        **metadata,
    }
    sender = fields.pop("sender", WORKER)
    recipient = fields.pop("recipient", HUB)
    message = Message(type_, sender, recipient, payload, Metadata(**fields))
    return seal(message, session.send_mac)


EVENT = {"action": "task_results", "n": 1}


def test_frames_are_counted_and_sized_before_anything_else(pipe: Any) -> None:
    pipe.hub.seen.clear()
    pipe.hub.port.receive(b"x", [], pipe.now)
    pipe.hub.port.receive(b"x", [b"a", b"b"], pipe.now)
    assert new_refusals(pipe.hub) == [("routing", "frames", "")] * 2
    assert at_hub(pipe, b"x" * ((1 << 20) + 1)) == [("routing", "size", "")]


def test_strangers_get_no_answer(pipe: Any) -> None:
    for frame in (b"", b"{}", b"x" * 5000, b'{"type":"request"}'):
        assert at_hub(pipe, frame, b"stranger") == [("routing", "no_session", "")]
    assert at_hub(pipe, b"{}") == [("signature", "signature", "")]
    assert pipe.hub.port.outgoing == []


def test_a_wrong_secret_is_refused_without_an_answer(kit: Any) -> None:
    pipe = kit.pipe(keys=kit.keys(WORKER, Role.WORKER, "another secret"))
    assert pipe.hub.reasons() == ["signature"]
    assert [way for way, _ in pipe.tap] == ["up"]


def test_a_frame_replayed_in_its_session_is_refused(pipe: Any) -> None:
    pipe.spoke.port.send(HUB, MessageType.EVENT, EVENT, pipe.now)
    ((_, frame),) = pipe.spoke.port.outgoing
    pipe.pump()
    assert at_hub(pipe, frame) == [("signature", "sequence", WORKER)]
    assert len(pipe.hub.got) == 1
    pipe.spoke.port.send(HUB, MessageType.EVENT, {**EVENT, "n": 2}, pipe.now)
    pipe.pump()
    assert [payload["n"] for payload in pipe.hub.got] == [1, 2]  # the session goes on


def test_a_replay_is_no_sign_of_life(pipe: Any) -> None:
    pipe.spoke.port.send(HUB, MessageType.EVENT, EVENT, pipe.now)
    ((_, frame),) = pipe.spoke.port.outgoing
    pipe.pump()
    pipe.stopped.add(WORKER)
    for _ in range(20):
        pipe.advance(0.1)
        at_hub(pipe, frame)
    assert pipe.hub.port.peers() == []


def test_frames_of_a_former_session_are_refused(pipe: Any) -> None:
    pipe.spoke.port.send(HUB, MessageType.EVENT, EVENT, pipe.now)
    recorded = [frame for _, frame in pipe.spoke.port.outgoing]
    pipe.pump()
    recorded += [frame for way, frame in pipe.tap if way == "up"]
    pipe.disconnect()
    pipe.connect()
    for frame in recorded:
        if b'"hello"' not in frame:
            assert at_hub(pipe, frame) == [("signature", "signature", "")]
            assert at_hub(pipe, frame, b"elsewhere") == [("routing", "no_session", "")]


def test_a_reflected_frame_is_refused(pipe: Any) -> None:
    pipe.spoke.port.send(HUB, MessageType.EVENT, EVENT, pipe.now)
    ((_, frame),) = pipe.spoke.port.outgoing
    pipe.spoke.port.receive(b"", [frame], pipe.now)
    assert pipe.spoke.reasons() == ["signature"]


def test_a_replayed_hello_displaces_nobody(pipe: Any) -> None:
    hello = next(frame for way, frame in pipe.tap if way == "up")
    ready = [frame for way, frame in pipe.tap if way == "up"][1]
    assert b'"hello"' in hello
    assert b'"ready"' in ready
    assert at_hub(pipe, hello, b"attacker") == []
    ((route, _),) = pipe.hub.port.outgoing  # the answer is of no use without the pair key
    pipe.hub.port.outgoing.clear()
    assert route == b"attacker"
    assert at_hub(pipe, ready, b"attacker") == [("signature", "signature", "")]
    pipe.hub.port.send(WORKER, MessageType.REQUEST, {"action": "assign_tasks", "n": 5}, pipe.now)
    ((route, _),) = pipe.hub.port.outgoing
    assert route == pipe.route[WORKER]
    pipe.pump()
    assert [payload["n"] for payload in pipe.spoke.got] == [5]
    # Also on the live connection itself.
    assert at_hub(pipe, hello) == []
    pipe.hub.port.outgoing.clear()
    pipe.advance(3)
    assert pipe.hub.downs() == []
    assert pipe.hub.reasons() == []


def test_an_old_hello_is_refused_by_its_time(pipe: Any) -> None:
    hello = next(frame for way, frame in pipe.tap if way == "up")
    pipe.jump(31)
    assert at_hub(pipe, hello, b"attacker") == [("signature", "skew", WORKER)]


def test_a_replayed_welcome_opens_nothing(kit: Any, make_pipe: Callable[..., Any]) -> None:
    pipe = kit.pipe()
    welcome = next(frame for way, frame in pipe.tap if way == "down")
    pipe.spoke.port.receive(b"", [welcome], pipe.now)
    assert pipe.spoke.reasons() == ["signature"]
    pipe.disconnect()
    pipe.upward = lambda frames: []
    pipe.connect()
    pipe.spoke.port.receive(b"", [welcome], pipe.now)  # the nonce of the new HELLO is not in it
    assert pipe.spoke.ups() == 1
    assert pipe.spoke.reasons() == ["signature", "signature"]


def test_hello_for_somebody_else_is_refused(kit: Any, pipe: Any) -> None:
    other = kit.spoke(peer="distributor-2")
    other.connected(pipe.now)
    assert at_hub(pipe, other.outgoing[0][1], b"new") == [("signature", "signature", "")]


@pytest.mark.parametrize("agent_id", ["worker 1", "w>x", "a|b", "../x", "x" * 70, "w\\u0031"])
def test_ids_that_are_none_are_not_even_tried(pipe: Any, agent_id: str) -> None:
    head = f'{{"type":"request","sender":"{agent_id}","recipient":"distributor-1","payload":{{"action":"hello",'
    assert at_hub(pipe, head.encode() + b"x" * 100, b"new") == [("routing", "no_session", "")]


def test_identities_within_a_session_are_checked(pipe: Any) -> None:
    for lie in ({"sender": "worker-2"}, {"origin": "worker-2"}, {"recipient": "distributor-2"}, {"session": "5e55"}):
        frame = sealed(pipe, MessageType.EVENT, EVENT, **lie)
        assert at_hub(pipe, frame) == [("signature", "identity", WORKER)]
        pipe.spoke.port._hub.session.send_seq -= 1
    assert pipe.hub.got == []


def test_acknowledging_what_was_never_sent_ends_the_session(pipe: Any) -> None:
    assert at_hub(pipe, sealed(pipe, MessageType.EVENT, EVENT, ack=1000)) == [("signature", "sequence", WORKER)]
    pipe.advance(0.5)
    assert pipe.hub.ups() == 1  # a new session, the first PeerUp is cleared


def test_a_wrong_clock_is_refused_and_told(kit: Any) -> None:
    pipe = kit.pipe(connect=False)
    truth = pipe.now
    pipe.now = Now(truth.mono, truth.wall - 100)
    pipe.route[WORKER] = b"r"
    pipe.spoke.port.connected(pipe.now)
    ((_, hello),) = pipe.spoke.port.outgoing
    pipe.hub.port.receive(b"r", [hello], truth)
    pipe.spoke.port.outgoing.clear()
    pipe.pump()
    assert pipe.hub.reasons() == ["skew"]
    assert pipe.spoke.reasons() == ["skew"]
    (told,) = pipe.spoke.of(Refusal)
    assert told.agent_id == HUB
    assert "100" in told.detail


def test_skew_within_a_session_ends_it(pipe: Any) -> None:
    frame = sealed(pipe, MessageType.EVENT, EVENT, timestamp=iso(pipe.now.wall + 31))
    assert at_hub(pipe, frame) == [("signature", "skew", WORKER)]
    assert at_hub(pipe, sealed(pipe, MessageType.EVENT, EVENT, timestamp="soon")) == [("routing", "no_session", WORKER)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"protocol": [2, 3]}, "version"),
        ({"protocol": "1"}, "version"),
        ({"role": "king"}, "malformed"),
        ({"role": "client"}, "forbidden"),
        ({"nonce": "ABC"}, "malformed"),
        ({"boot_id": ""}, "malformed"),
        ({"pid": -1}, "malformed"),
        ({"pid": 2**31}, "malformed"),
        ({"life_fd": 2**31}, "malformed"),
        ({"token": 5}, "malformed"),
        ({"host_id": "x" * 200}, "malformed"),
    ],
)
def test_a_hello_that_is_authentic_but_wrong_is_refused(pipe: Any, payload: dict[str, Any], reason: str) -> None:
    keys = StaticKeys(WORKER, Role.WORKER, "a secret for tests")
    ((key_id, pair_key),) = keys.pair_keys(HUB)
    good = {
        "action": "hello",
        "protocol": [1, 1],
        "nonce": "0" * 32,
        "role": "worker",
        "key_id": key_id,
        "boot_id": "b",
        "host_id": "h",
        "pid": 1,
        "start_time": 1,
    }
    metadata = Metadata(WORKER, timestamp=iso(pipe.now.wall), request_id="r")
    message = Message(MessageType.REQUEST, WORKER, HUB, {**good, **payload}, metadata)
    mac = Mac(hello_key(pair_key, WORKER, HUB), mac_context(WORKER, HUB, key_id, "hello"))
    (refusal,) = at_hub(pipe, seal(message, mac), b"new")
    assert refusal[1:] == (reason, WORKER)
    answered = [orjson.loads(frame)["payload"] for _, frame in pipe.hub.port.outgoing]
    assert [answer["reason"] for answer in answered] == ([] if reason == "malformed" else [reason])
    assert pipe.hub.port.peer(WORKER).boot_id == "spoke-boot"


@pytest.mark.parametrize(("low", "high", "common"), [(1, 2, True), (2, 3, False)])
def test_a_peer_of_another_release_shares_a_version_or_both_ends_say_which_they_speak(
    kit: Any, monkeypatch: pytest.MonkeyPatch, low: int, high: int, common: bool
) -> None:
    """The newer end greets: the older one reads its HELLO whatever it speaks afterwards."""
    pipe = kit.pipe(connect=False)
    pipe.route[WORKER] = b"route"
    with monkeypatch.context() as newer:
        newer.setattr(handshake, "PROTOCOL_MIN", low)
        newer.setattr(handshake, "PROTOCOL_MAX", high)
        pipe.spoke.port.connected(pipe.now)
    pipe.pump()
    told = pipe.hub.of(Refusal) + pipe.spoke.of(Refusal)
    if common:
        assert pipe.hub.ups() == 1
        assert not told
        return
    text = f"{WORKER} speaks protocol version 2 to 3, {HUB} 1: update the older one"
    assert [(refusal.reason, refusal.detail) for refusal in told] == [
        ("version", text),
        ("version", f"refused by {HUB}: {text}"),
    ]


def test_a_large_hello_is_not_looked_at(kit: Any, pipe: Any) -> None:
    class Wordy(StaticKeys):
        def token(self, wall: float) -> str | None:
            return "x" * 5000

    spoke = kit.spoke(keys=Wordy(WORKER, Role.WORKER, "a secret for tests"))
    spoke.connected(pipe.now)
    assert at_hub(pipe, spoke.outgoing[0][1], b"new") == [("routing", "size", "")]


class Strict(StaticKeys):
    """A key ring that refuses for a given reason."""

    def __init__(self, agent_id: str, role: Role, reason: str) -> None:
        super().__init__(agent_id, role, "a secret for tests")
        self.reason = reason

    def verify_peer(self, agent_id: str, role: Role, token: str | None, user_id: str, wall: float) -> None:
        if self.reason:
            raise Refused(self.reason, "no")


@pytest.mark.parametrize("reason", ["token", "identity", "revoked"])
def test_what_the_key_ring_refuses_is_refused_at_either_end(
    kit: Any, make_pipe: Callable[..., Any], reason: str
) -> None:
    at_the_hub = make_pipe(kit.hub(keys=Strict(HUB, Role.DISTRIBUTOR, reason)), kit.spoke())
    at_the_hub.connect()
    assert at_the_hub.hub.reasons() == at_the_hub.spoke.reasons() == [reason]
    at_the_spoke = make_pipe(kit.hub(), kit.spoke(keys=Strict(WORKER, Role.WORKER, reason)))
    at_the_spoke.connect()
    assert at_the_spoke.spoke.reasons() == [reason]
    assert at_the_spoke.hub.ups() == at_the_spoke.spoke.ups() == 0


def test_a_revoked_peer_is_cut_off_with_its_next_frame(kit: Any, make_pipe: Callable[..., Any]) -> None:
    keys = kit.keys(HUB, Role.DISTRIBUTOR)
    pipe = make_pipe(kit.hub(keys=keys), kit.spoke())
    pipe.connect()
    keys.revoke(WORKER)
    pipe.spoke.port.send(HUB, MessageType.EVENT, EVENT, pipe.now)
    pipe.pump()
    assert pipe.hub.got == []
    assert pipe.hub.downs() == ["revoked"]
    pipe.advance(5)
    assert pipe.hub.ups() == 1
    assert set(pipe.hub.reasons()) == {"revoked"}


def test_a_silent_revoked_peer_is_cut_off_too(kit: Any, make_pipe: Callable[..., Any]) -> None:
    keys = kit.keys(HUB, Role.DISTRIBUTOR)
    pipe = make_pipe(kit.hub(keys=keys), kit.spoke())
    pipe.connect()
    keys.revoke(WORKER)
    pipe.stopped.add(WORKER)
    pipe.advance(0.25)
    assert pipe.hub.downs() == ["revoked"]


def test_the_curve_key_of_a_session_does_not_change(pipe: Any) -> None:
    pipe.spoke.port.send(HUB, MessageType.EVENT, EVENT, pipe.now)
    ((_, frame),) = pipe.spoke.port.outgoing
    assert at_hub(pipe, frame, user_id="somebody else's") == [("signature", "identity", WORKER)]


def test_a_role_may_only_say_what_the_table_allows(pipe: Any) -> None:
    pipe.spoke.port.send(HUB, MessageType.REQUEST, {"action": "submit_tasks", "tasks": []}, pipe.now, request_id="r-1")
    pipe.spoke.port.send(HUB, MessageType.REQUEST, {"action": "format_disk"}, pipe.now, request_id="r-2")
    pipe.spoke.port.send(HUB, MessageType.EVENT, EVENT, pipe.now)
    pipe.advance(0.1)
    assert pipe.hub.reasons() == ["forbidden", "forbidden"]
    assert [payload["action"] for payload in pipe.hub.got] == ["task_results"]
    answers = [event.message for event in pipe.spoke.of(Received) if event.message.type is MessageType.ERROR]
    assert [(m.payload["code"], m.metadata.parent_request_id) for m in answers] == [
        ("FORBIDDEN", "r-1"),
        ("UNKNOWN_ACTION", "r-2"),
    ]
    assert pipe.spoke.port.backlog(HUB).messages == 0  # refused, but taken: it is not sent again


@pytest.mark.parametrize("body", [b'{"a":1,"a":2}', b"[" * 31 + b"]" * 31])
def test_an_authentic_message_that_cannot_be_taken_blocks_nothing(pipe: Any, body: bytes) -> None:
    poison = {"action": "task_results", "results": orjson.Fragment(body)}
    pipe.spoke.port.send(HUB, MessageType.EVENT, poison, pipe.now, request_id="bad")
    pipe.spoke.port.send(HUB, MessageType.EVENT, EVENT, pipe.now)
    pipe.advance(0.1)
    assert pipe.hub.reasons() == ["malformed"]
    assert pipe.hub.got == [EVENT]
    (answer,) = [event.message for event in pipe.spoke.of(Received) if event.message.type is MessageType.ERROR]
    assert (answer.payload["code"], answer.metadata.parent_request_id) == ("MALFORMED", "bad")
    assert pipe.spoke.port.backlog(HUB).messages == 0
    assert pipe.hub.ups() == 1
