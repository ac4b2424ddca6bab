"""The snippets of a page, and what invisible comments in front of them say of them.

``<!-- file: NAME -->``       a file of this name has this text.
``<!-- stays: URL -->``       a command that stays in the foreground; it is ready when the URL answers 200.
``<!-- not run: WHY -->``     on a page that is run: this one is not. It is checked like those of other pages.
``<!-- unchecked: WHY -->``   nothing is known of it; for what only looks like a snippet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- (file|stays|not run|unchecked): (.+?) -->\n\s*\Z")
# Shell is "sh", or "console" with what it prints, so that none is left out by another name.
LANGUAGES = frozenset({"sh", "console", "python", "toml", "json", "yaml", "ini", "mermaid", "promql", "text", ""})


@dataclass(frozen=True)
class Snippet:
    """One fenced block.

    Attributes:
        mark: ``file``, ``stays``, ``not run``, ``unchecked``, or "" without a comment.
        said: what the comment says after the colon.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    said: str = ""

    @property
    def where(self) -> str:
        return f"{self.page.name}:{self.line}"


def snippets_of(page: Path) -> list[Snippet]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        mark = MARK.search(text[: match.start()])
        lines = [line.removeprefix(match[1]) for line in match[3].splitlines(keepends=True)]
        found.append(
            Snippet(
                page=page,
                line=text.count("\n", 0, match.start()) + 1,
                language=match[2],
                text="".join(lines),
                mark=mark[1] if mark else "",
                said=mark[2] if mark else "",
            )
        )
    return found


def exchanges(text: str) -> list[tuple[str, str]]:
    """Commands of a ``console`` block with what they print: ``$`` begins a command, ``>`` continues it."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1] = (found[-1][0] + line[2:], "")
        else:
            assert found, f"a console block begins with a command, not with {line!r}"
            found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def looks_like(shown: str, printed: str) -> bool:
    """Whether the output is what a page shows; ``…`` stands for anything, a line of its own for any lines or none."""
    parts = re.split(r"(^…\n|…)", shown.strip() + "\n", flags=re.MULTILINE)
    wild = {"…\n": r"(?:[^\n]*\n)*?", "…": r".*?"}
    pattern = "".join(wild.get(part) or re.escape(part) for part in parts)
    return re.fullmatch(pattern, printed.strip() + "\n", re.DOTALL) is not None
