"""Tables that fit a terminal: what does not fit is cut, moved below its row, or left out, in this order; ids never are.

Pure: lines of styled pieces come out, whatever the terminal; :mod:`daemons.cli.output` prints them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

GAP = 2
INDENT = "    "
JOINER = "\u200d"  # makes one emoji of several


class Cell(NamedTuple):
    """A text with a style of Rich ("" for none)."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        right: it holds numbers.
        key: where no table fits, a row begins with it, on a line of its own; by default the first column.
        least: it may be cut down to so many characters; 0: never (ids, so that they can be copied).
        spare: where there is no room it is left out, the higher number first; 0: never.
        below: where there is no room its cells stand on lines of their own, below their rows.
    """

    name: str
    right: bool = False
    key: bool = False
    least: int = 0
    spare: int = 0
    below: bool = False


Line = list[Cell]


def printable(text: object) -> str:
    """On one line, and without what a terminal would obey: texts come from clients, handlers and the network."""
    return printable_line(" ".join(str(text if text is not None else "").split()))


def printable_lines(text: str) -> str:
    """The same of a text whose lines stay."""
    return "\n".join(map(printable_line, text.replace("\r\n", "\n").split("\n")))


def printable_line(line: str) -> str:
    """The same of a line whose spaces stay; what else moves the cursor is a space."""
    if line.isprintable():
        return line
    line = re.sub("[\t\r\n]", " ", line)
    return "".join(each if each.isprintable() or each == JOINER else _escaped(each) for each in line)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 1 << 8 else f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def width_of(text: str) -> int:
    """Columns that it takes: letters of East Asian scripts and emoji take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, width: int) -> str:
    """At most so wide, with … where something is missing."""
    if width_of(text) <= width:
        return text
    kept = text[: max(0, width - 1)]
    while kept and width_of(kept) >= width:
        kept = kept[:-1]
    return f"{kept}…" if width > 0 else ""


