"""Identity tokens: the issuer's word on who holds which CURVE key in which role.

A JWT signed by EdDSA (Ed25519), and by nothing else. It is worth nothing without the secret of the
CURVE key that it names.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any, Final, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from a2a_zmq.errors import Refused
from a2a_zmq.ids import identity_of, valid_agent_id
from a2a_zmq.protocol.message import Role

ALGORITHM: Final = "EdDSA"
AUDIENCE: Final = "a2a-zmq"
MAX_LIFE_S: Final = 86_400
# Re-minted at half life, so a token that is shown has six hours left even if nobody restarts.
LIFE_S: Final = 43_200
# Clocks of hosts differ; the protocol's own limit on skew.
LEEWAY_S: Final = 30
# A HELLO has at most 4 KiB.
MAX_TOKEN_CHARS: Final = 2048
CLAIMS: Final = ("iss", "sub", "role", "aud", "cnf", "kid", "jti", "iat", "exp")


class Claims(NamedTuple):
    """A verified token's content.

    Attributes:
        subject: the identity (agent id without instance).
        curve: the CURVE public key that the subject holds, Z85.
        key_id: this key's id.
        token_id: ``jti``, by which it can be revoked.
        expires_at: seconds since the Unix epoch.
    """

    subject: str
    role: Role
    curve: str
    key_id: str
    token_id: str
    expires_at: int


def issuer_name(public: Ed25519PublicKey) -> str:
    """``iss``: tokens of another fleet's issuer are told apart by name and not only by a bad signature."""
    return f"a2a-zmq:{hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]}"


def mint(
    issuer: Ed25519PrivateKey,
    *,
    subject: str,
    role: Role,
    curve: str,
    key_id: str,
    token_id: str,
    wall: float,
    life_s: int = LIFE_S,
) -> str:
    """A token for the holder of this CURVE key.

    Args:
        wall: now, seconds since the Unix epoch.
        life_s: seconds until it expires, at most 24 hours.
    """
    if not 0 < life_s <= MAX_LIFE_S:
        raise ValueError(f"a token lives for at most {MAX_LIFE_S} s, not {life_s}")
    name = issuer_name(issuer.public_key())
    issued = int(wall)
    claims = {
        "iss": name,
        "sub": identity_of(subject),
        "role": role.value,
        "aud": AUDIENCE,
        "cnf": {"curve": curve},
        "kid": key_id,
        "jti": token_id,
        "iat": issued,
        "exp": issued + life_s,
    }
    return jwt.encode(claims, issuer, algorithm=ALGORITHM, headers={"kid": name})


def verify(token: str, issuer: Ed25519PublicKey, wall: float) -> Claims:
    """The token's claims, if the issuer signed them and they hold now.

    Raises:
        Refused: reason ``token``; the detail says what is wrong and repeats nothing of the token.
    """
    if len(token) > MAX_TOKEN_CHARS:
        raise Refused("token", f"longer than {MAX_TOKEN_CHARS} characters")
    name = issuer_name(issuer)
    try:
        # Time is checked below: against the caller's clock, and more strictly.
        claims: dict[str, Any] = jwt.decode(
            token,
            issuer,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=name,
            options={"require": list(CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
    except jwt.InvalidTokenError as error:
        raise Refused("token", f"{type(error).__name__}") from None
    except (ValueError, TypeError, RecursionError):  # damaged beyond what the library expects
        raise Refused("token", "unreadable") from None
    return _checked(claims, wall)


def _checked(claims: dict[str, Any], wall: float) -> Claims:
    issued, expires = claims["iat"], claims["exp"]
    if type(issued) is not int or type(expires) is not int:
        raise Refused("token", "times must be whole seconds")
    if expires - issued > MAX_LIFE_S or expires <= issued:
        raise Refused("token", "lives longer than 24 h")
    if issued > wall + LEEWAY_S:
        raise Refused("token", "issued in the future")
    if expires <= wall - LEEWAY_S:
        raise Refused("token", "expired")
    subject, confirmation = claims["sub"], claims["cnf"]
    if not valid_agent_id(subject) or "~" in subject:
        raise Refused("token", "sub is no identity")
    curve = confirmation.get("curve") if isinstance(confirmation, dict) else None
    if not isinstance(curve, str) or not isinstance(claims["kid"], str) or not isinstance(claims["jti"], str):
        raise Refused("token", "cnf, kid and jti must be texts")
    try:
        role = Role(claims["role"])
    except ValueError:
        raise Refused("token", "unknown role") from None
    return Claims(subject, role, curve, claims["kid"], claims["jti"], expires)


def private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_private(pem: bytes) -> Ed25519PrivateKey:
    """Raises ValueError unless it is an Ed25519 private key in PEM form."""
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(pem, password=None)
        if isinstance(key, Ed25519PrivateKey):
            return key
    raise ValueError("not an unencrypted Ed25519 private key in PEM form")


def load_public(pem: bytes) -> Ed25519PublicKey:
    """Raises ValueError unless it is an Ed25519 public key in PEM form."""
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_public_key(pem)
        if isinstance(key, Ed25519PublicKey):
            return key
    raise ValueError("not an Ed25519 public key in PEM form")
