"""Who this process is: message keys and CURVE keys from one place, whichever way the fleet was set up.

| set in :class:`~a2a_zmq.config.A2AConfig` | message keys and tokens | CURVE keys |
| --- | --- | --- |
| ``key_path`` and ``cert_path`` | key ring of these two files | the same |
| ``token_secret`` | derived from the secret; no tokens | derived from the secret: one pair for hubs, one for spokes |
| ``key_dir`` | key ring of the directory | the same |

The specification's mutual TLS is CURVE here: ``A2A_KEY_PATH`` is our ``NAME.key`` (the private key), ``A2A_CERT_PATH``
is ``peers.json`` (the certificates: every peer's public keys and roles, vouched for by the ``issuer.pub`` beside it).
"""

from __future__ import annotations

import hmac
from typing import Protocol

from a2a_zmq.config import A2AConfig
from a2a_zmq.errors import ConfigError
from a2a_zmq.protocol.crypto import KeySource, StaticKeys
from a2a_zmq.protocol.message import Role
from a2a_zmq.security.curve import CurvePair, curve_from_secret
from a2a_zmq.security.keyring import KeyDirectory, Keyring

# User-Id of every connection of a fleet that shares one secret: the key says "member", not who.
SHARED_USER_ID = "fleet"


class Identity(KeySource, Protocol):
    """A :class:`KeySource` that also has the transport's keys."""

    def curve_pair(self) -> CurvePair:
        """Our own key pair for a new socket or connection."""

    def owns(self, curve_public_key: bytes) -> bool:
        """False if this public key was ours and others have taken its place: nobody knows it any more."""

    def server_keys(self, peer: str) -> list[bytes]:
        """CURVE public keys to try for this hub, newest first; empty if it is unknown or revoked."""

    def agents_of(self, role: Role) -> list[str]:
        """Known names in this role; empty where names are not known beforehand."""

    def is_revoked(self, name: str) -> bool:
        """Whether it was in the fleet and has no key any more; False for strangers."""

    def allow(self, domain: str, curve_public_key: bytes) -> str | None:
        """User-Id of a connection with this key, None to refuse it."""

    def reload_if_changed(self, *, always: bool = False) -> bool:
        """Take up changed key files, or ``always`` all; True if there were some. Raises ConfigError for bad ones,
        once."""


class SecretIdentity(StaticKeys):
    """Identity of an agent in a fleet that shares one secret (one host, or one trust domain)."""

    def __init__(self, agent_id: str, role: Role, secret: str | bytes) -> None:
        """
        Raises:
            ConfigError: the secret is shorter than 16 bytes.
        """
        raw = secret.encode() if isinstance(secret, str) else secret
        self._curve = curve_from_secret(raw)
        super().__init__(agent_id, role, raw)

    def curve_pair(self) -> CurvePair:
        """The spokes' pair; a hub's ROUTER takes :meth:`server_pair`."""
        return self._curve.client

    def server_pair(self) -> CurvePair:
        return self._curve.server

    def owns(self, curve_public_key: bytes) -> bool:
        return True

    def server_keys(self, peer: str) -> list[bytes]:
        return [self._curve.server.public]

    def agents_of(self, role: Role) -> list[str]:
        return []

    def is_revoked(self, name: str) -> bool:
        return False

    def allow(self, domain: str, curve_public_key: bytes) -> str | None:
        return SHARED_USER_ID if hmac.compare_digest(curve_public_key, self._curve.client.public) else None

    def reload_if_changed(self, *, always: bool = False) -> bool:
        return False


def server_pair(identity: Identity) -> CurvePair:
    """The key pair of a hub's ROUTER: with key files an agent's own, with a shared secret the hubs' common one."""
    return identity.server_pair() if isinstance(identity, SecretIdentity) else identity.curve_pair()


def open_identity(config: A2AConfig, role: Role, *, create: bool = False) -> Identity:
    """The identity that the configuration names.

    Args:
        role: what this process is; key files must say the same.
        create: make missing keys in ``key_dir`` (the embedded fleet's first start).

    Raises:
        ConfigError: no source of keys is set, or the files are not acceptable.
    """
    if config.key_path is not None and config.cert_path is not None:
        ring = Keyring.from_files(config.key_path, config.cert_path, config.agent_id)
    elif config.token_secret is not None:
        return SecretIdentity(config.agent_id, role, config.token_secret.get_secret_value())
    elif config.key_dir is not None:
        if create:
            KeyDirectory(config.key_dir).ensure(config.agent_id, role)
        ring = Keyring.load(config.key_dir, config.agent_id)
    else:
        raise ConfigError(f"{config.agent_id}: no keys: set key_dir, key_path with cert_path, or token_secret")
    if ring.role is not role:
        raise ConfigError(f"the keys of {config.agent_id} are a {ring.role}'s, it starts as a {role}")
    return ring
