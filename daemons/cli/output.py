"""How answers look on a terminal, and in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from daemons.cli.tables import Cell, Column, Line, lay_out, printable, wrap

# Colours say one thing everywhere: green is well, yellow wants a look, red is wrong; what is neither has none. The
# word beside it always says the same.
STYLES = {
    **dict.fromkeys(("up", "idle", "busy", "ok", "leads", "available", "completed"), "green"),
    **dict.fromkeys(("draining", "recovering", "suspect", "waiting", "note", "paused"), "yellow"),
    **dict.fromkeys(("down", "error", "failed", "abandoned", "FAIL", "away", "revoked"), "red"),
}


def styled(word: object) -> Cell:
    """A word that tells how something is, with its colour."""
    return Cell(str(word), STYLES.get(str(word), ""))


def is_dumb() -> bool:
    """The terminal cannot move its cursor."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def width() -> int | None:
    """Columns for a line on standard output, where that is a terminal: all but the last, at which some terminals wrap.
    None if it is none: the lines of a pipe are as long as they are.
    """
    return size()[0] - 1 if sys.stdout.isatty() else None


def size() -> tuple[int, int]:
    """Columns and lines of the terminal; COLUMNS and LINES win."""
    import shutil

    columns, lines = shutil.get_terminal_size()
    return max(20, columns), max(5, lines)


def print_lines(lines: Iterable[Line]) -> None:
    """Lines of styled pieces; colours where standard output is a terminal that has them, unless NO_COLOR is set."""
    if not sys.stdout.isatty() or is_dumb():
        for line in lines:
            print("".join(cell.text for cell in line))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(Text.assemble(*((cell.text, cell.style) for cell in line)))


def print_table(
    columns: Sequence[str | Column], rows: Iterable[Sequence[Any]], *, title: str = "", right: str = ""
) -> None:
    """A table; ``right`` names the columns, comma-separated, that hold numbers."""
    numbers = set(right.split(","))
    made = [each if isinstance(each, Column) else Column(each, each in numbers) for each in columns]
    if title:
        print_lines(wrap([Cell(title, "bold")], width()))
    print_lines(lay_out(made, rows, width()))


def print_words(*parts: str | Cell, indent: str = "    ") -> None:
    """A sentence, wrapped to the terminal."""
    cells = [part if isinstance(part, Cell) else Cell(part) for part in parts]
    print_lines(wrap(cells, width(), indent=indent))


def short(text: object, limit: int = 100) -> str:
    """One line of at most ``limit`` characters."""
    line = printable(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def local_time(iso_text: str | None) -> str:
    """A wire time as a local one without the date if it is today's; "" for none."""
    if not iso_text:
        return ""
    from datetime import UTC, datetime

    try:
        stamp = datetime.fromisoformat(iso_text)
    except ValueError:
        return iso_text
    stamp = (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).astimezone()
    form = "%H:%M:%S.%f" if stamp.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M:%S.%f"
    return stamp.strftime(form)[:-3]


def seconds_between(first: str | None, last: str | None) -> float | None:
    """Seconds between two wire times."""
    if not first or not last:
        return None
    from a2a_zmq.clock import parse_iso

    try:
        return parse_iso(last) - parse_iso(first)
    except ValueError:
        return None


def age(iso_text: Any, wall: float) -> str:
    """How long ago that was."""
    from a2a_zmq.clock import parse_iso

    try:
        return duration(wall - parse_iso(str(iso_text))) if iso_text else ""
    except ValueError:
        return ""


def duration(seconds: float) -> str:
    """A time span in its two largest units: ``4 s``, ``3 min 12 s``, ``2 h 5 min``, ``8 d 3 h``."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left} s"
    for unit, whole, part, each in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86_400, "h", 3600)):
        if left < {"min": 3600, "h": 86_400}.get(unit, left + 1):
            rest = left % whole // each
            return f"{left // whole} {unit}" + (f" {rest} {part}" if rest else "")
    return ""


def counted(number: int, what: str) -> str:
    """``1 task``, ``2,000 tasks``."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def milliseconds(seconds: float | None) -> str:
    """A latency, with its unit; "" if there is none."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.09995 else f"{seconds * 1000:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 99.995 else duration(seconds)
