"""Tasks that take a slot go where slots are free, and to processes that are warm."""

from __future__ import annotations

from tests.unit.distributor.harness import COORDINATOR, Site


def two_workers(site: Site) -> None:
    for name in ("w1", "w2"):
        site.worker_up(name, limit=20, slots=2, types=["noop", "heavy"], slot_types=["heavy"])


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


def test_killed_run_goes_back_to_a_worker_with_processes(site: Site) -> None:
    two_workers(site)
    site.assign("a", task_type="heavy")
    (warm,) = [name for name in ("w1", "w2") if site.got(name)]
    site.fail(warm, "a", 1, kind="killed")
    assert site.got(warm) == [("a", 1), ("a", 2)]
    site.complete(warm, "a")

    site.advance(60.0)  # its processes have left
    site.assign("b", task_type="heavy")
    assert ("b", 1) not in site.got(warm), "now the other one has had less"


def test_worker_that_started_again_is_cold(site: Site) -> None:
    two_workers(site)
    site.assign("a", task_type="heavy")
    (warm,) = [name for name in ("w1", "w2") if site.got(name)]
    site.complete(warm, "a")
    site.worker_down(warm)
    site.worker_up(warm, limit=20, slots=2, types=["noop", "heavy"], slot_types=["heavy"], restarted=True)
    other = "w2" if warm == "w1" else "w1"
    site.assign("b", task_type="heavy")
    site.assign("c", task_type="heavy")
    assert len(site.got(other)) == 1, "one each"


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
