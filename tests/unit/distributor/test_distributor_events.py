"""What runs tell passes through the distributor, if it is of the attempt that counts."""

from __future__ import annotations

from typing import Any

from a2a_zmq.protocol.message import MessageType
from daemons.runtime.contract import Send, Undelivered
from tests.unit.distributor.harness import COORDINATOR, Site


def item(task_id: str, attempt: int = 1, number: int = 1) -> dict[str, Any]:
    events = [[f"{attempt}-{number}", "custom", [], {"n": number}]]
    return {"task_id": task_id, "attempt": attempt, "prev": "0-0", "last": f"{attempt}-{number}", "events": events}


def passed(site: Site) -> list[tuple[str, str]]:
    told = [one for payload in site.told(COORDINATOR, "task_events") for one in payload["tasks"]]
    return [(one["task_id"], one["last"]) for one in told]


def running(site: Site) -> Site:
    """``t1`` runs at one worker, ``t2`` at another."""
    site.worker_up("w1", slots=1, limit=1)
    site.worker_up("w2", slots=1, limit=1)
    site.assign("t1", "t2")
    return site


def test_it_passes_on_as_one_message(site: Site) -> None:
    running(site)
    (worker,) = [name for name in ("w1", "w2") if ("t1", 1) in site.got(name)]
    site.from_worker(worker, "task_events", tasks=[item("t1"), item("t1", number=2)])
    (payload,) = site.told(COORDINATOR, "task_events")
    assert payload["tasks"][0] == {name: value for name, value in item("t1").items() if name != "attempt"}
    assert passed(site) == [("t1", "1-1"), ("t1", "1-2")]


def test_what_an_attempt_tells_that_does_not_count_does_not_pass(site: Site) -> None:
    running(site)
    (worker,) = [name for name in ("w1", "w2") if ("t1", 1) in site.got(name)]
    (other,) = {"w1", "w2"} - {worker}
    site.from_worker(other, "task_events", tasks=[item("t1")])
    site.from_worker(worker, "task_events", tasks=[item("t1", attempt=2), item("t9"), 7, {"task_id": 7}])
    site.from_worker(worker, "task_events", tasks="t1")
    assert passed(site) == []


def test_without_a_coordinator_it_is_let_go_and_a_full_outbox_holds_up_no_result(site: Site) -> None:
    running(site)
    (worker,) = [name for name in ("w1", "w2") if ("t1", 1) in site.got(name)]
    site.coordinator_down()
    site.from_worker(worker, "task_events", tasks=[item("t1")])
    site.coordinator_up()
    site.turn()
    assert passed(site) == []
    site.full.add(COORDINATOR)
    site.from_worker(worker, "task_events", tasks=[item("t1", number=2)])
    site.full.clear()
    site.complete(worker, "t1")
    assert ("t1", "completed") in site.reported()
    assert passed(site) == []


def test_a_bulk_message_that_comes_back_is_forgotten(site: Site) -> None:
    running(site)
    worker = next(name for name in ("w1", "w2") if site.got(name))
    (task_id, _), *_ = site.got(worker)
    before = len(site.sent)
    event = item(task_id)
    site.from_worker(worker, "task_events", tasks=[event])
    (payload,) = site.told(COORDINATOR, "task_events")
    site.event(Undelivered(Send(COORDINATOR, MessageType.EVENT, payload, reliable=False, bulk=True), "busy"))
    assert len(site.sent) == before + 1
