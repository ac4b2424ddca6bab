"""Sessions: how two agents come to share fresh keys, and the checks that every frame of a session passes.

::

    spoke                                                     hub
    IDLE ── connected: HELLO(nonce a) ──────────────────────> no session: verified with the pair key
    GREETING                                                  GREETED (one a route, bounded, short-lived)
         <────────────── RESPONSE(nonce b, session), its key needs nonce a ──
    ACTIVE ── READY, number 1 under the session keys ───────> ACTIVE: only now agent → route changes

A replayed HELLO gets an answer that its sender cannot use: without the pair key there is no READY, and without READY
the live session is not touched. Whatever breaks the row of numbers ends the session (``LOST``); the spoke then greets
again.

Within a session the numbers of a direction run 1, 2, 3 … without gaps, because ZeroMQ over TCP keeps order. A number
seen before is a replay and is refused; a gap means loss, which only a new session mends (everything unacknowledged is
sent again).
"""

from __future__ import annotations

from enum import Enum

import orjson

from a2a_zmq.clock import Now, iso, parse_iso
from a2a_zmq.errors import Refused
from a2a_zmq.protocol.crypto import Mac, mac_context, session_key
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.protocol.wire import open_frame, seal_body


class Phase(Enum):
    IDLE = "idle"  # spoke: no connection
    GREETING = "greeting"  # spoke: HELLO sent, or waiting to send it again
    GREETED = "greeted"  # hub: HELLO answered
    ACTIVE = "active"
    CLOSED = "closed"  # said good-bye


class Input(Enum):
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    WELCOMED = "welcomed"  # spoke: a good RESPONSE came
    HELLO = "hello"  # hub: a good HELLO came
    READY = "ready"  # hub: a good READY came
    LOST = "lost"  # gap, resync, verdict of death, revocation
    CLOSE = "close"


_HUB_START = Phase.IDLE

# What is not in the table is a bug of ours, never an effect of what a peer sends: frames are judged before.
TRANSITIONS: dict[tuple[Phase, Input], Phase] = {
    # spoke
    (Phase.IDLE, Input.CONNECTED): Phase.GREETING,
    (Phase.GREETING, Input.CONNECTED): Phase.GREETING,
    (Phase.ACTIVE, Input.CONNECTED): Phase.GREETING,  # a reconnect of which we did not see the end
    (Phase.GREETING, Input.WELCOMED): Phase.ACTIVE,
    (Phase.ACTIVE, Input.LOST): Phase.GREETING,
    (Phase.GREETING, Input.LOST): Phase.GREETING,
    (Phase.IDLE, Input.LOST): Phase.IDLE,
    (Phase.GREETING, Input.DISCONNECTED): Phase.IDLE,
    (Phase.ACTIVE, Input.DISCONNECTED): Phase.IDLE,
    (Phase.IDLE, Input.DISCONNECTED): Phase.IDLE,
    # hub, one row of states a handshake
    (_HUB_START, Input.HELLO): Phase.GREETED,
    (Phase.GREETED, Input.READY): Phase.ACTIVE,
    # both
    (Phase.IDLE, Input.CLOSE): Phase.CLOSED,
    (Phase.GREETING, Input.CLOSE): Phase.CLOSED,
    (Phase.GREETED, Input.CLOSE): Phase.CLOSED,
    (Phase.ACTIVE, Input.CLOSE): Phase.CLOSED,
    (Phase.CLOSED, Input.CLOSE): Phase.CLOSED,
    (Phase.CLOSED, Input.CONNECTED): Phase.CLOSED,
    (Phase.CLOSED, Input.DISCONNECTED): Phase.CLOSED,
    (Phase.CLOSED, Input.LOST): Phase.CLOSED,
}


class IllegalInput(AssertionError):
    """The machine was asked for a move that its phase does not have; nothing was changed."""


def step(phase: Phase, input_: Input) -> Phase:
    """The next phase.

    Raises:
        IllegalInput: the table has no such move.
    """
    try:
        return TRANSITIONS[(phase, input_)]
    except KeyError:
        raise IllegalInput(f"{input_.value} in phase {phase.value}") from None


_VERSION = "v1"
_HEADS: dict[MessageType, bytes] = {kind: b'{"type":"%b","sender":' % kind.value.encode() for kind in MessageType}


