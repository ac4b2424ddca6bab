"""What the values in Redis look like inside: parts with their lengths; before what is serialised stands its type."""

from __future__ import annotations

import struct
from typing import Any, Final, Protocol

_LENGTH: Final = struct.Struct(">I")


class Serializer(Protocol):
    """LangGraph's serializer protocol."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]: ...

    def loads_typed(self, data: tuple[str, bytes]) -> Any: ...


def pack(*parts: bytes) -> bytes:
    return b"".join([each for part in parts for each in (_LENGTH.pack(len(part)), part)])


def unpack(data: bytes) -> list[bytes]:
    """
    Raises:
        ValueError: this was not made by :func:`pack`.
    """
    parts = []
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise ValueError("a stored value is cut short")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        if at > len(data):
            raise ValueError("a stored value is cut short")
        parts.append(data[at - length : at])
    return parts


def dump(serde: Serializer, value: Any) -> bytes:
    kind, data = serde.dumps_typed(value)
    return pack(kind.encode(), data)


def load(serde: Serializer, data: bytes) -> Any:
    kind, value = unpack(data)
    return serde.loads_typed((kind.decode(), value))


def text(value: Any) -> str:
    """A name that Redis returned."""
    return value.decode() if isinstance(value, bytes) else str(value)
