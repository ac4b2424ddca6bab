"""CURVE key pairs, which are X25519 key pairs in Z85 text, and what is derived from them.

The pair key of two agents comes from the same key pairs that CURVE encrypts with: X25519 of the own secret and the
peer's public key, spread by HKDF together with both names. So an agent holds one secret, and no two pairs share a key.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from zmq.utils import z85

from a2a_zmq.config import MIN_SECRET_BYTES
from a2a_zmq.errors import ConfigError


class CurvePair(NamedTuple):
    """A key pair in the form that ZeroMQ takes: 40 characters of Z85 each."""

    public: bytes
    secret: bytes


def new_pair() -> CurvePair:
    return _pair(X25519PrivateKey.generate())


def pair_from_seed(seed: bytes) -> CurvePair:
    """The key pair whose secret is these 32 bytes."""
    return _pair(X25519PrivateKey.from_private_bytes(seed))


def _pair(key: X25519PrivateKey) -> CurvePair:
    return CurvePair(z85.encode(key.public_key().public_bytes_raw()), z85.encode(key.private_bytes_raw()))


def raw_key(text: str | bytes) -> bytes:
    """The 32 bytes of a Z85 key.

    Raises:
        ValueError: not 40 characters of Z85.
    """
    if len(text) != 40:
        raise ValueError("a CURVE key has 40 characters")
    try:
        raw = z85.decode(text)
    except Exception:  # the codec raises KeyError, struct.error … by kind of damage
        raise ValueError("a CURVE key is Z85 text") from None
    if len(raw) != 32 or z85.encode(raw) != (text.encode() if isinstance(text, str) else text):
        raise ValueError("a CURVE key is Z85 text")
    return raw


def agree(secret: bytes, public: bytes, info: bytes) -> bytes:
    """32 bytes that the holders of either secret key share.

    Args:
        secret, public: raw keys of 32 bytes.
        info: what the result is for; another ``info``, another key.

    Raises:
        ValueError: the public key is a point of low order.
    """
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    return stretch(shared, info)


def stretch(secret: bytes, info: bytes) -> bytes:
    """32 bytes from a secret by HKDF-SHA256."""
    return HKDF(SHA256(), 32, salt=None, info=info).derive(secret)


class SecretCurve(NamedTuple):
    """The two CURVE key pairs that ``A2A_TOKEN_SECRET`` stands for: one for all hubs, one for all spokes."""

    server: CurvePair
    client: CurvePair


def curve_from_secret(secret: bytes) -> SecretCurve:
    """Key pairs that every holder of the secret derives alike.

    Raises:
        ConfigError: the secret is shorter than 16 bytes.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"A2A_TOKEN_SECRET: must have at least {MIN_SECRET_BYTES} bytes, has {len(secret)}")
    return SecretCurve(
        pair_from_seed(stretch(secret, b"a2a-zmq curve server")),
        pair_from_seed(stretch(secret, b"a2a-zmq curve client")),
    )
