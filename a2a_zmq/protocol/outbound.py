"""The sending half of a port: peers, outboxes, sealing, acknowledgements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

from a2a_zmq.clock import Now
from a2a_zmq.errors import Busy, MalformedMessage, Refused
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.crypto import KeySource
from a2a_zmq.protocol.link import Backlog, Entry, Link
from a2a_zmq.protocol.liveness import AttentiveClock, Liveness
from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.protocol.ports import Marks, PeerInfo, PortEvent, Received, Refusal
from a2a_zmq.protocol.session import Session
from a2a_zmq.protocol.strict import dumps
from a2a_zmq.protocol.timers import Timers
from a2a_zmq.protocol.wire import MAX_ID_CHARS

# These count as signature failures: somebody is not who, or not what, a message says. The rest are routing errors.
SIGNATURE_REASONS = frozenset({"signature", "identity", "sequence", "skew", "revoked", "token", "malformed"})
# Envelope, metadata and tail at their longest (two agent ids of 80, three ids of 128 characters, each in quotes …).
ENVELOPE_BYTES = 2048
# Heartbeats and acknowledgements are left out for so long after a socket's queue was found full.
CONGESTED_S = 0.05


class Peer:
    """One peer and all that is kept for it."""

    __slots__ = ("agent_id", "beat_s", "congested_until", "info", "life", "link", "role", "route", "session", "up")

    def __init__(self, agent_id: str, role: Role, link: Link, life: Liveness) -> None:
        self.agent_id = agent_id
        self.role = role
        self.link = link
        self.life = life
        self.info: PeerInfo | None = None
        self.session: Session | None = None
        self.route = b""
        self.up = False
        self.beat_s = 0.0
        self.congested_until = 0.0


class Outbound:
    """See the module; :class:`~a2a_zmq.protocol.machine.Machine` is the other half."""

    def __init__(
        self,
        keys: KeySource,
        *,
        boot: BootInfo,
        new_id: Callable[[], str],
        random_bytes: Callable[[int], bytes],
        config: PortConfig,
        heartbeat: Callable[[str, Now], dict[str, Any]],
    ) -> None:
        self.outgoing: list[tuple[bytes, bytes]] = []
        self.events: list[PortEvent] = []
        self.agent_id = keys.agent_id
        self.role = keys.role
        self.config = config
        self._keys = keys
        self._boot = boot
        self._new_id = new_id
        self._random_bytes = random_bytes
        self._heartbeat = heartbeat
        self._peers: dict[str, Peer] = {}
        self._owing: dict[str, Peer] = {}  # peers with messages that are not acknowledged yet
        self._timers = Timers()
        self._clock = AttentiveClock(config.heartbeat_s)
        self._beat_phase_s = crc32(boot.boot_id.encode()) / 2**32 * config.heartbeat_s
        self._ticked_at = 0.0
        self._at = 0.0  # attentive time of the call that is being handled
        self._closed = False

    # ------------------------------------------------------------ peers

    def peers(self) -> list[PeerInfo]:
        """Peers that are up."""
        return [peer.info for peer in self._peers.values() if peer.up and peer.info is not None]

    def peer(self, agent_id: str) -> PeerInfo | None:
        """A peer that is up."""
        peer = self._peers.get(agent_id)
        return peer.info if peer is not None and peer.up else None

    def backlog(self, agent_id: str) -> Backlog:
        """What waits in the outbox of a peer."""
        peer = self._peers.get(agent_id)
        return peer.link.backlog() if peer is not None else Backlog(0, 0, 0)

    def room(self, peer: str) -> int:
        known = self._peers.get(peer)
        return max(0, known.link.room()) if known is not None else 0

    def unacknowledged(self) -> bool:
        return any(peer.link.backlog().messages for peer in self._peers.values())

    def _refuse(self, reason: str, agent_id: str = "", detail: str = "") -> None:
        kind = "signature" if reason in SIGNATURE_REASONS else "routing"
        self.events.append(Refusal(kind, reason, agent_id, detail))

    # ------------------------------------------------------------ sending

    def send(
        self,
        peer: str,
        type_: MessageType,
        payload: dict[str, Any],
        now: Now,
        *,
        reply_to: str | None = None,
        reliable: bool = True,
        bulk: bool = False,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> str:
        known = self._peers.get(peer)
        if known is None:
            raise Refused("unroutable", peer)
        data = dumps(payload)
        if len(data) + ENVELOPE_BYTES > self.config.max_frame_bytes:
            raise MalformedMessage(f"{len(data)} bytes of payload are more than a frame takes")
        if request_id is None:
            request_id = self._new_id()
        elif not 0 < len(request_id) <= MAX_ID_CHARS:
            raise MalformedMessage("request_id has a bad length")
        entry = Entry(type_, data, request_id, reply_to, traceparent)
        if bulk:
            self._bulk(known, entry, now)
        elif reliable:
            known.link.offer(entry)
            self._flush(known, now)
        else:
            self._casual(known, entry, now)
        return request_id

    def _casual(self, peer: Peer, entry: Entry, now: Now) -> None:
        """Send unreliably: nothing is kept, and a queue that is full already gets nothing more."""
        if peer.session is not None and now.mono >= peer.congested_until:
            self._transmit(peer, peer.session, entry, now)

    def _bulk(self, peer: Peer, entry: Entry, now: Now) -> None:
        if peer.session is None or now.mono < peer.congested_until or not peer.link.takes_bulk():
            raise Busy("bulk", self.config.busy_retry_s)
        self._transmit(peer, peer.session, entry, now)
        peer.link.sent_bulk(entry)

    def _say(self, peer: Peer, session: Session, type_: MessageType, data: bytes, now: Now) -> None:
        """Send what keeps, opens or ends the session itself."""
        self._transmit(peer, session, Entry(type_, data, self._new_id()), now)

    def _transmit(self, peer: Peer, session: Session, entry: Entry, now: Now) -> None:
        """Seal with the next number, and with everything that is to be acknowledged."""
        link = peer.link
        if link.taken != link.told:
            link.tell()
            self._timers.cancel(("ack", peer.agent_id))
            if not link.untold:
                self._owing.pop(peer.agent_id, None)
        frame = session.seal(
            entry.type,
            entry.payload,
            now,
            request_id=entry.request_id,
            reply_to=entry.reply_to,
            ack=link.told,
            traceparent=entry.traceparent,
        )
        entry.seq = session.send_seq
        self.outgoing.append((session.route, frame))

    def _flush(self, peer: Peer, now: Now) -> None:
        """Put on its way what the window has room for."""
        session = peer.session
        if session is None:
            return
        while (entry := peer.link.next()) is not None:
            self._transmit(peer, session, entry, now)

    # ------------------------------------------------------------ acknowledgements

    def marks(self) -> Marks:
        if not self._owing:
            return {}
        # Only peers with something to acknowledge: the cost does not grow with those that are silent.
        marks = {
            agent_id: (peer.session.sid, peer.session.recv_seq)
            for agent_id, peer in self._owing.items()
            if peer.session is not None
        }
        for event in self.events:  # not handed over yet
            if isinstance(event, Received) and event.peer in marks:
                sid, seq = marks[event.peer]
                metadata = event.message.metadata
                if metadata.session == sid:
                    marks[event.peer] = (sid, min(seq, metadata.sequence_number - 1))
        return marks

    def acknowledge(self, marks: Marks, now: Now) -> None:
        for agent_id, (sid, seq) in marks.items():
            peer = self._peers.get(agent_id)
            if peer is None or peer.session is None or peer.session.sid != sid:
                continue  # that session is over: its messages come again and are acknowledged then
            peer.link.take(seq)
            if peer.link.owes_many:
                self._send_ack(peer, now)
            elif peer.link.owes_ack:
                self._timers.arm_sooner(("ack", agent_id), now.mono + self.config.ack_delay_s)

    def _send_ack(self, peer: Peer, now: Now) -> None:
        if peer.session is None or not peer.link.owes_ack:
            return
        if now.mono < peer.congested_until:
            self._timers.arm_sooner(("ack", peer.agent_id), peer.congested_until)
            return
        self._say(peer, peer.session, MessageType.ACK, b'{"action":"ack"}', now)

    def _drop_session(self, peer: Peer) -> None:
        """The session is over; what was on its way will be sent again in the next one."""
        peer.session = None
        peer.link.reset()
        self._owing.pop(peer.agent_id, None)
        self._timers.cancel(("ack", peer.agent_id))
        self._timers.cancel(("beat", peer.agent_id))
