"""Does what a page tells its reader to do, block after block, exactly as it stands."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.docs.host import PATIENCE_S, Host, Terminal
from tests.docs.snippets import Snippet, exchanges, looks_like, snippets_of

# What a reader of a guide has done, who has worked through the tutorial's first two sections.
ENVIRONMENT = "cd ~/a2a-zmq; . .venv/bin/activate; cd ~/fleet"
IN_THE_CLONE = "cd ~/a2a-zmq"


def run_page(page: Path, host: Host, before: str = ":") -> None:
    """Run the blocks of a page in order; each is run, a file, or marked as not run with a reason.

    Args:
        before: what its reader has done.
    """
    terminal = host.terminal()
    terminal.run(before)
    staying: list[Terminal] = []
    try:
        for snippet in snippets_of(page):
            if snippet.mark in ("not run", "unchecked"):
                continue
            if snippet.mark == "file":
                (directory_of(terminal) / snippet.said).write_text(snippet.text, encoding="utf-8")
            elif snippet.mark == "stays":
                staying.append(stay(snippet, host, directory_of(terminal)))
            else:
                run_block(snippet, terminal)
    finally:
        for each in reversed(staying):
            each.interrupt()


def run_block(snippet: Snippet, terminal: Terminal) -> None:
    if snippet.language == "sh":
        terminal.run(snippet.text)
    elif snippet.language == "console":
        for command, shown in exchanges(snippet.text):
            printed = terminal.run(command)
            if not looks_like(shown, printed):
                pytest.fail(f"{snippet.where}: {command}shows\n{shown}and printed\n{printed}")
    elif snippet.language == "python":
        printed = terminal.run(f"python - <<'END OF SNIPPET'\n{snippet.text}END OF SNIPPET\n")
        values = promised(snippet.text)
        assert values, f"{snippet.where} does not say what it prints"
        assert [line for line in printed.splitlines() if line in values] == values, (
            f"{snippet.where} printed\n{printed}"
        )
    else:
        # Settings are checked by test_snippets.
        assert snippet.language in ("text", "toml", "mermaid", ""), f"{snippet.where} is neither run nor a file"


def promised(block: str) -> list[str]:
    """What comments behind ``print`` say that is printed; those of more than a word explain something."""
    return re.findall(r"^ *print\(.*\)  # (\S+)$", block, re.MULTILINE)


def stay(snippet: Snippet, host: Host, directory: Path) -> Terminal:
    """A command in a terminal of its own, in the directory where the reader is."""
    terminal = host.terminal()
    terminal.run(f"cd ~/a2a-zmq\n. .venv/bin/activate\ncd {directory}\n")
    terminal.start(snippet.text)
    until = time.monotonic() + PATIENCE_S
    while not host.answers(snippet.said):
        if time.monotonic() > until:
            pytest.fail(f"{snippet.where}: nothing answers at {snippet.said}:\n{terminal.printed()}")
        time.sleep(0.1)
    return terminal


def directory_of(terminal: Terminal) -> Path:
    return Path(terminal.run("pwd").strip())
