"""``a2actl tasks``: what its tables show, and ``retry --dead``."""

from __future__ import annotations

from typing import Any

from a2a_zmq.client.requests import TaskPage
from a2a_zmq.client.sync import FleetClient
from a2a_zmq.tasks import Record
from daemons.cli.output import local_time, print_table, short
from daemons.cli.waiting import question

PAGE = 1_000
ERROR_CHARS = 60


def print_tasks(page: TaskPage, *, status: str | None, dead: bool) -> None:
    """The table for a terminal, and a line that says what its numbers mean."""
    if dead:
        _print_letters(page)
        return
    rows = []
    for record in page.tasks:
        metadata = record.get("metadata") or {}
        rows.append(
            (
                record.get("task_id"),
                record.get("task_type"),
                record.get("status", "pending"),
                metadata.get("attempt", ""),
                metadata.get("worker") or metadata.get("distributor") or "",
                local_time(record.get("created_at")),
                question(metadata["interrupts"], ERROR_CHARS)
                if metadata.get("interrupts")
                else short(record.get("error"), ERROR_CHARS),
            )
        )
    print_table(("task", "type", "status", "attempt", "where", "created", "error or question"), rows, right="attempt")
    if page.since:
        since = f"since the coordinator was started ({local_time(page.since)})"
        print(f"the newest {len(page.tasks)} that are kept; {page.total} {status} {since}")
    else:
        print(f"{len(page.tasks)} of {page.total}")


def _print_letters(page: TaskPage) -> None:
    rows = [
        (
            local_time(record.get("completed_at")),
            record.get("task_id"),
            record.get("task_type"),
            (record.get("metadata") or {}).get("attempt", ""),
            (record.get("metadata") or {}).get("error_kind", ""),
            ", ".join(workers_of(record)),
            exit_of((record.get("metadata") or {}).get("detail")),
            short(record.get("error"), ERROR_CHARS),
        )
        for record in page.tasks
    ]
    print_table(("ended", "task", "type", "attempts", "kind", "workers", "exit", "error"), rows, right="attempts")
    print(f"{len(page.tasks)} of {page.total}")
    if page.tasks:
        print("a2actl explain ID: each attempt, and the last lines printed; a2actl retry ID (or --dead): run again")


def workers_of(record: Record) -> list[str]:
    """The workers of all attempts that the record tells of, each once, in order."""
    metadata = record.get("metadata") or {}
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
