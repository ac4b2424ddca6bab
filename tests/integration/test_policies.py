"""A user's placement policy in fleets of real processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons.cli.fleet import LocalFleet
from tests.integration.rig import client_of, complaints, run, scrape, total, wait_until

PATIENCE_S = 30.0
TASKS = 30

POLICY = """
import asyncio
import pathlib

from langgraph.graph import END, START, StateGraph
from a2a_zmq.policies import PlacementState

mood = pathlib.Path(__file__).with_name("mood")


async def place(state: PlacementState) -> PlacementState:
    if mood.read_text() == "slow":
        await asyncio.sleep(3600)
    if mood.read_text() == "raise":
        raise ValueError("not today")
    return {"placements": {task["task_id"]: "distributor-2" for task in state["tasks"]}}


graph = StateGraph(PlacementState)
graph.add_node("place", place)
graph.add_edge(START, "place")
graph.add_edge("place", END)
"""


@pytest.fixture(scope="module")
def policy(no_orphans: Path) -> Path:
    file = no_orphans / "placing.py"
    file.write_text(POLICY)
    file.with_name("mood").write_text("good")
    return file


@pytest.fixture
def fleet(policy: Path) -> Iterator[LocalFleet]:
    env = {"A2A_PLACEMENT_POLICY": f"{policy}:graph", "A2A_POLICY_TIMEOUT_MS": "2000"}
    with LocalFleet(workers=2, distributors=2, env_of={"coordinator-1": env}) as fleet:
        yield fleet


def fallbacks(fleet: LocalFleet) -> Counter[str]:
    found = scrape(fleet, "coordinator-1")
    return Counter(
        {
            dict(labels)["reason"]: int(count)
            for (name, labels), count in found.items()
            if name == "a2a_policy_fallbacks_total"
        }
    )


def test_a_policy_places_and_where_it_fails_the_built_in_rules_do(fleet: LocalFleet, policy: Path) -> None:
    mood = policy.with_name("mood")
    with client_of(fleet) as client:

        def homes() -> Counter[str]:
            """Where so many tasks ran."""
            handles = [client.submit("noop", {"n": number}) for number in range(TASKS)]
            for handle in handles:
                handle.result(PATIENCE_S)
            return Counter(str((handle.record or {})["metadata"]["distributor"]) for handle in handles)

        wait_until(lambda: homes() == {"distributor-2": TASKS}, "the policy places", PATIENCE_S)
        assert total(scrape(fleet, "coordinator-1"), "a2a_policy_seconds_count", policy="placement") > 0
        for change, reason in (("raise", "raised"), ("slow", "late")):
            mood.write_text(change)
            before = fallbacks(fleet)[reason]
            assert sum(homes().values()) == TASKS, "no task is lost or stuck"
            assert fallbacks(fleet)[reason] > before
            mood.write_text("good")
            wait_until(
                lambda: homes() == {"distributor-2": TASKS}, "it is asked again, if only after a rest", PATIENCE_S
            )
    assert complaints(fleet) == []


def test_a_policy_that_cannot_be_imported_ends_the_coordinator(no_orphans: Path) -> None:
    env = {"A2A_STATE_DIR": str(no_orphans / "state"), "PATH": os.environ["PATH"]}
    done = run("a2a-coordinator", "--placement-policy", "no_such_module:graph", env=env, cwd=no_orphans)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode == 78
    assert len(lines) == 1
    assert "placement_policy" in lines[0]
    assert "no_such_module" in lines[0]
