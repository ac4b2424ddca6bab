"""Which tasks a list has: by distributor, worker, owner, age and text, unfinished and ended ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.coordinator.harness import World


@pytest.fixture
def busy(world: World) -> World:
    """Two distributors with tasks of two clients, one of which runs and one of which waits for nobody."""
    world.distributor("d1")
    world.distributor("d2")
    world.client("alice~1")
    world.client("bob~1")
    world.submit("alice~1", "old", distributor="d1")
    world.advance(100.0)
    world.submit("alice~1", "Render-1", distributor="d2")
    world.submit("bob~1", "bobs", distributor="d1")
    world.store.live["d2"]["Render-1"] |= {"status": "in_progress"}
    world.store.live["d2"]["Render-1"]["metadata"] |= {"worker": "w7", "attempt": 1}
    world.submit("alice~1", "held", labels={"gpu": "1"})
    return world


def listed(world: World, name: str = "root~1", **wanted: Any) -> list[str]:
    if name == "root~1":
        world.operator()
    return [row["task_id"] for row in world.ask(name, "list_tasks", **wanted)["tasks"]]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["old", "Render-1", "bobs", "held"]),
        ({"newest": True}, ["held", "bobs", "Render-1", "old"]),
        ({"newest": True, "limit": 1}, ["held"]),
        ({"distributor": "d1"}, ["old", "bobs"]),
        ({"distributor": "d9"}, []),
        ({"worker": "w7"}, ["Render-1"]),
        ({"owner": "bob"}, ["bobs"]),
        ({"older_s": 50}, ["old"]),
        ({"newer_s": 50}, ["held", "bobs", "Render-1"]),
        ({"older_s": 50, "newer_s": 10}, []),
        ({"text": "render"}, ["Render-1"]),
        ({"text": "NOOP"}, ["old", "Render-1", "bobs", "held"]),
        ({"status": "in_progress", "distributor": "d2"}, ["Render-1"]),
        ({"owner": "alice", "distributor": "d1", "task_type": "noop"}, ["old"]),
        ({"owner": 7, "text": None, "older_s": "x", "newer_s": True}, ["old", "Render-1", "bobs", "held"]),
    ],
)
def test_unfinished_tasks(busy: World, wanted: dict[str, Any], found: list[str]) -> None:
    assert listed(busy, **wanted) == found


def test_filters_show_nobody_what_is_not_theirs(busy: World) -> None:
    assert listed(busy, "bob~1", owner="alice") == []
    assert listed(busy, "bob~1", text="render") == []
    assert listed(busy, "bob~1", distributor="d1") == ["bobs"]


def test_ended_tasks_and_dead_letters(busy: World) -> None:
    busy.finish("d1", "bobs", status="failed")
    busy.finish("d2", "Render-1")
    assert listed(busy, status="completed", distributor="d2") == ["Render-1"]
    assert listed(busy, status="completed", distributor="d1") == []
    assert listed(busy, status="failed", owner="bob", text="raised") == ["bobs"]
    assert listed(busy, dead=True, owner="alice") == []
    assert listed(busy, dead=True, newer_s=50) == ["bobs"]
    assert listed(busy, "alice~1", dead=True, owner="bob") == []


def test_a_total_counts_what_matches_and_not_the_whole_fleet(busy: World) -> None:
    root = busy.operator()
    assert busy.ask(root, "list_tasks", limit=1)["total"] == 4
    assert busy.ask(root, "list_tasks", limit=1, distributor="d1")["total"] == 2
    assert busy.ask(root, "list_tasks", limit=1, text="b")["total"] == 1
    busy.finish("d2", "Render-1")
    ended = busy.ask(root, "list_tasks", status="completed", owner="bob")
    assert (ended["total"], "since" in ended) == (0, False)
    one = busy.ask(root, "list_tasks", status="completed", distributor="d2", limit=1)
    assert (one["total"], one["partial"]) == (1, True), "the look ended with the first"


def test_it_is_said_when_not_every_task_was_looked_at(make_world: Callable[..., World]) -> None:
    world = make_world(list_limit=3)
    world.own()
    world.distributor("d1")
    world.client("alice~1")
    world.submit("alice~1", *(f"t{number}" for number in range(6)))
    root = world.operator()
    assert "partial" not in world.ask(root, "list_tasks", limit=2)
    assert world.ask(root, "list_tasks", worker="w1")["partial"] is True
    named = world.ask(root, "list_tasks", text="t5")
    assert [row["task_id"] for row in named["tasks"]] == ["t5"], "what its id shows is found beyond that"
