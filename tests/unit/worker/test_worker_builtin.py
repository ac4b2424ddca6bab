"""The built-in task types as plain functions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2a_zmq.handlers import InvalidInput
from daemons.worker.builtin.compute import OPERATIONS, compute
from daemons.worker.builtin.data_processing import data_processing
from daemons.worker.builtin.python_source_stats import analyse_file, analyse_source, python_source_stats

# ------------------------------------------------------------ compute


@pytest.mark.parametrize(
    ("operation", "numbers", "expected"),
    [
        ("sum", [1, 2, 3], 6),
        ("sum", [], 0),
        ("sum", [0.1] * 10, 1.0),
        ("product", [2, 3, 4], 24),
        ("count", [5, 5], 2),
        ("mean", [1, 2, 4], 7 / 3),
        ("min", [3, 1, 2], 1),
        ("max", [3, 1, 2], 3),
        ("range", [3, 1, 2], 2),
        ("sort", [3, 1.5, 2], [1.5, 2, 3]),
        ("median", [4, 1, 3, 2], 2.5),
        ("mode", [1, 2, 2], 2),
        ("variance", [1, 2, 3], 1),
        ("stdev", [2, 4], math.sqrt(2)),
    ],
)
def test_compute(operation: str, numbers: list[float], expected: Any) -> None:
    answer = compute({"operation": operation, "numbers": numbers})
    assert answer == {"operation": operation, "count": len(numbers), "result": pytest.approx(expected)}


def test_the_specifications_example_needs_no_numbers() -> None:
    assert compute({"operation": "sum"})["result"] == 0


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({}, "unknown operation None"),
        ({"operation": "divide"}, "there are sum, product"),
        ({"operation": "sum", "numbers": "12"}, "must be a list"),
        ({"operation": "sum", "numbers": [1, "2"]}, r"numbers\[1\] is no number: '2'"),
        ({"operation": "sum", "numbers": [True]}, r"numbers\[0\] is no number"),
        ({"operation": "mean", "numbers": []}, "at least 1 number, got 0"),
        ({"operation": "stdev", "numbers": [1]}, "at least 2 numbers, got 1"),
        ({"operation": "product", "numbers": [2] * 65}, "more than 64 bits"),
        ({"operation": "product", "numbers": [1e300, 1e300]}, "too large"),
        ({"operation": "sum", "numbers": [1e308, 1e308]}, "too large"),
    ],
)
def test_compute_says_what_is_wrong(payload: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        compute(payload)


@given(
    st.sampled_from(sorted(OPERATIONS)),
    st.lists(st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)), max_size=8),
)
def test_compute_of_any_numbers_answers_or_refuses(operation: str, numbers: list[float]) -> None:
    try:
        answer = compute({"operation": operation, "numbers": numbers})
    except InvalidInput:
        return
    assert answer["count"] == len(numbers)


# ------------------------------------------------------------ data_processing


def test_word_count_of_a_text() -> None:
    answer = data_processing({"operation": "word_count", "text": "The cat, the dog\nand the bird's nest\n"})
    assert (answer["lines"], answer["words"], answer["unique_words"]) == (2, 8, 6)
    assert answer["top"][0] == ["the", 3]
    assert answer["top"][1] == ["and", 1]  # ties in alphabetical order


def test_line_count_of_a_file_equals_that_of_its_text(tmp_path: Path) -> None:
    text = "one\n\n  \nfour and more\r\nlast"
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    from_file = data_processing({"operation": "line_count", "path": str(path)})
    assert from_file.pop("path") == str(path)
    assert from_file == data_processing({"operation": "line_count", "text": text})
    assert (from_file["lines"], from_file["blank_lines"], from_file["longest_line"]) == (5, 2, 13)


def test_csv_summary_tells_numbers_from_text() -> None:
    text = 'name,size\n"a, b",1\nc,2.5\n\nc,\nd\n'
    answer = data_processing({"operation": "csv_summary", "text": text})
    assert (answer["rows"], answer["ragged_rows"]) == (4, 1)
    name, size = answer["columns"]
    assert (name["type"], name["distinct"], name["top"][0]) == ("text", 3, ["c", 2])
    assert (size["type"], size["empty"], size["min"], size["max"], size["mean"]) == ("number", 1, 1.0, 2.5, 1.75)


def test_json_lines_summary_counts_what_is_not_json() -> None:
    text = '{"a": 1, "b": null}\n[1]\n{oops\n{"a": "x"}\n'
    answer = data_processing({"operation": "json_lines_summary", "text": text})
    assert (answer["records"], answer["invalid"], answer["types"]) == (3, 1, {"object": 2, "array": 1})
    assert answer["first_error"].startswith("line 3: ")
    assert answer["keys"][0] == {"name": "a", "count": 2, "types": {"number": 1, "string": 1}}


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ({"operation": "shred", "text": ""}, "unknown operation 'shred'"),
        ({"operation": "word_count"}, "either text or path"),
        ({"operation": "word_count", "text": "", "path": "x"}, "either text or path"),
        ({"operation": "word_count", "text": 5}, "text must be a string"),
        ({"operation": "word_count", "path": "/nonexistent/file"}, "No such file"),
        ({"operation": "word_count", "path": "/"}, "Is a directory"),
        ({"operation": "word_count", "path": "a\0b"}, "cannot read"),
        ({"operation": "csv_summary", "text": 'a\n"b', "delimiter": ","}, "line 2 is not CSV"),
        ({"operation": "csv_summary", "text": "", "delimiter": "<>"}, "one character"),
    ],
)
def test_data_processing_says_what_is_wrong(payload: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        data_processing(payload)


def test_file_in_another_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(InvalidInput, match="not utf-8 text"):
        data_processing({"operation": "word_count", "path": str(path)})
    assert data_processing({"operation": "word_count", "path": str(path), "encoding": "latin-1"})["words"] == 1


# ------------------------------------------------------------ python_source_stats

SOURCE = '''\
# a comment
import os


class A:
    """Doc
    # inside a string
    """

    def easy(self):
        return 1

    async def hard(self, items):
        for item in items:                      # 1
            if item and os and A:               # 1 + 2
                yield [x for x in item if x]    # 1 + 1
            elif item:                          # 1
                continue
        try:
            assert items                        # 1
        except (ValueError, TypeError):         # 1
            pass
        while True:                             # 1
            match items:
                case [1]:                       # 1
                    break
                case _:
                    def nested():
                        return 1 if os else 2   # its own
'''


def test_stats_of_a_source() -> None:
    assert analyse_source(SOURCE) == {
        "lines": 29,
        "code_lines": 24,  # without a comment and four blank lines
        "functions": 3,
        "classes": 1,
        "complexity": 1 + 12 + 2,
        "max_complexity": 12,
        "most_complex": "A.hard",
        "parse_error": None,
    }


def test_first_of_equally_complex_functions_is_named() -> None:
    source = "\n".join(f"def f{n}(a):\n    return a if a else 1\n" for n in range(5))
    assert analyse_source(source)["most_complex"] == "f0"


@pytest.mark.parametrize(
    ("source", "says"),
    [("def f(:\n", "line 1: "), ("x = '\0'", "null bytes"), ("(" * 500 + ")" * 500, "")],
)
def test_what_is_not_python_is_counted_with_the_reason(source: str, says: str) -> None:
    stats = analyse_source(source)
    assert stats["parse_error"] is not None
    assert says in stats["parse_error"]
    assert (stats["lines"], stats["functions"]) == (1, 0)


def test_invalid_escape_warns_nobody() -> None:
    assert analyse_source(r"x = '\d'")["parse_error"] is None


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"# -*- coding: latin-1 -*-\ns = '\xe9'\n", None),
        (b"\xef\xbb\xbfs = 1\n", None),
        (b"a = 1\r\nb = 2\r\n", None),
        (b"s = '\xe9'\n", "cannot be decoded"),
        (b"# coding: nonesuch\n", "cannot be decoded"),
    ],
)
def test_files_are_decoded_as_python_does(tmp_path: Path, data: bytes, error: str | None) -> None:
    path = tmp_path / "m.py"
    path.write_bytes(data)
    stats = analyse_file(str(path))
    assert (stats["parse_error"] or "").startswith(error or "")
    assert (stats["parse_error"] is None) == (error is None)
    assert stats["lines"] == data.count(b"\n")


def test_handler_takes_a_path_or_a_source(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(SOURCE)
    assert python_source_stats({"path": str(path)}) == {"path": str(path), **python_source_stats({"source": SOURCE})}
    for payload in ({}, {"path": "a", "source": "b"}, {"path": 5}, {"path": str(tmp_path / "none.py")}):
        with pytest.raises(InvalidInput):
            python_source_stats(payload)
