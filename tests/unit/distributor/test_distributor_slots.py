"""Tasks that take a slot go where slots are free, and to processes that are warm."""

from __future__ import annotations

from tests.unit.distributor.harness import COORDINATOR, Site


def two_workers(site: Site, *ready: int) -> None:
    """Workers w1 and w2, with so many child processes each."""
    for name, count in zip(("w1", "w2"), ready or (2, 2), strict=True):
        types = ["noop", "heavy"]
        site.worker_up(name, limit=20, slots=2, slots_ready=count, types=types, slot_types=["heavy"])


def test_tasks_that_take_no_slot_are_in_nobodys_way(site: Site) -> None:
    two_workers(site)
    site.assign("heavy1", task_type="heavy")
    site.assign("heavy2", task_type="heavy")
    (first,) = [name for name in ("w1", "w2") if site.got(name) == [("heavy1", 1)]]
    other = "w2" if first == "w1" else "w1"
    assert site.got(other) == [("heavy2", 1)]
    site.complete(first, "heavy1")
    site.assign(*(f"light{n}" for n in range(9)))
    assert len(site.got(first)) > len(site.got(other)), "the load of all counts for those"
    site.assign("heavy3", task_type="heavy")
    assert site.attempt(first, "heavy3") == 1, "its slots are free, however many others it holds"


def test_task_goes_where_a_process_is_ready(site: Site) -> None:
    """Also where that worker has less free slots."""
    two_workers(site, 2, 0)
    for name in ("a", "b", "c"):
        site.assign(name, task_type="heavy")
    assert site.got("w1") == [("a", 1), ("b", 1)]
    assert site.got("w2") == [("c", 1)], "its first process has to start, but that takes less than a run"


def test_worker_whose_process_was_killed_waits_for_the_next_one_to_start(site: Site) -> None:
    two_workers(site, 2, 2)
    site.assign("a", task_type="heavy")
    site.assign("b", task_type="heavy")
    (victim,) = [name for name in ("w1", "w2") if site.got(name) == [("a", 1)]]
    other = "w2" if victim == "w1" else "w1"
    killed = {"task_id": "a", "attempt": 1, "outcome": "failed", "error": "", "error_kind": "killed"}
    site.from_worker(victim, "task_results", results=[killed], limit=20, slots_ready=0)
    assert site.got(other) == [("b", 1), ("a", 2)]
    site.from_worker(victim, "heartbeat", limit=20, running=0, held=0, draining=False, slots_ready=1)
    site.assign("c", task_type="heavy")
    assert site.got(victim)[-1] == ("c", 1), "now it has one"


def test_worker_of_an_earlier_release_says_nothing_of_slots(site: Site) -> None:
    site.worker_up("old", limit=20, slots=2, types=["heavy"])
    site.worker_up("new", limit=20, slots=2, types=["heavy"], slot_types=["heavy"])
    site.assign(*(f"t{n}" for n in range(20)), task_type="heavy")
    assert site.got("old"), "it gets work"
    assert site.got("new"), "and so does the other one"


def test_tasks_that_wait_for_slots_leave_the_credit_to_others(site: Site) -> None:
    site.worker_up("w1", limit=8, slots=2, slot_limit=3, types=["noop", "heavy"], slot_types=["heavy"])
    site.assign(*(f"h{n}" for n in range(10)), task_type="heavy")
    site.assign("light")
    assert site.got("w1") == [("h0", 1), ("h1", 1), ("h2", 1), ("light", 1)]
    site.from_coordinator("explain", task_id="h9", tag="q")
    assert "w1 holds 3 for its 2 slots" in str(site.told(COORDINATOR, "explain")[-1])
    site.complete("w1", "h1")
    assert site.got("w1")[-1] == ("h3", 1), "one for one"
