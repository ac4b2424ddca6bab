"""Whose doing it is when workers die: suspects, trials, and runs in processes of their own."""

from __future__ import annotations

import orjson
import pytest

from daemons.coordinator.lives import revived_record
from tests.unit.distributor.harness import Site


def test_tasks_that_only_waited_in_a_dead_worker_are_not_blamed(site: Site) -> None:
    site.worker_up("w1", slots=1, limit=3)
    site.assign("running", "waiting", "long")
    site.from_worker("w1", "task_started", tasks=[["long", 1, "2025-11-28T10:00:05Z"]])
    site.worker_down("w1")
    deaths = {task_id: record["metadata"].get("worker_deaths", 0) for task_id, record in site.store.live.items()}
    assert deaths == {"running": 1, "waiting": 0, "long": 1}
    assert site.store.live["waiting"].get("retry_count") == 0


def test_what_begins_as_it_comes_may_have_been_running_though_nothing_was_told_of_it(site: Site) -> None:
    """A handler that kills its worker at once was no suspect, and those who were died for it."""
    types = ["noop", "thread", "heavy"]
    site.worker_up(
        "w1", types=types, async_types=["noop"], slot_types=["heavy"], thread_slots=2, slots=1, slot_limit=9, limit=99
    )
    for kind in types:
        site.assign(*(f"{kind}{number}" for number in range(4)), task_type=kind)
    site.worker_down("w1")
    blamed = {task_id for task_id, record in site.store.live.items() if record["metadata"].get("worker_deaths")}
    assert blamed == {"noop0", "noop1", "noop2", "noop3", "thread0", "thread1", "heavy0"}
    assert {task_id for task_id, record in site.store.live.items() if record.get("retry_count")} == blamed


def suspected(site: Site, task_id: str) -> None:
    """Two workers have died while they ran this alone."""
    site.assign(task_id, max_attempts=20)
    for name in ("w1", "w2"):
        site.worker_up(name)
        site.worker_down(name, "exited")
    site.advance(site.config.trial_delay_s)


def test_a_task_that_kills_workers_gets_a_process_of_its_own_and_is_set_aside_when_it_kills_that_too(
    site: Site,
) -> None:
    suspected(site, "poison")
    assert not site.store.results, "that it kills is likely, not certain"
    site.worker_up("w4")
    ((_, attempt),) = site.got("w4")
    (order,) = site.told("w4", "assign_tasks")
    assert order["tasks"][0]["metadata"]["apart"] is True
    detail = {"signal": "SIGSEGV", "log": ["last words"], "process_died": True}
    site.fail("w4", "poison", attempt, kind="killed", detail=detail)
    dead = site.store.results["poison"]
    assert (dead["status"], dead["metadata"]["error_kind"]) == ("failed", "killed")
    assert dead["metadata"]["detail"] == {**detail, "worker_deaths": 2}
    assert "2 workers died" in dead["error"]


def retried(site: Site, task_id: str) -> None:
    """An operator sends it around again: what the coordinator makes of its result."""
    record = orjson.loads(revived_record(site.store.results.pop(task_id), site.now))
    site.store.recorded.clear()
    site.store.live[task_id] = record
    site.from_coordinator("assign_tasks", tasks=[record], fence=1)


def test_a_retried_task_that_kills_workers_cost_two_more_of_them(site: Site) -> None:
    """It was forgotten that it ran apart."""
    suspected(site, "poison")
    site.worker_up("w4")
    detail = {"signal": "SIGSEGV", "log": [], "process_died": True}
    site.fail("w4", "poison", site.attempt("w4", "poison"), kind="killed", detail=detail)
    for life in (1, 2):
        retried(site, "poison")
        order = site.told("w4", "assign_tasks")[-1]
        assert order["tasks"][0]["metadata"]["apart"] is True
        site.fail("w4", "poison", site.attempt("w4", "poison"), kind="killed", detail=detail)
        dead = site.store.results["poison"]
        assert (dead["status"], dead["metadata"]["retried"]) == ("failed", life)
        assert "2 workers died" in dead["error"]


