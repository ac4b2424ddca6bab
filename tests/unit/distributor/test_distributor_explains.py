"""The distributor's part of ``explain``: each phase, and each reason to wait."""

from __future__ import annotations

from typing import Any

from tests.unit.distributor.harness import COORDINATOR, Site


def view(site: Site, task_id: str) -> dict[str, Any]:
    site.from_coordinator("explain", task_id=task_id, tag="q7")
    found = site.told(COORDINATOR, "explain")[-1]
    assert found["tag"] == "q7"
    return found


def test_a_task_waits_for_a_worker_and_it_is_said_for_which(site: Site) -> None:
    site.assign("a")
    assert view(site, "a")["why"] == ["no worker is connected to site-1"]
    site.worker_up("w1")
    site.assign("r", task_type="render")
    assert view(site, "r")["why"] == ["none of the 1 workers of site-1 handles 'render'"]
    site.assign("g", labels={"gpu": "1"})
    assert view(site, "g")["why"] == ["no worker of site-1 that handles 'noop' has gpu=1"]


def test_full_workers_and_the_position_are_told(site: Site) -> None:
    site.worker_up("w1", slots=1, limit=1)
    site.assign("a", "b", "c")
    found = view(site, "c")
    assert (found["phase"], found["ahead"], found["attempt"]) == ("queued", 1, 1)
    assert found["why"] == [
        "no worker that can run it takes more now: w1 holds 1 of 1",
        "1 tasks of its kind go before it",
    ]
    running = view(site, "a")
    assert (running["phase"], running["worker"], running["why"]) == ("running", "w1", [])
    assert running["dispatched_at"]


def test_a_prefetched_task_waits_behind_others_of_its_worker(site: Site) -> None:
    site.worker_up("w1", slots=1, limit=3)
    site.assign("a", "b", "c")
    assert view(site, "c")["why"] == ["w1 has it, but 2 tasks came to that worker before it"]


def test_a_pause_after_a_failure_and_the_failure_are_told(site: Site) -> None:
    site.worker_up("w1")
    site.assign("a")
    site.fail("w1", "a", 1)
    found = view(site, "a")
    assert found["phase"] in ("storing", "delayed")
    assert found["attempt"] == 2
    (attempt,) = found["attempts"]
    assert (attempt["attempt"], attempt["worker"], attempt["kind"]) == (1, "w1", "raised")
    assert found["why"]


def test_unknown_tasks_and_results_on_their_way(site: Site) -> None:
    assert view(site, "never")["phase"] == "unknown"
    site.worker_up("w1")
    site.assign("a")
    site.store_up = False
    site.complete("w1", "a")
    found = view(site, "a")
    assert found["phase"] == "recording"
