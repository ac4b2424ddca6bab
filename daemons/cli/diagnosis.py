"""What ``a2actl doctor`` found, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from daemons.cli import state_checks
from daemons.cli.findings import Check
from daemons.cli.output import print_words, styled
from daemons.cli.tables import Cell

INDENT = "      "


def print_checks(checks: Sequence[Check]) -> None:
    """Each check with what it found, and what would mend it."""
    for check in checks:
        word = "FAIL" if not check.ok else "note" if check.fix else "ok"
        mark = styled(word)
        print_words(mark, f"{'':{len(INDENT) - len(word)}}", Cell(f"{check.name}: ", "bold"), check.text, indent=INDENT)
        for line in state_checks.lines(check):
            print_words(f"{INDENT}{line}", indent=INDENT + "  ")
        if check.fix:
            print_words(f"{INDENT}fix: {check.fix}", indent=INDENT + "     ")
