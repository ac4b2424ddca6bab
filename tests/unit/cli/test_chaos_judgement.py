"""The nemesis' checker finds each planted violation, and explains what a fault explains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from daemons.cli.chaos import report
from daemons.cli.chaos.checker import Sample, Verdict, judge
from daemons.cli.chaos.kinds import BY_NAME
from daemons.cli.chaos.ledger import Ledger
from daemons.cli.chaos.load import Sent, slim
from daemons.cli.chaos.measure import Outcome
from daemons.cli.chaos.plan import Fault
from daemons.cli.chaos.soak import Series, flat
from daemons.cli.chaos.watch import Death

AGENTS = {"coordinator": ["c1"], "distributor": ["d1"], "worker": ["w1", "w2"]}
WALL = 1_000_000.0


def record(attempt: int = 1) -> dict[str, Any]:
    return {"status": "completed", "metadata": {"attempt": attempt, "worker": "w1"}, "retry_count": attempt - 1}


def sent(task_id: str, **members: Any) -> Sent:
    one = Sent(1, task_id, "chaos-tick", 10.0, None, 10.1, 10.5, "ok", slim(record()))
    for name, value in members.items():
        setattr(one, name, value)
    return one


def ledger_of(tmp_path: Path, *lines: str) -> Ledger:
    path = tmp_path / "ledger"
    path.write_text("".join(f"{line}\n" for line in lines))
    ledger = Ledger(path)
    ledger.read()
    return ledger


def fault(kind: str, victim: str = "", number: int = 1) -> Fault:
    return Fault(number, 0.0, BY_NAME[kind], victim, 0.0, 0.5)


def outcome(kind: str, victim: str = "", *, at: float = 100.0, **members: Any) -> Outcome:
    made = Outcome(fault(kind, victim), at, WALL + at, [], until=at + 2)
    for name, value in members.items():
        setattr(made, name, value)
    return made


def judged(tasks: list[Sent], **members: Any) -> Verdict:
    stored = {task.task_id: [orjson.dumps(record())] for task in tasks if task.arrived}
    given: dict[str, Any] = {"errors": [], "outcomes": [], "deaths": [], "ledger": None, "stored": stored}
    return judge(tasks, **{**given, **members}, agents=AGENTS)


def test_a_run_as_it_should_be(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "b a 1 w1 7 chaos-tick 10.2", "e a 1 w1 7 chaos-tick 10.3")
    verdict = judged([sent("a")], ledger=ledger)
    assert verdict.clean
    assert (verdict.accepted, verdict.results, verdict.runs) == (1, 1, 1)


def test_a_task_without_a_result_is_lost() -> None:
    verdict = judged([sent("a"), sent("b", arrived=0.0)])
    assert (verdict.lost, verdict.examples["lost"]) == (1, ["b"])


def test_a_wrong_value_and_an_error_at_the_client_are_found() -> None:
    verdict = judged([sent("a", outcome="wrong value 7")], errors=["FleetUnavailable: no answer"])
    assert (verdict.failed, verdict.client_errors) == (1, 1)


@pytest.mark.parametrize(
    "records", [[record(), record()], [record(attempt=2)]], ids=["in two places", "another one than the client got"]
)
def test_recorded_twice(records: list[dict[str, Any]]) -> None:
    verdict = judged([sent("a")], stored={"a": [orjson.dumps(each) for each in records]})
    assert verdict.twice == 1


def test_a_result_without_a_record_is_forgiven_only_to_a_wiped_store() -> None:
    assert judged([sent("a")], stored={}).unrecorded == 1
    wiped = outcome("redis-wipe", at=11.0)
    assert judged([sent("a")], stored={}, outcomes=[wiped]).unrecorded == 0
    assert judged([sent("a", submitted=14.0, arrived=14.5)], stored={}, outcomes=[wiped]).unrecorded == 1


def test_before_a_wipe_the_store_must_have_had_what_had_ended() -> None:
    wiped = outcome("redis-wipe", at=11.0)

    def verdict(arrived: float, ids: set[str], stored: set[str]) -> tuple[int, int]:
        found = judged(
            [sent("a", arrived=arrived)],
            stored={each: [orjson.dumps(record())] for each in stored},
            outcomes=[wiped],
            before={wiped.fault.number: Sample(10.9, frozenset(ids))},
        )
        return found.looked_for, found.unrecorded

    assert verdict(10.5, set(), set()) == (1, 1)
    assert verdict(10.5, {"a"}, set()) == (1, 0)
    assert verdict(10.5, set(), {"a"}) == (1, 0), "it stood on a disk, and came to the store after the wipe"
    assert verdict(10.95, set(), set()) == (0, 0), "nobody looked between its end and the wipe"


def test_an_attempt_that_ran_twice(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "b a 1 w1 7 chaos-tick 10.2", "b a 1 w2 8 chaos-tick 10.4")
    assert judged([sent("a")], ledger=ledger).examples["doubled"] == ["a attempt 1"]


def test_tasks_may_run_again_after_some_faults_and_not_after_others(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "b a 1 w1 7 chaos-nap 99.0", "b a 2 w2 8 chaos-nap 101.0")
    (run, _) = ledger.order
    for kind, repeated in (("distributor-kill", 1), ("worker-kill", 0)):
        verdict = judged([sent("a")], ledger=ledger, outcomes=[outcome(kind, running=[run])])
        assert verdict.repeated == repeated
    # Nor is it held against a fault that a later one, which may, came before the second run.
    later = [outcome("distributor-kill", running=[run]), outcome("worker-kill", "w1", at=100.5)]
    assert judged([sent("a")], ledger=ledger, outcomes=later).repeated == 0
    # What was on its way to a worker behind a broken link reaches it when that heals.
    healed = [outcome("part-worker", "w1", at=97.0), outcome("redis-freeze", running=[run])]
    assert judged([sent("a")], ledger=ledger, outcomes=healed).repeated == 0


@pytest.mark.parametrize(
    ("kind", "victim", "agent", "false"),
    [
        ("worker-kill", "w1", "w1", 0),
        ("worker-kill", "w1", "w2", 1),
        ("busy", "", "w1", 1),
        ("detector-freeze", "d1", "w1", 1),
        ("detector-freeze", "d1", "d1", 0),
    ],
)
def test_who_may_be_taken_for_dead(kind: str, victim: str, agent: str, false: int) -> None:
    death = Death(WALL + 101.0, agent, "silence")
    assert judged([], outcomes=[outcome(kind, victim)], deaths=[death]).false_deaths == false
    long_after = Death(WALL + 150.0, agent, "silence")
    assert judged([], outcomes=[outcome(kind, victim)], deaths=[long_after]).false_deaths == 1


# ---------------------------------------------------------------- the ledger


def test_the_ledger_is_followed_line_by_line(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, "b a 1 w1 7 chaos-nap 10.0")
    with ledger.path.open("a") as file:
        file.write("b a 2 w2 8 chaos-nap 11.0\ne a 1 w1")
        file.flush()
        ledger.read()
        assert [(run.worker, run.attempt) for run in ledger.running.values()] == [("w1", 1), ("w2", 2)]
        file.write(" 7 chaos-nap 10.5\n")
    ledger.read()
    first, second = ledger.order
    assert (first.ended, second.ended) == (10.5, 0.0)
    assert list(ledger.running.values()) == [second]
    assert ledger.next_run(first) is second
    assert ledger.begun_since(10.5) == [second]
    assert ledger.doubles() == []


# ---------------------------------------------------------------- the report


ABOUT = {
    "command": "a2actl chaos", "date": "2026-01-01", "machine": "2 processors", "fleet": "1 coordinator", "seed": 7,
    "rate": 100.0, "seconds": 60.0, "slack": 1.0, "planned": 2, "skipped": {"redis-disk": "only root may"},
    "log_errors": {},
}  # fmt: skip


def test_a_promise_that_was_kept_and_one_that_was_not() -> None:
    kept = outcome("worker-kill", "w1", recovered_ms=[5.0, 9.0], detected_ms=3.0, hit=2)
    late = outcome("freeze", "w1", detected_ms=1500.0)
    found = report.summary([kept], judged([sent("a")]), ABOUT)
    assert found["ok"]
    assert found["faults"]["worker-kill"]["recovered_ms"] == {"n": 2, "p50": 9.0, "p99": 9.0, "max": 9.0}
    found = report.summary([kept, late], judged([sent("a")]), ABOUT)
    assert not found["ok"]
    assert report.complaints(found) == ["freeze: detected p99 1500 ms, promised ≤ 1000 ms"]
    assert report.summary([kept, late], judged([sent("a")]), {**ABOUT, "slack": 2.0})["ok"]


def test_the_document_says_what_was_broken_and_what_was_left_out() -> None:
    found = report.summary([outcome("drain", "w1", broken=["w1 ended with status 70"])], judged([]), ABOUT)
    text = report.markdown(found)
    assert "| drain | 1 |" in text
    assert "Promises were broken" in text
    assert "- drain: no. 1: w1 ended with status 70" in text
    assert "- skipped (only root may): redis-disk" in text


# ---------------------------------------------------------------- memory


def test_growth_counts_and_warm_up_and_noise_do_not() -> None:
    def series(mb: list[float]) -> Series:
        return Series([float(n) for n in range(len(mb))], mb)

    assert flat(series([50.0 + n for n in range(30)] + [80.0] * 70))
    assert flat(series([80.0 + (n % 3) for n in range(100)]))
    growing = series([80.0 + 0.5 * n for n in range(100)])
    assert not flat(growing)
    assert growing.slope_mb_s() == pytest.approx(0.5)
    assert flat(Series())


def test_a_late_jump_of_memory_counts_if_it_stays_and_does_not_if_it_is_given_back() -> None:
    def series(mb: list[float]) -> Series:
        return Series([float(n) for n in range(len(mb))], mb)

    assert not flat(series([80.0] * 92 + [92.0] * 8))
    assert flat(series([80.0] * 92 + [86.0] * 8))
    assert flat(series([80.0] * 60 + [130.0] * 5 + [81.0] * 35))
    assert flat(series([80.0] * 97 + [100.0] * 3))
