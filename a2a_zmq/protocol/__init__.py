"""The protocol, pure: no sockets, no clock, no randomness of its own.

Ports are what the rest of the system uses: a :class:`Hub` (behind a ROUTER) or a :class:`Spoke` (behind a DEALER),
both a :class:`Port`. Below them: :mod:`session` and :mod:`handshake` (who is it), :mod:`wire` and :mod:`strict` (the
frame), :mod:`link` (what arrives, arrives once), :mod:`liveness` (is it alive), :mod:`authz` (may it say so).
"""

from a2a_zmq.protocol.authz import allowed, may_join
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.crypto import KeySource, StaticKeys
from a2a_zmq.protocol.hub import Hub
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import (
    Marks,
    PeerDown,
    PeerInfo,
    PeerSuspect,
    PeerUp,
    Port,
    PortEvent,
    ProbeWanted,
    Received,
    Refusal,
    WatchWanted,
)
from a2a_zmq.protocol.retry import equal_jitter
from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.protocol.wire import MAX_FRAME_BYTES, TAIL_BYTES, open_frame, parse_message, seal

__all__ = [
    "MAX_FRAME_BYTES",
    "TAIL_BYTES",
    "BootInfo",
    "Hub",
    "KeySource",
    "Marks",
    "Message",
    "MessageType",
    "Metadata",
    "PeerDown",
    "PeerInfo",
    "PeerSuspect",
    "PeerUp",
    "Port",
    "PortConfig",
    "PortEvent",
    "ProbeWanted",
    "Received",
    "Refusal",
    "Role",
    "Spoke",
    "StaticKeys",
    "WatchWanted",
    "allowed",
    "equal_jitter",
    "may_join",
    "open_frame",
    "parse_message",
    "seal",
]
