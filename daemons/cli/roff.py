"""Man pages: plain ``man`` macros, and nothing in a text that roff would take for its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

OPTION = re.compile(r"(?<![\w-])(--?[A-Za-z][\w-]*)")


class Page:
    """One page, section after section.

    Args:
        source, manual: what stands in its foot and head.
    """

    def __init__(self, name: str, section: int, source: str, manual: str) -> None:
        # Without a date, so that the same sources make the same page.
        self._lines = [f'.TH "{escaped(name.upper())}" "{section}" "" "{escaped(source)}" "{escaped(manual)}"', ".nh"]
        self._lines.append(".ad l")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def section(self, title: str, text: str = "") -> None:
        self._lines.append(f'.SH "{escaped(title.upper())}"')
        if text:
            self.text_line(text)

    def subsection(self, title: str) -> None:
        self._lines.append(f'.SS "{escaped(title)}"')

    def paragraph(self, text: str) -> None:
        self._lines.append(".PP")
        self.text_line(text)

    def text_line(self, text: str) -> None:
        """Goes on with the paragraph."""
        self._lines.append(line(text))

    def usage(self, text: str) -> None:
        self._lines += [".PP", f"\\fB{escaped(text)}\\fR"]

    def items(self, rows: Iterable[tuple[str, str]]) -> None:
        """Terms, each with what it means."""
        for term, text in rows:
            self._lines += [".TP", f"\\fB{escaped(term)}\\fR", line(text)]

    def examples(self, rows: Iterable[tuple[str, str]]) -> None:
        for command, purpose in rows:
            self._lines += [".RS 4", ".nf", line(command), ".fi", ".RS 4", line(purpose), ".RE", ".RE"]

    def block(self, lines: Sequence[str]) -> None:
        """Lines that stay as they are."""
        self._lines += [".PP", ".nf", *(line(each) for each in lines), ".fi"]


def escaped(text: str) -> str:
    """Backslashes, and hyphens that are to be copied as such."""
    return _ascii(text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq"))


def line(text: str) -> str:
    """A line of text; one that begins with . or ' is no request."""
    found = text.replace("\\", "\\e").replace("'", "\\(aq").replace("`", "\\(ga")
    found = _ascii(OPTION.sub(lambda match: match[0].replace("-", "\\-"), found))
    return f"\\&{found}" if found[:1] in (".", "'") else found


def _ascii(text: str) -> str:
    """Other letters by their numbers: which encoding a page has, its readers need not guess."""
    return "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in text)
