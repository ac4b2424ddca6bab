"""Tables at any width: lines fit, ids stay whole, numbers stand below each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.cli.tables import Cell, Column, cut, lay_out, printable, printable_lines, width_of, wrap
from tests.unit.cli.screens import assert_fits, texts

COLUMNS = (
    Column("task", key=True),
    Column("type", least=8),
    Column("tries", right=True),
    Column("where", least=8, spare=1),
    Column("error", least=20, below=True),
)
ID = "0123456789abcdef01230000002a"
ROW = (ID, "python_source_stats", 12, "worker-with-a-long-name", "it did not work because of this and that and so on")


def laid(width: int | None, *rows: tuple[object, ...]) -> list[str]:
    return texts(lay_out(COLUMNS, rows or (ROW,), width))


def test_a_pipe_gets_everything_on_one_line_a_row() -> None:
    head, row = laid(None)
    assert head.split() == ["TASK", "TYPE", "TRIES", "WHERE", "ERROR"]
    for text in ROW:
        assert str(text) in row


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 132, 200])
def test_lines_fit_and_ids_are_whole(width: int) -> None:
    lines = laid(width, ROW, ("short", "noop", 1, "w", ""))
    assert_fits(lines, width)
    assert any(ID in line.split() for line in lines)
    assert any("short" in line.split() for line in lines)


def test_what_is_long_stands_below_its_row_before_anything_is_left_out() -> None:
    lines = laid(80)
    assert lines[0].split() == ["TASK", "TYPE", "TRIES", "WHERE"]
    assert lines[2] == "    it did not work because of this and that and so on"


def test_numbers_end_in_one_column() -> None:
    lines = texts(lay_out((Column("agent"), Column("queue", right=True)), [("a", 5), ("bbb", "12,345")], 40))
    assert {len(line) for line in lines} == {len("AGENT  12,345")}


def test_an_id_that_is_wider_than_the_terminal_stands_alone_and_whole() -> None:
    long = "x" * 128
    lines = laid(80, (long, "noop", 1, "w", "why"))
    assert long in lines
    assert_fits(lines, 80)
    assert "    type noop  tries 1  where w" in lines


def test_what_a_terminal_would_obey_is_shown_and_not_sent() -> None:
    (_, row) = texts(lay_out((Column("error"),), [("red \x1b[31m and\x07 \u202e\n new line \x9b2J",)], None))
    assert row == "red \\x1b[31m and\\x07 \\u202e new line \\x9b2J"
    assert printable("größe 値 👩‍💻") == "größe 値 👩‍💻"


def test_wide_letters_count_twice() -> None:
    lines = texts(lay_out((Column("a", least=4), Column("b")), [("値段" * 20, "x")], 20))
    assert all(width_of(line) <= 20 for line in lines)
    assert cut("値段値段", 5) == "値段…"


def test_words_are_wrapped_and_never_broken() -> None:
    path = "/a/path/that/has/no/spaces/and/is/longer/than/the/terminal"
    lines = texts(wrap([Cell("see ", "bold"), Cell(f"the file {path} for more")], 30, indent="  "))
    assert f"  {path}" in lines
    assert_fits(lines, 30)
    assert texts(wrap([Cell("any length"), Cell(" at all")], None)) == ["any length at all"]


LETTERS = st.characters(exclude_categories=("Cs", "Mn", "Mc", "Me"))


@given(
    rows=st.lists(
        st.tuples(
            st.text("abc値-_", min_size=1, max_size=40), st.text(LETTERS, max_size=30), st.integers(), st.text(LETTERS),
            st.text(LETTERS),
        )
    ),
    width=st.integers(20, 120),
)  # fmt: skip
def test_any_texts_fit_any_terminal(rows: list[tuple[object, ...]], width: int) -> None:
    lines = texts(lay_out(COLUMNS, rows, width))
    assert all(line.replace("\u200d", "").isprintable() for line in lines)
    assert_fits(lines, width)


def test_what_a_terminal_would_obey_is_in_no_sentence() -> None:
    for width in (None, 80):
        assert texts(wrap([Cell("  | a\tb \x1b[31m\x9b2J\nc")], width)) == ["  | a b \\x1b[31m\\x9b2J c"]
    assert printable_lines("a  b\r\nc\rd\x1b\n") == "a  b\nc d\\x1b\n"
