"""``data_processing``: summaries of a text, given inline (``text``) or as a file on the worker's host (``path``).

Payload ``{"operation": NAME, "text" | "path": ..., "encoding": "utf-8", "delimiter": ","}``; the result holds the
operation, the path if there was one, and the operation's members. Files are read line by line, never as a whole.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from a2a_zmq.handlers import InvalidInput

# Most frequent words or values shown; columns and keys described. Results stay small whatever the input.
TOP: Final = 10
MAX_COLUMNS: Final = 200
# Different values that are told apart; beyond it a column simply has "many".
MAX_DISTINCT: Final = 10_000

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def data_processing(payload: dict[str, Any]) -> dict[str, Any]:
    """Summarise a text.

    Raises:
        InvalidInput: unknown operation, no or two sources, a file that cannot be read, or text that is not what it
            should be.
    """
    operation, text, path = payload.get("operation"), payload.get("text"), payload.get("path")
    if not isinstance(operation, str) or operation not in OPERATIONS:
        raise InvalidInput(f"unknown operation {operation!r:.80}; there are {', '.join(OPERATIONS)}")
    if (text is None) == (path is None):
        raise InvalidInput("give either text or path")
    if text is not None:
        if not isinstance(text, str):
            raise InvalidInput(f"text must be a string, got {type(text).__name__}")
        return {"operation": operation, **OPERATIONS[operation](io.StringIO(text, newline=None), payload)}
    if not isinstance(path, str):
        raise InvalidInput(f"path must be a string, got {type(path).__name__}")
    encoding = payload.get("encoding", "utf-8")
    try:
        with open(path, encoding=str(encoding), newline="" if operation == "csv_summary" else None) as lines:  # noqa: PTH123
            return {"operation": operation, "path": path, **OPERATIONS[operation](lines, payload)}
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    except (UnicodeError, LookupError) as error:
        raise InvalidInput(f"{path} is not {encoding} text: {error}") from None
    except ValueError as error:  # a path with a NUL
        raise InvalidInput(f"cannot read {path!r:.80}: {error}") from None


def _line_count(lines: Iterable[str], _: dict[str, Any]) -> dict[str, Any]:
    count = blank = characters = longest = 0
    for line in lines:
        body = line.rstrip("\n")
        count += 1
        blank += not body.strip()
        characters += len(line)
        longest = max(longest, len(body))
    return {"lines": count, "blank_lines": blank, "characters": characters, "longest_line": longest}


def _word_count(lines: Iterable[str], _: dict[str, Any]) -> dict[str, Any]:
    words: Counter[str] = Counter()
    count = characters = 0
    for line in lines:
        count += 1
        characters += len(line)
        words.update(word.lower() for word in _WORD.findall(line))
    return {
        "lines": count,
        "characters": characters,
        "words": words.total(),
        "unique_words": len(words),
        "top": _top(words),
    }


def _csv_summary(lines: Iterable[str], payload: dict[str, Any]) -> dict[str, Any]:
    delimiter = payload.get("delimiter", ",")
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise InvalidInput(f"delimiter must be one character, got {delimiter!r:.20}")
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        names = next(reader, [])
        columns = [_Column(name) for name in names[:MAX_COLUMNS]]
        rows = ragged = 0
        for row in reader:
            if not row:
                continue
            rows += 1
            ragged += len(row) != len(names)
            for column, value in zip(columns, row, strict=False):
                column.add(value)
    except csv.Error as error:
        raise InvalidInput(f"line {reader.line_num} is not CSV: {error}") from None
    return {"rows": rows, "ragged_rows": ragged, "columns": [column.summary() for column in columns]}


class _Column:
    """What is known of a CSV column after some rows."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._filled = self._empty = self._numeric = 0
        self._values: Counter[str] = Counter()
        self._total = 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, value: str) -> None:
        if not value.strip():
            self._empty += 1
            return
        self._filled += 1
        if value in self._values or len(self._values) < MAX_DISTINCT:
            self._values[value] += 1
        try:
            number = float(value)
        except ValueError:
            return
        if math.isfinite(number):
            self._numeric += 1
            self._total += number
            self._min, self._max = min(self._min, number), max(self._max, number)

    def summary(self) -> dict[str, Any]:
        out: dict[str, Any] = {"name": self._name, "filled": self._filled, "empty": self._empty}
        out["distinct"] = len(self._values) if len(self._values) < MAX_DISTINCT else f"{MAX_DISTINCT} or more"
        if self._filled and self._numeric == self._filled:
            mean = self._total / self._numeric
            out.update(type="number", min=self._min, max=self._max, mean=mean if math.isfinite(mean) else None)
        else:
            out.update(type="text", top=_top(self._values, 3))
        return out


def _json_lines_summary(lines: Iterable[str], _: dict[str, Any]) -> dict[str, Any]:
    records = invalid = 0
    first_error = None
    kinds: Counter[str] = Counter()
    keys: dict[str, Counter[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            invalid += 1
            first_error = first_error or f"line {number}: {error}"
            continue
        records += 1
        kinds[_kind(value)] += 1
        if isinstance(value, dict):
            for key, member in value.items():
                if key in keys or len(keys) < MAX_COLUMNS:
                    keys.setdefault(key, Counter())[_kind(member)] += 1
    return {
        "records": records,
        "invalid": invalid,
        "first_error": first_error,
        "types": dict(kinds),
        "keys": [{"name": key, "count": seen.total(), "types": dict(seen)} for key, seen in sorted(keys.items())],
    }


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    for types, name in (((int, float), "number"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, types):
            return name
    return "null"


def _top(counts: Counter[str], at_most: int = TOP) -> list[list[Any]]:
    """The most frequent, ties in alphabetical order, so that the same text gives the same result."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [[value[:200], count] for value, count in ordered[:at_most]]


OPERATIONS: Final[dict[str, Callable[[Iterable[str], dict[str, Any]], dict[str, Any]]]] = {
    "line_count": _line_count,
    "word_count": _word_count,
    "csv_summary": _csv_summary,
    "json_lines_summary": _json_lines_summary,
}