class Session:
    """MACs and numbers of one session, seen from one of its ends."""

    __slots__ = (
        "_meta_head", "_meta_session", "_names", "_stamp", "_stamp_wall", "key_id", "me", "peer", "recv_mac",
        "recv_seq", "route", "send_mac", "send_seq", "sid", "user_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        me: str,
        peer: str,
        pair_key: bytes,
        key_id: str,
        spoke_nonce: bytes,
        hub_nonce: bytes,
        sid: str,
        version: int,
        route: bytes = b"",
        user_id: str = "",
    ) -> None:
        self.me = me
        self.peer = peer
        self.sid = sid
        self.key_id = key_id
        self.route = route
        self.user_id = user_id
        send_key = session_key(pair_key, me, peer, spoke_nonce=spoke_nonce, hub_nonce=hub_nonce, session=sid)
        recv_key = session_key(pair_key, peer, me, spoke_nonce=spoke_nonce, hub_nonce=hub_nonce, session=sid)
        self.send_mac = Mac(send_key, mac_context(me, peer, key_id, sid, version))
        self.recv_mac = Mac(recv_key, mac_context(peer, me, key_id, sid, version))
        self.send_seq = 0
        self.recv_seq = 0
        self._names = b'"%b","recipient":"%b","payload":' % (me.encode(), peer.encode())
        self._meta_head = b',"metadata":{"origin":"%b","version":"%b","timestamp":"' % (me.encode(), _VERSION.encode())
        self._meta_session = b',"session":"%b"' % sid.encode()
        self._stamp_wall = -1.0
        self._stamp = b""

    def seal(
        self,
        type_: MessageType,
        payload: bytes,
        now: Now,
        *,
        request_id: str,
        reply_to: str | None = None,
        ack: int = 0,
        traceparent: str | None = None,
    ) -> bytes:
        """The frame of our next message; takes the next number.

        Members stand in the order of ``Message.to_dict()``; the text is put together from parts that do not change,
        at a third of the cost of serialising a dict.
        """
        self.send_seq += 1
        if now.wall != self._stamp_wall:
            self._stamp_wall = now.wall
            self._stamp = iso(now.wall).encode()
        parts = [
            _HEADS[type_],
            self._names,
            payload,
            self._meta_head,
            self._stamp,
            b'","request_id":',
            orjson.dumps(request_id),
            b',"parent_request_id":',
            b"null" if reply_to is None else orjson.dumps(reply_to),
            b',"sequence_number":%d' % self.send_seq,
            self._meta_session,
        ]
        if ack:
            parts.append(b',"ack":%d' % ack)
        if traceparent is not None:
            parts += (b',"traceparent":', orjson.dumps(traceparent))
        parts.append(b"}")
        return seal_body(b"".join(parts), self.send_mac)

    def open(self, frame: bytes) -> bytes | None:
        """The verified body of a frame of the other end, or None."""
        return open_frame(frame, self.recv_mac)

    def judge(self, message: Message, now: Now, max_skew_s: float) -> None:
        """The checks after parsing, in order: identity, sequence, skew. Takes the number if all hold.

        Raises:
            Refused: ``identity``, ``sequence`` (detail ``repeated`` or ``gap``) or ``skew``.
        """
        metadata = message.metadata
        if (
            message.sender != self.peer
            or metadata.origin != self.peer
            or message.recipient != self.me
            or metadata.session != self.sid
        ):
            raise Refused("identity", "sender, origin, recipient or session is not the session's")
        number = metadata.sequence_number
        if number != self.recv_seq + 1:
            raise Refused("sequence", "repeated" if number <= self.recv_seq else "gap")
        if metadata.ack > self.send_seq:
            raise Refused("sequence", "acknowledges what was never sent")
        check_skew(metadata.timestamp, now, max_skew_s)
        self.recv_seq = number


def check_skew(timestamp: str, now: Now, max_skew_s: float) -> None:
    """
    Raises:
        Refused: ``skew``.
    """
    try:
        skew_s = abs(parse_iso(timestamp) - now.wall)
    except (ValueError, OverflowError):
        raise Refused("skew", "timestamp is not ISO 8601") from None
    if skew_s > max_skew_s:
        raise Refused("skew", f"clocks differ by {skew_s:.1f} s")
