"""The distributor's part of an audit: which tasks it has, and what is wrong with what it remembers."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from daemons.distributor.config import DistributorConfig
from daemons.distributor.memory import LiveTask
from daemons.runtime.contract import QueryAnswer
from tests.unit.distributor.harness import COORDINATOR, Site


def audited(site: Site, **payload: Any) -> dict[str, Any]:
    site.from_coordinator("audit", number=7, **payload)
    while site.queries:
        site.answer()
    answer = site.told(COORDINATOR, "audit")[-1]
    assert answer["number"] == 7
    return answer


def working(site: Site) -> Site:
    """``t1`` runs, ``t2`` waits."""
    site.worker_up("w1", slots=1, limit=1)
    site.assign("t1", "t2")
    return site


def test_it_says_which_tasks_it_does_not_have(site: Site) -> None:
    working(site)
    assert audited(site, task_ids=["t1", "nobody's", "t2"])["unknown"] == ["nobody's"]


def test_a_result_on_its_way_to_the_store_is_had(site: Site) -> None:
    working(site)
    site.store_away()
    site.complete("w1", "t1")
    assert audited(site, task_ids=["t1"])["unknown"] == []
    site.store_back()
    assert audited(site, task_ids=["t1"])["unknown"] == ["t1"]


def test_before_it_has_read_its_section_it_does_not_judge(site: Site) -> None:
    site.from_coordinator("resync")
    site.from_coordinator("audit", number=7, task_ids=["t1"])
    answer = site.told(COORDINATOR, "audit")[-1]
    assert answer["ready"] is False
    assert "unknown" not in answer


def test_what_is_well_is_no_finding(site: Site) -> None:
    working(site)
    answer = audited(site, whole=True, repair=True)
    assert (answer["findings"], answer["unchecked"]) == ([], [])


def test_a_record_that_the_store_lost_is_written_again(site: Site) -> None:
    working(site)
    del site.store.live["t1"], site.store.live["t2"]
    rows = audited(site, whole=True)["findings"]
    assert [(row["kind"], row["task_id"], row["repaired"]) for row in rows] == [
        ("not_stored", "t1", False),
        ("not_stored", "t2", False),
    ]
    assert site.store.live == {}
    assert all(row["repaired"] for row in audited(site, whole=True, repair=True)["findings"])
    assert set(site.store.live) == {"t1", "t2"}
    assert audited(site, whole=True)["findings"] == []
    site.complete("w1", "t1")
    site.complete("w1", "t2")
    assert set(site.store.results) == {"t1", "t2"}


def test_a_task_without_a_worker_is_run_again(site: Site) -> None:
    working(site)
    assert site.got("w1") == [("t1", 1)]
    worker = site.core._memory.workers["w1"]
    del worker.held["t1"]  # what no event does
    rows = audited(site, whole=True, repair=True)["findings"]
    assert [(row["kind"], row["task_id"], row["repair"]) for row in rows] == [("misplaced", "t1", "run_again")]
    assert audited(site, whole=True)["findings"] == []
    for task_id, attempt in [each for each in site.got("w1") if each != ("t1", 1)]:
        site.complete("w1", (task_id, attempt))
    site.complete("w1", ("t1", 2))
    assert site.store.results["t1"]["status"] == "completed"


def test_a_section_that_cannot_be_read_is_a_finding(site: Site) -> None:
    """Symptom: `a2actl doctor` said "ok", and behind that what was not looked at."""
    working(site)
    site.from_coordinator("audit", number=7, whole=True)
    query, _ = site.queries.pop(0)
    site.event(QueryAnswer(query.tag, error='a foreign text in its field "version"'))
    (row,) = site.told(COORDINATOR, "audit")[-1]["findings"]
    assert (row["kind"], row["what"]) == ("unreadable_section", 'a foreign text in its field "version"')


def test_a_section_that_is_not_ours_any_more_is_said(site: Site) -> None:
    working(site)
    site.from_coordinator("audit", number=7, whole=True)
    site.disown()
    site.answer()
    assert "could not be read" in site.told(COORDINATOR, "audit")[-1]["unchecked"][0]


def test_the_reconciler_gets_to_the_last_task_however_many_there_are(make_site: Callable[..., Site]) -> None:
    """It began anew every ten seconds, so what stood behind the first 10,000 was never looked at."""
    site = make_site(DistributorConfig(sweep_slice=1, sweep_interval_s=3.0))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=8)
    site.assign(*"abcdefgh")
    del site.core._memory.workers["w1"].held["h"]  # a bug that we do not know of
    for _ in range(12):
        site.advance(1)
        site.supervise()
    assert site.core.violations() == []
    assert ("h", 2) in site.got("w1")


def test_the_reconciler_does_not_hold_tasks_that_have_ended(make_site: Callable[..., Site]) -> None:
    """After a burst they were kept for ten seconds more, with their payloads."""
    site = make_site(DistributorConfig(sweep_slice=1))
    site.own()
    site.coordinator_up()
    site.worker_up("w1", limit=3)
    ids = ["held-1", "held-2", "held-3"]
    site.assign(*ids)
    site.advance(11)
    site.supervise()
    site.complete("w1", *ids)
    site.supervise()
    assert [task.task_id for task in gc.get_objects() if isinstance(task, LiveTask) and task.task_id in ids] == []
