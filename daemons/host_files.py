"""What ``/etc/a2a-zmq`` says of a host's agents: variables that systemd gives to units, which others have to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from a2a_zmq.errors import ConfigError

SYSTEM: Final = Path("/etc/a2a-zmq")
# Where its agents run, and look for ``.env``.
STATE: Final = Path("/var/lib/a2a-zmq")
FOR_ALL: Final = "environment"

_COMMENTS: Final = "#;"
# In double quotes a backslash is one unless one of these follows.
_ESCAPED: Final = '"\\`$'


class Assignment(NamedTuple):
    """A variable; ``name`` is whatever stands before the ``=``, so it may be none."""

    line: int
    name: str
    value: str


def is_file(path: Path) -> bool:
    """False also for what stands in a directory that this user may not enter."""
    try:
        return path.is_file()
    except OSError:
        return False


def exists(path: Path) -> bool:
    """True also for what cannot be looked for, in a directory that this user may not enter."""
    try:
        return path.exists()
    except OSError:
        return True


def unreadable(path: Path) -> str:
    """Why a file cannot be read, "" if it can or is not there."""
    try:
        with path.open("rb"):
            return ""
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return error.strerror or str(error)


def assignments(path: Path) -> list[Assignment]:
    """The lines of an ``EnvironmentFile=`` as systemd understands them; those without ``=`` it passes over.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason}") from None
    return list(_parsed(text))


def host_variables(path: Path) -> Mapping[str, str]:
    """What a file sets; nothing if it is not there or may not be read, which :func:`unreadable` tells.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if not is_file(path) or unreadable(path):
        return {}
    return {each.name: each.value for each in assignments(path) if each.name.isidentifier()}


def _parsed(text: str) -> Iterator[Assignment]:
    at, line = 0, 1
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        name, equals, _ = text[at:end].partition("=")
        if not equals or name.lstrip()[:1] in tuple(_COMMENTS):
            at, line = end + 1, line + 1
            continue
        value, after = _value(text, at + len(name) + 1)
        yield Assignment(line, name.strip(), value)
        line += text.count("\n", at, after)
        at = after


def _value(text: str, at: int) -> tuple[str, int]:
    """A value from here on, and where the line after it begins: quotes and a backslash go over the end of a line."""
    kept: list[str] = []
    fixed = 0  # so much is quoted or escaped: no white space is taken from it
    quote, bare = "", False
    while at < len(text):
        char = text[at]
        following = text[at + 1 : at + 2]
        at += 1
        if quote:
            if char == quote:
                quote, fixed = "", len(kept)
            elif char == "\\" and quote == '"':
                kept += [] if following == "\n" else [following] if following in _ESCAPED else [char, following]
                at += 1
            else:
                kept.append(char)
        elif char == "\n":
            break
        elif char in "'\"" and not bare:
            quote = char
        elif char == "\\":
            kept += [] if following == "\n" else [following]
            at, bare, fixed = at + 1, True, len(kept)
        elif bare or not char.isspace():
            kept.append(char)
            bare = True
    return "".join(kept[:fixed]) + "".join(kept[fixed:]).rstrip(), at
