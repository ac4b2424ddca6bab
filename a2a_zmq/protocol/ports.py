"""What a port is: the pure protocol machine of one socket, and the events it reports.

A *hub* is the machine behind a ROUTER (many peers), a *spoke* the one behind a DEALER (one peer). Both are pure:
frames and socket events go in as method calls with ``now``; frames to transmit and :data:`PortEvent` objects pile up in
``outgoing`` and ``events`` until the owner takes them. Sessions, the order of checks, acknowledgements, the outbox
and liveness are inside; what the messages *mean* is the role core's.

Acknowledgement contract: receiving a reliable message does not acknowledge it. The owner takes
:meth:`Port.marks` when it cuts a batch, makes the batch durable, then calls :meth:`Port.acknowledge` with these marks.
So an acknowledgement always means "durable at the receiver, or in no need of it".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import Message, MessageType, Role


@dataclass(slots=True)
class PeerInfo:
    """An authenticated peer.

    Attributes:
        boot_id: fresh for every start of the peer's process.
        host_id: equal for processes between which a pid is meaningful (kernel boot id and pid namespace).
        pid, start_time: the peer's process and its start time in clock ticks (``/proc/PID/stat``), 0 if unknown.
        fence: with which it acts in its name, 0 if it has none.
        life_fd: descriptor of the process that a watcher on the same host can learn of its death from, 0 if none.
        details: what the peer said of itself: a spoke's ``announce`` payload, or a hub's ``welcome`` payload.
        restarted: True if this agent was known before with another boot id; its unacknowledged outbox was
            dropped then, because the new process has no memory of what the old one handled.
    """

    agent_id: str
    role: Role
    boot_id: str = ""
    host_id: str = ""
    pid: int = 0
    start_time: int = 0
    fence: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    restarted: bool = False
    life_fd: int = 0


@dataclass(slots=True)
class PeerUp:
    """A session is established (first time, after a reconnect, or after a restart: see ``peer.restarted``)."""

    peer: PeerInfo


@dataclass(slots=True)
class PeerSuspect:
    """The connection broke or heartbeats are late; the peer may still come back within the grace."""

    agent_id: str
    reason: str  # "disconnect" | "silence"


GOODBYE: Final = "goodbye"
# Ends of a session by which nobody is lost: it said good-bye, or somebody shut it out on purpose.
LEFT = frozenset({GOODBYE, "revoked"})


@dataclass(slots=True)
class PeerDown:
    """The peer is taken for dead (or said good-bye).

    Attributes:
        reason: ``exited`` (proof of death), ``disconnect`` (did not come back within the grace), ``silence``,
            ``goodbye``, ``revoked``.
        silent_s: seconds between the last sign of life and this verdict.
    """

    agent_id: str
    role: Role
    reason: str
    silent_s: float


@dataclass(slots=True)
class Received:
    """A verified, authorised, first-time message of an established session."""

    peer: str
    role: Role
    message: Message


@dataclass(slots=True)
class ProbeWanted:
    """Ask the operating system whether this process is still there; answer with :meth:`Port.probed`."""

    agent_id: str
    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class WatchWanted:
    """Watch this process, and no other of the agent's, and say :meth:`Port.exited` when it dies; pid 0: watch none."""

    agent_id: str
    boot_id: str = ""
    pid: int = 0
    start_time: int = 0
    life_fd: int = 0


@dataclass(slots=True)
class Refusal:
    """A frame was refused; for metrics and the audit history. Never answered if unauthenticated.

    Attributes:
        kind: ``signature`` (counts in ``a2a_signature_failures_total``) or ``routing`` (``a2a_routing_errors_total``).
        reason: kind ``signature``: ``signature``, ``identity``, ``sequence``, ``skew``, ``revoked``, ``token``,
            ``malformed``; kind ``routing``: ``frames``, ``size``, ``no_session``, ``forbidden``, ``version``,
            ``standby``, ``replaced``, ``busy``, ``overflow``, ``unroutable``.
        agent_id: who, as far as authenticated; else empty.
    """

    kind: str
    reason: str
    agent_id: str = ""
    detail: str = ""


PortEvent = PeerUp | PeerSuspect | PeerDown | Received | ProbeWanted | WatchWanted | Refusal
Marks = dict[str, tuple[str, int]]  # agent id → (session id, highest sequence number handed to the owner)


class Port(Protocol):
    """Common face of hub and spoke."""

    outgoing: list[tuple[bytes, bytes]]  # (route, frame); the route is b"" for a spoke
    events: list[PortEvent]

    def receive(self, route: bytes, frames: list[bytes], now: Now, user_id: str = "") -> None:
        """Take one message from the socket.

        Args:
            route: ROUTER's routing id, ``b""`` for a spoke.
            frames: body frames (without the routing id); anything but exactly one is refused.
            user_id: the CURVE key's ZAP User-Id that the transport read from the frame, "" without CURVE.
        """

    def connected(self, now: Now) -> None:
        """Spoke only: the connection's handshake succeeded; HELLO is sent."""

    def disconnected(self, route: bytes, now: Now) -> None:
        """The transport saw the connection of this route end."""

    def undeliverable(self, route: bytes, frame: bytes, reason: str, now: Now) -> None:
        """The transport could not send: ``unroutable`` (EHOSTUNREACH) or ``full`` (EAGAIN, will be tried again).

        A session's numbers have no gaps, so it is the transport that keeps a frame it could not send for ``full`` and
        sends it before any later frame of that route; reporting ``full`` only spares the route heartbeats and ACKs
        for a moment. ``unroutable`` counts as :meth:`disconnected`: later frames of the route can be thrown away.
        """

    def probed(self, agent_id: str, *, gone: bool, now: Now) -> None:
        """Answer to :class:`ProbeWanted`."""

    def exited(self, agent_id: str, boot_id: str, now: Now) -> None:
        """Proof that this process of the agent has ended (see :class:`WatchWanted`); no news of an older one counts."""

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
        """Send to a peer; a reliable message is kept and resent until acknowledged, also across reconnects.

        A bulk message is sent once, if nothing reliable waits and little of its kind is on its way.

        Values in ``payload`` may be ``orjson.Fragment`` (bytes already encoded).

        Returns:
            the message's request id.

        Raises:
            Busy: the outbox of the peer is full (bounded in count and bytes); a bulk message would have to wait.
            Refused: ``unroutable``: no such peer is known.
            MalformedMessage: the payload is not JSON, or the sealed message is larger than the limit.
        """

    def room(self, peer: str) -> int:
        """How many more reliable messages the peer's outbox takes now (0 for an unknown peer)."""

    def unacknowledged(self) -> bool:
        """Whether any peer has still to acknowledge a reliable message."""

    def marks(self) -> Marks:
        """What has been handed to the owner so far, per peer."""

    def acknowledge(self, marks: Marks, now: Now) -> None:
        """What the marks cover is durable; tell the peers with the next message, or soon with an ACK."""

    def tick(self, now: Now) -> None:
        """Let time pass: heartbeats, late peers, delayed ACKs, HELLO retries."""

    def next_deadline(self) -> float:
        """Monotonic time of the next :meth:`tick` that has something to do."""

    def close(self, now: Now) -> None:
        """Say good-bye to every peer (a signed EVENT ``goodbye``), so that nobody waits for a timeout."""
