"""Links of a client to coordinators: identity, spoke and socket put together. Only this client module needs ZeroMQ."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import zmq
from pydantic import SecretStr, ValidationError

from a2a_zmq.client.environment import ClientSettings
from a2a_zmq.client.sockets import Callbacks, Link
from a2a_zmq.config import A2AConfig, split_address
from a2a_zmq.errors import ConfigError, KeysMissing, KeysRevoked
from a2a_zmq.ids import identity_of, make_id_factory
from a2a_zmq.protocol.config import BootInfo, PortConfig
from a2a_zmq.protocol.message import Role
from a2a_zmq.protocol.spoke import Spoke
from a2a_zmq.security.files import check_directory
from a2a_zmq.security.identity import Identity, open_identity
from a2a_zmq.security.keyring import KeyDirectory
from a2a_zmq.transport.context import SocketOptions, TransportContext
from a2a_zmq.transport.dealer import DealerSocket

T = TypeVar("T")

OPERATOR_NAME = "operator"


def admission(coordinator_id: str) -> str:
    """The command that gives this coordinator keys; names of a usual form say their role themselves."""
    role = "" if coordinator_id.startswith(f"{Role.COORDINATOR}-") else f" {Role.COORDINATOR}"
    return f"a2actl keys add {coordinator_id}{role}"


class LinkOpener:
    """Opens links, one at a time, with one identity. Keys are read at once, sockets made on the loop that opens.

    Args:
        config: where the keys are; its ``agent_id`` names the identity, to which a random instance is added.
        coordinator_id: who is expected at addresses that name nobody.

    Raises:
        ConfigError: the keys are not usable; KeysMissing if there are none yet, or KeysRevoked.
    """

    def __init__(self, config: A2AConfig, coordinator_id: str) -> None:
        self.agent_id = f"{identity_of(config.agent_id)}~{secrets.token_hex(4)}"
        self._config = config
        self._coordinator_id = coordinator_id
        self._identity = _identity(config.model_copy(update={"agent_id": self.agent_id}))
        self._boot = BootInfo(boot_id=secrets.token_hex(16), pid=os.getpid())
        self._new_id = make_id_factory(os.urandom)
        self._context: TransportContext | None = None

    def open(self, address: str, callbacks: Callbacks) -> Link:
        """A spoke and its socket, connecting to the address.

        Raises:
            ConfigError: its keys or the address are not usable.
            OSError: there are no descriptors left.
        """
        name, target = split_address(address)
        peer = name or self._coordinator_id
        with contextlib.suppress(ConfigError):  # half of a change: what we know may still fit, the next attempt sees it
            self._identity.reload_if_changed()
        spoke = Spoke(
            self._identity,
            peer,
            boot=self._boot,
            new_id=self._new_id,
            random_bytes=os.urandom,
            config=PortConfig(max_frame_bytes=self._config.max_message_bytes),
            announce=lambda _: {},
            heartbeat=lambda _peer, _now: {},
            peer_role=Role.COORDINATOR,
        )
        encrypted = self._config.use_mtls
        server_keys = self._server_keys(peer) if encrypted else None
        if self._context is None:
            self._context = _no_descriptors(TransportContext)
        socket = DealerSocket(
            self._context,
            on_frames=callbacks.on_frames,
            on_connected=callbacks.on_connected,
            on_disconnected=callbacks.on_disconnected,
            on_failed=callbacks.on_failed,
            on_writable=callbacks.on_writable,
            curve=self._identity.curve_pair if encrypted else None,
            options=SocketOptions(
                max_message_bytes=self._config.max_message_bytes, high_water_mark=self._config.high_water_mark
            ),
        )
        try:
            _no_descriptors(lambda: socket.connect(target, server_keys))
        except BaseException:
            socket.close()
            raise
        return Link(spoke, socket)

    def _server_keys(self, peer: str) -> Callable[[], list[bytes]]:
        """Asked at each attempt to connect: keys may be rotated while we run."""
        known = self._identity.server_keys(peer)
        if not known:
            where = self._config.key_dir or self._config.cert_path
            if self._identity.is_revoked(peer):
                raise KeysRevoked(
                    f"the keys of coordinator {peer!r} were revoked in {where}; `{admission(peer)}` on the "
                    "issuing host admits it again, and if it has ended meanwhile it has to be started"
                )
            raise KeysMissing(
                f"the keys of coordinator {peer!r} are not known in {where} (COORDINATOR_ID names the one expected)"
            )

        def newest() -> list[bytes]:
            nonlocal known
            with contextlib.suppress(ConfigError):  # half of a change: the next attempt sees the rest
                self._identity.reload_if_changed()
            known = self._identity.server_keys(peer) or known
            return known

        return newest

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None


def link_opener(settings: ClientSettings) -> LinkOpener:
    """Links as the settings say."""
    secret = settings.token_secret
    try:
        config = A2AConfig(
            agent_id=settings.client_id,
            use_mtls=settings.use_mtls,
            cert_path=settings.cert_path,
            key_path=settings.key_path,
            token_secret=SecretStr(secret) if secret else None,
            key_dir=None if secret or settings.key_path else settings.key_dir,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None
    return LinkOpener(config, settings.coordinator_id)


def _no_descriptors(make: Callable[[], T]) -> T:
    """What it makes; without descriptors ZeroMQ raises an error of its own, of which no other client module knows."""
    try:
        return make()
    except zmq.ZMQError as error:
        raise OSError(error.errno, str(error)) from error


def _identity(config: A2AConfig) -> Identity:
    name = identity_of(config.agent_id)
    role = Role.OPERATOR if name == OPERATOR_NAME else Role.CLIENT
    if config.token_secret is None and config.key_path is None and config.key_dir is not None:
        role = _role_in(config.key_dir, name, role)
    return open_identity(config, role)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a directory above it that we may not enter
        raise ConfigError(f"{path}: {error.strerror}") from None


def _role_in(path: Path, name: str, role: Role) -> Role:
    """The role that the key directory gives this name; keys are made for it where the issuer's key is at hand."""
    directory = KeyDirectory(path)
    if not _exists(directory.peers_json):
        if _exists(path):
            check_directory(path)  # what waiting would not change is said first
        # A client makes no fleet: a mistyped directory must not become a new one that no coordinator knows.
        raise KeysMissing(
            f"key directory {path}: there are no keys of a fleet; start its daemons, or `a2actl keys init`"
        )
    known = directory.peers().agents.get(name)
    if known is not None and known.role not in (Role.CLIENT, Role.OPERATOR):
        raise ConfigError(
            f"{directory.peers_json}: {name} is a {known.role}; a client needs keys of a client or operator"
        )
    role = role if known is None else known.role
    if known is None or not known.keys or not directory.key_file(name).exists():
        directory.ensure(name, role)  # makes keys, or says why there are none
    return role
