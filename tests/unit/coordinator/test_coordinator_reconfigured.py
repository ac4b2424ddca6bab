"""Settings that change while a coordinator runs."""

from __future__ import annotations

from collections.abc import Callable

from daemons.coordinator.config import CoordinatorConfig
from daemons.runtime.reconfigured import Reconfigured
from tests.unit.coordinator.harness import World


def test_the_bound_of_unfinished_tasks_moves(fleet: World) -> None:
    fleet.submit("alice~1", "t1", "t2")
    fleet.event(Reconfigured(CoordinatorConfig(max_live_tasks=2)))
    assert fleet.submit("alice~1", "t3")["code"] == "BUSY"
    fleet.event(Reconfigured(CoordinatorConfig(max_live_tasks=100)))
    assert fleet.submit("alice~1", "t3")["accepted"] == 1


def test_clients_are_told_batches_that_the_new_bound_takes(fleet: World) -> None:
    fleet.event(Reconfigured(CoordinatorConfig(max_live_tasks=40)))
    assert fleet.core.welcome("bob~1", fleet.now)["max_batch"] == 10


def test_a_distributor_that_is_away_fails_over_by_the_new_time(fleet: World) -> None:
    fleet.distributor("d2")
    fleet.submit("alice~1", "t1")
    (home,) = fleet.store.where("t1")
    other = "d2" if home == "d1" else "d1"
    fleet.gone(home)
    fleet.event(Reconfigured(CoordinatorConfig(distributor_failover_s=2.0)))
    for _ in range(8):
        fleet.advance(0.5)
        fleet.supervise()
    assert fleet.assigned(other) == ["t1"]


def test_a_policy_gets_the_new_time(make_world: Callable[..., World]) -> None:
    world = make_world(policy_timeout_s=0.2)
    world.own()
    world.distributor("d1")
    world.distributor("d2")
    world.client()
    world.event(Reconfigured(CoordinatorConfig(policy_timeout_s=3.0)))
    world.submit("alice~1", "t1")
    assert world.consults[-1].timeout_s == 3.0
    world.advance(2.5)
    assert world.store.where("t1") == ["inbox"], "it may still answer"
    world.advance(1.0)
    assert world.store.where("t1") != ["inbox"]


def test_two_cores_with_one_configuration_do_not_share_a_change() -> None:
    config = CoordinatorConfig()
    worlds = [World(), World()]
    worlds[0].event(Reconfigured(CoordinatorConfig(max_live_tasks=1)))
    assert worlds[0].core.config.max_live_tasks == 1
    assert worlds[1].core.config == config
