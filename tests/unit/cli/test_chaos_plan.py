"""The nemesis' plan depends on its seed alone, sees each kind of fault, and knows how to do each."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from a2a_zmq.errors import ConfigError
from daemons.cli.chaos.faults import ACTS
from daemons.cli.chaos.kinds import BY_NAME, KINDS, NEEDS, chosen
from daemons.cli.chaos.plan import SHORT_FAULT_S, Fault, make_plan
from daemons.cli.chaos.run import Options, _command

AGENTS = {"coordinator": ["c1"], "distributor": ["d1", "d2"], "worker": ["w1", "w2", "w3"]}


def planned(seed: int, duration_s: float, *, once: bool = False) -> list[Fault]:
    return make_plan(seed, duration_s, dict.fromkeys(KINDS), AGENTS, once=once)


def test_the_same_seed_is_the_same_plan_and_another_one_is_not() -> None:
    assert planned(7, 600) == planned(7, 600)
    assert planned(7, 600) != planned(8, 600)


def test_each_kind_comes_before_any_comes_again() -> None:
    first = [fault.kind for fault in planned(3, 900)[: len(KINDS)]]
    assert set(first) == set(KINDS)


def test_once_is_each_kind_once() -> None:
    plan = planned(5, 900, once=True)
    assert sorted(fault.kind.name for fault in plan) == sorted(BY_NAME)


def test_faults_follow_each_other_and_hit_whom_they_name() -> None:
    plan = planned(11, 600)
    for fault, following in pairwise(plan):
        assert following.at_s > fault.at_s + fault.lasts_s
    for fault in plan:
        assert fault.victim in (AGENTS[fault.kind.victim] if fault.kind.victim else [""])
        assert fault.at_s + fault.lasts_s < 700


def test_a_short_run_has_short_faults_and_a_long_one_all_lengths() -> None:
    for fault in planned(2, 60):
        assert fault.lasts_s <= max(SHORT_FAULT_S, fault.kind.lasts_s[0])
    longest = max(fault.lasts_s for fault in planned(2, 3600) if fault.kind.name.startswith("part-"))
    assert longest > 15


def test_kinds_are_chosen_by_name() -> None:
    assert [kind.name for kind in chosen(["freeze", "worker-kill", "freeze"])] == ["freeze", "worker-kill"]
    with pytest.raises(ConfigError, match="'earthquake' is no fault; there are worker-kill"):
        chosen(["earthquake"])


def test_how_often_a_kind_comes_can_be_fixed() -> None:
    wanted = chosen(["worker-kill=20", "redis-wipe=5", "drain"])
    plan = make_plan(3, 3600, wanted, AGENTS)
    assert Counter(fault.kind.name for fault in plan) == {"worker-kill": 20, "redis-wipe": 5, "drain": 1}
    assert [fault.kind.name for fault in plan[:20]] != ["worker-kill"] * 20  # mixed


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "", "x", "²"])
def test_how_often_is_a_whole_number(count: str) -> None:
    with pytest.raises(ConfigError, match="whole number, 1 or more"):
        chosen([f"freeze={count}"])


def test_every_kind_can_be_done() -> None:
    assert set(ACTS) == set(BY_NAME)
    for kind in KINDS:
        assert set(kind.needs) <= set(NEEDS)
        assert kind.victim in ("", *AGENTS)


def test_the_command_in_the_report_repeats_the_plan() -> None:
    command = _command(Options(duration_s=75, seed=9, faults=("drain", "busy=2"), distributors=2, once=True, slack=10))
    assert command == (
        "a2actl chaos --duration 75 --seed 9 --faults drain,busy=2 --rate 100 --workers 3 --distributors 2 "
        "--slack 10 --once"
    )
    assert _command(Options()).endswith("--workers 3 --distributors 1")
