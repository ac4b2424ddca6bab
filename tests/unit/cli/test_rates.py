"""Rates between two looks at a fleet."""

from __future__ import annotations

from typing import Any

import pytest

from daemons.cli.rates import Sample, picture
from tests.unit.cli.screens import fleet, site, worker


def later(status: dict[str, Any], **loads: dict[str, Any]) -> dict[str, Any]:
    """The same fleet with other counters of some workers."""
    sites = [
        {**one, "workers": [{**w, "load": {**w["load"], **loads.get(w["id"], {})}} for w in one["workers"]]}
        for one in status["distributors"]
    ]
    return {**status, "distributors": sites}


def test_counts_become_rates_and_means() -> None:
    before = fleet(site("d1", worker("w1"), worker("w2")))
    after = later(before, w1={"done": 140, "failed": 1, "run_s": 14.5, "stay_s": 29.0}, w2={"failed": 3})
    after["tasks"] = {**after["tasks"], "completed": after["tasks"]["completed"] + 40}
    after["coordinator"] = {**after["coordinator"], "live": after["coordinator"]["live"] + 10}
    found = picture(Sample(before, 10.0), Sample(after, 12.0))
    assert found["interval_s"] == 2.0
    assert found["rates"] == {"submitted": 25.0, "completed": 20.0, "failed": 0.0, "abandoned": 0.0}
    whole, w1, w2 = found["agents"]
    assert (w1["done_per_s"], w1["run_s"], w1["stay_s"]) == (20.0, pytest.approx(0.05), pytest.approx(0.1))
    assert (w2["done_per_s"], w2["failed_per_s"], w2["run_s"]) == (0.0, 1.0, 0.0)
    assert (whole["done_per_s"], whole["failed_per_s"], whole["running"], whole["held"]) == (20.0, 1.0, 4, 10)


def test_the_first_look_has_counts_and_no_rates() -> None:
    found = picture(None, Sample(fleet(site("d1", worker("w1"))), 1.0))
    assert found["interval_s"] is None
    assert set(found["rates"].values()) == {None}
    assert found["agents"][1]["done_per_s"] is None
    assert found["agents"][1]["held"] == 5


def test_a_worker_that_came_back_counts_from_zero_and_not_below() -> None:
    before = fleet(site("d1", worker("w1")))
    again = later(before, w1={"done": 30, "failed": 0, "run_s": 3.0, "stay_s": 6.0})
    found = picture(Sample(before, 0.0), Sample(again, 1.0))["agents"][1]
    assert (found["done_per_s"], found["run_s"]) == (30.0, pytest.approx(0.1))


def test_another_leader_counts_anew() -> None:
    before = fleet(site("d1", worker("w1")))
    after = {**before, "coordinator": {**before["coordinator"], "id": "coordinator-2", "fence": 3}}
    assert set(picture(Sample(before, 0.0), Sample(after, 1.0))["rates"].values()) == {None}


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({"up": False}, "down"),
        ({"load": {"draining": True}}, "draining"),
        ({"load": {"suspect": "silence"}}, "suspect"),
        ({"load": {"running": 1}}, "busy"),
        ({"load": {"running": 0, "held": 0}}, "idle"),
        ({"load": None}, "up"),
    ],
)
def test_states_of_workers(more: dict[str, Any], state: str) -> None:
    found = picture(None, Sample(fleet(site("d1", worker("w1", **more))), 1.0))
    assert found["agents"][1]["state"] == state


@pytest.mark.parametrize(
    ("store", "word"),
    [
        ({"available": True}, "available"),
        ({"available": False, "spooling": True}, "spooling"),
        ({"available": False, "reason": "refused"}, "away: refused"),
        (None, "available"),
    ],
)
def test_the_store_in_a_word(store: Any, word: str) -> None:
    assert picture(None, Sample(fleet(store=store), 1.0))["store"] == word
