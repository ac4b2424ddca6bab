"""Serializers that build no type which was not named."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import ormsgpack
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_METHODS, SAFE_MSGPACK_TYPES
from langgraph.checkpoint.serde.base import CipherProtocol, SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import (
    EXT_DELTA_SNAPSHOT,
    EXT_METHOD_SINGLE_ARG,
    EXT_NUMPY_ARRAY,
    JsonPlusSerializer,
)

from a2a_zmq.errors import TypeNotAllowed

_NAME: Final = "aes-gcm"
_NONCE_BYTES: Final = 12
# The bytes that begin an extension of msgpack, as all types are that it does not have itself. Plain values seldom have
# one of them anywhere, and looking for them takes a tenth of the time of parsing the value.
_may_hold_types: Final = re.compile(rb"[\xc7-\xc9\xd4-\xd8]").search

NOT_ALLOWED: Final = "these types are not allowed in checkpoints"
NOT_FOUND: Final = "these types are not found again, since they are not at the top level of a module that is there"


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


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's msgpack serializer, which refuses what it would not give back as it was.

    LangGraph's own gives the plain data of a type that is not allowed, or that it does not find, so a run that goes on
    from its checkpoint has other values than one that was never stopped. This one says so, and at the first time: when
    the value is to be stored.
    """

    def __init__(self, named: Iterable[tuple[str, ...]]) -> None:
        self._named = frozenset(named)
        self._found: set[tuple[str, ...]] = set()
        super().__init__(pickle_fallback=False, allowed_msgpack_modules=self._named or None)

    def with_msgpack_allowlist(self, extra_allowlist: Iterable[tuple[str, ...] | type]) -> StrictSerializer:
        """LangGraph adds what a graph's schemas annotate, where ``LANGGRAPH_STRICT_MSGPACK`` is set."""
        more = frozenset(map(_name_of, extra_allowlist))
        return self if more <= self._named else StrictSerializer(self._named | more)

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """
        Raises:
            TypeNotAllowed: the value could not be read again as it is.
        """
        encoded = super().dumps_typed(obj)
        self._check(encoded)
        return encoded

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """
        Raises:
            TypeNotAllowed: the value would not be what was stored.
        """
        self._check(data)
        return super().loads_typed(data)

    def _check(self, encoded: tuple[str, bytes]) -> None:
        kind, data = encoded
        if kind != "msgpack" or _may_hold_types(data) is None:
            return
        refused: dict[str, str] = {}  # type → why; ormsgpack does not hand on what its hook raises
        self._look(refused, data)
        if refused:
            outermost = next(reversed(refused.values()))
            raise TypeNotAllowed(outermost, tuple(name for name in reversed(refused) if refused[name] == outermost))

    def _look(self, refused: dict[str, str], data: bytes) -> Any:
        hook = partial(self._look_into, refused)
        return ormsgpack.unpackb(data, ext_hook=hook, option=ormsgpack.OPT_NON_STR_KEYS)

    def _look_into(self, refused: dict[str, str], code: int, inner: bytes) -> None:
        if code == EXT_NUMPY_ARRAY:
            return
        parts = self._look(refused, inner)
        if code == EXT_DELTA_SNAPSHOT:
            return
        if code == EXT_METHOD_SINGLE_ARG:
            why = "" if (parts[0], parts[1], parts[3]) in SAFE_MSGPACK_METHODS else NOT_ALLOWED
        else:
            why = self._why_not((parts[0], parts[1]))
        if why:
            refused[f"{parts[0]}.{parts[1]}"] = why

    def _why_not(self, name: tuple[str, str]) -> str:
        if name in SAFE_MSGPACK_TYPES or name in self._found:
            return ""
        if name not in self._named:
            return NOT_ALLOWED
        try:
            getattr(importlib.import_module(name[0]), name[1])
        except Exception:
            return NOT_FOUND
        self._found.add(name)
        return ""


def strict_serializer(
    allowed_types: Iterable[type | tuple[str, ...]] = (), *, key: bytes | None = None
) -> SerializerProtocol:
    """LangGraph's msgpack serializer in strict mode, whatever the environment says.

    LangGraph's own types and plain data are stored and read as they are. Any other type has to be named here; else
    neither is done, with :class:`~a2a_zmq.errors.TypeNotAllowed`, and its module is not imported.

    Args:
        allowed_types: classes of your own, or ``(module, name)``.
        key: encrypts everything but names (threads, namespaces, channels, tasks, runs) with AES-GCM.
    """
    plain = StrictSerializer(map(_name_of, allowed_types))
    return plain if key is None else EncryptedSerializer(AesGcm(key), plain)


def _name_of(named: type | tuple[str, ...]) -> tuple[str, ...]:
    return named if isinstance(named, tuple) else (named.__module__, named.__name__)
