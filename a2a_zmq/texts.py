"""Texts as JSON can carry them: without lone surrogates (halves of characters of UTF-16), which Python's texts may have
from names of files or answers of services.
"""

from __future__ import annotations

from typing import Any


def whole(text: str) -> str:
    """The same text with U+FFFD for each lone surrogate."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def whole_texts(value: Any) -> Any:
    """The same lists and dicts with :func:`whole` texts."""
    if isinstance(value, str):
        return whole(value)
    if isinstance(value, dict):
        return {whole_texts(name): whole_texts(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [whole_texts(item) for item in value]
    return value
