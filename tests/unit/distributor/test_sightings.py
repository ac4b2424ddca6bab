"""What a distributor shows of its workers: addresses for Prometheus, who is lost, clocks, what nobody can run."""

from __future__ import annotations

from typing import Any

from a2a_zmq.clock import iso
from a2a_zmq.protocol.message import Message, MessageType, Metadata, Role
from a2a_zmq.protocol.ports import PeerInfo, PeerUp, Received
from daemons.distributor.oversight import MAX_DEPARTED
from daemons.runtime.sightings import LEFT_S, LOST_S
from tests.unit.distributor.harness import COORDINATOR, Site


def joins(site: Site, name: str, **details: Any) -> None:
    says = {"task_types": ["noop"], "slots": 1, "limit": 1, "running": [], **details}
    site.event(PeerUp(PeerInfo(name, Role.WORKER, details=says)))


def told(site: Site) -> dict[str, dict[str, Any]]:
    """What the coordinator knows of the workers."""
    return {worker["id"]: worker for worker in site.told(COORDINATOR, "workers_changed")[-1]["workers"]}


def shown(site: Site, name: str) -> float | None:
    return site.meter.gauges.get(f"agent_up/{name}/worker")


def test_where_a_workers_metrics_are_is_passed_on(site: Site) -> None:
    joins(site, "w1", metrics="10.0.0.3:9570", host="far")
    joins(site, "w2", metrics=7, host=["x"])
    joins(site, "w3")
    found = told(site)
    assert (found["w1"]["metrics"], found["w1"]["host"]) == ("10.0.0.3:9570", "far")
    for name in ("w2", "w3"):
        assert not {"metrics", "host"} & set(found[name])


def test_a_lost_worker_is_shown_for_a_day_with_its_address(site: Site) -> None:
    joins(site, "w1", metrics="10.0.0.3:9570", host="far")
    site.worker_down("w1", "silence")
    site.advance(LOST_S - 1)
    site.supervise()
    assert shown(site, "w1") == 0
    assert (told(site)["w1"]["up"], told(site)["w1"]["metrics"]) == (False, "10.0.0.3:9570")
    site.advance(2)
    site.supervise()
    assert shown(site, "w1") is None
    assert told(site) == {}


def test_a_worker_that_left_in_good_order_raises_no_alarm(site: Site) -> None:
    """``a2a_agent_up`` stayed at 0 for ever after a drain."""
    joins(site, "w1")
    site.worker_down("w1", "goodbye")
    site.advance(LEFT_S + 1)
    site.supervise()
    assert shown(site, "w1") is None
    assert "clock_offset_seconds/w1" not in site.meter.gauges
    assert told(site) == {}


def test_one_that_comes_back_is_shown_as_up(site: Site) -> None:
    joins(site, "w1")
    site.worker_down("w1", "goodbye")
    joins(site, "w1")
    site.advance(LOST_S + 1)
    site.supervise()
    assert shown(site, "w1") == 1


def test_of_many_lost_workers_the_latest_are_shown(site: Site) -> None:
    names = [f"w{number}" for number in range(MAX_DEPARTED + 3)]
    for name in names:
        joins(site, name)
        site.worker_down(name, "exited")
    site.supervise()
    assert [name for name in names if shown(site, name) == 0] == names[3:]
    assert len(told(site)) == MAX_DEPARTED


def test_clocks_of_workers_are_compared(site: Site) -> None:
    joins(site, "w1")
    payload = {"action": "heartbeat", "limit": 1, "running": 0, "held": 0}
    metadata = Metadata("w1", timestamp=iso(site.now.wall - 3))
    message = Message(MessageType.HEARTBEAT, "w1", site.core.agent_id, payload, metadata)
    site.event(Received("w1", Role.WORKER, message))
    site.supervise()
    assert round(site.meter.gauges["clock_offset_seconds/w1"], 3) == -3
    site.worker_down("w1", "silence")
    site.supervise()
    assert site.meter.gauges["clock_offset_seconds/w1"] == 0


def test_what_nobody_can_run_is_counted_by_what_is_missing(site: Site) -> None:
    site.assign("a", task_type="unknown")
    site.assign("b", "c", task_type="graph:g", graph="hash-1", graph_attempt=1)
    site.worker_up("w1", types=["graph:g"], graphs={"graph:g": "hash-2"})
    site.supervise()
    assert site.meter.gauges["tasks_without_worker/no_worker"] == 1
    assert site.meter.gauges["tasks_without_worker/no_graph"] == 2
    site.worker_up("w2", types=["unknown", "graph:g"], graphs={"graph:g": "hash-1"}, limit=9)
    site.supervise()
    assert site.meter.gauges["tasks_without_worker/no_worker"] == 0
    assert site.meter.gauges["tasks_without_worker/no_graph"] == 0


def test_what_is_given_up_is_counted_by_its_reason(site: Site) -> None:
    site.worker_up("w1", limit=5)
    site.assign("a", "b")
    site.fail("w1", "a", 1, kind="invalid_input", retryable=False)
    site.complete("w1", "b")
    assert site.meter.counts["dead_letters_total/invalid_input"] == 1
    assert "tasks_quarantined_total" not in site.meter.counts
