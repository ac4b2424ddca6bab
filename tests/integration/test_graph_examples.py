"""The examples of graphs, by the commands that their text names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.openai_server import Reply, openai_server

PATIENCE_S = 55.0
# A real model computes for as long as it gets the processor; that it loads and answers takes seconds.
MODEL_PATIENCE_S = 240.0


def run_example(repository: Path, *words: str, patience_s: float = PATIENCE_S) -> str:
    done = subprocess.run(
        [sys.executable, "examples/graphs/run.py", *words],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_of_documents_is_read_in_branches_and_summed_up(repository: Path) -> None:
    said = run_example(repository, "digest", "docs")
    assert f"documents: {len(list((repository / 'docs').glob('*.md')))}" in said
    assert "distributor" in said


def failed_example(repository: Path, *arguments: str) -> tuple[str, str]:
    """The one line of its error, and what it printed before, with nobody to answer it."""
    done = subprocess.run(
        [sys.executable, "examples/graphs/run.py", *arguments],
        cwd=repository,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line, done.stdout


def test_a_folder_that_is_not_there_is_named(repository: Path) -> None:
    line, _ = failed_example(repository, "digest", "/no/such/folder")
    assert "folder: there is no directory /no/such/folder" in line


def test_a_report_is_published_when_somebody_approves_it(repository: Path) -> None:
    said = run_example(repository, "research", "zap domain", "--answer", "fence number", "--answer", "yes")
    first, second, published = said.split("\n# ")[1:]
    assert "zap domain" in first
    assert "> fence number" in first
    assert "fence number" in second
    assert "> yes" in second
    assert "a2a_zmq/" in published


def test_a_question_that_nobody_can_answer_is_one_line(repository: Path) -> None:
    line, said = failed_example(repository, "research")
    task_id = said.split()[1]
    assert f"task {task_id} waits for an answer" in line
    assert f"a2actl resume {task_id} --text yes" in line
    assert "--answer yes" in line


def test_a_second_round_that_finds_the_same_again_is_drafted(repository: Path) -> None:
    said = run_example(repository, "research", "lease expires", "--answer", "lease", "--answer", "yes")
    published = [line for line in said.split("\n# ")[-1].splitlines() if line.startswith("- ")]
    assert published
    assert len(set(published)) == len(published)


@pytest.mark.timeout(MODEL_PATIENCE_S + 20)
def test_an_agent_answers_with_a_real_small_model(repository: Path, small_model: Path) -> None:
    """Only that it answers, and that its tokens are counted: what it says is often wrong."""
    said = run_example(repository, "assistant", "What is 6 * 7?", patience_s=MODEL_PATIENCE_S)
    answer = said.partition("ai: ")[2].partition("tokens:")[0]
    assert answer.strip()
    assert "input,model=smollm2,provider=assistant" in said
    assert "output,model=smollm2,provider=assistant" in said


def test_the_agent_runs_on_any_provider(repository: Path, tmp_path: Path) -> None:
    with openai_server() as server:
        server.replies.extend([Reply(tool=("calculate", {"expression": "6 * 7"})), Reply("It is 42.")])
        table = "\n".join(f"{name} = {value!r}" for name, value in server.provider().items())
        (tmp_path / "providers.toml").write_text(f"[assistant]\n{table}\n", encoding="utf-8")
        said = run_example(repository, "assistant", "6 * 7?", "--providers", str(tmp_path / "providers.toml"))
    assert "calls: calculate {'expression': '6 * 7'}" in said
    assert "tool: 42" in said
    assert "ai: It is 42." in said
