"""What a child process prints, sorted by runs."""

from __future__ import annotations

from daemons.worker.executors.printed import Printed
from daemons.worker.executors.surroundings import RUN_MARK


def marked(name: str) -> bytes:
    return RUN_MARK + name.encode() + b"\n"


def test_lines_belong_to_the_run_that_printed_them() -> None:
    printed = Printed()
    printed.note(b"import\n" + marked("a 1") + b"one\ntwo")
    assert printed.lines_of("a", 1) == ["one", "two"]
    printed.note(marked("b 1") + b"\x1e{}\n\nthree\n")
    assert printed.lines_of("a", 1) == ["one", "two"], "its last line was not finished"
    assert printed.lines_of("b", 1) == ["\x1e{}", "", "three"]
    assert printed.lines_of("", 0) == ["import"]


def test_a_long_unfinished_line_hides_no_mark() -> None:
    printed = Printed()
    printed.note(marked("a 1") + b"x" * 1000)
    printed.note(marked("b 1") + b"after\n")
    assert printed.lines_of("b", 1) == ["after"]
    assert printed.lines_of("a", 1) == ["x" * 400]
