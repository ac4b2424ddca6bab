"""A slice of the turmoil, and the scenarios that single bugs were found in; ``python -m tests.simulation.turmoil`` runs
many seeds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
import pytest
import structlog
from tests.simulation.turmoil import RETRY_KINDS, RestlessFleet, run_seed

from a2a_zmq.client.entries import Entry
from tests.simulation.fleet import COORDINATOR
from tests.simulation.virtual import VirtualLoop, run_virtual

Story = Callable[[RestlessFleet], Awaitable[None]]


@pytest.mark.parametrize("seed", range(15))
def test_users_and_operators_in_the_middle_of_faults(seed: int) -> None:
    result = run_seed(seed)
    assert result.violations == (), result.faults


@pytest.mark.parametrize("seed", range(15))
def test_the_same_with_every_queue_full(seed: int) -> None:
    result = run_seed(seed, limits=True)
    assert result.violations == (), result.faults


@pytest.mark.parametrize("seed", [*range(10), 20013, 20107])
def test_ended_tasks_are_sent_around_again_in_the_middle_of_faults(seed: int) -> None:
    result = run_seed(seed, kinds=RETRY_KINDS)
    assert result.violations == (), result.faults


def tell(story: Story, distributors: int = 2) -> list[str]:
    """Let the story happen to a fleet; returns what went wrong."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    async def main(loop: VirtualLoop) -> list[str]:
        fleet = RestlessFleet(loop, 1, distributors=distributors, limits=None)
        try:
            await story(fleet)
        finally:
            await fleet.stop()
        return [*fleet.violations, *fleet.errors]

    return run_virtual(main)


async def complete(fleet: RestlessFleet, *task_ids: str) -> None:
    """These tasks are taken and done."""
    for task_id in task_ids:
        fleet.submit(task_id, seconds=0.01)
    await fleet.until(lambda: set(task_ids) <= fleet.finished.keys(), 30.0, f"{task_ids[0]} … are done")
    for task_id in task_ids:
        end = fleet.finished.get(task_id, [None])[0]
        if not isinstance(end, dict) or end["status"] != "completed":
            fleet.violations.append(f"{task_id}: {end}")


@pytest.mark.parametrize("dead", [("distributor-1", "distributor-2"), ("distributor-1", "distributor-2", COORDINATOR)])
def test_workers_obey_a_fleet_that_lost_its_state_and_its_memory(dead: tuple[str, ...]) -> None:
    """Redis begins empty while the processes that knew more are restarted: fences begin anew, too, and the workers
    refused them for ever."""

    async def story(fleet: RestlessFleet) -> None:
        await fleet.start()
        for _ in range(3):  # so that fences are higher than they will be afterwards
            for name in (COORDINATOR, "distributor-1", "distributor-2"):
                fleet.agents[name].crash()
            await asyncio.sleep(1.5)
        fleet.wipe()
        fleet.fences.clear()
        for name in dead:
            fleet.agents[name].crash()
        await asyncio.sleep(3)
        await complete(fleet, *(f"t{number}" for number in range(10)))

    assert tell(story) == []


def test_a_lost_state_of_an_absent_distributor_stops_nobody_else() -> None:
    """The coordinator could not write what it remembered of a distributor that had joined after it had taken the lead,
    and took the lead anew for ever."""

    async def story(fleet: RestlessFleet) -> None:
        fleet.agents[COORDINATOR].start()
        await asyncio.sleep(1)
        for name, agent in fleet.agents.items():
            if name != COORDINATOR:
                agent.start()
        fleet.open_client()
        await asyncio.sleep(2)
        absent = fleet.agents["distributor-2"]
        body = {"task_type": "work", "payload": {"seconds": 5}, "metadata": {"distributor": absent.name}}
        assert fleet.connection is not None
        fleet.connection.submit([Entry("pinned", orjson.dumps({"task_id": "pinned", **body}), fleet._sink)])
        await asyncio.sleep(0.3)
        absent._again = lambda: None  # type: ignore[method-assign]
        absent.crash()
        await asyncio.sleep(1)
        fleet.wipe()
        fleet.fences.clear()
        await asyncio.sleep(3)
        await complete(fleet, *(f"t{number}" for number in range(10)))
        absent.start()
        await fleet.until(lambda: "pinned" in fleet.finished, 40.0, "the pinned task is done")

    assert tell(story) == []
