"""The tasks of a distributor that stays away go to others: once, only if nobody else may act for it, and whatever ends
in between.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from a2a_zmq.protocol.message import MessageType
from tests.unit.coordinator.fakes import Store
from tests.unit.coordinator.harness import World

AWAY_S = 30.0


@pytest.fixture
def pair(fleet: World) -> World:
    """``d1`` has three tasks and dies; ``d2`` comes, which can run them, too."""
    fleet.store.take("d1")
    fleet.submit("alice~1", "t1", "t2", "t3", priority=3)
    fleet.distributor("d2")
    return fleet


def dies(world: World, name: str = "d1") -> None:
    world.gone(name)
    world.store.held.discard(name)


def wait(world: World, seconds: float) -> None:
    for _ in range(int(seconds)):
        world.advance(1.0)


def live(world: World) -> dict[str, list[str]]:
    return {name or "inbox": sorted(tasks) for name, tasks in world.store.live.items() if tasks}


def test_its_tasks_go_to_another_one_and_end_there(pair: World) -> None:
    record = pair.store.live["d1"]["t1"]
    record.update(status="in_progress", started_at="2026-01-01T00:00:00.000000Z", retry_count=1)
    record["metadata"].update(attempt=2, worker="d1-w1")
    dies(pair)
    wait(pair, AWAY_S - 2)
    assert live(pair) == {"d1": ["t1", "t2", "t3"]}
    wait(pair, 3)
    assert live(pair) == {"d2": ["t1", "t2", "t3"]}
    assert sorted(pair.assigned("d2")) == ["t1", "t2", "t3"]
    moved = pair.store.live["d2"]["t1"]
    assert (moved["status"], moved["retry_count"], moved["metadata"]["priority"]) == ("pending", 1, 3)
    assert moved["metadata"]["attempt"] == 1_000
    assert "worker" not in moved["metadata"]
    assert "started_at" not in moved
    (lost,) = moved["metadata"]["attempts"]
    assert (lost["attempt"], lost["worker"], lost["kind"]) == (2, "d1-w1", "distributor_lost")
    pair.finish("d2", "t1", "t2", "t3")
    assert pair.meter.counts["tasks_failed_over_total"] == 3
    assert pair.store.events("failed_over")[0][3]["distributor"] == "d1"


def test_a_second_move_goes_to_the_next_thousand(pair: World) -> None:
    dies(pair)
    wait(pair, AWAY_S + 1)
    pair.store.live["d2"]["t1"]["metadata"]["attempt"] = 1_004
    pair.distributor("d3")
    dies(pair, "d2")
    wait(pair, AWAY_S + 1)
    assert pair.store.live["d3"]["t1"]["metadata"]["attempt"] == 2_000
    assert pair.store.live["d3"]["t1"]["metadata"]["moved"] == 2


def test_one_that_keeps_its_lease_lives_though_nobody_hears_of_it(pair: World) -> None:
    pair.gone("d1")
    wait(pair, 3 * AWAY_S)
    assert live(pair) == {"d1": ["t1", "t2", "t3"]}
    pair.store.held.discard("d1")
    wait(pair, AWAY_S - 2)
    assert live(pair) == {"d1": ["t1", "t2", "t3"]}
    wait(pair, 3)
    assert live(pair) == {"d2": ["t1", "t2", "t3"]}


def test_one_that_is_back_in_time_keeps_its_tasks(pair: World) -> None:
    dies(pair)
    wait(pair, AWAY_S - 5)
    pair.store.take("d1")
    pair.distributor("d1", restarted=True)
    wait(pair, AWAY_S)
    assert live(pair) == {"d1": ["t1", "t2", "t3"]}


def test_what_no_other_one_can_run_waits_for_its_return(fleet: World) -> None:
    fleet.workers("d1", "noop rare")
    fleet.distributor("d2")
    fleet.submit("alice~1", "rare", task_type="rare")
    fleet.submit("alice~1", "pinned", distributor="d1")
    dies(fleet)
    wait(fleet, 3 * AWAY_S)
    assert live(fleet) == {"d1": ["pinned", "rare"]}
    fleet.workers("d2", "noop rare")
    wait(fleet, 11)
    assert live(fleet) == {"d1": ["pinned"], "d2": ["rare"]}


def test_never_means_never(make_world: Callable[..., World]) -> None:
    world = make_world(distributor_failover_s=0)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", "t1")
    world.distributor("d2")
    dies(world)
    wait(world, 5 * AWAY_S)
    assert live(world) == {"d1": ["t1"]}


def test_many_go_in_parts(make_world: Callable[..., World]) -> None:
    world = make_world(move_chunk=2, assign_window=3)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    ids = [f"t{number}" for number in range(7)]
    world.submit("alice~1", *ids)
    world.distributor("d2")
    dies(world)
    wait(world, AWAY_S + 3)
    assert live(world) == {"d2": ids}
    assert len(world.assigned("d2")) == 3  # no more than its window takes


# ---------------------------------------------------------------- ends in between


def test_a_task_that_ended_there_unheard_ends_here(pair: World) -> None:
    pair.finish("d1", "t1", tell=False)
    result = pair.result("d1", "t2")
    dies(pair)
    pair.store.record("d1", "t2", result)  # and its record came to the store after that
    wait(pair, AWAY_S + 1)
    assert live(pair) == {"d2": ["t3"]}
    assert pair.ask("alice~1", "watch_tasks", task_ids=["t1", "t2"])["live"] == []


def test_a_task_that_was_to_be_cancelled_ends_instead(pair: World) -> None:
    dies(pair)
    assert pair.ask("alice~1", "cancel_tasks", task_ids=["t2"])["requested"] == ["t2"]
    wait(pair, AWAY_S + 1)
    assert live(pair) == {"d2": ["t1", "t3"]}
    assert pair.store.results[""]["t2"]["status"] == "abandoned"


def test_a_task_cancelled_on_its_way_ends_instead(pair: World) -> None:
    dies(pair)
    wait(pair, AWAY_S - 2)
    pair.batches_held = True
    wait(pair, 3)  # to be written to the inbox
    request = pair.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["t2"]})
    pair.release_batches()
    wait(pair, 1)
    answer = pair.answer_to("alice~1", request)
    assert answer is not None
    assert answer.payload["requested"] == ["t2"]
    assert live(pair) == {"d2": ["t1", "t3"]}
    assert pair.store.recorded == {"t2": 1}


def evicted(pair: World) -> None:
    """A cancellation was acknowledged, and the process dies when only the inbox has the tasks."""
    dies(pair)
    assert pair.ask("alice~1", "cancel_tasks", task_ids=["t2"])["requested"] == ["t2"]
    wait(pair, AWAY_S - 2)
    pair.batches_held = True
    wait(pair, 3)
    pair.apply()  # the inbox has them, too; the next batch is never applied
    pair.turn()
    assert live(pair) == {"inbox": ["t1", "t2", "t3"]}


def cancels(store: Store) -> set[str]:
    return set(orjson.loads(store.headers["d1"]["cancels"]))


def test_what_was_cancelled_stays_so_for_the_next_coordinator(pair: World, make_world: Callable[..., World]) -> None:
    evicted(pair)
    successor = next_coordinator(pair.store, make_world)
    successor.distributor("d2")
    wait(successor, 2)
    assert live(successor) == {"d2": ["t1", "t3"]}
    assert successor.store.results[""]["t2"]["status"] == "abandoned"
    assert successor.store.recorded == {"t2": 1}
    assert cancels(successor.store) == set(), "it has ended"


def test_a_cancellation_is_kept_until_its_end_is_durable(pair: World, make_world: Callable[..., World]) -> None:
    """Each coordinator dies a step later."""
    evicted(pair)
    second = make_world(pair.store)
    second.queries_held = True  # it cannot compare the inbox with the results
    second.own()
    second.distributor("d2")
    wait(second, 2)
    assert live(second) == {"inbox": ["t1", "t2", "t3"]}
    second.distributor("d1")
    assert cancels(second.store) == {"t2"}
    third = make_world(pair.store)
    third.batches_held = True
    third.own()
    wait(third, 2)
    fourth = next_coordinator(pair.store, make_world)
    fourth.distributor("d2")
    wait(fourth, 2)
    assert live(fourth) == {"d2": ["t1", "t3"]}
    assert fourth.store.recorded == {"t2": 1}


def test_a_cancellation_is_kept_until_then_by_who_moves_it(pair: World) -> None:
    """Others go to the store at the same time, and first; the process dies after that."""
    pair.submit("alice~1", "stays-1", "stays-2", distributor="d1")
    pair.ask("alice~1", "cancel_tasks", task_ids=["t2"])
    to_the_inbox(pair)
    pair.batches_held = True
    for task_id in ("stays-1", "t1"):  # the first is under way, and the second waits for it
        pair.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": [task_id]})
    pair.release_queries()
    assert live(pair) == {"inbox": ["t1", "t2", "t3"], "d1": ["stays-1", "stays-2"]}
    pair.say("alice~1", MessageType.REQUEST, {"action": "cancel_tasks", "task_ids": ["stays-2"]})
    pair.apply()
    pair.turn()
    pair.crash_between_writes(1)
    assert cancels(pair.store) == {"stays-1", "stays-2", "t1", "t2"}
    assert live(pair)["inbox"] == ["t1", "t2", "t3"]


def test_a_cancellation_that_meant_another_life_ends_nothing(pair: World, make_world: Callable[..., World]) -> None:
    evicted(pair)
    pair.store.live[""]["t2"]["metadata"]["retried"] = 1
    successor = next_coordinator(pair.store, make_world)
    successor.distributor("d2")
    wait(successor, 2)
    assert live(successor) == {"d2": ["t1", "t2", "t3"]}
    assert cancels(successor.store) == set()


def test_what_had_ended_is_not_cancelled_as_well(pair: World, make_world: Callable[..., World]) -> None:
    evicted(pair)
    record = pair.store.live[""]["t2"]
    result = {**record, "status": "completed", "result": {}, "completed_at": "2026-01-01T00:00:00.000000Z"}
    pair.store.record("d1", "t2", result)
    successor = next_coordinator(pair.store, make_world)
    successor.distributor("d2")
    wait(successor, 2)
    assert live(successor) == {"d2": ["t1", "t3"]}
    assert successor.store.recorded == {"t2": 1}


# ---------------------------------------------------------------- it comes back, or we go, in between


def to_the_inbox(pair: World) -> None:
    """Its tasks are in the inbox, and still in its section."""
    dies(pair)
    wait(pair, AWAY_S - 2)
    pair.batches_held = True
    wait(pair, 3)
    pair.queries_held = True
    pair.release_batches()
    assert live(pair)["inbox"] == ["t1", "t2", "t3"]
    assert set(live(pair)["d1"]) >= {"t1", "t2", "t3"}


def test_one_that_takes_its_section_back_keeps_what_it_has(pair: World) -> None:
    to_the_inbox(pair)
    pair.store.take("d1")
    pair.finish("d1", "t1", tell=False)
    pair.release_queries()
    wait(pair, 2)
    assert live(pair) == {"d1": ["t2", "t3"]}
    pair.distributor("d1", restarted=True)
    pair.finish("d1", "t2", "t3")
    assert pair.store.recorded == {"t1": 1, "t2": 1, "t3": 1}


def test_its_result_counts_while_its_task_is_on_the_way(pair: World) -> None:
    to_the_inbox(pair)
    pair.store.take("d1")
    pair.distributor("d1", restarted=True)
    pair.finish("d1", "t1")
    pair.release_queries()
    wait(pair, 2)
    assert live(pair) == {"d1": ["t2", "t3"]}


def test_a_lost_answer_is_settled_by_looking(pair: World) -> None:
    to_the_inbox(pair)
    pair.store.evict("d1", pair.store.fences["d1"], ["t1", "t2", "t3"])
    pair.query_error = "no answer"
    pair.release_queries()
    pair.query_error = None
    assert "d2" not in live(pair)
    wait(pair, 2)
    assert live(pair) == {"d2": ["t1", "t2", "t3"]}


def test_the_next_coordinator_goes_on_where_one_ended(pair: World, make_world: Callable[..., World]) -> None:
    to_the_inbox(pair)
    successor = next_coordinator(pair.store, make_world)
    successor.distributor("d2")
    wait(successor, 2)
    assert live(successor) == {"d2": ["t1", "t2", "t3"]}
    assert successor.store.live["d2"]["t1"]["metadata"]["attempt"] == 1_000


def test_the_next_coordinator_leaves_them_to_one_that_is_back(pair: World, make_world: Callable[..., World]) -> None:
    to_the_inbox(pair)
    pair.store.take("d1")
    successor = next_coordinator(pair.store, make_world)
    successor.distributor("d1")
    successor.distributor("d2")
    wait(successor, 2)
    assert live(successor) == {"d1": ["t1", "t2", "t3"]}


def next_coordinator(store: Store, make_world: Callable[..., World]) -> World:
    successor = make_world(store)
    successor.own()
    return successor


# ---------------------------------------------------------------- operators, and what is told


def test_an_operator_need_not_wait(pair: World) -> None:
    pair.operator()
    dies(pair)
    answer = pair.ask("root~1", "failover", agent_id="d1")
    assert (answer["moving"], answer["stay"]) == (3, 0)
    pair.turn()
    assert live(pair) == {"d2": ["t1", "t2", "t3"]}


def test_an_operator_is_refused_while_it_lives(pair: World) -> None:
    pair.operator()
    assert pair.ask("alice~1", "failover", agent_id="d1")["code"] == "FORBIDDEN"
    assert pair.ask("root~1", "failover", agent_id="d9")["code"] == "UNKNOWN_AGENT"
    answer = pair.ask("root~1", "failover", agent_id="d1")
    assert (answer["code"], "drain it first" in answer["message"]) == ("FORBIDDEN", True)
    pair.gone("d1")
    answer = pair.ask("root~1", "failover", agent_id="d1")
    assert (answer["code"], "holds its lease" in answer["message"]) == ("FORBIDDEN", True)
    assert live(pair) == {"d1": ["t1", "t2", "t3"]}


def test_what_a_drained_one_leaves_is_moved_when_it_has_gone(pair: World) -> None:
    pair.operator()
    pair.ask("root~1", "drain_agent", agent_id="d1")
    assert "when it has gone" in pair.ask("root~1", "failover", agent_id="d1")["message"]
    wait(pair, 2)
    assert live(pair) == {"d1": ["t1", "t2", "t3"]}
    pair.gone("d1")  # it gives its lease back when it has said goodbye
    wait(pair, 1)
    assert live(pair) == {"d1": ["t1", "t2", "t3"]}
    pair.store.held.discard("d1")
    wait(pair, 2)
    assert live(pair) == {"d2": ["t1", "t2", "t3"]}


def test_status_and_explain_say_since_when_and_what_comes(pair: World) -> None:
    dies(pair)
    wait(pair, 10)
    away = next(each for each in pair.ask("alice~1", "fleet_status")["distributors"] if each["id"] == "d1")
    assert (away["up"], away["away_s"], away["failover_in_s"]) == (False, 10.0, 20.0)
    (why,) = pair.ask("alice~1", "explain", task_id="t1")["why"]
    assert "not been connected for 10.0 s" in why
    assert "goes to another one in 20 s" in why
    dies(pair, "d2")
    (why,) = pair.ask("alice~1", "explain", task_id="t1")["why"]
    assert "no other distributor that is connected can run it" in why
