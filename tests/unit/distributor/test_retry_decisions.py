"""What a retry policy may say of a task: read strictly, for what cannot be done is decided by the built-in rules."""

from __future__ import annotations

from typing import Any

import pytest

from daemons.distributor.consulting import Decision, judge

VALID: list[tuple[Any, Decision | None]] = [
    (None, None),
    ({}, None),
    ({"after_s": 0}, Decision(after_s=0.0)),
    ({"after_s": 1.5, "avoid": ["w2", "w1", "w1"]}, Decision(after_s=1.5, avoid=("w1", "w2"))),
    ({"priority": -1000}, Decision(priority=-1000)),
    ({"give_up": " no  way "}, Decision(give_up="no way")),
]


@pytest.mark.parametrize(("value", "decision"), VALID)
def test_what_a_decision_may_be(value: Any, decision: Decision | None) -> None:
    assert judge(value, frozenset({"w1", "w2"})) == decision


@pytest.mark.parametrize(
    "value",
    [
        "retry",
        5,
        [],
        {"again": True},
        {"after_s": -1},
        {"after_s": True},
        {"after_s": float("nan")},
        {"after_s": float("inf")},
        {"after_s": 86_401},
        {"after_s": "5"},
        {"avoid": "w1"},
        {"avoid": [1]},
        {"avoid": ["w9"]},
        {"avoid": ["w1"] * 101},
        {"priority": 1001},
        {"priority": 1.5},
        {"priority": True},
        {"give_up": ""},
        {"give_up": "  "},
        {"give_up": True},
        {"give_up": "no", "after_s": 5},
    ],
)
def test_what_a_decision_may_not_be(value: Any) -> None:
    assert isinstance(judge(value, frozenset({"w1"})), str)
