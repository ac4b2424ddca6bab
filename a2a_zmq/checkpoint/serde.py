"""Serializers that build no type which was not named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langgraph.checkpoint.serde.base import CipherProtocol, SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

_NAME: Final = "aes-gcm"
_NONCE_BYTES: Final = 12


class AesGcm(CipherProtocol):
    """AES-GCM for LangGraph's ``EncryptedSerializer``; the key has 16, 24 or 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        nonce = os.urandom(_NONCE_BYTES)
        return _NAME, nonce + self._cipher.encrypt(nonce, plaintext, None)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        if ciphername != _NAME:
            raise ValueError(f"stored with the cipher {ciphername!r}, not {_NAME!r}")
        return self._cipher.decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], None)


def strict_serializer(
    allowed_types: Iterable[type | tuple[str, str]] = (), *, key: bytes | None = None
) -> SerializerProtocol:
    """LangGraph's msgpack serializer in strict mode, whatever the environment says.

    LangGraph's own types and plain data are read as they are. Any other type is built only if it is named here; else
    its plain data is returned, with a warning, and its module is not imported.

    Args:
        allowed_types: classes of your own, or ``(module, name)``.
        key: encrypts everything but names (threads, namespaces, channels, tasks, runs) with AES-GCM.
    """
    allowed = [each if isinstance(each, tuple) else (each.__module__, each.__name__) for each in allowed_types]
    plain = JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=allowed or None)
    return plain if key is None else EncryptedSerializer(AesGcm(key), plain)
