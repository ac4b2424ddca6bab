"""What ``/sd`` tells Prometheus: who is there, for how long those that are gone, and whose address is of no use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from a2a_zmq.protocol.message import MessageType
from daemons.coordinator.targets import LEARNING_S
from daemons.runtime.sightings import LEFT_S, LOST_S
from tests.unit.coordinator.harness import World

OWN = {"metrics": "10.0.0.1:9550", "host": "hub"}


def listed(world: World, own: dict[str, str] = OWN) -> dict[str, str]:
    """Agent → target."""
    known, groups = world.core.targets(own, world.now)
    assert known, groups
    for group in groups:
        assert set(group) == {"targets", "labels"}
        assert set(group["labels"]) == {"agent_id", "agent_role", "agent_host"}
    return {group["labels"]["agent_id"]: group["targets"][0] for group in groups}


def worker(name: str, target: Any, host: Any = "far", *, up: bool = True) -> dict[str, Any]:
    return {"id": name, "up": up, "slots": 1, "task_types": ["noop"], "metrics": target, "host": host}


def tell(world: World, *workers: dict[str, Any], distributor: str = "d1") -> None:
    payload = {"action": "workers_changed", "workers": list(workers), "task_types": ["noop"]}
    world.say(distributor, MessageType.EVENT, payload)


@pytest.fixture
def site(world: World) -> World:
    """A coordinator that has been there for a while, a distributor and two workers."""
    world.supervise()
    world.advance(LEARNING_S)
    world.distributor("d1", metrics="10.0.0.2:9560", host="site")
    tell(world, worker("w1", "10.0.0.3:9570"), worker("w2", "10.0.0.4:9571"))
    return world


def test_everybody_is_listed_with_role_and_host(site: World) -> None:
    _, groups = site.core.targets(OWN, site.now)
    assert groups == [
        {
            "targets": ["10.0.0.1:9550"],
            "labels": {"agent_id": "coordinator-1", "agent_role": "coordinator", "agent_host": "hub"},
        },
        {"targets": ["10.0.0.2:9560"], "labels": {"agent_id": "d1", "agent_role": "distributor", "agent_host": "site"}},
        {"targets": ["10.0.0.3:9570"], "labels": {"agent_id": "w1", "agent_role": "worker", "agent_host": "far"}},
        {"targets": ["10.0.0.4:9571"], "labels": {"agent_id": "w2", "agent_role": "worker", "agent_host": "far"}},
    ]


def test_a_coordinator_that_has_just_started_lists_nobody_instead_of_too_few(world: World) -> None:
    """Prometheus would forget the others for a moment, and every alert would begin anew."""
    assert world.core.targets(OWN, world.now)[0] is False
    world.supervise()
    world.advance(LEARNING_S - 0.5)
    assert world.core.targets(OWN, world.now) == (False, "just started: the fleet is not known yet")
    world.advance(0.5)
    assert listed(world) == {"coordinator-1": "10.0.0.1:9550"}


def test_agents_of_an_earlier_release_are_left_out(site: World) -> None:
    site.distributor("old")
    assert "old" not in listed(site)
    assert "old-w1" not in listed(site)


@pytest.mark.parametrize(
    "target", [None, 7, "", "10.0.0.9", "10.0.0.9:", ":9570", "10.0.0.9:x", "a b:1", "10.0.0.9:9570/metrics", ["x:1"]]
)
def test_what_is_no_address_is_left_out(site: World, target: Any) -> None:
    tell(site, worker("w1", target))
    assert "w1" not in listed(site)


def test_a_loopback_address_is_only_of_use_on_its_own_host(site: World) -> None:
    tell(
        site,
        worker("here", "127.0.0.1:9570", "hub"),
        worker("there", "127.0.0.1:9570", "far"),
        worker("nowhere", "localhost:9570", None),
    )
    assert set(listed(site)) == {"coordinator-1", "d1", "here"}


def test_a_lost_distributor_stays_for_a_day_and_its_workers_with_it(site: World) -> None:
    site.gone("d1", "silence")
    site.advance(LOST_S - 1)
    assert set(listed(site)) == {"coordinator-1", "d1", "w1", "w2"}
    assert site.meter.gauges["agent_up/d1/distributor"] == 0
    site.advance(2)
    assert set(listed(site)) == {"coordinator-1"}
    assert "agent_up/d1/distributor" not in site.meter.gauges


@pytest.mark.parametrize("reason", ["goodbye", "revoked"])
def test_one_that_left_in_good_order_stays_for_half_a_minute(site: World, reason: str) -> None:
    site.gone("d1", reason)
    site.advance(LEFT_S - 1)
    assert {"d1", "w1", "w2"} <= set(listed(site))
    site.advance(2)
    assert set(listed(site)) == {"coordinator-1", "w1", "w2"}  # its workers live on
    assert "agent_up/d1/distributor" not in site.meter.gauges


def test_one_that_is_back_counts_anew(site: World) -> None:
    site.gone("d1", "goodbye")
    site.distributor("d1", restarted=True, metrics="10.0.0.2:9999", host="site")
    site.advance(LOST_S)
    assert listed(site)["d1"] == "10.0.0.2:9999"
    assert site.meter.gauges["agent_up/d1/distributor"] == 1


def test_a_distributor_with_tasks_is_shown_as_long_as_they_are_there(site: World) -> None:
    site.client("alice~1")
    site.submit("alice~1", "t1", distributor="d1")
    site.gone("d1", "goodbye")
    site.advance(LEFT_S + 1)
    assert site.meter.gauges["agent_up/d1/distributor"] == 0
    assert "d1" in listed(site)


def test_a_registered_distributor_that_nobody_met_is_not_taken_for_lost(
    make_world: Callable[..., World], site: World
) -> None:
    """The registry keeps all that ever were; a new leader would report those of former times as down."""
    successor = make_world(site.store)
    successor.own()
    successor.supervise()
    assert "d1" in successor.core.distributors()
    assert "agent_up/d1/distributor" not in successor.meter.gauges


def test_a_standby_lists_itself_and_whom_it_sees(make_world: Callable[..., World]) -> None:
    standby = make_world()
    standby.supervise()
    standby.advance(LEARNING_S)
    standby.distributor("d1", metrics="10.0.0.2:9560", host="site")
    assert {"coordinator-1", "d1"} <= set(listed(standby))


def test_clocks_of_distributors_are_compared_and_forgotten_with_them(site: World) -> None:
    site.supervise()
    assert site.meter.gauges["clock_offset_seconds/d1"] == 0
    site.core.desk.ledger.distributors["d1"].clock_off_s = -2.5
    site.supervise()
    assert site.meter.gauges["clock_offset_seconds/d1"] == -2.5
    site.gone("d1", "silence")
    site.supervise()
    assert site.meter.gauges["clock_offset_seconds/d1"] == 0
    site.advance(LOST_S + 1)
    assert "clock_offset_seconds/d1" not in site.meter.gauges


def test_bounds_and_what_waits_are_shown(site: World) -> None:
    site.client("alice~1")
    site.submit("alice~1", "t1", distributor="elsewhere")
    site.supervise()
    assert site.meter.gauges["tasks_without_worker/no_worker"] == 1
    assert site.meter.gauges["tasks_limit"] == site.core.config.max_live_tasks
    assert site.meter.gauges["task_bytes"] == site.core.desk.ledger.live_bytes > 0
    assert site.meter.gauges["task_bytes_limit"] == site.core.config.max_live_bytes


def test_refused_requests_are_counted_by_code(site: World) -> None:
    site.client("alice~1")
    assert site.ask("alice~1", "no_such_action")["code"] == "UNKNOWN_ACTION"
    assert site.meter.counts["requests_refused_total/UNKNOWN_ACTION"] == 1


def test_the_turnaround_of_one_task_of_each_batch_is_measured(site: World) -> None:
    site.client("alice~1")
    site.submit("alice~1", "t1", "t2", distributor="d1")
    site.advance(2.0)
    site.finish("d1", "t1", "t2")
    assert site.meter.observed["task_turnaround_seconds"] == [pytest.approx(2.0)]
    assert site.meter.exemplars["task_turnaround_seconds"].labels() == {"task_id": "t1"}
