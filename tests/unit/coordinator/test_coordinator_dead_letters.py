"""Dead letters and lists of ended tasks: from the store, so that they are the same after any restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.coordinator.harness import World

MakeWorld = Callable[..., World]


@pytest.fixture
def after(make_world: MakeWorld) -> World:
    """A coordinator that has just taken over from one under which tasks ended."""
    first = make_world()
    first.own()
    first.distributor("d1")
    first.client("alice~1")
    for task_id, status in (("t1", "failed"), ("t2", "completed"), ("t3", "failed"), ("t4", "abandoned")):
        first.submit("alice~1", task_id, payload={"n": 1})
        first.finish("d1", task_id, status=status)
        first.advance(0.01)
    second = make_world(first.store)
    second.own()
    second.distributor("d1")
    second.client("alice~1")
    second.advance(1.0)
    return second


def listed(world: World, name: str, **wanted: Any) -> list[str]:
    return [row["task_id"] for row in world.ask(name, "list_tasks", **wanted)["tasks"]]


def test_dead_letters_are_listed_after_a_restart(after: World) -> None:
    answer = after.ask(after.operator(), "list_tasks", dead=True)
    assert [row["task_id"] for row in answer["tasks"]] == ["t3", "t1"], "newest first; a cancelled task is none"
    assert "payload" not in answer["tasks"][0]
    assert answer["tasks"][0]["metadata"]["worker"] == "d1-w1"
    after.client("bob~1")
    assert after.ask("bob~1", "list_tasks", dead=True)["total"] == 0
    assert listed(after, "alice~1", dead=True, limit=1) == ["t3"]


def test_ended_tasks_are_listed_after_a_restart(after: World) -> None:
    root = after.operator()
    assert listed(after, root, status="completed") == ["t2"]
    assert listed(after, root, status="failed") == ["t3", "t1"]
    assert listed(after, "alice~1", status="abandoned") == ["t4"]
    assert listed(after, root, status="failed", task_type="other") == []
    after.submit("alice~1", "t5")
    after.finish("d1", "t5")
    after.advance(0.01)
    after.submit("alice~1", "t6")
    after.finish("d1", "t6")
    answer = after.ask(root, "list_tasks", status="completed", limit=1)
    assert [row["task_id"] for row in answer["tasks"]] == ["t6"]
    assert answer["total"] == 2
    assert answer["since"], "it says since when it counts"


def test_the_number_of_dead_letters_is_that_of_the_store(after: World) -> None:
    after.advance(1.0)
    assert after.ask(after.operator(), "fleet_status")["coordinator"]["dead_letters"] == 2


@pytest.mark.parametrize("expired", [False, True])
def test_a_dead_letter_is_retried_after_a_restart(after: World, expired: bool) -> None:
    if expired:
        del after.store.results["d1"]["t1"]
    root = after.operator()
    assert after.ask(root, "retry_tasks", task_ids=["t1"])["retried"] == ["t1"]
    record = after.store.live["d1"]["t1"]
    assert record["payload"] == {"n": 1}
    assert [each["attempt"] for each in record["metadata"]["attempts"]] == [1]
    assert record["metadata"]["attempts"][0]["error"] == "it raised"
    assert listed(after, root, dead=True) == ["t3"], "it lives again"
    after.finish("d1", "t1")
    assert listed(after, root, dead=True) == ["t3"]
    after.advance(0.1)
    assert list(after.store.letters["d1"]) == ["t3"], "its letter is taken away"


def test_a_retried_task_that_fails_again_is_one_dead_letter(after: World) -> None:
    root = after.operator()
    after.ask(root, "retry_tasks", task_ids=["t1"])
    after.advance(0.1)
    after.finish("d1", "t1", status="failed")
    after.advance(0.1)
    assert listed(after, root, dead=True) == ["t1", "t3"]


def test_a_retried_task_that_is_cancelled_is_no_dead_letter(after: World) -> None:
    root = after.operator()
    after.ask(root, "retry_tasks", task_ids=["t1"])
    after.finish("d1", "t1", status="abandoned")
    after.advance(0.1)
    assert list(after.store.letters["d1"]) == ["t3"]


def test_a_letter_that_was_left_behind_is_not_shown_and_goes(after: World, make_world: MakeWorld) -> None:
    """The coordinator died when a retried task had completed, before it took the letter away."""
    root = after.operator()
    after.ask(root, "retry_tasks", task_ids=["t1"])
    after.finish("d1", "t1", tell=False)
    third = make_world(after.store)
    third.own()
    third.distributor("d1")
    assert "t1" in third.store.letters["d1"]
    assert listed(third, third.operator(), dead=True) == ["t3"]
    third.advance(0.1)
    assert list(third.store.letters["d1"]) == ["t3"]


def test_a_store_that_is_away_is_said(after: World) -> None:
    after.query_error = "connection refused"
    answer = after.ask("alice~1", "list_tasks", dead=True)
    assert answer["code"] == "UNAVAILABLE"
    assert "connection refused" in answer["message"]
