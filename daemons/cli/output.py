"""How answers look on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

PIPE_WIDTH = 400


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", right: str = "") -> None:
    """A plain table; ``right`` names the columns, comma-separated, that hold numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    numbers = set(right.split(","))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        # Text, not markup: ids, paths and error lines may hold brackets.
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    # A pipe has no width: its lines are as long as their content.
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=PIPE_WIDTH)
    if title:
        console.print(Text(f"{title}"))
    console.print(table)


def short(text: object, limit: int = 100) -> str:
    """One line of at most ``limit`` characters."""
    line = " ".join(str(text if text is not None else "").split())
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
