"""The machine behind a ROUTER: many peers, each known by its session and never by its routing id."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.errors import MalformedMessage, Refused
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.crypto import NONCE_BYTES, KeySource
from a2a_zmq.protocol.handshake import Pending, Rejected, is_hello, make_welcome, read_hello, refuse_hello
from a2a_zmq.protocol.link import Link
from a2a_zmq.protocol.liveness import Liveness
from a2a_zmq.protocol.machine import LAX_ROLES, Machine
from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.protocol.outbound import CONGESTED_S, Peer
from a2a_zmq.protocol.ports import PeerInfo, PeerUp
from a2a_zmq.protocol.session import Input, Phase, Session, step
from a2a_zmq.protocol.strict import dumps
from a2a_zmq.protocol.wire import parse_message

_SESSION_ID_BYTES = 8


class Hub(Machine):
    """See :class:`~a2a_zmq.protocol.ports.Port`.

    ``welcome(peer, now)`` gives what a joining peer is told of us, ``heartbeat(peer, now)`` the payload of heartbeats,
    ``closed()`` why nobody is let in now ("" if peers may join): another process of our name does the work.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        boot: BootInfo,
        new_id: Callable[[], str],
        random_bytes: Callable[[int], bytes],
        config: PortConfig,
        welcome: Callable[[str, Now], dict[str, Any]],
        heartbeat: Callable[[str, Now], dict[str, Any]],
        closed: Callable[[], str] = lambda: "",
    ) -> None:
        super().__init__(keys, boot=boot, new_id=new_id, random_bytes=random_bytes, config=config, heartbeat=heartbeat)
        self._welcome = welcome
        self._shut = closed
        self._former: dict[bytes, tuple[Session, float]] = {}  # route → session that we ended, and when we told so
        self._routes: dict[bytes, Peer] = {}  # connections of peers that are, or were, authenticated on them
        self._gone: dict[str, None] = {}  # peers that are down, longest first
        self._pending: OrderedDict[bytes, Pending] = OrderedDict()  # answered HELLOs, oldest first

    # ------------------------------------------------------------ receiving

    def receive(self, route: bytes, frames: list[bytes], now: Now, user_id: str = "") -> None:
        self._at = self._clock.observe(now.mono)
        frame = self._one_frame(frames)
        if frame is None or self._closed:
            return
        peer = self._routes.get(route)
        if self._keys.revoked(peer.agent_id if peer is not None else "", user_id):
            if peer is not None:
                self._revoke(peer, now)
            else:
                self._refuse("revoked")
            return
        session = peer.session if peer is not None else None
        if peer is not None and session is not None:
            body = session.open(frame)
            if body is not None:
                if session.user_id != user_id:
                    self._refuse("identity", peer.agent_id, "the session was made with another CURVE key")
                    return
                self._verified(peer, session, body, frame[-66:-2].decode(), now)
                return
        pending = self._pending.get(route)
        if pending is not None:
            body = pending.session.open(frame)
            if body is not None:
                self._ready(route, pending, body, now, user_id)
                return
        if is_hello(frame):
            if len(frame) > self.config.max_hello_bytes:
                self._refuse("size", detail=f"HELLO of {len(frame)} bytes")
            else:
                self._hello(route, frame, now, user_id)
        elif session is None and pending is None:
            self._refuse("no_session", peer.agent_id if peer is not None else "")
            if peer is not None:
                self._remind(route, frame, now)
        else:
            self._refuse("signature")

    # ------------------------------------------------------------ handshake

    def _hello(self, route: bytes, frame: bytes, now: Now, user_id: str) -> None:
        """Answer a good HELLO. Nothing that is established changes: it may be a replay."""
        try:
            hello = read_hello(frame, self._keys, self.config, now, user_id)
            agent_id = hello.peer.agent_id
            obstacle = self._obstacle(hello.peer)
            if obstacle is not None:
                answer = refuse_hello(self._keys, hello, obstacle, now)
                raise Rejected(obstacle.reason, obstacle.detail, agent_id, answer)
        except Rejected as rejected:
            self._refuse(rejected.reason, rejected.agent_id, rejected.detail)
            if rejected.answer is not None:
                self.outgoing.append((route, rejected.answer))
            return
        except Refused as refused:
            self._refuse(refused.reason, detail=refused.detail)
            return
        answer, pending = make_welcome(
            self._keys,
            hello,
            self._boot,
            now,
            details=self._welcome(agent_id, now),
            heartbeat_s=self._interval_s(hello.peer.role),
            nonce=self._random_bytes(NONCE_BYTES),
            sid=self._random_bytes(_SESSION_ID_BYTES).hex(),
            route=route,
            user_id=user_id,
        )
        step(Phase.IDLE, Input.HELLO)
        self._pending[route] = pending
        self._pending.move_to_end(route)
        self._forget_pending(now)
        self.outgoing.append((route, answer))

    def _forget_pending(self, now: Now) -> None:
        """Bound what strangers can make us remember, in number and in time."""
        while self._pending:
            oldest = next(iter(self._pending.values()))
            if len(self._pending) <= self.config.max_pending and now.mono - oldest.made_at < self.config.handshake_s:
                return
            self._pending.popitem(last=False)

    def _ready(self, route: bytes, pending: Pending, body: bytes, now: Now, user_id: str) -> None:
        """The first message under the new keys proves that the HELLO was no replay: now the session counts."""
        agent_id = pending.peer.agent_id
        del self._pending[route]
        if now.mono - pending.made_at >= self.config.handshake_s:
            self._refuse("no_session", agent_id, "READY came too late")
            return
        try:
            message = parse_message(body)
            pending.session.judge(message, now, self.config.max_skew_s)
            if user_id != pending.session.user_id:
                raise Refused("identity", "HELLO and READY came with different CURVE keys")
            details = message.payload.get("details")
            if message.type is not MessageType.EVENT or message.action != "ready" or type(details) is not dict:
                raise MalformedMessage("the first message of a session is not READY")
        except MalformedMessage as error:
            self._refuse("malformed", agent_id, str(error))
            return
        except Refused as refusal:
            self._refuse(refusal.reason, agent_id, refusal.detail)
            return
        pending.peer.details = details
        obstacle = self._obstacle(pending.peer)
        if obstacle is None:
            self._activate(route, pending, now)
        else:
            # Others were faster since its HELLO. It has to greet again, and is told then.
            self._refuse(obstacle.reason, agent_id, obstacle.detail)
            self.outgoing.append((route, self._resync_frame(pending.session, obstacle.detail, now)))

    def _obstacle(self, info: PeerInfo) -> Refused | None:
        """Why this peer cannot join now. If the table of peers is full, the one that is down longest makes room."""
        why = self._shut()
        if why:
            return Refused("standby", why)
        known = self._peers.get(info.agent_id)
        if known is not None and known.info is not None:
            if known.session is not None and known.info.boot_id != info.boot_id and info.fence <= known.info.fence:
                if 0 < info.fence < known.info.fence:
                    return Refused("replaced", f"a process with fence {known.info.fence} has this name")
                # A process that was restarted has no live session: its connection ended, or its silence ends it soon.
                # So this is a second process of the same name, and two would take the session from each other for ever.
                # (One with a higher fence has replaced the first, which may not know yet.)
                where = "the same host" if known.info.host_id == info.host_id else "another host"
                return Refused("identity", f"a live process has this name: pid {known.info.pid} on {where}")
            return None
        if len(self._peers) >= self.config.max_peers:
            if not self._gone:
                return Refused("busy", "too many peers")
            self._forget(next(iter(self._gone)))
        return None

    def _forget(self, agent_id: str) -> None:
        self._gone.pop(agent_id, None)
        self._timers.cancel(("forget", agent_id))
        self._leave_route(self._peers.pop(agent_id))

    def _leave_route(self, peer: Peer) -> None:
        if self._routes.get(peer.route) is peer:
            del self._routes[peer.route]
            self._former.pop(peer.route, None)

    def _activate(self, route: bytes, pending: Pending, now: Now) -> None:
        step(Phase.GREETED, Input.READY)
        info = pending.peer
        interval_s = self._interval_s(info.role)
        timing = self._timing(info.role, interval_s)
        tenant = self._routes.get(route)
        if tenant is not None and tenant.agent_id != info.agent_id:
            # Another agent speaks on this connection now, so the former one has none.
            self._leave_route(tenant)
            self._disconnected(tenant, now)
        peer = self._peers.get(info.agent_id)
        if peer is None:
            peer = Peer(info.agent_id, info.role, Link(self.config), Liveness(timing, self._at))
            self._peers[info.agent_id] = peer
        else:
            self._leave_route(peer)
        self._replaced(peer, info, now)
        peer.life.timing = timing
        peer.beat_s = interval_s
        peer.session = pending.session
        peer.route = route
        self._routes[route] = peer
        self._timers.cancel(("forget", info.agent_id))
        self._gone.pop(info.agent_id, None)
        self._came_up(peer, now)
        self.events.append(PeerUp(info))
        self._flush(peer, now)

    # ------------------------------------------------------------ loss

    def _break(self, peer: Peer, why: str, now: Now) -> None:
        """Tell the spoke, under the keys that it still believes in, to greet again; forget the session."""
        self._say_resync(peer, why, now)
        self._drop_session(peer)

    def _say_resync(self, peer: Peer, why: str, now: Now) -> None:
        session = peer.session
        if session is not None:
            self.outgoing.append((session.route, self._resync_frame(session, why, now)))
            self._former[session.route] = (session, now.mono)

    def _resync_frame(self, session: Session, why: str, now: Now) -> bytes:
        data = dumps({"action": "resync", "code": "RESYNC", "message": why})
        return session.seal(MessageType.ERROR, data, now, request_id=self._new_id())

    def _remind(self, route: bytes, frame: bytes, now: Now) -> None:
        """A spoke goes on in a session that we ended: what told it so was lost. Tell it again, not too often."""
        session, told_at = self._former.get(route, (None, 0.0))
        if session is None or now.mono - told_at < self.config.hello_retry_min_s or session.open(frame) is None:
            return
        self._former[route] = (session, now.mono)
        self.outgoing.append((route, self._resync_frame(session, "no session", now)))

    def _ended(self, peer: Peer, reason: str, now: Now) -> None:
        if reason == "silence":
            # Its connection stands: when it wakes it finds this, and greets at once instead of waiting for us.
            self._say_resync(peer, reason, now)
        self._drop_session(peer)
        if peer.role is Role.WORKER or peer.role in LAX_ROLES:
            # A worker's tasks go to others now: assignments that it never acknowledged must not reach it when it comes
            # back. A client asks anew for all that it waits for; mostly it never comes back, and what it did not take
            # can be many megabytes.
            peer.link.drop()
        self._gone[peer.agent_id] = None
        if reason == "goodbye" and peer.role in LAX_ROLES:
            self._forget(peer.agent_id)  # the next client process has another name
        else:
            self._timers.arm(("forget", peer.agent_id), now.mono + self.config.forget_s)

    def _timer(self, kind: str, agent_id: str, now: Now) -> None:
        if kind == "forget" and agent_id in self._gone:
            self._forget(agent_id)

    # ------------------------------------------------------------ the transport

    def connected(self, now: Now) -> None:
        """A hub waits for HELLO; connections mean nothing to it."""

    def disconnected(self, route: bytes, now: Now) -> None:
        self._at = self._clock.observe(now.mono)
        self._pending.pop(route, None)
        self._former.pop(route, None)
        peer = self._routes.pop(route, None)
        if peer is not None and not self._closed:
            self._disconnected(peer, now)

    def undeliverable(self, route: bytes, frame: bytes, reason: str, now: Now) -> None:
        peer = self._routes.get(route)
        if reason == "full":
            if peer is not None:
                peer.congested_until = now.mono + CONGESTED_S
            return
        self._refuse(reason, peer.agent_id if peer is not None else "")
        self.disconnected(route, now)
