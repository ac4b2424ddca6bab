"""``a2actl tasks``: which are asked for, what its tables show, and ``retry --dead``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import typer

from a2a_zmq.client.requests import TaskFilter, TaskPage
from a2a_zmq.client.sync import FleetClient
from a2a_zmq.tasks import ABANDONED, COMPLETED, IN_PROGRESS, TERMINAL, TRANSITIONS, WAITING, Record
from daemons.cli import output
from daemons.cli.tables import Cell, Column
from daemons.cli.waiting import question

PAGE = 1_000
ERROR_CHARS = 200
ALL: Final = "all"
SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
TASK_COLUMNS: Final = (
    Column("task", key=True),
    Column("type", least=8),
    Column("status"),
    Column("tries", right=True),
    Column("where", least=10, spare=1),
    Column("owner", least=8, spare=2),
    Column("age", right=True),
    Column("error or question", least=40, below=True),
)
LETTER_COLUMNS: Final = (
    Column("task", key=True),
    Column("type", least=8),
    Column("kind", least=8),
    Column("tries", right=True),
    Column("workers", least=10, spare=1),
    Column("exit"),
    Column("ended", right=True),
    Column("error", least=40, below=True),
)
# Of what is listed. The coordinator chooses which are: the oldest (newest for "newest") unfinished ones, or those that
# ended last.
SORTS: Final[dict[str, Callable[[Record], Any]]] = {
    "oldest": lambda record: str(record.get("created_at")),
    "newest": lambda record: str(record.get("created_at")),
    "type": lambda record: str(record.get("task_type")),
    "status": lambda record: str(record.get("status")),
    "worker": lambda record: str(_told(record).get("worker") or ""),
    "owner": lambda record: str(_told(record).get("client") or ""),
    "tries": lambda record: -tries(record),
}


def seconds(text: str | None, option: str) -> float | None:
    """A time span: ``90``, ``90s``, ``10m``, ``2h``, ``7d``."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?", text.strip())
    if found is None:
        raise typer.BadParameter(f"{option} {text!r} is no time span; give it like 90 (seconds), 90s, 10m, 2h or 7d")
    return float(found[1]) * SECONDS[found[2] or "s"]


def fetch(
    client: FleetClient, status: str | None, task_type: str | None, *, dead: bool, limit: int, wanted: TaskFilter
) -> TaskPage:
    """One page, or with ``all`` the newest of what has not ended and what has, together."""
    if status != ALL:
        return client.tasks(status=status, task_type=task_type, dead=dead, limit=limit, **wanted)
    names: list[str | None] = [None, *(name for name in TRANSITIONS if name in TERMINAL)]
    asked: TaskFilter = {**wanted, "newest": True}
    pages = [client.tasks(status=name, task_type=task_type, limit=limit, **asked) for name in names]
    found = sorted((record for page in pages for record in page.tasks), key=SORTS["newest"], reverse=True)
    total = sum(page.total for page in pages)
    return TaskPage(found[:limit], max(total, len(found)), pages[-1].since, any(page.partial for page in pages))


def ordered(page: TaskPage, sort: str | None) -> TaskPage:
    """The same tasks in another order; without one as the coordinator has them."""
    if sort is None:
        return page
    return page._replace(tasks=sorted(page.tasks, key=SORTS[sort], reverse=sort == "newest"))


def print_tasks(page: TaskPage, *, status: str | None, dead: bool, limit: int = PAGE) -> None:
    """The table for a terminal, and a line that says what its numbers mean."""
    wall = time.time()
    if not page.tasks:
        print(_nothing(status, dead=dead))
    elif dead:
        output.print_table(LETTER_COLUMNS, [_letter(record, wall) for record in page.tasks])
    else:
        output.print_table(TASK_COLUMNS, [_task(record, wall) for record in page.tasks])
    for line in _meaning(page, status=status, dead=dead, limit=limit):
        output.print_words(line)


