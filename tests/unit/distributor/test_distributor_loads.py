"""What a distributor says of its workers' load."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.distributor.harness import COORDINATOR, Site


def loads(site: Site) -> dict[str, dict[str, Any]]:
    site.from_coordinator("load", tag="q9")
    found = site.told(COORDINATOR, "load")[-1]
    assert found["tag"] == "q9"
    return {each["id"]: each for each in found["workers"]}


def test_counters_tell_what_ended_and_how_long_it_took(site: Site) -> None:
    site.worker_up("w1", slots=2, limit=4)
    site.assign("a", "b", "c")
    before = loads(site)["w1"]
    assert (before["held"], before["done"], before["failed"], before["stay_s"]) == (3, 0, 0, 0.0)
    site.advance(0.5)
    site.report("w1", "a", 1, "completed", result=1, started_at=1.0, execution_s=0.25)
    site.fail("w1", "b", 1, execution_s=0.5)
    after = loads(site)["w1"]
    assert (after["done"], after["failed"]) == (1, 1)
    assert after["run_s"] == pytest.approx(0.75)
    assert after["stay_s"] >= 1.0, "two runs, half a second each from their dispatch"


def test_runs_that_were_stopped_or_came_late_do_not_count(site: Site) -> None:
    site.worker_up("w1", limit=4)
    site.assign("a", "b")
    site.cancel("a")
    site.report("w1", "a", 1, "abandoned", error_kind="cancelled", execution_s=9.0)
    site.complete("w1", "b")
    site.complete("w1", "b")
    assert [loads(site)["w1"][name] for name in ("done", "failed", "held")] == [1, 0, 0]


def test_a_suspect_and_one_that_drains_say_so(site: Site) -> None:
    site.worker_up("w1")
    site.worker_up("w2")
    site.worker_suspect("w1")
    site.from_coordinator("drain", agent_id="w2")
    found = loads(site)
    assert (found["w1"]["suspect"], found["w2"]["draining"]) == ("disconnect", True)
    site.worker_down("w1")
    assert list(loads(site)) == ["w2"]
