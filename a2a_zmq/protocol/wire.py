"""The frame: the specification's JSON object, its signature last, so that it sits in a tail of fixed length.

::

    {"type":"request","sender":"a","recipient":"b","payload":{...},"metadata":{...},"signature":"<64 hex>"}
    |<------------------------- frame[:-80] ------------------------------------->|<----- 80 bytes ----->|

The MAC is HMAC-SHA256 over a context (protocol version, direction, key id, session; never sent) and the exact bytes
``frame[:-80] + b"}"``, which is the same object without its signature. Nothing is canonicalised or serialised again,
and :func:`open_frame` verifies before a single byte is parsed. :func:`parse_message` then takes the strict form only:
exactly the six members of the specification with their types; unknown metadata members are kept in
``Metadata.extra``.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

import orjson

from a2a_zmq.errors import MalformedMessage
from a2a_zmq.protocol.crypto import Mac
from a2a_zmq.protocol.message import Message, MessageType, Metadata
from a2a_zmq.protocol.strict import strict_loads

TAIL_BYTES = 80
MAX_FRAME_BYTES = 1 << 20
# No agent writes longer request or session ids; what is kept of them (deduplication) is bounded with this.
MAX_ID_CHARS = 128
# Sequence numbers stay exact in every JSON implementation.
MAX_SEQUENCE = (1 << 53) - 1

_TAIL_OPEN = b',"signature":"'
_TAIL_CLOSE = b'"}'
_TYPES: dict[str, MessageType] = {kind.value: kind for kind in MessageType}
_REQUIRED = ("origin", "version", "timestamp", "request_id", "parent_request_id", "sequence_number")
_KNOWN = frozenset((*_REQUIRED, "session", "ack", "deadline", "traceparent"))


def seal_body(body: bytes, mac: Mac) -> bytes:
    """The frame of a body.

    Args:
        body: the JSON object without its last brace (``frame[:-80]``).
        mac: of this direction.
    """
    return b"".join((body, _TAIL_OPEN, mac.hex_of(body + b"}"), _TAIL_CLOSE))


def seal(message: Message, mac: Mac) -> bytes:
    """The frame of a message; its ``signature`` member is not looked at.

    Raises:
        MalformedMessage: the payload is not JSON.
    """
    document = message.to_dict()
    del document["signature"]
    try:
        return seal_body(orjson.dumps(document)[:-1], mac)
    except orjson.JSONEncodeError as error:
        raise MalformedMessage(str(error)) from None


def open_frame(frame: bytes, mac: Mac) -> bytes | None:
    """The signed body (a whole JSON object without signature), or None if the frame is not authentic."""
    if len(frame) <= TAIL_BYTES or frame[-80:-66] != _TAIL_OPEN or frame[-2:] != _TAIL_CLOSE:
        return None
    body = frame[:-80] + b"}"
    return body if compare_digest(mac.hex_of(body), frame[-66:-2]) else None


def parse_message(body: bytes, signature: str = "") -> Message:
    """The message of a verified body.

    Raises:
        MalformedMessage: it is not the strict form.
    """
    document = strict_loads(body)
    if type(document) is not dict or len(document) != 5:
        raise MalformedMessage("not an object with exactly the members of a message")
    try:
        kind = document["type"]
        sender = document["sender"]
        recipient = document["recipient"]
        payload = document["payload"]
        metadata = document["metadata"]
    except KeyError as error:
        raise MalformedMessage(f"member {error.args[0]} is missing") from None
    if type(kind) is not str or kind not in _TYPES:
        raise MalformedMessage("unknown message type")
    if type(sender) is not str or type(recipient) is not str or type(payload) is not dict:
        raise MalformedMessage("sender, recipient or payload has the wrong type")
    return Message(_TYPES[kind], sender, recipient, payload, parse_metadata(metadata), signature)


def parse_metadata(raw: Any) -> Metadata:
    """Metadata from its parsed JSON.

    Raises:
        MalformedMessage: a member is missing or has the wrong type.
    """
    if type(raw) is not dict:
        raise MalformedMessage("metadata is not an object")
    try:
        origin = raw["origin"]
        version = raw["version"]
        timestamp = raw["timestamp"]
        request_id = raw["request_id"]
        parent = raw["parent_request_id"]
        sequence = raw["sequence_number"]
    except KeyError as error:
        raise MalformedMessage(f"metadata member {error.args[0]} is missing") from None
    get = raw.get
    session = get("session", "")
    ack = get("ack", 0)
    deadline = get("deadline")
    traceparent = get("traceparent")
    if (
        type(origin) is not str
        or type(version) is not str
        or type(timestamp) is not str
        or type(request_id) is not str
        or type(session) is not str
        or (parent is not None and type(parent) is not str)
        or (deadline is not None and type(deadline) is not str)
        or (traceparent is not None and type(traceparent) is not str)
    ):
        raise MalformedMessage("a metadata member is not a text")
    if type(sequence) is not int or type(ack) is not int:  # a bool is no number here
        raise MalformedMessage("sequence_number or ack is not an integer")
    if not (0 <= sequence <= MAX_SEQUENCE and 0 <= ack <= MAX_SEQUENCE):
        raise MalformedMessage("sequence_number or ack is out of range")
    if not request_id or len(request_id) > MAX_ID_CHARS or len(session) > MAX_ID_CHARS:
        raise MalformedMessage("request_id or session has a bad length")
    extra = {} if raw.keys() <= _KNOWN else {name: value for name, value in raw.items() if name not in _KNOWN}
    return Metadata(
        origin, version, timestamp, request_id, parent, sequence, session, ack, deadline, traceparent, extra
    )


def salvage_metadata(body: bytes) -> Metadata | None:
    """Metadata of a verified body that :func:`parse_message` refused, if its tail still has them.

    An authentic sender made a message that we cannot take. Its sequence number is needed all the same: without it the
    next message would look like one after a loss, the session would be made anew and the same message sent again, for
    ever.
    """
    start = body.rfind(b',"metadata":{')
    if start < 0:
        return None
    try:
        return parse_metadata(strict_loads(body[start + len(b',"metadata":') : -1]))
    except MalformedMessage:
        return None
