"""What a port is given at its start: who this process is, and every bound and interval of the protocol."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BootInfo:
    """This process, as its peers see it (see :class:`~a2a_zmq.protocol.ports.PeerInfo`)."""

    boot_id: str
    host_id: str = ""
    pid: int = 0
    start_time: int = 0
    life_fd: int = 0


@dataclass(frozen=True, slots=True)
class PortConfig:
    """Bounds and intervals; seconds and bytes.

    The liveness defaults find a frozen peer in under a second; a peer sends five heartbeats in that time, so two may be
    late. The window bounds keep what stands before a heartbeat in a socket's queue small.
    """

    # Frames. 1 MiB is the transport's MAXMSGSIZE too; a HELLO is all that a stranger may send, so it is small.
    max_frame_bytes: int = 1 << 20
    max_hello_bytes: int = 4096
    # Only a sanity check of clocks: replays are stopped by session keys and sequence numbers.
    max_skew_s: float = 30.0

    # Liveness of agents of the fleet.
    heartbeat_s: float = 0.2
    suspect_s: float = 0.5
    dead_s: float = 0.8
    # ZeroMQ reconnects after 100 ms; a peer that is not back a little later has something worse.
    grace_s: float = 0.15
    # Liveness of clients and operators: they run in programs that may be busy with other things for seconds.
    lax_heartbeat_s: float = 1.0
    lax_dead_s: float = 10.0

    # Handshake. The first retry is soon, later ones spare a hub that has many waiting.
    hello_retry_min_s: float = 0.25
    hello_retry_max_s: float = 2.0
    handshake_s: float = 5.0
    max_pending: int = 1024
    max_peers: int = 4096
    # A peer that is down so long is forgotten with all that was kept for it.
    forget_s: float = 600.0

    # Link: the outbox holds what is not acknowledged, the window is the part of it that is on its way.
    outbox_max_messages: int = 4096
    outbox_max_bytes: int = 32 << 20
    window_messages: int = 256
    window_bytes: int = 2 << 20
    # Bulk messages that are not acknowledged: enough for 50 MB/s to a client on the same network, and little before a
    # heartbeat.
    bulk_messages: int = 64
    bulk_bytes: int = 256 << 10
    # An acknowledgement waits so long for a message that it can ride on, or for so many to acknowledge.
    ack_delay_s: float = 0.005
    ack_every: int = 32
    # A sender can only repeat what was in its window, so twice that (with the bulk messages between) is enough to know
    # every repetition.
    dedup_ids: int = 512
    busy_retry_s: float = 0.05
