"""HELLO and its answer, made and judged. Pure functions of keys, nonces and frames; :mod:`session` has the story."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from a2a_zmq.clock import Now, iso
from a2a_zmq.errors import MalformedMessage, Refused
from a2a_zmq.ids import AGENT_ID
from a2a_zmq.protocol import authz
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.crypto import (
    HELLO_CONTEXT,
    NONCE_BYTES,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    WELCOME_CONTEXT,
    KeySource,
    Mac,
    hello_key,
    mac_context,
    valid_key_id,
    welcome_key,
)
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import PeerInfo
from a2a_zmq.protocol.session import Session, check_skew
from a2a_zmq.protocol.wire import open_frame, parse_message, seal

_AGENT = AGENT_ID.pattern.removesuffix(r"\Z").replace("(", "(?:", 1).encode()
# What may be read of a frame before its signature is checked: who claims to send it, at a fixed place, to choose the
# key.
_HELLO = re.compile(
    rb'\{"type":"request","sender":"(' + _AGENT + rb')","recipient":"(' + _AGENT + rb')","payload":\{"action":"hello",'
)
_NONCE = re.compile(rf"[0-9a-f]{{{2 * NONCE_BYTES}}}\Z")
_MAX_TEXT = 128
# Process ids and descriptors go to the operating system, which takes no larger ones.
_MAX_C_INT = 2**31 - 1


class Rejected(Refused):
    """A HELLO or its answer is authentic but not acceptable.

    Attributes:
        agent_id: who sent it.
        answer: a frame that tells the sender, if it is to be told.
    """

    def __init__(self, reason: str, detail: str, agent_id: str, answer: bytes | None = None) -> None:
        super().__init__(reason, detail)
        self.agent_id = agent_id
        self.answer = answer


@dataclass(slots=True)
class Greeting:
    """Spoke: a HELLO on its way, and what is needed to know its answer."""

    frame: bytes
    request_id: str
    nonce: bytes
    key_id: str
    pair_key: bytes
    answer_mac: Mac


@dataclass(slots=True)
class Welcome:
    """Spoke: a good answer."""

    session: Session
    peer: PeerInfo
    heartbeat_s: float


@dataclass(slots=True)
class Pending:
    """Hub: an answered HELLO that waits for its READY."""

    session: Session
    peer: PeerInfo
    made_at: float


@dataclass(slots=True)
class Hello:
    """Hub: a verified HELLO."""

    message: Message
    peer: PeerInfo
    token: str | None
    nonce: bytes
    key_id: str
    pair_key: bytes
    version: int = 0


def is_hello(frame: bytes) -> bool:
    """Whether a frame has the form of a HELLO (it is not verified)."""
    return _HELLO.match(frame) is not None


def make_hello(
    keys: KeySource,
    peer: str,
    boot: BootInfo,
    now: Now,
    *,
    attempt: int,
    new_id: Callable[[], str],
    nonce: bytes,
    fence: int = 0,
) -> Greeting | None:
    """A HELLO; None if there is no key for the peer.

    Attempts go through the live keys in turn, so that a hub whose ring is older or newer than ours is met.
    """
    candidates = keys.pair_keys(peer)
    if not candidates:
        return None
    key_id, pair_key = candidates[attempt % len(candidates)]
    payload: dict[str, Any] = {
        "action": "hello",
        "protocol": [PROTOCOL_MIN, PROTOCOL_MAX],
        "nonce": nonce.hex(),
        "role": keys.role.value,
        "key_id": key_id,
        "boot_id": boot.boot_id,
        "host_id": boot.host_id,
        "pid": boot.pid,
        "start_time": boot.start_time,
    }
    if fence:
        payload["fence"] = fence
    if boot.life_fd:
        payload["life_fd"] = boot.life_fd
    token = keys.token(now.wall)
    if token is not None:
        payload["token"] = token
    request_id = new_id()
    metadata = Metadata(keys.agent_id, timestamp=iso(now.wall), request_id=request_id)
    message = Message(MessageType.REQUEST, keys.agent_id, peer, payload, metadata)
    me = keys.agent_id
    return Greeting(
        frame=seal(message, Mac(hello_key(pair_key, me, peer), mac_context(me, peer, key_id, HELLO_CONTEXT))),
        request_id=request_id,
        nonce=nonce,
        key_id=key_id,
        pair_key=pair_key,
        answer_mac=Mac(welcome_key(pair_key, peer, me, nonce), mac_context(peer, me, key_id, WELCOME_CONTEXT)),
    )


def read_hello(frame: bytes, keys: KeySource, config: PortConfig, now: Now, user_id: str) -> Hello:
    """Judge a HELLO in the documented order.

    Raises:
        Refused: nobody is authenticated (``signature``): no answer.
        Rejected: authenticated, but not acceptable.
    """
    match = _HELLO.match(frame)
    assert match is not None  # the caller asked is_hello()
    me, sender = keys.agent_id, match[1].decode()
    if match[2].decode() != me:
        raise Refused("signature", "HELLO for somebody else")
    for key_id, pair_key in keys.pair_keys(sender):
        context = mac_context(sender, me, key_id, HELLO_CONTEXT)
        body = open_frame(frame, Mac(hello_key(pair_key, sender, me), context))
        if body is not None:
            break
    else:
        raise Refused("signature", "HELLO")
    try:
        message = parse_message(body)
        payload = message.payload
        peer = _peer_info(sender, payload)
        nonce = _nonce(payload)
        token = _text(payload, "token") if "token" in payload else None
    except MalformedMessage as error:
        raise Rejected("malformed", str(error), sender) from None
    hello = Hello(message, peer, token, nonce, key_id, pair_key)
    try:
        if message.sender != sender or message.metadata.origin != sender or message.recipient != me:
            raise Refused("identity", "sender, origin or recipient")
        check_skew(message.metadata.timestamp, now, config.max_skew_s)
        hello.version = _negotiated(payload.get("protocol"), sender, me)
        keys.verify_peer(sender, peer.role, token, user_id, now.wall)
        if not authz.may_join(peer.role, keys.role):
            raise Refused("forbidden", f"a {peer.role} may not join a {keys.role}")
    except Refused as refusal:
        raise Rejected(refusal.reason, refusal.detail, sender, refuse_hello(keys, hello, refusal, now)) from None
    return hello


def _answer(keys: KeySource, hello: Hello, type_: MessageType, payload: dict[str, Any], now: Now) -> bytes:
    me, peer = keys.agent_id, hello.peer.agent_id
    request_id = hello.message.metadata.request_id
    metadata = Metadata(me, timestamp=iso(now.wall), request_id=request_id, parent_request_id=request_id)
    key = welcome_key(hello.pair_key, me, peer, hello.nonce)
    mac = Mac(key, mac_context(me, peer, hello.key_id, WELCOME_CONTEXT))
    return seal(Message(type_, me, peer, payload, metadata), mac)


def refuse_hello(keys: KeySource, hello: Hello, refusal: Refused, now: Now) -> bytes:
    """An ERROR for a peer whose HELLO was authentic but is not accepted."""
    payload = {
        "action": "hello",
        "code": "FORBIDDEN",
        "reason": refusal.reason,
        "message": refusal.detail or refusal.reason,
    }
    return _answer(keys, hello, MessageType.ERROR, payload, now)


def make_welcome(
    keys: KeySource,
    hello: Hello,
    boot: BootInfo,
    now: Now,
    *,
    details: dict[str, Any],
    heartbeat_s: float,
    nonce: bytes,
    sid: str,
    route: bytes,
    user_id: str,
) -> tuple[bytes, Pending]:
    """The RESPONSE to a good HELLO, and what the hub keeps until READY."""
    payload: dict[str, Any] = {
        "action": "hello",
        "protocol": hello.version,
        "nonce": nonce.hex(),
        "session": sid,
        "key_id": hello.key_id,
        "role": keys.role.value,
        "boot_id": boot.boot_id,
        "host_id": boot.host_id,
        "pid": boot.pid,
        "start_time": boot.start_time,
        "heartbeat_interval_s": heartbeat_s,
        "details": details,
    }
    token = keys.token(now.wall)
    if token is not None:
        payload["token"] = token
    session = Session(
        me=keys.agent_id,
        peer=hello.peer.agent_id,
        pair_key=hello.pair_key,
        key_id=hello.key_id,
        spoke_nonce=hello.nonce,
        hub_nonce=nonce,
        sid=sid,
        version=hello.version,
        route=route,
        user_id=user_id,
    )
    return _answer(keys, hello, MessageType.RESPONSE, payload, now), Pending(session, hello.peer, now.mono)


def read_welcome(
    frame: bytes, keys: KeySource, peer: str, greeting: Greeting, *, config: PortConfig, now: Now, user_id: str
) -> Welcome | None:
    """Judge an answer to a HELLO of ours. None if this frame is not authentic as such.

    Raises:
        Rejected: authentic, but the hub refused us or we refuse the hub.
    """
    body = open_frame(frame, greeting.answer_mac)
    if body is None:
        return None
    try:
        message = parse_message(body)
        payload, metadata = message.payload, message.metadata
        if message.sender != peer or metadata.origin != peer or message.recipient != keys.agent_id:
            raise Refused("identity", "sender, origin or recipient")
        if metadata.parent_request_id != greeting.request_id or message.action != "hello":
            raise Refused("identity", "not the answer to our HELLO")
        if message.type is MessageType.ERROR:
            reason = payload.get("reason")
            raise Refused(
                reason if isinstance(reason, str) else "forbidden", f"refused by {peer}: {payload.get('message')}"
            )
        if message.type is not MessageType.RESPONSE:
            raise MalformedMessage("neither RESPONSE nor ERROR")
        check_skew(metadata.timestamp, now, config.max_skew_s)
        version = _negotiated([payload.get("protocol")] * 2, peer, keys.agent_id)
        info = _peer_info(peer, payload)
        sid = _text(payload, "session")
        if not re.fullmatch(r"[0-9a-f]{8,64}", sid) or payload.get("key_id") != greeting.key_id:
            raise MalformedMessage("session or key_id")
        details = payload.get("details")
        heartbeat_s = payload.get("heartbeat_interval_s")
        if type(details) is not dict:
            raise MalformedMessage("details")
        if not isinstance(heartbeat_s, (int, float)) or not 0.001 <= heartbeat_s <= 3600:
            raise MalformedMessage("heartbeat_interval_s")
        info.details = details
        token = _text(payload, "token") if "token" in payload else None
        hub_nonce = _nonce(payload)
        keys.verify_peer(peer, info.role, token, user_id, now.wall)
        if not authz.may_join(keys.role, info.role):
            raise Refused("forbidden", f"a {keys.role} may not join a {info.role}")
    except MalformedMessage as error:
        raise Rejected("malformed", str(error), peer) from None
    except Refused as refusal:
        raise Rejected(refusal.reason, refusal.detail, peer) from None
    session = Session(
        me=keys.agent_id,
        peer=peer,
        pair_key=greeting.pair_key,
        key_id=greeting.key_id,
        spoke_nonce=greeting.nonce,
        hub_nonce=hub_nonce,
        sid=sid,
        version=version,
        user_id=user_id,
    )
    return Welcome(session, info, float(heartbeat_s))


def _text(payload: dict[str, Any], name: str, limit: int = 4096) -> str:
    value = payload.get(name)
    if type(value) is not str or len(value) > limit:
        raise MalformedMessage(f"{name} is not a text of at most {limit} characters")
    return value


def _nonce(payload: dict[str, Any]) -> bytes:
    text = payload.get("nonce")
    if type(text) is not str or _NONCE.match(text) is None:
        raise MalformedMessage("nonce")
    return bytes.fromhex(text)


def _count(payload: dict[str, Any], name: str, most: int | None = None) -> int:
    value = payload.get(name)
    if type(value) is not int or value < 0 or (most is not None and value > most):
        raise MalformedMessage(f"{name} is not a count")
    return value


def _peer_info(agent_id: str, payload: dict[str, Any]) -> PeerInfo:
    try:
        role = Role(_text(payload, "role"))
    except ValueError:
        raise MalformedMessage("role") from None
    if not valid_key_id(payload.get("key_id")):
        raise MalformedMessage("key_id")
    boot_id = _text(payload, "boot_id", _MAX_TEXT)
    if not boot_id:
        raise MalformedMessage("boot_id is empty")
    return PeerInfo(
        agent_id,
        role,
        boot_id,
        _text(payload, "host_id", _MAX_TEXT),
        _count(payload, "pid", _MAX_C_INT),
        _count(payload, "start_time"),
        fence=_count(payload, "fence") if "fence" in payload else 0,
        life_fd=_count(payload, "life_fd", _MAX_C_INT) if "life_fd" in payload else 0,
    )


def _negotiated(offer: Any, peer: str, me: str) -> int:
    """The highest version that both ends speak.

    Raises:
        Refused: ``version``.
    """
    if type(offer) is not list or len(offer) != 2 or type(offer[0]) is not int or type(offer[1]) is not int:
        raise Refused("version", "protocol is not [min, max]")
    chosen = min(offer[1], PROTOCOL_MAX)
    if chosen < max(offer[0], PROTOCOL_MIN):
        theirs, ours = _versions(*offer), _versions(PROTOCOL_MIN, PROTOCOL_MAX)
        raise Refused("version", f"{peer} speaks protocol version {theirs}, {me} {ours}: update the older one")
    return chosen


def _versions(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
