"""What hub and spoke have in common: the checks within a session, liveness, the passing of time.

Everything here is about *established* peers. How a session comes about and what follows its loss differ between
the two ends and are in :mod:`hub` and :mod:`spoke`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.errors import Busy, MalformedMessage, Refused
from a2a_zmq.protocol import authz
from a2a_zmq.protocol.link import Entry
from a2a_zmq.protocol.liveness import Timing, Verdict
from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.protocol.outbound import Outbound, Peer
from a2a_zmq.protocol.ports import PeerDown, PeerInfo, PeerSuspect, ProbeWanted, Received, WatchWanted
from a2a_zmq.protocol.session import Session
from a2a_zmq.protocol.strict import dumps
from a2a_zmq.protocol.wire import parse_message, salvage_metadata

LAX_ROLES = frozenset({Role.CLIENT, Role.OPERATOR})

_SOON_S = 0.001
# Two heartbeats are never closer than this part of an interval, and so never farther apart than 1.25 intervals.
_BEATS_APART = 0.25
_UNACKNOWLEDGED = frozenset({MessageType.HEARTBEAT, MessageType.ACK})
_NEVER_ANSWERED = frozenset({MessageType.HEARTBEAT, MessageType.ACK, MessageType.ERROR})


class Machine(Outbound, ABC):
    """Common part of the two ports; :class:`~a2a_zmq.protocol.ports.Port` has the contract of the public methods."""

    # ------------------------------------------------------------ what the ends do differently

    @abstractmethod
    def _break(self, peer: Peer, why: str, now: Now) -> None:
        """The row of numbers is broken: end the session so that a new one is made at once."""

    @abstractmethod
    def _ended(self, peer: Peer, reason: str, now: Now) -> None:
        """The peer is down and has no session any more."""

    @abstractmethod
    def _timer(self, kind: str, agent_id: str, now: Now) -> None:
        """A timer of this end's own."""

    def _resync_wanted(self, peer: Peer, now: Now) -> bool:
        """The other end asks for a new session (only a hub may)."""
        return False

    # ------------------------------------------------------------ receiving

    def _one_frame(self, frames: list[bytes]) -> bytes | None:
        """The first two checks: frame count and size."""
        if len(frames) != 1:
            self._refuse("frames", detail=f"{len(frames)} frames")
            return None
        if len(frames[0]) > self.config.max_frame_bytes:
            self._refuse("size", detail=f"{len(frames[0])} bytes")
            return None
        return frames[0]

    def _verified(self, peer: Peer, session: Session, body: bytes, signature: str, now: Now) -> None:
        """A frame of the session, its signature verified: the checks from parsing on, then its effect."""
        try:
            message = parse_message(body, signature)
            session.judge(message, now, self.config.max_skew_s)
        except MalformedMessage as error:
            self._malformed(peer, session, body, str(error), now)
            return
        except Refused as refusal:
            self._refuse(refusal.reason, peer.agent_id, refusal.detail)
            if refusal.reason != "identity" and refusal.detail != "repeated":
                self._break(peer, refusal.detail, now)
            return
        peer.life.heard(self._at)
        metadata, link, kind = message.metadata, peer.link, message.type
        if metadata.ack:
            link.acknowledged(metadata.ack)
        action = message.action
        if not authz.allowed(peer.role, self.role, kind, action):
            self._forbidden(peer, kind, action, metadata.request_id, now)
        elif kind is MessageType.HEARTBEAT:
            self.events.append(Received(peer.agent_id, peer.role, message))
        elif kind is MessageType.EVENT and action == "goodbye":
            self._down(peer, peer.life.died(self._at, "goodbye"), now)
            return
        elif kind is MessageType.ERROR and message.payload.get("code") == "RESYNC" and self._resync_wanted(peer, now):
            return
        elif kind is not MessageType.ACK and link.received(metadata.sequence_number, metadata.request_id):
            self.events.append(Received(peer.agent_id, peer.role, message))
        if link.untold:
            self._owing[peer.agent_id] = peer
        self._flush(peer, now)

    def _malformed(self, peer: Peer, session: Session, body: bytes, why: str, now: Now) -> None:
        """An authentic peer sent what we cannot take: take its number, so that it is not sent again for ever."""
        metadata = salvage_metadata(body)
        self._refuse("malformed", peer.agent_id, why)
        if metadata is None or metadata.session != session.sid or metadata.sequence_number > session.recv_seq + 1:
            self._break(peer, "malformed", now)
            return
        if metadata.sequence_number <= session.recv_seq:
            return
        session.recv_seq = metadata.sequence_number
        peer.life.heard(self._at)
        peer.link.acknowledged(min(metadata.ack, session.send_seq))
        peer.link.received(metadata.sequence_number, metadata.request_id)
        self._owing[peer.agent_id] = peer
        if not body.startswith(b'{"type":"error"'):
            payload = {"action": "", "code": "MALFORMED", "message": why}
            self._answer_error(peer, metadata.request_id, payload, now)
        self._flush(peer, now)

    def _forbidden(self, peer: Peer, kind: MessageType, action: str, request_id: str, now: Now) -> None:
        self._refuse("forbidden", peer.agent_id, f"{peer.role} {kind} {action}")
        session = peer.session
        assert session is not None
        if kind in _UNACKNOWLEDGED:
            return
        # It is refused again if it is repeated; noting its number is what gets it acknowledged.
        peer.link.received(session.recv_seq, request_id)
        if kind not in _NEVER_ANSWERED:
            code = "FORBIDDEN" if action in authz.ACTIONS else "UNKNOWN_ACTION"
            text = f"a {peer.role} may not send {kind} {action!r} to a {self.role}"
            self._answer_error(peer, request_id, {"action": action, "code": code, "message": text}, now)

    def _answer_error(self, peer: Peer, request_id: str, payload: dict[str, Any], now: Now) -> None:
        try:
            self.send(peer.agent_id, MessageType.ERROR, payload, now, reply_to=request_id)
        except Busy:
            self._refuse("overflow", peer.agent_id, f"no room to answer {payload['code']}")

    # ------------------------------------------------------------ liveness

    def _timing(self, role: Role, interval_s: float) -> Timing:
        """How patient to be with a peer of this role that sends a heartbeat every ``interval_s``."""
        config = self.config
        if role in LAX_ROLES:
            return Timing(config.lax_dead_s, config.lax_dead_s, config.lax_dead_s, quiet=True)
        return Timing(max(config.suspect_s, 2.5 * interval_s), max(config.dead_s, 4 * interval_s), config.grace_s)

    def _interval_s(self, role: Role) -> float:
        return self.config.lax_heartbeat_s if role in LAX_ROLES else self.config.heartbeat_s

    def _came_up(self, peer: Peer, now: Now) -> None:
        """A session was made: start its heartbeats and its watch."""
        peer.up = True
        peer.life.renewed(self._at)
        peer.congested_until = 0.0
        self._timers.arm(("beat", peer.agent_id), self._next_beat(peer, now))
        self._watch(peer, now)
        info = peer.info
        if info is not None and info.life_fd and self._is_neighbour(info):
            wanted = WatchWanted(peer.agent_id, info.boot_id, info.pid, info.start_time, info.life_fd)
            self.events.append(wanted)

    def _is_neighbour(self, info: PeerInfo | None) -> bool:
        """Whether the peer is a process of our own host, which the operating system can be asked about."""
        return info is not None and info.pid > 0 and bool(info.host_id) and info.host_id == self._boot.host_id

    def _replaced(self, peer: Peer, info: PeerInfo, now: Now) -> None:
        """Take over the new session's account of the peer: a new boot id proves that the former process is gone."""
        info.restarted = peer.info is not None and peer.info.boot_id != info.boot_id
        if info.restarted:
            if peer.up:
                self.events.append(PeerDown(peer.agent_id, peer.role, "exited", round(peer.life.silent_s(self._at), 6)))
            peer.link.drop()
        else:
            peer.link.reset()
        self._owing.pop(peer.agent_id, None)
        peer.info = info
        peer.role = info.role

    def _watch(self, peer: Peer, now: Now) -> None:
        due = peer.life.due()
        if due == math.inf:
            self._timers.cancel(("life", peer.agent_id))
        else:
            # Never now: rounding between the two clocks could make a check come up again and again in one tick.
            self._timers.arm(("life", peer.agent_id), now.mono + max(_SOON_S, due - self._at))

    def _check_life(self, peer: Peer, now: Now) -> None:
        if not peer.life.back(self._clock.back_at):
            peer.life.spared(self._clock.anew_at)
        if now.mono < self._clock.hold_until and not peer.life.back(self._clock.back_at):
            self._judge(peer, peer.life.look(self._at), now)
            look_in_s = max(_SOON_S, min(self.config.heartbeat_s, peer.life.look_due() - self._at))
            self._timers.arm(("life", peer.agent_id), min(self._clock.hold_until, now.mono + look_in_s))
            return
        self._judge(peer, peer.life.check(self._at), now)
        self._watch(peer, now)

    def _judge(self, peer: Peer, verdicts: list[Verdict], now: Now) -> None:
        for verdict in verdicts:
            if verdict.what == "suspect":
                if peer.up:
                    self.events.append(PeerSuspect(peer.agent_id, verdict.reason))
            elif verdict.what == "probe":
                if peer.info is not None:
                    self.events.append(ProbeWanted(peer.agent_id, peer.info.pid, peer.info.start_time))
            else:
                self._down(peer, verdict, now)

    def _disconnected(self, peer: Peer, now: Now) -> None:
        """The connection of a peer's session ended."""
        self._drop_session(peer)
        if not peer.up:
            return
        self._judge(peer, peer.life.broke(self._at, can_probe=self._is_neighbour(peer.info)), now)
        self._judge(peer, peer.life.check(self._at), now)
        self._watch(peer, now)

    def _down(self, peer: Peer, verdict: Verdict, now: Now) -> None:
        """The peer is taken for dead: no session, no watch; if it comes back it has to say HELLO."""
        was_up, peer.up = peer.up, False
        if was_up:
            self.events.append(PeerDown(peer.agent_id, peer.role, verdict.reason, round(verdict.silent_s, 6)))
            if peer.info is not None and peer.info.life_fd:
                self.events.append(WatchWanted(peer.agent_id))
        self._timers.cancel(("life", peer.agent_id))
        self._ended(peer, verdict.reason, now)

    def _revoke(self, peer: Peer, now: Now) -> None:
        self._refuse("revoked", peer.agent_id)
        if peer.up:
            self._down(peer, peer.life.died(self._at, "revoked"), now)

    def probed(self, agent_id: str, *, gone: bool, now: Now) -> None:
        self._at = self._clock.observe(now.mono)
        peer = self._peers.get(agent_id)
        if peer is not None and peer.up:
            self._judge(peer, peer.life.probed(self._at, gone=gone), now)
            self._watch(peer, now)

    def exited(self, agent_id: str, boot_id: str, now: Now) -> None:
        self._at = self._clock.observe(now.mono)
        peer = self._peers.get(agent_id)
        if peer is not None and peer.up and peer.info is not None and peer.info.boot_id == boot_id:
            self._down(peer, peer.life.died(self._at, "exited"), now)

    # ------------------------------------------------------------ time

    def tick(self, now: Now) -> None:
        self._at = self._clock.observe(now.mono)
        self._ticked_at = now.mono
        if self._closed:
            return
        while (key := self._timers.pop_due(now.mono)) is not None:
            kind, agent_id = key
            peer = self._peers.get(agent_id)
            if peer is not None and kind == "beat":
                self._beat(peer, now)
            elif peer is not None and kind == "life":
                self._check_life(peer, now)
            elif peer is not None and kind == "ack":
                self._send_ack(peer, now)
            else:
                self._timer(kind, agent_id, now)

    def _beat(self, peer: Peer, now: Now) -> None:
        if peer.session is None:
            return
        if self._keys.revoked(peer.agent_id, peer.session.user_id):
            self._revoke(peer, now)
            return
        data = dumps({"action": "heartbeat", **self._heartbeat(peer.agent_id, now)})
        self._casual(peer, Entry(MessageType.HEARTBEAT, data, self._new_id()), now)
        self._timers.arm(("beat", peer.agent_id), self._next_beat(peer, now))
        self._watch(peer, now)  # puts the look at a peer that lives off again, so that it costs no wake-up

    def _next_beat(self, peer: Peer, now: Now) -> float:
        """Beats to all peers fall on the same instants, so that one wake-up serves them; processes differ in theirs."""
        beats = math.ceil((now.mono - self._beat_phase_s) / peer.beat_s + _BEATS_APART)
        return self._beat_phase_s + beats * peer.beat_s

    def next_deadline(self) -> float:
        deadline = self._timers.next()
        if self._closed or not self._watching():
            return deadline
        # The detector wants to be driven this often: what is longer counts as its own pause.
        return min(deadline, self._ticked_at + self.config.heartbeat_s)

    def _watching(self) -> bool:
        return any(peer.up for peer in self._peers.values())

    def close(self, now: Now) -> None:
        for peer in self._peers.values():
            if peer.session is not None:
                data = b'{"action":"goodbye","reason":"closing"}'
                self._say(peer, peer.session, MessageType.EVENT, data, now)
                self._drop_session(peer)
            peer.up = False
        self._closed = True
