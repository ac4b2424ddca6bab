"""The examples of graphs, by the commands that their text names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PATIENCE_S = 55.0


def run_example(repository: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "examples/graphs/run.py", *words],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_of_documents_is_read_in_branches_and_summed_up(repository: Path) -> None:
    said = run_example(repository, "digest", "docs")
    assert f"documents: {len(list((repository / 'docs').glob('*.md')))}" in said
    assert "distributor" in said


def test_a_report_is_published_when_somebody_approves_it(repository: Path) -> None:
    said = run_example(repository, "research", "zap domain", "--answer", "fence number", "--answer", "yes")
    first, second, published = said.split("\n# ")[1:]
    assert "zap domain" in first
    assert "> fence number" in first
    assert "fence number" in second
    assert "> yes" in second
    assert "a2a_zmq/" in published
