"""The frame: exact form, signature before parsing, strictness."""

from __future__ import annotations

import hmac
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a2a_zmq.clock import Now, parse_iso
from a2a_zmq.errors import MalformedMessage
from a2a_zmq.nesting import depth_of
from a2a_zmq.protocol import Message, MessageType, Metadata, open_frame, parse_message, seal, strict
from a2a_zmq.protocol.crypto import Mac, hkdf, mac_context
from a2a_zmq.protocol.session import Session
from a2a_zmq.protocol.wire import parse_metadata

KEY = bytes(range(32))
MAC = Mac(KEY, mac_context("agent-1", "agent-2", "k1", ""))

# The specification's example, member for member.
SPECIFIED = {
    "type": "request",
    "sender": "agent-1",
    "recipient": "agent-2",
    "payload": {"action": "assign_task", "task": {"task_id": "task-1"}},
    "metadata": {
        "origin": "agent-1",
        "version": "v1",
        "timestamp": "2025-11-28T10:30:00",
        "request_id": "uuid",
        "parent_request_id": None,
        "sequence_number": 1,
    },
}


def example() -> Message:
    return Message(
        MessageType.REQUEST,
        "agent-1",
        "agent-2",
        {"action": "assign_task", "task": {"task_id": "task-1"}},
        Metadata("agent-1", "v1", "2025-11-28T10:30:00", "uuid", None, 1),
    )


def parsed(document: Any) -> Message:
    return parse_message(document if isinstance(document, bytes) else orjson.dumps(document))


def changed(**members: Any) -> dict[str, Any]:
    return {**SPECIFIED, **members}


def with_metadata(**members: Any) -> dict[str, Any]:
    return changed(metadata={**SPECIFIED["metadata"], **members})  # type: ignore[dict-item]


def test_the_frame_is_the_specifications_json_with_the_signature_last() -> None:
    frame = seal(example(), MAC)
    body = (
        b'{"type":"request","sender":"agent-1","recipient":"agent-2",'
        b'"payload":{"action":"assign_task","task":{"task_id":"task-1"}},'
        b'"metadata":{"origin":"agent-1","version":"v1","timestamp":"2025-11-28T10:30:00","request_id":"uuid",'
        b'"parent_request_id":null,"sequence_number":1}'
    )
    mac = hmac.new(KEY, b"a2a-zmq/1|agent-1>agent-2|k1||" + body + b"}", "sha256").hexdigest()
    assert frame == body + b',"signature":"' + mac.encode() + b'"}'
    document = json.loads(frame)
    assert list(document) == [*SPECIFIED, "signature"]
    assert document == {**SPECIFIED, "signature": mac}
    opened = open_frame(frame, MAC)
    assert opened == frame[:-80] + b"}"
    message = parse_message(opened, mac)
    assert message == Message(**{**vars_of(example()), "signature": mac})
    assert message.to_dict() == document


def vars_of(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in ("type", "sender", "recipient", "payload", "metadata")}


def test_a_session_seals_what_serialising_the_message_gives() -> None:
    def session(me: str, peer: str) -> Session:
        return Session(
            me=me,
            peer=peer,
            pair_key=KEY,
            key_id="k1",
            spoke_nonce=b"a" * 16,
            hub_nonce=b"b" * 16,
            sid="5e55",
            version=1,
        )

    here, there = session("a-1", "b-1"), session("b-1", "a-1")
    there.send_seq = 1
    now = Now(1.0, 1_764_325_800.25)
    payload = {"action": "task_results", "text": 'é "quoted" \\ \n', "n": [1, 2.5, None, True]}
    for kwargs in (
        {"request_id": "r-1"},
        {"request_id": 'r"2', "reply_to": "r-1", "ack": 1, "traceparent": "00-ab-cd-01"},
    ):
        frame = here.seal(MessageType.EVENT, orjson.dumps(payload), now, **kwargs)
        body = there.open(frame)
        assert body is not None
        message = parse_message(body, frame[-66:-2].decode())
        assert orjson.dumps(message.to_dict()) == frame
        assert message.payload == payload
        there.judge(message, now, 30)
    assert (message.metadata.sequence_number, message.metadata.ack, message.metadata.session) == (2, 1, "5e55")
    assert message.metadata.parent_request_id == "r-1"
    assert parse_iso(message.metadata.timestamp) == now.wall
    assert here.open(frame) is None  # a key per direction: our own frame reflected is not authentic


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(payload=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON, max_size=5))
def test_any_json_payload_survives(payload: dict[str, Any]) -> None:
    message = example()
    message.payload = payload
    body = open_frame(seal(message, MAC), MAC)
    assert body is not None
    assert parse_message(body).payload == payload


