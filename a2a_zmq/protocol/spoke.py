"""The machine behind a DEALER: one peer, the hub, greeted whenever there is a connection and no session."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from a2a_zmq.clock import Now
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.crypto import NONCE_BYTES, KeySource
from a2a_zmq.protocol.handshake import Greeting, Rejected, Welcome, make_hello, read_welcome
from a2a_zmq.protocol.link import Link
from a2a_zmq.protocol.liveness import Liveness
from a2a_zmq.protocol.machine import Machine
from a2a_zmq.protocol.message import MessageType, Role
from a2a_zmq.protocol.outbound import CONGESTED_S, ENVELOPE_BYTES, Peer
from a2a_zmq.protocol.ports import PeerUp
from a2a_zmq.protocol.retry import equal_jitter
from a2a_zmq.protocol.session import Input, Phase, Session, step
from a2a_zmq.protocol.strict import dumps

# Answers to HELLOs that we gave up on are recognised, so that a hub that wakes from a pause does not look like a
# forger.
_GREETINGS_KEPT = 8
# So are frames of sessions that we gave up: a hub that wakes may give up none of them before it has read our READY.
_FORMER_KEPT = 4
# How soon we look again whether we may greet.
_SHUT_S = 0.1


class Spoke(Machine):
    """See :class:`~a2a_zmq.protocol.ports.Port`.

    ``announce(now)`` gives what the hub is told of us in every new session, ``heartbeat(peer, now)`` the payload of
    heartbeats. Reliable messages may be sent before there is a session; they wait in the outbox. ``claim()`` is
    the fence with which we act in our name, 0 where there is none; while it is None the hub is not greeted, because
    another process of our name acts.

    Attributes:
        obstacle: why the hub, or we, refused the last attempt to make a session on this connection; else "".
        shut: we greet nobody now (see ``claim``).
        refused: the reason's name where the hub refused our last HELLO, "" if it did not.
    """

    def __init__(
        self,
        keys: KeySource,
        peer: str,
        *,
        boot: BootInfo,
        new_id: Callable[[], str],
        random_bytes: Callable[[int], bytes],
        config: PortConfig,
        announce: Callable[[Now], dict[str, Any]],
        heartbeat: Callable[[str, Now], dict[str, Any]],
        claim: Callable[[], int | None] = lambda: 0,
        peer_role: Role = Role.COORDINATOR,
    ) -> None:
        """
        Args:
            peer: the hub's agent id.
            peer_role: the hub's role as long as it has not said it.
        """
        super().__init__(keys, boot=boot, new_id=new_id, random_bytes=random_bytes, config=config, heartbeat=heartbeat)
        self.phase = Phase.IDLE
        self.refused = ""
        self._announce = announce
        self._claim = claim
        timing = self._timing(peer_role, config.heartbeat_s)
        self._hub = Peer(peer, peer_role, Link(config), Liveness(timing, 0.0))
        self._peers[peer] = self._hub
        self._greetings: deque[Greeting] = deque(maxlen=_GREETINGS_KEPT)
        self._attempt = 0
        self._greeted_at = float("-inf")
        self._former: deque[Session] = deque(maxlen=_FORMER_KEPT)
        self.obstacle = ""
        self.shut = False

    # ------------------------------------------------------------ receiving

    def receive(self, route: bytes, frames: list[bytes], now: Now, user_id: str = "") -> None:
        self._at = self._clock.observe(now.mono)
        frame = self._one_frame(frames)
        if frame is None or self._closed:
            return
        hub = self._hub
        session = hub.session
        # Without a session the answer to HELLO is judged by the keys of now: a hub that was admitted again has others.
        if session is not None and self._keys.revoked(hub.agent_id, user_id):
            self._revoke(hub, now)
            return
        if session is not None:
            body = session.open(frame)
            if body is not None:
                # The hub has read our READY, and frames keep their order: what still came of a former session is a
                # replay.
                self._former.clear()
                self._verified(hub, session, body, frame[-66:-2].decode(), now)
                return
        if self._answered(frame, now, user_id):
            return
        if any(former.open(frame) is not None for former in self._former):
            return  # sent before the hub knew that we gave up that session: not counted, and of no effect
        self._refuse("signature" if session is not None or self._greetings else "no_session")

    def _answered(self, frame: bytes, now: Now, user_id: str) -> bool:
        """Whether the frame is the answer to a HELLO of ours; the newest one's is acted upon."""
        for age, greeting in enumerate(reversed(self._greetings)):
            try:
                welcome = read_welcome(
                    frame, self._keys, self._hub.agent_id, greeting, config=self.config, now=now, user_id=user_id
                )
            except Rejected as rejected:
                if age == 0:
                    self.obstacle = rejected.detail or rejected.reason
                    self._rejected(rejected, now)
                return True
            if welcome is not None:
                if age == 0:
                    self._welcomed(welcome, now)
                return True
        return False

    def _rejected(self, rejected: Rejected, now: Now) -> None:
        self.refused = rejected.reason
        self._refuse(rejected.reason, rejected.agent_id, rejected.detail)
        if rejected.reason == "standby":  # it may take the work over at any moment
            self._attempt = 0
            self._timers.arm(("hello", self._hub.agent_id), now.mono + self.config.hello_retry_min_s)

    # ------------------------------------------------------------ handshake

    def _say_hello(self, now: Now) -> None:
        hub = self._hub.agent_id
        fence = self._claim()
        self.shut = fence is None
        if fence is None:
            self._timers.arm(("hello", hub), now.mono + _SHUT_S)
            return
        greeting = make_hello(
            self._keys,
            hub,
            self._boot,
            now,
            attempt=self._attempt,
            fence=fence,
            new_id=self._new_id,
            nonce=self._random_bytes(NONCE_BYTES),
        )
        self._attempt += 1
        self._greeted_at = now.mono
        delay_s = equal_jitter(
            self._attempt, base_s=self.config.hello_retry_min_s, cap_s=self.config.hello_retry_max_s, rng=self._chance
        )
        self._timers.arm(("hello", hub), now.mono + delay_s)
        if greeting is None:
            self.obstacle = f"there are no keys to greet {hub} with"
            self._refuse("token", hub, self.obstacle)
            return
        self._greetings.append(greeting)
        self.outgoing.append((b"", greeting.frame))

    def _chance(self) -> float:
        return int.from_bytes(self._random_bytes(4)) / 2**32

    def _hello_soon(self, now: Now) -> None:
        """Greet at once, but not again and again: a hub that ends every session must not be flooded."""
        earliest = self._greeted_at + self.config.hello_retry_min_s
        if now.mono >= earliest:
            self._say_hello(now)
        else:
            self._timers.arm(("hello", self._hub.agent_id), earliest)

    def _welcomed(self, welcome: Welcome, now: Now) -> None:
        hub = self._hub
        ready = dumps({"action": "ready", "details": self._announce(now)})
        if len(ready) + ENVELOPE_BYTES > self.config.max_frame_bytes:
            # The transport would end the connection for it, again and again, and say nothing. It may become shorter.
            self.obstacle = (
                f"what we hold and can do takes {len(ready)} bytes to tell {hub.agent_id}, more than a frame"
            )
            self._refuse("size", hub.agent_id, self.obstacle)
            return
        self.phase = step(self.phase, Input.WELCOMED)
        self._greetings.clear()
        self._attempt = 0
        self.obstacle = self.refused = ""
        self._timers.cancel(("hello", hub.agent_id))
        self._replaced(hub, welcome.peer, now)
        hub.life.timing = self._timing(welcome.peer.role, welcome.heartbeat_s)
        hub.beat_s = welcome.heartbeat_s
        hub.session = welcome.session
        self._say(hub, welcome.session, MessageType.EVENT, ready, now)
        self._came_up(hub, now)
        self.events.append(PeerUp(welcome.peer))
        self._flush(hub, now)

    # ------------------------------------------------------------ loss

    def _lose(self, now: Now) -> None:
        """No session any more, though the connection may stand."""
        if self._hub.session is not None:
            self._former.append(self._hub.session)
        self._drop_session(self._hub)
        self.phase = step(self.phase, Input.LOST)
        if self.phase is Phase.GREETING:
            self._hello_soon(now)

    def _break(self, peer: Peer, why: str, now: Now) -> None:
        self._lose(now)

    def _ended(self, peer: Peer, reason: str, now: Now) -> None:
        self._lose(now)

    def _resync_wanted(self, peer: Peer, now: Now) -> bool:
        self._lose(now)
        return True

    def _timer(self, kind: str, agent_id: str, now: Now) -> None:
        if kind == "hello" and self.phase is Phase.GREETING:
            self._say_hello(now)

    # ------------------------------------------------------------ the transport

    def connected(self, now: Now) -> None:
        self._at = self._clock.observe(now.mono)
        if self._closed:
            return
        if self._hub.session is not None:
            self._disconnected(self._hub, now)
        self.phase = step(self.phase, Input.CONNECTED)
        self._greetings.clear()
        self._former.clear()
        self._attempt = 0
        self._say_hello(now)

    def disconnected(self, route: bytes, now: Now) -> None:
        self._at = self._clock.observe(now.mono)
        if self._closed:
            return
        self.phase = step(self.phase, Input.DISCONNECTED)
        self._greetings.clear()
        self._former.clear()
        self.obstacle = ""
        self._timers.cancel(("hello", self._hub.agent_id))
        self._disconnected(self._hub, now)

    def undeliverable(self, route: bytes, frame: bytes, reason: str, now: Now) -> None:
        if reason == "full":
            self._hub.congested_until = now.mono + CONGESTED_S
            return
        self._refuse(reason, self._hub.agent_id)
        self._lose(now)

    def close(self, now: Now) -> None:
        super().close(now)
        self.phase = step(self.phase, Input.CLOSE)
