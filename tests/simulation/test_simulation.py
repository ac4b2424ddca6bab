"""A slice of the simulation; ``make simulate`` runs many seeds."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import BUGS, hunt
from tests.simulation.plan import MODES, Event, Plan
from tests.simulation.scenario import run, run_seed
from tests.simulation.shrink import shrink, smallest


def test_without_faults_every_task_completes() -> None:
    events = tuple(Event(number * 0.05, "submit", (f"task-{number}", 0.005, 0)) for number in range(40))
    result = run(Plan(1, "faults", 1, limits=False, events=events))
    assert result.violations == ()
    assert result.accepted == 40


def test_without_faults_tasks_that_wait_are_moved_and_put_off_complete() -> None:
    stops = ("waiting", "moved", "waiting", "put_off")
    events = tuple(Event(n * 0.05, "submit", (f"task-{n}", 0.005, 0, *stops[: n % 5])) for n in range(40))
    result = run(Plan(1, "graphs", 1, limits=False, events=events, graphs=True))
    assert result.violations == ()
    assert result.accepted == 40


@pytest.mark.parametrize("seed", range(40))
def test_no_promise_is_broken(seed: int) -> None:
    assert run_seed(seed).violations == ()


@pytest.mark.parametrize("mode", ["outages", "standbys", "failovers"])
@pytest.mark.parametrize("seed", range(8))
def test_outages_standbys_and_failovers(mode: str, seed: int) -> None:
    assert run_seed(seed, mode).violations == ()


@pytest.mark.parametrize("seed", range(20))
def test_graphs_that_wait_are_moved_and_put_off(seed: int) -> None:
    assert run_seed(seed, "graphs").violations == ()


@pytest.mark.parametrize("seed", range(20))
def test_what_runs_tell_is_read_in_order_and_whole(seed: int) -> None:
    assert run_seed(seed, "streams").violations == ()


# Each was found with one of these: a take-over that dropped reports, took another's attempt for its own or counted
# anew; a replaced attempt that cancelled its task; a lost state that nobody noticed, or that brought ended tasks back.
@pytest.mark.parametrize(
    ("mode", "seed"),
    [
        *(
            ("faults", 5),
            ("faults", 27),
            ("faults", 45),
            ("faults", 78),
            ("users", 52),
            ("retry", 82),
            ("limits", 79),
            ("faults", 1506),
        ),
        *(("loss", 4), ("loss", 63), ("loss", 83), ("loss", 150), ("loss", 182), ("loss", 400), ("loss", 958)),
        ("spools", 664),
        ("faults", 13793),
        ("limits", 39220),
    ],
)
def test_what_was_found_before(mode: str, seed: int) -> None:
    assert run_seed(seed, mode).violations == ()


# Faults of the simulated world or its witness: two freezes at the same write were one, and two thaws; a distributor
# was back, and wrote, before its tasks' move was given up; the only place of a result was destroyed after a wipe;
# what was cancelled while it waited for an answer was held to wait still; a result on the disk of a distributor whose
# tasks were moved, of which the client was told, was held to be made up; a section's first write, a millisecond after
# the lease was lost with everything else, was held to be begun in spite of that.
@pytest.mark.parametrize("seed", [7727, 9280, 22367, 26159, 32235, 32922])
def test_what_was_no_fault_of_the_fleet(seed: int) -> None:
    assert run_seed(seed).violations == ()


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_gives_the_same_trace(mode: str) -> None:
    assert run_seed(3, mode).trace == run_seed(3, mode).trace


@pytest.mark.parametrize(
    "bug",
    [
        "a lost reply is retried blindly",
        "messages are sent before the batch is applied",
        "an attempt is sent before it is stored",
        "acknowledged before it is durable",
        "a message that comes again is handled again",
        "a report counts whatever its attempt",
    ],
)
def test_a_planted_bug_is_found(bug: str) -> None:
    assert bug in BUGS
    assert hunt(bug, 40, None).seeds > 0


def test_shrinking_leaves_what_is_needed() -> None:
    assert smallest(range(50), lambda some: {7, 31, 32} <= set(some)) == [7, 31, 32]


def test_a_failing_plan_is_cut_down_to_its_cause() -> None:
    events = [Event(number * 0.05, "submit", (f"task-{number}", 0.005, 0)) for number in range(20)]
    plan = Plan(1, "faults", 1, limits=False, events=(*events, Event(0.5, "crash", ("worker-11",))))
    with BUGS["messages are sent before the batch is applied"]():
        small, result, _ = shrink(plan)
    assert [event.kind for event in small.events] == ["submit"]
    assert result.violations