@settings(max_examples=500)
@given(data=st.data())
def test_no_flipped_byte_is_accepted(data: st.DataObject) -> None:
    frame = seal(example(), MAC)
    place = data.draw(st.integers(0, len(frame) - 1))
    flip = data.draw(st.integers(1, 255))
    forged = frame[:place] + bytes([frame[place] ^ flip]) + frame[place + 1 :]
    assert open_frame(forged, MAC) is None


@given(cut=st.integers(0, 400), junk=st.binary(max_size=200))
def test_no_truncated_or_lengthened_frame_is_accepted(cut: int, junk: bytes) -> None:
    frame = seal(example(), MAC)
    for forged in (frame[:cut], frame[cut:], frame + junk, junk + frame, junk):
        assert forged == frame or open_frame(forged, MAC) is None


@given(key=st.binary(min_size=32, max_size=32), context=st.binary(max_size=100), text=st.binary(max_size=200))
def test_a_mac_is_hmac_sha256_over_context_and_text(key: bytes, context: bytes, text: bytes) -> None:
    mac = Mac(key, context)
    expected = hmac.digest(key, context + text, "sha256").hex().encode()
    assert [mac.hex_of(text), mac.hex_of(text)] == [expected, expected]


def test_a_mac_belongs_to_its_context() -> None:
    frame = seal(example(), MAC)
    for other in (
        mac_context("agent-2", "agent-1", "k1", ""),
        mac_context("agent-1", "agent-2", "k2", ""),
        mac_context("agent-1", "agent-2", "k1", "s"),
        mac_context("agent-1", "agent-2", "k1", "", 2),
    ):
        assert open_frame(frame, Mac(KEY, other)) is None
    assert open_frame(frame, Mac(bytes(32), mac_context("agent-1", "agent-2", "k1", ""))) is None
    upper = frame[:-66] + frame[-66:-2].upper() + frame[-2:]
    assert open_frame(upper, MAC) is None


@pytest.mark.parametrize(
    "document",
    [
        [],
        "text",
        {},
        {name: value for name, value in SPECIFIED.items() if name != "payload"},
        changed(more=1),
        changed(type="command"),
        changed(type=["request"]),
        changed(sender=None),
        changed(recipient=3),
        changed(payload=[]),
        changed(payload="text"),
        changed(metadata=None),
        changed(metadata={}),
        with_metadata(origin=1),
        with_metadata(version=None),
        with_metadata(timestamp=7),
        with_metadata(request_id=""),
        with_metadata(request_id="x" * 129),
        with_metadata(request_id=None),
        with_metadata(parent_request_id=4),
        with_metadata(sequence_number=True),
        with_metadata(sequence_number=-1),
        with_metadata(sequence_number=1.0),
        with_metadata(sequence_number=2**53),
        with_metadata(ack="1"),
        with_metadata(ack=-1),
        with_metadata(session=[]),
        with_metadata(session="s" * 129),
        with_metadata(deadline=1),
        with_metadata(traceparent={}),
    ],
)
def test_only_the_exact_form_is_taken(document: Any) -> None:
    with pytest.raises(MalformedMessage):
        parsed(document)


