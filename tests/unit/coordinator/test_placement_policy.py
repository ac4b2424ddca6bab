"""Tasks that a user's policy places: asked in batches, waiting in the inbox, never longer than it may take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daemons.runtime.contract import StoreChanged
from tests.unit.coordinator.harness import World

TIMEOUT_S = 0.2


@pytest.fixture
def asking(make_world: Callable[..., World]) -> World:
    """A coordinator with a policy, two distributors and a client."""
    return arranged(make_world(policy_timeout_s=TIMEOUT_S))


def arranged(world: World) -> World:
    world.own()
    world.distributor("d1")
    world.distributor("d2")
    world.client("alice~1")
    return world


def placed(world: World) -> dict[str, str]:
    """Where each live task is in the store."""
    return {task_id: world.store.where(task_id)[0] for task_id in world.core.desk.ledger.live}


def fallbacks(world: World) -> dict[str, float]:
    prefix = "policy_fallbacks_total/placement/"
    return {name.removeprefix(prefix): count for name, count in world.meter.counts.items() if name.startswith(prefix)}


def test_without_a_policy_nobody_is_asked(fleet: World) -> None:
    fleet.distributor("d2")
    fleet.submit("alice~1", "t1")
    assert fleet.consults == []
    assert fleet.meter.counts.keys() & {"policy_fallbacks_total/placement/not_asked"} == set()


def test_tasks_go_where_the_policy_says(asking: World) -> None:
    answer = asking.submit("alice~1", "t1", "t2", "t3")
    assert answer["accepted"] == 3, "the client does not wait for the policy"
    assert set(placed(asking).values()) == {"inbox"}, "durable meanwhile"
    asking.advise({"t1": "d2", "t2": "d2", "t3": "d2"})
    assert asking.assigned("d2") == ["t1", "t2", "t3"]
    assert asking.assigned("d1") == []
    assert fallbacks(asking) == {}
    assert asking.meter.observed["policy_seconds/placement"] == [0.0]


def test_the_facts_say_what_tasks_ask_for_and_what_distributors_have(asking: World) -> None:
    asking.workers("d2", "noop", 8, {"gpu": "yes"})
    asking.submit("alice~1", "t1")
    facts = asking.consults[-1].facts
    [told] = facts["tasks"]
    assert (told["task_id"], told["task_type"], told["candidates"]) == ("t1", "noop", ["d1", "d2"])
    assert told["bytes"] > 0
    assert {each["id"]: (each["load"], each["slots"]) for each in facts["distributors"]} == {"d1": (0, 4), "d2": (0, 8)}
    assert facts["distributors"][1]["workers"] == [{"task_types": ["noop"], "labels": {"gpu": "yes"}}]


def test_what_comes_while_it_thinks_is_the_next_batch(asking: World) -> None:
    asking.submit("alice~1", "t1")
    asking.submit("alice~1", "t2")
    asking.submit("alice~1", "t3")
    assert len(asking.consults) == 1
    asking.advise({"t1": "d1"})
    assert [each["task_id"] for each in asking.consults[1].facts["tasks"]] == ["t2", "t3"]
    asking.advise({"t2": "d1", "t3": "d1"})
    assert asking.assigned("d1") == ["t1", "t2", "t3"]


def test_more_than_one_question_holds_is_asked_in_turn_the_most_urgent_first(make_world: Callable[..., World]) -> None:
    world = arranged(make_world(policy_timeout_s=TIMEOUT_S, move_chunk=2))
    for priority in range(6):
        world.submit("alice~1", f"t{priority}", priority=priority)
    asked = []
    for _ in range(4):
        asked.append([each["task_id"] for each in world.consults[-1].facts["tasks"]])
        world.advise(dict.fromkeys(asked[-1], "d2"))
    assert asked == [["t0"], ["t5", "t4"], ["t3", "t2"], ["t1"]]
    assert len(world.consults) == 4
    assert len(world.assigned("d2")) == 6


def test_where_there_is_no_choice_it_is_not_asked(asking: World) -> None:
    asking.submit("alice~1", "pinned", distributor="d2")
    asking.gone("d1")
    asking.submit("alice~1", "only")
    assert asking.assigned("d2") == ["pinned", "only"]
    assert asking.consults == []


def test_a_late_policy_is_overtaken_and_its_answer_ignored(asking: World) -> None:
    asking.submit("alice~1", "t1", "t2")
    asking.advance(TIMEOUT_S + 0.1)
    where = placed(asking)
    assert sorted(where.values()) == ["d1", "d2"], "spread by the built-in rules"
    assert fallbacks(asking) == {"late": 2}
    asking.advise({"t1": "d2", "t2": "d2"})
    assert placed(asking) == where
    assert [line.fields["reason"] for line in asking.logs if line.event == "policy_failed"] == ["late"]


@pytest.mark.parametrize("reason", ["raised", "late", "busy"])
def test_a_failed_policy_is_replaced_at_once(asking: World, reason: str) -> None:
    asking.submit("alice~1", "t1", "t2")
    asking.advise(reason=reason)
    assert sorted(placed(asking).values()) == ["d1", "d2"]
    assert fallbacks(asking) == {reason: 2}


@pytest.mark.parametrize("answer", [None, [], [["t1", "d1"]], "d1", 7])
def test_an_answer_of_another_form_is_invalid(asking: World, answer: Any) -> None:
    asking.submit("alice~1", "t1", "t2")
    asking.advise(answer)
    assert sorted(placed(asking).values()) == ["d1", "d2"]
    assert fallbacks(asking) == {"invalid": 2}


def test_each_wrong_choice_is_replaced_by_itself(asking: World) -> None:
    asking.distributor("d3", "other")
    asking.submit("alice~1", "good", "other", "nobody", "number", "silent")
    choice = {"good": "d2", "other": "d3", "nobody": "nobody", "number": 7, "unasked": "d1"}
    asking.advise(choice)
    where = placed(asking)
    assert where["good"] == "d2"
    assert set(where.values()) <= {"d1", "d2"}
    assert fallbacks(asking) == {"invalid": 3}, "a task that is left out is no mistake"


def test_a_chosen_distributor_that_went_meanwhile(asking: World) -> None:
    asking.submit("alice~1", "t1")
    asking.gone("d2")
    asking.advise({"t1": "d2"})
    assert asking.assigned("d1") == ["t1"]
    assert fallbacks(asking) == {"stale": 1}


def test_all_distributors_went_meanwhile(asking: World) -> None:
    asking.submit("alice~1", "t1")
    asking.gone("d1")
    asking.gone("d2")
    asking.advise({"t1": "d2"})
    assert placed(asking) == {"t1": "inbox"}
    asking.distributor("d1", restarted=True)
    asking.advance(1.0)
    assert asking.assigned("d1") == ["t1"]


def test_a_task_that_was_cancelled_meanwhile(asking: World) -> None:
    asking.submit("alice~1", "t1", "t2")
    asking.ask("alice~1", "cancel_tasks", task_ids=["t1"])
    asking.advise({"t1": "d2", "t2": "d2"})
    assert asking.assigned("d2") == ["t2"]
    assert asking.got("alice~1")["t1"]["status"] == "abandoned"


def test_the_state_is_loaded_anew_meanwhile(asking: World) -> None:
    asking.submit("alice~1", "t1", "t2")
    asking.own(state_lost=True)
    asking.advise({"t1": "d2", "t2": "d2"}, question=0)
    asking.advance(TIMEOUT_S + 0.1)
    assert set(placed(asking).values()) <= {"d1", "d2"}


def test_leadership_is_lost_meanwhile(asking: World) -> None:
    asking.submit("alice~1", "t1")
    asking.lose()
    asking.advise({"t1": "d2"})
    assert asking.assigned("d2") == []
    assert asking.exit is not None


def test_the_next_leader_finds_what_waited_for_the_policy(asking: World, make_world: Callable[..., World]) -> None:
    asking.submit("alice~1", "t1", "t2")
    successor = arranged(make_world(asking.store))
    assert set(placed(successor).values()) <= {"d1", "d2"}


def test_a_drain_does_not_wait_for_the_policy(asking: World) -> None:
    asking.submit("alice~1", "t1")
    asking.drain()
    assert asking.exit is not None
    assert asking.store.where("t1") == ["inbox"]


def test_an_outage_with_a_spool_does_not_wait_for_the_policy(asking: World) -> None:
    asking.event(StoreChanged(True, "connection", True))
    asking.submit("alice~1", "t1", "t2")
    assert sorted(placed(asking).values()) == ["d1", "d2"]
    assert fallbacks(asking) == {"not_asked": 2}


def test_after_three_failures_it_is_left_alone_for_a_while(asking: World) -> None:
    for number in range(3):
        asking.submit("alice~1", f"t{number}")
        asking.advise(reason="raised")
    asking.submit("alice~1", "t3")
    assert len(asking.consults) == 3
    assert placed(asking)["t3"] in ("d1", "d2")
    assert fallbacks(asking) == {"raised": 3, "not_asked": 1}
    asking.advance(5.0)
    asking.submit("alice~1", "t4")
    assert len(asking.consults) == 4
    asking.advise({"t4": "d2"})
    asking.submit("alice~1", "t5")
    assert len(asking.consults) == 5, "one good answer and all is well"
    asking.advise({})


def test_failures_are_logged_twice_a_minute(asking: World) -> None:
    for number in range(20):
        asking.submit("alice~1", f"t{number}")
        asking.advance(6.0)
    assert 4 <= len([line for line in asking.logs if line.event == "policy_failed"]) <= 5


def test_explain_says_that_the_policy_is_asked(asking: World) -> None:
    asking.submit("alice~1", "t1")
    assert asking.ask("alice~1", "explain", task_id="t1")["why"] == ["the placement policy is asked where it goes"]


def test_a_task_is_not_placed_twice_when_the_store_goes_back_to_when_it_waited_for_the_policy(asking: World) -> None:
    asking.submit("alice~1", "t1")
    record = asking.store.live[""]["t1"]
    asking.advise({"t1": "d1"})
    assert asking.assigned("d1") == ["t1"]
    del asking.store.live["d1"]["t1"]
    asking.store.live[""]["t1"] = record
    asking.own(state_lost=True)
    asking.advance(6.0)
    assert len(asking.consults) == 1
    assert asking.assigned("d2") == []
    assert placed(asking) == {"t1": "d1"}
