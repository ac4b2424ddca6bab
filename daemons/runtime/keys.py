"""Keys that a starting agent finds missing: made where the issuer's key is at hand, and never without a word; and those
of a running one, which may be replaced at any time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from a2a_zmq.errors import ConfigError
from a2a_zmq.protocol.message import Role
from a2a_zmq.security.identity import Identity, open_identity
from a2a_zmq.security.keyring import KeyDirectory
from a2a_zmq.transport.dealer import ROUTE, DealerSocket
from daemons import redaction
from daemons.runtime.addresses import check_addresses
from daemons.runtime.orphans import find_orphans, hidden_marks
from daemons.settings import DaemonSettings

# Key files are read again for an unknown key no more often than this, however many strangers knock.
RELOAD_PAUSE_S: Final = 0.2
# Whom an agent connects to.
ABOVE: Final = {Role.DISTRIBUTOR: Role.COORDINATOR, Role.WORKER: Role.DISTRIBUTOR}


def is_new(settings: DaemonSettings) -> bool:
    """Whether keys would be made for this agent: then all its other settings should be known to be good before."""
    directory = settings.a2a_config().key_dir
    return directory is not None and not KeyDirectory(directory).knows(settings.agent_id)


def make_directory(settings: DaemonSettings) -> None:
    """If keys are to be made for this agent: see that they can be, before anything is waited for.

    Raises:
        ConfigError: their directory cannot be made, or others can enter it.
    """
    directory = settings.a2a_config().key_dir
    if directory is not None and is_new(settings):
        KeyDirectory(directory).create()


def own_identity(settings: DaemonSettings, role: Role, log: Any) -> Identity:
    """The identity that the settings name; its keys are made if the fleet does not know it yet.

    Raises:
        ConfigError: the keys are not acceptable; or the agent is new, and an address that it listens on is not free.
    """
    config = settings.a2a_config()
    if config.key_dir is not None:
        if is_new(settings):
            check_addresses(settings, find_orphans(hidden_marks()))
        _make(KeyDirectory(config.key_dir), settings.agent_id, role, log)
    identity = open_identity(config, role)
    redaction.hide([identity.curve_pair().secret.decode()])
    return identity


def make_hub_keys(settings: DaemonSettings, identity: Identity, hub: str, log: Any) -> None:
    """All daemons of a new fleet are started together: whoever comes first makes the keys of the one it needs."""
    directory = settings.a2a_config().key_dir
    role = ABOVE.get(identity.role)
    if directory is not None and role is not None and KeyDirectory(directory).issuer_key.exists():
        _make(KeyDirectory(directory), hub, role, log)
        identity.reload_if_changed()


class OwnKeys:
    """The keys of a daemon that runs. Sees to it that key files that change come into use, and that nothing goes on
    with a key pair of ours that others have taken the place of."""

    def __init__(
        self,
        settings: DaemonSettings,
        identity: Identity,
        log: Any,
        *,
        leave: Callable[[str], None],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        """
        Args:
            leave: ends the daemon, for the reason given, so that it is started again.
            later: has something done when whoever calls us has come to an end.
        """
        self._settings = settings
        self._identity = identity
        self._log = log
        self._leave = leave
        self._later = later
        self._reload_at = 0.0
        self._listening = b""
        self._dealers: list[tuple[DealerSocket, Callable[[bytes], None]]] = []

    def listening_with(self, key: bytes) -> None:
        """A hub of ours has this public key."""
        self._listening = key

    def connecting(self, dealer: DealerSocket, disconnected: Callable[[bytes], None]) -> None:
        """A spoke of ours, and whom to tell that its connection ended."""
        self._dealers.append((dealer, disconnected))

    def of_hub(self, name: str) -> Callable[[], list[bytes]] | None:
        """Gives a hub's public keys, to be asked at each attempt to connect; None if nothing is encrypted.

        Raises:
            ConfigError: it has none, and none can be made.
        """
        settings, identity = self._settings, self._identity
        if not settings.use_mtls:
            return None
        if not identity.server_keys(name):
            make_hub_keys(settings, identity, name, self._log)
        if not identity.server_keys(name):
            raise ConfigError(f"no key of {name!r} in {settings.keys}: make it with `a2actl keys add {name}`")
        return lambda: identity.server_keys(name)

    def allow(self, domain: str, key: bytes) -> str | None:
        """Whose CURVE key is this? An unknown one may have been made a moment ago: then the key files are read
        again."""
        name = self._identity.allow(domain, key)
        now = time.monotonic()
        if name is None and now >= self._reload_at:
            self._reload_at = now + RELOAD_PAUSE_S
            self.reload()
            name = self._identity.allow(domain, key)
        return name

    def reload(self, *, always: bool = False) -> None:
        """Read key files that have changed, or that could not be read; ``always`` all of them."""
        try:
            if not self._identity.reload_if_changed(always=always):
                return
            self._log.info("keys_reloaded")
        except ConfigError as error:
            self._log.error("keys_not_reloaded", why=str(error))
        # Not at once: the socket whose callback brought us here may be one that is replaced.
        self._later(self._use)

    def _use(self) -> None:
        """Key files were read again: connections with keys that are no longer ours are made anew.

        What listens cannot be given other keys: a hub has to be started again.
        """
        if self._listening and not self._identity.owns(self._listening):
            self._leave("our key pair was replaced, and what listens with the former one has to be started again")
            return
        for dealer, disconnected in self._dealers:
            if dealer.own_key and not self._identity.owns(dealer.own_key):
                self._log.info("connecting_with_new_keys", address=dealer.address)
                connect_anew(dealer, disconnected)


def connect_anew(dealer: DealerSocket, disconnected: Callable[[bytes], None]) -> None:
    """Drop the dealer's connection, if there is one, tell its port so, and make another."""
    if dealer.connected:
        disconnected(ROUTE)
    dealer.reconnect()


def _make(directory: KeyDirectory, name: str, role: Role, log: Any) -> None:
    if directory.ensure(name, role):
        # A mistyped name is a new agent: the line is what shows it.
        log.info("keys_made", peer=name, peer_role=role.value, key_dir=str(directory.path))