def test_a_retried_suspect_stays_one_and_what_is_above_that_is_forgiven(site: Site) -> None:
    site.assign("a", max_attempts=5)
    for number in range(5):
        name = f"w{number}"
        site.worker_up(name, slot_types=["noop"])
        site.advance(site.config.trial_delay_s)
        site.worker_down(name)
    assert site.store.results["a"]["metadata"]["worker_deaths"] == 5
    retried(site, "a")
    site.worker_up("w5", slot_types=["noop"])
    site.worker_down("w5")
    assert site.store.live["a"]["metadata"]["worker_deaths"] == 3, "six would have been the end"
    site.worker_up("w6", slot_types=["noop"])
    site.advance(site.config.trial_delay_s)
    site.complete("w6", "a")


def test_an_innocent_task_that_met_four_deaths_is_not_set_aside(site: Site) -> None:
    """Somebody killed the workers, and the task runs on."""
    suspected(site, "innocent")
    for name in ("w4", "w5"):  # these die as well, but the task was in a process of its own
        site.worker_up(name)
        site.worker_down(name)
        site.advance(site.config.trial_delay_s)
    site.worker_up("w6")
    site.fail("w6", "innocent", site.attempt("w6", "innocent"), kind="raised")
    site.advance(site.config.retry_cap_s)
    site.complete("w6", "innocent")
    assert site.store.results["innocent"]["status"] == "completed"


def test_a_run_apart_that_is_killed_since_its_worker_drains_is_no_proof(site: Site) -> None:
    suspected(site, "innocent")
    site.worker_up("w4")
    site.fail("w4", "innocent", site.attempt("w4", "innocent"), kind="killed", detail={"signal": "SIGKILL"})
    assert not site.store.results


@pytest.mark.parametrize("slotted", [True, False])
def test_a_task_that_takes_workers_along_from_its_own_process_is_bounded(site: Site, *, slotted: bool) -> None:
    """Where a container that is out of memory is killed as a whole."""
    site.assign("poison", max_attempts=20)
    for number in range(site.config.most_worker_deaths):
        assert not site.store.results
        name = f"w{number}"
        site.worker_up(name, slot_types=["noop"] if slotted else [])
        site.advance(site.config.trial_delay_s)
        assert site.got(name)
        site.worker_down(name)
    dead = site.store.results["poison"]
    assert (dead["status"], dead["metadata"]["error_kind"]) == ("failed", "worker_lost")
    assert dead["metadata"]["detail"] == {"reason": "exited", "worker_deaths": 6}
    assert "w5" in dead["error"]


def test_a_run_apart_takes_a_slot(site: Site) -> None:
    suspected(site, "suspect")
    site.worker_up("w4", types=["noop", "heavy"], slot_types=["heavy"], slots=1, slot_limit=1, limit=9)
    site.assign("heavy", task_type="heavy")
    assert [task for task, _ in site.got("w4")] == ["suspect"]
    site.complete("w4", "suspect")
    assert [task for task, _ in site.got("w4")] == ["suspect", "heavy"]


def test_workers_that_die_for_a_common_reason_cost_no_task(site: Site) -> None:
    """A host goes down: whoever takes the tasks over dies, too, until the supervisor has started all of them again."""
    ids = [f"t{number}" for number in range(6)]
    for name in ("w1", "w2", "w3"):
        site.worker_up(name, slots=6, limit=6)
    site.assign(*ids)
    for name in ("w1", "w2", "w3"):
        site.advance(0.05)
        site.worker_down(name)
    assert not site.store.results
    site.worker_up("w4", slots=6, limit=6)
    for _ in ids:
        site.advance(2 * site.config.trial_delay_s)
        for task_id, attempt in site.got("w4"):
            if task_id in site.store.live and site.store.live[task_id]["metadata"]["attempt"] == attempt:
                site.complete("w4", (task_id, attempt))
    assert sorted(site.store.results) == ids
    assert {record["status"] for record in site.store.results.values()} == {"completed"}


def twice_dead(site: Site, *ids: str, max_attempts: int = 20) -> None:
    """Two workers have died while they ran these, and others: too many for processes of their own."""
    others = [f"other{n}" for n in range(9)]
    site.assign(*ids, *others, max_attempts=max_attempts)
    for name in ("w1", "w2"):
        site.worker_up(name, slots=4, limit=99)
        running = [[task, attempt, "2025-11-28T10:00:05Z"] for task, attempt in site.got(name)]
        site.from_worker(name, "task_started", tasks=running)
        site.worker_down(name)
    site.cancel(*others)


