"""Each snippet of README and docs is right, also where nothing runs it: programs, flags, names and settings exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.code_checks import python_complaints, toml_complaints
from tests.docs.shell_checks import REPOSITORY, complaints_of
from tests.docs.snippets import LANGUAGES, Snippet, exchanges, looks_like, snippets_of

PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "examples" / "README.md", *(REPOSITORY / "docs").rglob("*.md")])


def wrong(snippet: Snippet, own_modules: frozenset[str]) -> list[str]:
    if snippet.mark == "unchecked":
        return []
    if snippet.language == "sh":
        return complaints_of(snippet.text)
    if snippet.language == "console":
        return [text for command, _ in exchanges(snippet.text) for text in complaints_of(command)]
    if snippet.language == "python":
        return python_complaints(snippet.text, own_modules)
    if snippet.language == "toml":
        return toml_complaints(snippet.text)
    if snippet.language == "json":
        json.loads(snippet.text)
    return []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES])
def test_the_snippets_of(page: Path) -> None:
    snippets = snippets_of(page)
    own = frozenset(Path(each.said).stem for each in snippets if each.mark == "file")
    assert [f"{each.where}: {text}" for each in snippets for text in wrong(each, own)] == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPOSITORY)) for page in PAGES])
def test_the_commands_in_the_text_of(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = re.findall(r"`((?:a2actl|a2a-(?!zmq)\w+|make|python -m|supervisorctl) [^`]+)`", text)
    assert [f"{span}: {wrong}" for span in spans for wrong in complaints_of(span)] == []


def test_every_fence_is_understood() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = sum(1 for line in text.splitlines() if line.strip().startswith("```"))
        assert {each.language for each in snippets_of(page)} <= LANGUAGES, page.name
        assert fences == 2 * len(snippets_of(page)), page.name


def test_marks_are_where_a_snippet_follows() -> None:
    """A mark with a blank line, or a word, between it and its snippet would say nothing."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        marks = (
            text.count("<!-- file:")
            + text.count("<!-- stays:")
            + text.count("<!-- not run:")
            + text.count("<!-- unchecked:")
        )
        assert marks == sum(1 for each in snippets_of(page) if each.mark), page.name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a2actl subnit noop", "a2actl has no command subnit"),
        ("a2actl submit noop --wiat", "a2actl submit has no --wiat"),
        ("a2actl --timeout 5 status && a2actl keys export w", ""),
        ("until a2actl --jason status; do sleep 1; done", "a2actl a2actl has no --jason"),
        ("echo $(a2actl statsu)", "a2actl has no command statsu"),
        ("a2a-worker --id worker-3 --worker-slot 4", "a2a-worker has no --worker-slot"),
        ("A2A_WORKER_SLOT=4 a2a-worker", "there is no setting A2A_WORKER_SLOT"),
        ("make tset", "make has no target tset"),
        ("python -m benchmarks.nothing", "there is no module benchmarks.nothing"),
        ("python -m benchmarks.graphs --olny kills", "benchmarks.graphs does not know --olny"),
        ("frobnicate --now  # or not", "there is no program frobnicate"),
        ("supervisorctl -c x.conf stauts", "supervisorctl has no command stauts"),
        ("if true; then echo", "syntax error"),
    ],
)
def test_a_mistake_in_a_command_is_found(text: str, complaint: str) -> None:
    found = complaints_of(text)
    assert (complaint in "".join(found)) if complaint else found == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("from a2a_zmq import FleetKlient", "a2a_zmq has no FleetKlient"),
        ("import a2a_zmq.nothing", "there is no module a2a_zmq.nothing"),
        ("import my_tasks", ""),
        ("await handle.result(timeout=3)", ""),
        ("handle.reslut()", "TaskHandle has no reslut"),
        ("fleet.submit('noop', {}, prioritty=3)", "FleetClient.submit has no option prioritty"),
        ("def (", "line 1"),
    ],
)
def test_a_mistake_in_python_is_found(text: str, complaint: str) -> None:
    found = python_complaints(text, frozenset({"my_tasks"}))
    assert (complaint in "".join(found)) if complaint else found == []


def test_a_mistake_in_settings_is_found() -> None:
    assert "unknown key 'worker_slot'" in "".join(toml_complaints("worker_slot = 3"))
    assert toml_complaints("worker_slots = 3") == []


def test_shown_output_may_leave_out_what_differs() -> None:
    assert looks_like("task …\n", "task 4711\n")
    assert looks_like("first\n…\nlast", "first\nsecond\nthird\nlast\n")
    assert looks_like("first\n…\nlast", "first\nlast\n")
    assert looks_like("…", "")
    assert not looks_like("first\n…\nlast", "first\nsecond\n")
    assert not looks_like("task …", "no task 1")
