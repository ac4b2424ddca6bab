"""Keys and MAC contexts: one shared pair key becomes a fresh key per session and direction.

::

    pair key ── "hello",   direction ────────────────────────> key of the HELLO
             ── "welcome", direction, spoke's nonce ─────────> key of its answer: an old answer cannot be replayed
             ── "session", direction, both nonces, session ──> keys of the session

A key per direction kills reflection; fresh nonces kill replay across sessions and restarts.

The MAC context repeats what the key was made for (protocol version, sender>recipient, key id, session). Agent and key
ids hold no ``>`` and no ``|``, so no two different contexts have the same bytes.
"""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from typing import Protocol

from a2a_zmq.errors import Refused
from a2a_zmq.ids import identity_of, valid_agent_id
from a2a_zmq.protocol.message import Role

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
# The form of HELLO and its answer, which never changes: so that also peers that share no version can say so.
HELLO_FORM = 1
KEY_BYTES = 32
NONCE_BYTES = 16
HELLO_CONTEXT = "hello"
WELCOME_CONTEXT = "welcome"

_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
# What RFC 2104 fills a key up to and combines it with.
_BLOCK_BYTES = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
# Names of strangers come from the network: what is remembered of them is bounded.
_CACHED_PAIRS = 4096


class KeySource(Protocol):
    """What a port needs to know of keys and identities; the key ring implements it.

    Attributes:
        agent_id: full id; for a client process ``name~instance``.
        role: our own role.
    """

    agent_id: str
    role: Role

    def pair_keys(self, peer: str) -> list[tuple[str, bytes]]:
        """Live (key id, 32-byte key) candidates for this peer, newest first; empty for an unknown peer."""

    def token(self, wall: float) -> str | None:
        """Our identity token (EdDSA JWT); None in secret mode, and while there is none (the other end refuses us)."""

    def verify_peer(self, agent_id: str, role: Role, token: str | None, user_id: str, wall: float) -> None:
        """Check a peer once a session.

        Raises:
            Refused: ``token``, ``identity`` or ``revoked``.
        """

    def revoked(self, agent_id: str, user_id: str) -> bool:
        """Whether this agent or CURVE key is revoked; cheap, because it is asked for every frame.

        ``agent_id`` is empty while nobody is authenticated; ``user_id`` is empty without CURVE.
        """


def valid_key_id(text: object) -> bool:
    return isinstance(text, str) and _KEY_ID.match(text) is not None


def hkdf(key: bytes, *, salt: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """HKDF-SHA256 (RFC 5869), extract and expand."""
    pseudo_random = hmac.digest(salt or bytes(32), key, "sha256")
    out = block = b""
    counter = 1
    while len(out) < length:
        block = hmac.digest(pseudo_random, block + info + bytes((counter,)), "sha256")
        out += block
        counter += 1
    return out[:length]


def mac_context(sender: str, recipient: str, key_id: str, session: str, version: int = HELLO_FORM) -> bytes:
    """What a MAC covers besides the frame. In HELLO and its answer nothing is negotiated yet."""
    return f"a2a-zmq/{version}|{sender}>{recipient}|{key_id}|{session}|".encode()


class Mac:
    """HMAC-SHA256 (RFC 2104) under one key and context, which are hashed once and not again for every frame: a third of
    the cost of :func:`hmac.digest` for a message of usual size."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, context: bytes) -> None:
        """
        Args:
            key: 32 bytes.
            context: what the MAC covers besides the frame (:func:`mac_context`).
        """
        padded = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(padded.translate(_INNER) + context)
        self._outer = sha256(padded.translate(_OUTER))

    def hex_of(self, text: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.hexdigest().encode()


def hello_key(pair_key: bytes, sender: str, recipient: str) -> bytes:
    return hkdf(pair_key, salt=b"", info=f"a2a-zmq hello {sender}>{recipient}".encode())


def welcome_key(pair_key: bytes, sender: str, recipient: str, spoke_nonce: bytes) -> bytes:
    """Key of the answer to the HELLO that carried this nonce."""
    return hkdf(pair_key, salt=spoke_nonce, info=f"a2a-zmq welcome {sender}>{recipient}".encode())


def session_key(
    pair_key: bytes, sender: str, recipient: str, *, spoke_nonce: bytes, hub_nonce: bytes, session: str
) -> bytes:
    """Key of one direction of a session."""
    info = f"a2a-zmq session {session} {sender}>{recipient}".encode()
    return hkdf(pair_key, salt=spoke_nonce + hub_nonce, info=info)


class StaticKeys:
    """Keys of a fleet that shares one secret (``A2A_TOKEN_SECRET``), for single hosts, tests and simulations.

    Who knows the secret belongs to the fleet, and its role is what it says. For more than one trust domain use the
    key ring.
    """

    def __init__(
        self,
        agent_id: str,
        role: Role,
        secret: str | bytes,
        *,
        key_id: str = "s1",
        previous: tuple[str, bytes] | None = None,
    ) -> None:
        """
        Args:
            agent_id: our full id.
            secret: the shared secret; texts are taken as UTF-8.
            key_id: name of the secret.
            previous: key id and secret that are still accepted during a change of secrets.
        """
        self.agent_id = agent_id
        self.role = role
        newest = secret.encode() if isinstance(secret, str) else secret
        self._secrets = [(key_id, newest)] + ([previous] if previous is not None else [])
        self._pairs: dict[str, list[tuple[str, bytes]]] = {}
        self._revoked: set[str] = set()

    def pair_keys(self, peer: str) -> list[tuple[str, bytes]]:
        known = self._pairs.get(peer)
        if known is not None:
            return known
        if not valid_agent_id(peer):
            return []
        low, high = sorted((identity_of(self.agent_id), identity_of(peer)))
        info = f"a2a-zmq pair {low}|{high}".encode()
        made = [(key_id, hkdf(secret, salt=b"", info=info)) for key_id, secret in self._secrets]
        if len(self._pairs) >= _CACHED_PAIRS:
            self._pairs.clear()
        self._pairs[peer] = made
        return made

    def token(self, wall: float) -> str | None:
        return None

    def verify_peer(self, agent_id: str, role: Role, token: str | None, user_id: str, wall: float) -> None:
        if self.revoked(agent_id, user_id):
            raise Refused("revoked", agent_id)

    def revoke(self, agent_id: str) -> None:
        """Refuse this identity from now on, also in live sessions."""
        self._revoked.add(identity_of(agent_id))

    def revoked(self, agent_id: str, user_id: str) -> bool:
        return bool(self._revoked) and identity_of(agent_id) in self._revoked