def _nothing(status: str | None, *, dead: bool) -> str:
    if dead:
        return f"no {status} dead letters" if status else "no dead letters"
    return "no tasks" if status == ALL else f"no {status or 'unfinished'} tasks"


def _meaning(page: TaskPage, *, status: str | None, dead: bool, limit: int) -> Sequence[str]:
    lines = []
    if page.since and status != ALL:
        since = f"since the coordinator was started ({output.local_time(page.since)})"
        lines.append(f"the newest {len(page.tasks):,} that are kept; {page.total:,} {status} {since}")
    elif page.tasks:
        lines.append(f"{len(page.tasks):,} of {page.total:,}{' or more' if page.partial else ''}")
    if page.partial and len(page.tasks) < limit:
        lines.append("not every task was looked at: name a type, an owner or a distributor to see others")
    if dead and page.tasks:
        lines.append(
            "a2actl explain ID: each attempt, and the last lines printed; a2actl retry ID (or --dead): run again"
        )
    return lines


def _task(record: Record, wall: float) -> list[Any]:
    told = _told(record)
    asks = question(told["interrupts"], ERROR_CHARS) if told.get("interrupts") else ""
    error = Cell(output.short(record.get("error"), ERROR_CHARS), output.STYLES["failed"])
    return [
        record.get("task_id"),
        record.get("task_type"),
        output.styled(record.get("status", "pending")),
        tries(record),
        told.get("worker") or told.get("distributor") or "",
        told.get("client") or "",
        output.age(record.get("created_at"), wall),
        Cell(asks, output.STYLES["waiting"]) if asks else error,
    ]


def _letter(record: Record, wall: float) -> list[Any]:
    told = _told(record)
    return [
        record.get("task_id"),
        record.get("task_type"),
        told.get("error_kind", ""),
        tries(record),
        ", ".join(workers_of(record)),
        exit_of(told.get("detail")),
        f"{output.age(record.get('completed_at'), wall)} ago" if record.get("completed_at") else "",
        Cell(output.short(record.get("error"), ERROR_CHARS), output.STYLES["failed"]),
    ]


def _told(record: Record) -> dict[str, Any]:
    return record.get("metadata") or {}


def tries(record: Record) -> int:
    """Attempts that began, and count: those that failed, and the one that runs, waits for an answer, or ended it.

    Attempts' numbers say less: where a task is taken over or handed back, they rise without any of it.
    """
    status = record.get("status")
    began = status in (COMPLETED, IN_PROGRESS, WAITING) or (status == ABANDONED and bool(_told(record).get("worker")))
    return int(record.get("retry_count") or 0) + began


def workers_of(record: Record) -> list[str]:
    """The workers of all attempts that the record tells of, each once, in order."""
    metadata = _told(record)
    earlier = [each.get("worker") for each in metadata.get("attempts") or () if isinstance(each, dict)]
    return list(dict.fromkeys(str(worker) for worker in [*earlier, metadata.get("worker")] if worker))


def exit_of(detail: Any) -> str:
    """How the child process of a run ended, "" if it did not end with it."""
    if not isinstance(detail, dict):
        return ""
    if detail.get("signal"):
        return str(detail["signal"])
    return f"status {detail['exit_code']}" if detail.get("exit_code") is not None else ""


def retry_dead(client: FleetClient, task_type: str | None) -> dict[str, list[Any]]:
    """Send all dead letters around again, page by page. Those that fail again meanwhile are not taken twice."""
    outcome: dict[str, list[Any]] = {"retried": [], "refused": []}
    tried: set[str] = set()
    while True:
        page = client.tasks(dead=True, task_type=task_type, limit=PAGE)
        task_ids = [record["task_id"] for record in page.tasks if record["task_id"] not in tried]
        if not task_ids:
            return outcome
        tried.update(task_ids)
        for name, found in client.retry(*task_ids).items():
            outcome.setdefault(name, []).extend(found)