def test_suspects_are_tried_one_at_a_time(site: Site) -> None:
    twice_dead(site, "a", "b", "c")
    site.assign("fresh")
    site.worker_up("w3", slots=9, limit=9)
    site.worker_up("w4", slots=9, limit=9)
    site.advance(site.config.trial_delay_s)
    on_trial = {name: [task for task, _ in site.got(name) if task != "fresh"] for name in ("w3", "w4")}
    assert sorted(map(len, on_trial.values())) == [1, 1]
    (first,) = on_trial["w3"]
    (attempt,) = [attempt for task, attempt in site.got("w3") if task == first]
    site.from_worker("w3", "task_started", tasks=[[first, attempt, "2025-11-28T10:00:05Z"]])
    site.advance(site.config.trial_s)
    assert len([task for task, _ in site.got("w3") if task != "fresh"]) == 2, "the first one has run long enough"


def test_what_runs_beside_a_suspect_is_not_blamed(site: Site) -> None:
    twice_dead(site, "poison")
    site.worker_up("w3", slots=9, limit=9)
    site.assign("beside")
    site.assign("only-once", max_attempts=1)
    site.advance(site.config.trial_delay_s)
    site.worker_down("w3")
    assert site.store.live["poison"]["metadata"]["worker_deaths"] == 3
    beside = site.store.live["beside"]
    assert (beside["metadata"].get("worker_deaths", 0), beside["retry_count"]) == (0, 0)
    # Nobody may run it again, whoever is to blame.
    assert site.store.results["only-once"]["metadata"]["error_kind"] == "worker_lost"


@pytest.mark.parametrize("reason", ["silence", "disconnect"])
def test_silence_and_lost_connections_are_held_against_no_task(site: Site, reason: str) -> None:
    """A network that fails looks like it; the attempt is used up all the same."""
    site.assign("a", max_attempts=5)
    for name in ("w1", "w2", "w3", "w4"):
        site.worker_up(name)
        site.worker_down(name, reason, silent_s=0.8)
    assert "worker_deaths" not in site.store.live["a"]["metadata"]
    assert site.store.live["a"]["retry_count"] == 4
    site.worker_up("w5")
    site.worker_down("w5", reason, silent_s=0.8)
    assert site.store.results["a"]["metadata"]["error_kind"] == "worker_lost"


def test_a_long_run_is_no_trial_to_its_end(site: Site) -> None:
    """A death after the trial says little: it counts, and the next trial is longer."""
    twice_dead(site, "a", "b")
    site.worker_up("w3", slots=1, limit=9)
    site.advance(site.config.trial_delay_s)
    for count in (1, 2):
        assert len(site.got("w3")) == count
        started = [[task, attempt, "2025-11-28T10:00:05Z"] for task, attempt in site.got("w3")]
        site.from_worker("w3", "task_started", tasks=started)
        site.advance(site.config.trial_s + 0.01)
    site.worker_down("w3")
    for task in ("a", "b"):
        metadata = site.store.live[task]["metadata"]
        assert (metadata["worker_deaths"], metadata.get("apart")) == (3, None)
    site.worker_up("w4", slots=1, limit=9)
    site.advance(site.config.trial_delay_s)
    ((first, attempt),) = site.got("w4")
    site.from_worker("w4", "task_started", tasks=[[first, attempt, "2025-11-28T10:00:05Z"]])
    site.advance(site.config.trial_s + 0.01)
    assert len(site.got("w4")) == 1
    site.advance(site.config.trial_s)
    assert len(site.got("w4")) == 2


def test_of_many_suspects_only_the_one_whose_worker_dies_in_its_trial_runs_apart(site: Site) -> None:
    twice_dead(site, "a", "b", "c")
    site.worker_up("w3", slots=2, limit=9)
    site.advance(site.config.trial_delay_s)
    ((tried, _),) = site.got("w3")
    site.worker_down("w3")
    apart = {task: site.store.live[task]["metadata"].get("apart", False) for task in ("a", "b", "c")}
    assert apart == {task: task == tried for task in apart}
    site.worker_up("w4", slots=2, limit=9)
    site.advance(site.config.trial_delay_s)
    assert len(site.got("w4")) == 2, "the next trial, and what runs apart need not wait for that"
    assert tried in dict(site.got("w4"))


