"""What workers and the coordinator say of graphs' tasks to the site of a test, and what it says of them."""

from __future__ import annotations

from typing import Any

from tests.unit.distributor.harness import COORDINATOR, Site

GRAPH = "graph:g"


def graph_worker(site: Site, name: str, graph: str = "v1", limit: int = 5, **fields: Any) -> None:
    site.worker_up(name, types=[GRAPH], limit=limit, graphs={GRAPH: graph}, **fields)


def assign_to_thread(site: Site, thread: str, *task_ids: str) -> None:
    """As :meth:`Site.assign`, of tasks that name a thread."""
    records = [{**site.record(each, GRAPH), "payload": {"input": {}, "thread_id": thread}} for each in task_ids]
    site.store.live |= {record["task_id"]: record for record in records}
    site.store.accepted.update(task_ids)
    site.from_coordinator("assign_tasks", tasks=records, fence=1)


def waits(site: Site, worker: str, task_id: str, *interrupts: str) -> None:
    """The worker reports that the run asked something."""
    asked = [{"id": each, "value": f"{each}?"} for each in interrupts or ("i1",)]
    site.report(worker, task_id, site.attempt(worker, task_id), "waiting", interrupts=asked)


def moved(site: Site, worker: str, task_id: str) -> None:
    site.report(worker, task_id, site.attempt(worker, task_id), "moved", error="leaves", error_kind="drain")


def put_off(
    site: Site, worker: str, task_id: str, kind: str = "thread_busy", *, delay_s: float = 0.5, holder: str = "elsewhere"
) -> None:
    attempt, detail = site.attempt(worker, task_id), {"delay_s": delay_s, "holder": holder}
    site.report(worker, task_id, attempt, "put_off", error="in use", error_kind=kind, detail=detail)


def resume(site: Site, *tasks: list[Any]) -> None:
    site.from_coordinator("resume_tasks", tasks=list(tasks), tag="t", fence=1)


def asked(site: Site) -> list[tuple[str, int]]:
    """(task id, attempt) of all that the coordinator was told to wait for answers."""
    return [
        (item["task_id"], item["attempt"]) for told in site.told(COORDINATOR, "task_waiting") for item in told["tasks"]
    ]


def verdicts(site: Site) -> list[list[str]]:
    """What the coordinator was told about its answers."""
    return [verdict for told in site.told(COORDINATOR, "resume_tasks") for verdict in told["tasks"]]


def why(site: Site, task_id: str) -> str:
    site.from_coordinator("explain", task_id=task_id, tag="q")
    return "; ".join(site.told(COORDINATOR, "explain")[-1]["why"])


def sent_metadata(site: Site, worker: str, task_id: str) -> dict[str, Any]:
    """Of the task as it was sent last."""
    items = [item for told in site.told(worker, "assign_tasks") for item in told["tasks"] if item["task_id"] == task_id]
    found: dict[str, Any] = items[-1]["metadata"]
    return found
