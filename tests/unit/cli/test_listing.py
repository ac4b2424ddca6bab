"""``a2actl tasks``: what is asked for, and its tables."""

from __future__ import annotations

from typing import Any, cast

import pytest
import typer

from a2a_zmq.client.requests import TaskFilter, TaskPage
from a2a_zmq.client.sync import FleetClient
from a2a_zmq.clock import iso
from daemons.cli import listing, output
from daemons.cli.task_commands import Sort
from tests.unit.cli.screens import LONG, assert_fits

ID = "0123456789abcdef01230000002a"


def record(task_id: str = ID, **more: Any) -> dict[str, Any]:
    told = {"attempt": 2, "worker": "worker-1", "distributor": "distributor-1", "client": "reports"}
    base = {"task_id": task_id, "task_type": "python_source_stats", "status": "in_progress", "metadata": told}
    return base | {"created_at": iso(1.0), "error": None} | more


def shown(capsys: pytest.CaptureFixture[str], page: TaskPage, **how: Any) -> list[str]:
    listing.print_tasks(page, **({"status": None, "dead": False} | how))
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> int:
    """A terminal of 80 columns, as far as tables know."""
    monkeypatch.setattr(output, "width", lambda: 80)
    return 80


PAGES = {
    "one": TaskPage([record()], 1),
    "failed": TaskPage([record(status="failed", error="it " + "did not work " * 20)], 7, "2026-01-02T03:04:05Z"),
    "asks": TaskPage([record(metadata={"interrupts": [{"id": "i", "value": "sure?"}], "client": "c"})], 1),
    "long": TaskPage([record("x" * 128, metadata={"worker": LONG, "client": LONG, "attempt": 1})], 1),
    "none": TaskPage([], 0),
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("dead", [False, True])
def test_lists_fit_eighty_columns(name: str, dead: bool, narrow: int, capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGES[name]
    lines = shown(capsys, page, dead=dead, status="failed" if page.since else None)
    assert_fits(lines, narrow)
    for each in page.tasks:
        assert any(each["task_id"] in line.split() for line in lines), "its id can be copied"


def test_a_pipe_has_a_task_on_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, PAGES["failed"], status="failed")
    assert ID in lines[1]
    assert "did not work did not work" in lines[1]
    assert "7 failed since the coordinator was started" in lines[2]


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, PAGES["none"]) == ["no unfinished tasks"]
    assert shown(capsys, PAGES["none"], status="waiting") == ["no waiting tasks"]
    assert shown(capsys, PAGES["none"], dead=True) == ["no dead letters"]
    assert shown(capsys, PAGES["none"], dead=True, status="completed") == ["no completed dead letters"]
    lines = shown(capsys, TaskPage([record()], 1, partial=True))
    assert "1 of 1 or more" in lines
    assert "not every task was looked at" in lines[-1]


@pytest.mark.parametrize(
    ("text", "found"), [("90", 90), ("90s", 90), ("10m", 600), ("10 min", 600), ("1.5h", 5400), ("7d", 604_800)]
)
def test_time_spans(text: str, found: float) -> None:
    assert listing.seconds(text, "--older") == found


@pytest.mark.parametrize("text", ["", "soon", "-5m", "5 weeks", "1h30m"])
def test_what_is_no_time_span_is_named(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--older"):
        listing.seconds(text, "--older")


def test_every_order_can_be_asked_for() -> None:
    assert {each.value for each in Sort} == set(listing.SORTS)
    tasks = [record("a", created_at=iso(2.0), task_type="z"), record("b", created_at=iso(1.0), task_type="a")]
    tasks[0]["retry_count"] = 1
    page = TaskPage(tasks, 2)
    for sort, order in (("oldest", "ba"), ("newest", "ab"), ("type", "ba"), ("tries", "ab")):
        assert "".join(each["task_id"] for each in listing.ordered(page, sort).tasks) == order
    assert listing.ordered(page, None) is page


@pytest.mark.parametrize(
    ("status", "failed", "worker", "count"),
    [
        ("pending", 3, "", 3),
        ("in_progress", 0, "w", 1),
        ("waiting", 1, "", 2),
        ("completed", 2, "w", 3),
        ("failed", 3, "w", 3),
        ("abandoned", 0, "", 0),
        ("abandoned", 1, "w", 2),
    ],
)
def test_tries_are_those_that_began_whatever_the_attempts_number(
    status: str, failed: int, worker: str, count: int
) -> None:
    told = {"attempt": 9, "worker": worker}
    assert listing.tries(record(status=status, retry_count=failed, metadata=told)) == count


class Pages:
    """A client with one task of each status."""

    def tasks(self, *, status: str | None, task_type: str | None, limit: int, **wanted: Any) -> TaskPage:
        assert wanted == {"owner": "reports", "newest": True}
        times = {"completed": 9.0, "abandoned": 5.0}
        created = iso(times.get(status or "live", 7.0))
        return TaskPage(
            [record(status or "live", created_at=created)],
            5,
            "2026-01-02T03:04:05Z" if status else "",
            status == "failed",
        )


def test_all_statuses_are_several_questions(capsys: pytest.CaptureFixture[str]) -> None:
    wanted: TaskFilter = {"owner": "reports"}
    page = listing.fetch(cast(FleetClient, Pages()), "all", None, dead=False, limit=3, wanted=wanted)
    assert [each["task_id"] for each in page.tasks] == ["completed", "live", "failed"]
    assert (page.total, page.partial) == (20, True)
    assert "3 of 20 or more" in shown(capsys, page, status="all")