def test_unknown_metadata_is_kept_apart() -> None:
    metadata = parsed(with_metadata(ack=4, tenant="x", hops=[1])).metadata
    assert metadata.extra == {"tenant": "x", "hops": [1]}
    assert metadata.ack == 4
    assert "tenant" not in metadata.to_dict()


def nested(levels: int, kind: str) -> bytes:
    opening, closing = (b"[", b"]") if kind == "list" else (b'{"a":', b"}")
    return opening * levels + b"1" + closing * levels


TEXT = orjson.dumps(SPECIFIED)


def payload(text: bytes) -> bytes:
    return TEXT.replace(b'{"task_id":"task-1"}', text)


@pytest.mark.parametrize(
    "text",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":[{"y":{"a":1,"b":2,"a":3}}]}',
        b'{"a":{"b":1},"a":"pad\\u0022:"}',
        b"[1,]",
        b"{'a':1}",
        b"01",
        b"",
        nested(31, "list"),
        nested(31, "dict"),
        nested(200, "list"),
        nested(5000, "list"),
        b"[" + b"[1]," * 100 + nested(31, "dict") + b"]",
    ],
)
def test_loose_json_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse_message(payload(text))


@pytest.mark.parametrize("spare", [b"", b',"pad":"' + b"x" * 4000 + b'"'])
def test_the_same_rules_hold_for_large_messages(spare: bytes) -> None:
    for text in (b'{"a":1,"a":1%b}' % spare, b'{"a":%b%b}' % (nested(30, "list"), spare)):
        with pytest.raises(MalformedMessage):
            parse_message(payload(text))
    for text in (b'{"a":1,"b":1%b}' % spare, b'{"a":%b%b}' % (nested(29, "list"), spare)):
        parse_message(payload(text))


def test_duplicate_members_of_the_envelope_are_refused() -> None:
    for text in (
        TEXT.replace(b'"sender":"agent-1",', b'"sender":"agent-1","sender":"agent-3",'),
        TEXT.replace(b'"version":"v1",', b'"version":"v1","version":"v1",'),
    ):
        with pytest.raises(MalformedMessage, match="duplicate"):
            parse_message(text)


def test_brackets_and_separators_inside_texts_are_no_structure() -> None:
    tricky = {"text": "}]" * 50 + "{[" * 50 + '":' * 50 + "\\" * 7}
    assert parse_message(payload(orjson.dumps(tricky))).payload["task"] == tricky


def test_other_writers_are_understood() -> None:
    loose = json.dumps({**SPECIFIED, "payload": {"é": 1e5, "big": 10**30, "list": []}}, indent=1, ensure_ascii=True)
    assert parsed(loose.encode()).payload["é"] == 1e5


@given(JSON)
def test_the_depth_limit_measured_from_the_writer_is_the_real_one(value: Any) -> None:
    depth = depth_of(value)
    for limit in range(1, 9):
        if depth <= limit:
            assert strict.dumps_within(value, limit) == orjson.dumps(value)
        else:
            with pytest.raises(MalformedMessage, match="deeper"):
                strict.dumps_within(value, limit)


def test_a_writer_without_a_limit_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict, "_LIMIT", None)
    assert strict.dumps_within([[1]]) == b"[[1]]"
    with pytest.raises(MalformedMessage, match="deeper"):
        strict.dumps_within(orjson.loads(nested(33, "list")))


def test_fragments_are_sent_as_they_are() -> None:
    fragments = [orjson.Fragment(b'{"n":%d}' % number) for number in range(3)]
    assert strict.dumps({"tasks": fragments}) == b'{"tasks":[{"n":0},{"n":1},{"n":2}]}'
    with pytest.raises(MalformedMessage):
        strict.dumps([object()])


def test_hkdf_is_rfc_5869() -> None:
    okm = hkdf(b"\x0b" * 22, salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)), length=42)
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    bare = hkdf(b"\x0b" * 22, salt=b"", info=b"", length=42)
    assert bare.hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"


def test_metadata_alone_parses_too() -> None:
    assert parse_metadata(SPECIFIED["metadata"]).request_id == "uuid"
