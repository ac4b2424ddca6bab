"""Takes secrets out of what is written down: log lines, texts of exceptions, errors of spans.

Three things are looked for: values that this process knows to be secret (:func:`hide`), members whose name says that
they are, at any depth, and texts of a form that only secrets have. A text that merely looks like a secret is lost to
the reader, which is the lesser evil.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

MASK: Final = "***"
# Deeper than this a value is written as one text.
MAX_DEPTH: Final = 8
# A shorter value stands in every second line by accident.
MIN_KNOWN_CHARS: Final = 6

_WORDS: Final = (
    r"pass(?:word|wd|phrase)|pwd|secret|token|api[_-]?key|credential"
    r"|(?:private|secret|access|signing|encryption|session|pair|hmac|mac|curve)[_-]?key"
)
# Names that hold secrets. Names of public things that contain such a word (key_id, token_errors) are not meant.
_NAME: Final = re.compile(rf"(?i)(?:\A|[_.-]|(?<=[a-z])(?=[A-Z]))(?:{_WORDS}|authorization|(?:set[_-])?cookie)s?\Z")
_COUNTED: Final = re.compile(r"(?i)tokens\Z")

_FORMS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
    (re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:@]{0,200}):[^\s/@]+@"), rf"\1:{MASK}@"),
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key)([\"']?\s*[:=]\s*(?:b(?=[\"']))?[\"']?)"
            r"(?:(bearer|basic|digest|token)\s+)?[^\s\"',;}]+"
        ),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{12,}"), rf"\1 {MASK}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*"), MASK),
    (
        re.compile(r"\b(?:[spr]k-[A-Za-z0-9_-]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|xox[a-z]-[\w-]{10,})"),
        MASK,
    ),
)
# A name and its value within a text: name=value, "name": "value", name: value.
_MEMBER: Final = re.compile(rf"(?i)({_WORDS})(s?)([\"']?)(\s*[=:]\s*)(?:b?\"([^\"]*)\"|b?'([^']*)'|([^\s,;)}}\]\"']+))")
# Behind "token:" in a sentence comes a word more often than a token.
_LONG_CHARS: Final = 16

_known: set[str] = set()


def hide(values: Iterable[str | None]) -> None:
    """From now on take these values out wherever they stand."""
    for value in values:
        if value and len(value) >= MIN_KNOWN_CHARS:
            _known.update((value, quote(value, safe="")))


def text(value: str) -> str:
    """The text without secrets."""
    for secret in _known:
        if secret in value:
            value = value.replace(secret, MASK)
    for pattern, instead in _FORMS:
        value = pattern.sub(instead, value)
    return _MEMBER.sub(_masked, value)


def _masked(found: re.Match[str]) -> str:
    name, plural, quoted, between, double, single, bare = found.groups()
    word = name.lower()
    if plural and word == "token" and bare is not None and bare.isdigit():
        return found.group()  # so many of them
    sentence = ":" in between and bare is not None and not quoted
    if sentence and word in ("token", "secret", "credential") and len(bare) < _LONG_CHARS:
        return found.group()
    mark = '"' if double is not None else "'" if single is not None else ""
    return f"{name}{plural}{quoted}{between}{mark}{MASK}{mark}"


def named(name: Any, value: Any) -> bool:
    """Does the name say that this value is secret?"""
    if value is None or isinstance(value, bool) or not isinstance(name, str) or _NAME.search(name) is None:
        return False
    return not (isinstance(value, int | float) and _COUNTED.search(name))


def clean(value: Any, depth: int = 0) -> Any:
    """A copy of the value without secrets, of what JSON has; everything else becomes a text."""
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, BaseException):
        return text(f"{type(value).__name__}: {value}")
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return {name: MASK if named(name, each) else clean(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [clean(each, depth + 1) for each in value]
    return text(str(value))