def lay_out(columns: Sequence[Column], rows: Iterable[Sequence[Any]], width: int | None) -> list[Line]:
    """A header and the rows, as lines that are at most ``width`` wide (None: as wide as they are)."""
    cells = [[_cell(value) for value in row] for row in rows]
    natural = [
        max([width_of(column.name), *(width_of(row[number].text) for row in cells)])
        for number, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    if width is None:
        return _lines(columns, cells, dict(enumerate(natural)), [], None)
    below = [number for number in shown if columns[number].below]
    found = _fitted(columns, natural, shown, width, only=below)
    if found is not None:
        return _lines(columns, cells, found, [], width)
    shown = [number for number in shown if number not in below]
    while (found := _fitted(columns, natural, shown, width)) is None:
        spare = max(shown, key=lambda number: columns[number].spare)
        if not columns[spare].spare:
            return _stacked(columns, cells, below, width)
        shown.remove(spare)
    return _lines(columns, cells, found, below, width)


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return Cell(_kept(value.text), value.style)
    return Cell("" if value is None else _kept(str(value)))


def _kept(text: str) -> str:
    """As it can be printed, with its indentation."""
    return text[: len(text) - len(text.lstrip(" "))] + printable(text)


def _fitted(
    columns: Sequence[Column],
    natural: Sequence[int],
    inside: Sequence[int],
    width: int,
    only: Sequence[int] | None = None,
) -> dict[int, int] | None:
    """Widths of the columns that are shown, some of them cut (``only`` these); None if that does not make them fit."""
    widths = {number: natural[number] for number in inside}
    over = sum(widths.values()) + GAP * (len(widths) - 1) - width
    while over > 0:
        least = {number: max(columns[number].least, len(columns[number].name)) for number in widths}
        allowed = [number for number in widths if columns[number].least and (only is None or number in only)]
        cuttable = [number for number in allowed if widths[number] > least[number]]
        if not cuttable:
            return None
        widest = max(cuttable, key=lambda number: widths[number])
        step = min(over, widths[widest] - least[widest])
        others = [widths[number] for number in cuttable if number != widest]
        if others:  # level with the next one first, so that no column gives all
            step = max(1, min(step, widths[widest] - max(others)))
        widths[widest] -= step
        over -= step
    return widths


def _lines(
    columns: Sequence[Column], cells: list[list[Cell]], widths: dict[int, int], below: list[int], width: int | None
) -> list[Line]:
    head = [Cell(columns[number].name.upper(), "bold") for number in widths]
    lines = [_line(columns, dict(zip(widths, head, strict=True)), widths)]
    for row in cells:
        lines.append(_line(columns, {number: row[number] for number in widths}, widths))
        lines.extend(_below(row, below, width))
    return lines


def _below(row: list[Cell], below: list[int], width: int | None) -> list[Line]:
    room = None if width is None else width - len(INDENT)
    return [
        [Cell(INDENT), Cell(row[number].text if room is None else cut(row[number].text, room), row[number].style)]
        for number in below
        if row[number].text
    ]


def _line(columns: Sequence[Column], row: dict[int, Cell], widths: dict[int, int]) -> Line:
    line: Line = []
    last = list(widths)[-1]
    for number, width in widths.items():
        text = cut(row[number].text, width)
        pad = " " * (width - width_of(text))
        right = columns[number].right
        if right and pad:
            line.append(Cell(pad))
        line.append(Cell(text, row[number].style))
        if number != last:
            line.append(Cell(" " * GAP if right else pad + " " * GAP))
    while line and not line[-1].text.strip():
        line.pop()
    if line:
        line[-1] = Cell(line[-1].text.rstrip(), line[-1].style)
    return line


def _stacked(columns: Sequence[Column], cells: list[list[Cell]], below: list[int], width: int) -> list[Line]:
    """No table fits: the key first, whole (a terminal wraps a line that is longer than it, and copies it as one), the
    rest below it with its names.
    """
    inside = [number for number in range(len(columns)) if number not in below]
    key = next((number for number in inside if columns[number].key), inside[0])
    lines: list[Line] = []
    for row in cells:
        lines.append([Cell(row[key].text.strip(), row[key].style)])
        lines.extend(_facts([(columns[n].name, row[n]) for n in inside if n != key and row[n].text], width))
        lines.extend(_below(row, below, width))
    return lines


def _facts(texts: list[tuple[str, Cell]], width: int) -> list[Line]:
    """As many on a line as there is room for."""
    lines: list[Line] = []
    line: Line = []
    used = 0
    for name, cell in texts:
        fact = [Cell(f"{name} ", "dim"), cell]
        size = len(name) + 1 + width_of(cell.text)
        if line and used + GAP + size > width:
            lines.append(line)
            line = []
        if len(INDENT) + size > width:
            lines.extend(wrap([Cell(INDENT), *fact], width, indent=2 * INDENT))
            continue
        used = used + GAP + size if line else len(INDENT) + size
        line = [*line, Cell(" " * GAP), *fact] if line else [Cell(INDENT), *fact]
    return [*lines, line] if line else lines


def wrap(parts: Sequence[Cell], width: int | None, *, indent: str = INDENT, whole: bool = False) -> list[Line]:
    """Words to lines, of which all but the first are indented; words are never broken, nor are spaces within a part
    that has none. What a terminal would obey is escaped.

    Args:
        whole: the parts are not broken, either.
    """
    parts = [Cell(printable_line(part.text), part.style) for part in parts]
    if width is None:
        return [parts]
    lines: list[Line] = []
    line: Line = []
    used = 0
    for part in parts:
        for word in [part.text] if whole else _words(part.text):
            size = width_of(word)
            if used and used + width_of(word.rstrip()) > width and word.strip():
                lines.append(_trimmed(line))
                line, used = [Cell(indent)], len(indent)
            line.append(Cell(word, part.style))
            used += size
    return [*lines, _trimmed(line)]


def _words(text: str) -> list[str]:
    """With the spaces that follow them; leading spaces belong to the first."""
    words: list[str] = []
    start = 0
    for number in range(1, len(text)):
        if text[number] != " " and text[number - 1] == " " and text[start:number].strip():
            words.append(text[start:number])
            start = number
    return [*words, text[start:]] if text else words


def _trimmed(line: Line) -> Line:
    return [*line[:-1], Cell(line[-1].text.rstrip(), line[-1].style)] if line else line
