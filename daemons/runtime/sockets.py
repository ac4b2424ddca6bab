"""The sockets of a daemon's ports: what is to be opened is noted first, so that it can be checked before."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.security.identity import Identity, server_pair
from a2a_zmq.transport.context import SocketOptions, TransportContext, checked_address
from a2a_zmq.transport.dealer import DealerSocket
from a2a_zmq.transport.router import CurveServer, RouterSocket
from daemons import logs
from daemons.runtime import keys
from daemons.runtime.contract import Meter
from daemons.runtime.rotation import Rotation
from daemons.runtime.shell import Shell, read_clock
from daemons.runtime.standing import Standing
from daemons.settings import DaemonSettings


class Sockets:
    """One for each port, in the order in which they are added."""

    def __init__(
        self,
        settings: DaemonSettings,
        identity: Identity,
        *,
        own_keys: keys.OwnKeys,
        standing: Standing,
        meter: Meter,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._own_keys = own_keys
        self._standing = standing
        self._meter = meter
        self._log = logs.get_logger("launch")
        self._wire: list[Callable[[Shell, int], Any]] = []
        self._checks: list[Callable[[], object]] = []
        self._hubs: list[RouterSocket] = []
        self._refused: dict[str, int] = {}  # by reason, as far as it was counted

    @functools.cached_property
    def _context(self) -> TransportContext:
        return TransportContext()  # when sockets are opened: a start that fails before leaves nothing open

    def add_hub(self, address: str) -> None:
        """Listen there."""
        self._checks.append(lambda: checked_address(address, encrypted=self._settings.use_mtls))
        self._wire.append(lambda shell, index: self._open_router(shell, index, address))

    def add_spoke(self, spoke: Spoke, peer: str, addresses: list[str]) -> None:
        """Connect to this peer, at whichever address it is."""
        self._checks.append(lambda: checked_address(addresses[0], encrypted=self._settings.use_mtls))
        self._checks.append(lambda: self._own_keys.of_hub(peer))
        self._wire.append(lambda shell, index: self._open_dealer(shell, index, peer, spoke, addresses))

    def check(self) -> None:
        """What opening would find wrong, as far as that can be told without opening anything.

        Raises:
            ConfigError: an address is not allowed, a key is missing.
        """
        for check in self._checks:
            check()

    def open(self, shell: Shell) -> None:
        """
        Raises:
            ConfigError: an address cannot be bound or is not allowed, a key is missing.
        """
        for index, wire in enumerate(self._wire):
            shell.attach(wire(shell, index))

    async def self_test(self) -> None:
        for hub in self._hubs:
            await hub.self_test()

    def close(self) -> None:
        self._context.close()

    def count_refused(self) -> None:
        """Connections that the transport refused by itself never reach a port, which counts all else."""
        for hub in self._hubs:
            for reason, count in hub.stats.refused.items():
                more = count - self._refused.get(reason, 0)
                if more > 0:
                    self._refused[reason] = count
                    metric = "signature_failures_total" if reason == "auth" else "routing_errors_total"
                    self._meter.count(metric, more, reason=reason)

    # ------------------------------------------------------------ opening

    def _options(self) -> SocketOptions:
        config = self._settings.a2a_config()
        return SocketOptions(max_message_bytes=config.max_message_bytes, high_water_mark=config.high_water_mark)

    def _open_router(self, shell: Shell, index: int, address: str) -> RouterSocket:
        curve = None
        if self._settings.use_mtls:
            pair = server_pair(self._identity)
            self._own_keys.listening_with(pair.public)
            curve = CurveServer(pair, self._settings.agent_id, self._own_keys.allow)
        socket = RouterSocket(
            self._context,
            on_frames=shell.on_frames(index),
            on_disconnected=shell.on_disconnected(index),
            curve=curve,
            options=self._options(),
        )
        socket.bind(address)
        self._hubs.append(socket)
        return socket

    def _open_dealer(self, shell: Shell, index: int, peer: str, spoke: Spoke, addresses: list[str]) -> DealerSocket:
        disconnected = shell.on_disconnected(index)
        socket = DealerSocket(
            self._context,
            on_frames=shell.on_frames(index),
            on_connected=shell.on_connected(index),
            on_disconnected=disconnected,
            on_failed=lambda reason: self._connect_failed(socket, peer, reason, rotation),
            curve=self._identity.curve_pair if self._settings.use_mtls else None,
            options=self._options(),
        )
        server_keys = self._own_keys.of_hub(peer)
        rotation = Rotation(
            spoke,
            addresses,
            connect=lambda address: socket.connect(address, server_keys),
            left=lambda: disconnected(b""),
            clock=lambda: read_clock().mono,
            log=lambda why: self._log.warning("address_not_usable", peer=peer, why=why),
        )
        self._standing.watch(peer, spoke, lambda: keys.connect_anew(socket, disconnected))
        self._own_keys.connecting(socket, disconnected)
        socket.connect(addresses[0], server_keys)
        if len(addresses) > 1:
            shell.services.append(rotation.run)
        return socket

    def _connect_failed(self, socket: DealerSocket, peer: str, reason: str, rotation: Rotation) -> None:
        rotation.failed()
        self._standing.failed(peer, socket.address, reason)
        if reason == "handshake":
            # A wrong server key looks like this: it may have been changed since we started.
            self._own_keys.reload()
