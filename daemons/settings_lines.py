"""On which line of a TOML file a setting stands; the parser of the standard library does not tell."""

from __future__ import annotations

import re
from pathlib import Path


def placed(path: Path, *key: str) -> str:
    """``FILE:LINE``, or the file alone where it cannot be read (any more) or has no such key."""
    try:
        line = line_of(path.read_text(encoding="utf-8"), key)
    except (OSError, UnicodeDecodeError):
        line = None
    return f"{path}:{line}" if line else str(path)


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line of a TOML file where a key stands (in its table, whichever way that is written), or its table begins."""
    table: tuple[str, ...] = ()
    nearest: tuple[int, int] | None = None  # how many parts of the path fit, line
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        header = re.match(r"\[\[?([^\[\]]+)\]\]?\s*(#.*)?\Z", line)
        if header:
            table = _parts(header[1])
            here = table
        elif found := re.match(
            r"""((?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)(?:\s*\.\s*(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+))*)\s*=""", line
        ):
            here = (*table, *_parts(found[1]))
        else:
            continue
        fits = len(here) if here == path[: len(here)] else len(path) if here[: len(path)] == path else 0
        if fits and (nearest is None or fits > nearest[0]):
            nearest = fits, number
    return nearest[1] if nearest else None


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))