@pytest.mark.parametrize("reason", ["exited", "disconnect"])
def test_a_trial_that_ends_with_the_worker_takes_no_last_attempt(site: Site, reason: str) -> None:
    """Somebody else may have killed it: that is seen when the task runs apart."""
    twice_dead(site, "a", "b", "c", max_attempts=3)
    site.worker_up("w3", slots=2, limit=9)
    site.advance(site.config.trial_delay_s)
    ((tried, _),) = site.got("w3")
    site.worker_down("w3", reason, silent_s=0.8)
    assert tried not in site.store.results
    assert site.store.live[tried]["retry_count"] == 3
    site.worker_up("w4", slots=2, limit=9)
    site.advance(site.config.trial_delay_s)
    order = next(task for each in site.told("w4", "assign_tasks") for task in each["tasks"] if task["task_id"] == tried)
    assert order["metadata"]["apart"] is True
    detail = {"signal": "SIGSEGV", "log": ["last words"], "process_died": True}
    site.fail("w4", tried, order["attempt"], kind="killed", detail=detail)
    dead = site.store.results[tried]
    assert (dead["status"], dead["metadata"]["error_kind"]) == ("failed", "killed")
    assert dead["metadata"]["detail"]["signal"] == "SIGSEGV"


def test_a_task_with_two_attempts_has_no_third_one(site: Site) -> None:
    site.assign("a", max_attempts=2)
    for name in ("w1", "w2"):
        site.worker_up(name)
        site.worker_down(name)
    assert site.store.results["a"]["metadata"]["error_kind"] == "worker_lost"


def test_one_that_kills_beside_trials_of_others_becomes_a_suspect(site: Site) -> None:
    twice_dead(site, *(f"t{n}" for n in range(6)))
    site.assign("killer", max_attempts=3)
    for number in range(2):
        site.advance(2 * site.config.trial_delay_s)
        name = f"x{number}"
        site.worker_up(name, slots=4, limit=9, async_types=["noop"])
        assert "killer" in dict(site.got(name)), "it comes with one that is on trial"
        site.worker_down(name)
    killer = site.store.live["killer"]
    assert (killer["metadata"]["worker_deaths"], killer["retry_count"]) == (2, 0)
    assert killer["metadata"]["apart"] is True
    assert [task_id for task_id in site.store.results if task_id.startswith("t")] == []


def test_torn_connection_on_trial_is_no_proof(site: Site) -> None:
    twice_dead(site, "a")
    site.worker_up("w3")
    site.advance(site.config.trial_delay_s)
    assert site.got("w3")
    site.worker_down("w3", "disconnect", silent_s=0.8)
    assert site.store.live["a"]["metadata"]["worker_deaths"] == 2
    assert "apart" not in site.store.live["a"]["metadata"]
    site.worker_up("w3")  # the network is mended
    site.advance(site.config.trial_delay_s)
    site.complete("w3", "a")
    assert site.store.results["a"]["status"] == "completed"


def test_worker_whose_connection_was_lost_and_that_started_again_had_died(site: Site) -> None:
    """So a task that kills workers of other hosts is found, too."""
    twice_dead(site, "poison")
    site.worker_up("w3")
    site.advance(site.config.trial_delay_s)
    site.worker_down("w3", "disconnect", silent_s=0.8)
    site.worker_up("w3", restarted=True)
    site.advance(site.config.trial_delay_s)
    ((_, attempt), *_) = site.got("w3")[::-1]
    site.fail("w3", "poison", attempt, kind="raised")
    metadata = site.store.live["poison"]["metadata"]
    assert (metadata["worker_deaths"], metadata["apart"]) == (3, True)


def test_a_worker_that_says_good_bye_is_no_death(site: Site) -> None:
    site.worker_up("w1")
    site.assign("a")
    site.worker_down("w1", "goodbye")
    assert "worker_deaths" not in site.store.live["a"]["metadata"]
    assert "failure_detection_seconds/worker" not in site.meter.observed
