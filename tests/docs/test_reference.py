"""References that people wrote, or had written, say what the code says: nothing is missing, nothing is left over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from a2a_zmq.models import TaskStatus
from a2a_zmq.protocol.authz import EVENTS, REQUESTS
from a2a_zmq.protocol.message import Role
from a2a_zmq.tasks import TRANSITIONS
from tests.docs.api import reference

CLIENT, OPERATOR, COORDINATOR, DISTRIBUTOR, WORKER = Role
Pair = tuple[Role, Role]

# Section of docs/messages.md → who speaks there. Operators may do what clients may, and what is marked as theirs.
SECTIONS: dict[str, Pair] = {
    "Client or operator → coordinator": (OPERATOR, COORDINATOR),
    "Coordinator → distributor": (COORDINATOR, DISTRIBUTOR),
    "Distributor → coordinator": (DISTRIBUTOR, COORDINATOR),
    "Distributor → worker": (DISTRIBUTOR, WORKER),
    "Worker → distributor": (WORKER, DISTRIBUTOR),
}


@pytest.fixture(scope="module")
def messages(repository: Path) -> dict[str, str]:
    """Sections of docs/messages.md by title."""
    text = (repository / "docs" / "messages.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE))


def test_each_pair_that_may_speak_has_a_section(messages: dict[str, str]) -> None:
    assert set(SECTIONS) <= set(messages)
    with_clients = {(CLIENT, COORDINATOR), (COORDINATOR, CLIENT), (COORDINATOR, OPERATOR)}  # the same section
    assert {*REQUESTS, *EVENTS} == {*SECTIONS.values(), *with_clients}


@pytest.mark.parametrize("title", SECTIONS)
def test_requests_are_those_that_may_be_sent(title: str, messages: dict[str, str]) -> None:
    body = messages[title]
    documented = set(re.findall(r"^\| REQUEST `(\w+)`", body, re.MULTILINE))
    if "| REQUEST action |" in body:
        documented |= set(re.findall(r"^\| `(\w+)` (?:\([^|]*\) )?\|", body, re.MULTILINE))
    allowed = set(REQUESTS.get(SECTIONS[title], ()))
    if "assign_task" in allowed:  # the form for one task, which is told of with the form for many
        assert "`assign_task`" in body
        allowed.remove("assign_task")
    assert documented == allowed


@pytest.mark.parametrize("title", SECTIONS)
def test_events_are_those_that_may_be_sent(title: str, messages: dict[str, str]) -> None:
    documented = set(re.findall(r"^(?:\| )?EVENT `(\w+)`", messages[title], re.MULTILINE))
    sender, recipient = SECTIONS[title]
    allowed = set(EVENTS.get((sender, recipient), ()))
    if sender is OPERATOR:  # both directions are told of there
        allowed |= set(EVENTS[recipient, sender])
        assert EVENTS[recipient, sender] == EVENTS[recipient, CLIENT]
    assert documented == allowed


def test_what_only_operators_may_do_is_marked(messages: dict[str, str]) -> None:
    marked = set(re.findall(r"^\| `(\w+)` \(operator\) \|", messages["Client or operator → coordinator"], re.MULTILINE))
    assert marked == set(REQUESTS[OPERATOR, COORDINATOR]) - set(REQUESTS[CLIENT, COORDINATOR])


def test_the_reference_of_the_library_is_up_to_date(repository: Path) -> None:
    text = (repository / "docs" / "api.md").read_text(encoding="utf-8")
    assert reference() in text, "run `python -m tests.docs.api` and put its tables into docs/api.md"


def test_the_diagram_of_a_tasks_life_has_the_moves_of_the_code(repository: Path) -> None:
    text = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    (diagram,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, re.DOTALL)
    drawn = set(re.findall(r"^ *(\w+) --> (\w+):", diagram, re.MULTILINE))
    assert drawn == {(old, new) for old, after in TRANSITIONS.items() for new in after}
    assert {name for move in drawn for name in move} == set(TaskStatus)


def test_each_page_is_in_the_index(repository: Path) -> None:
    docs = repository / "docs"
    index = (docs / "README.md").read_text(encoding="utf-8")
    pages = {str(page.relative_to(docs)) for page in [*docs.glob("*.md"), *(docs / "howto").glob("*.md")]} - {
        "README.md"
    }
    assert {page for page in pages if f"({page})" not in index and f"({page}#" not in index} == set()


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub and most others make them from its headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_pages_and_headings_that_exist(repository: Path) -> None:
    folders = (repository, repository / "examples", repository / "packaging")
    pages = [*(page for folder in folders for page in folder.glob("*.md")), *(repository / "docs").rglob("*.md")]
    broken = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
            if "://" in target:
                continue
            other = page.parent / target if target else page
            if not other.exists() or (anchor and anchor not in headings(other)):
                broken.append(f"{page.relative_to(repository)} → {target}#{anchor}")
    assert broken == []
