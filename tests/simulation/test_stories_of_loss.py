"""Scenarios that single bugs were found in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import structlog

from tests.simulation.fleet import COORDINATOR, Fleet
from tests.simulation.virtual import VirtualLoop, run_virtual

Story = Callable[[Fleet], Awaitable[None]]


def tell(story: Story, distributors: int = 2, *, spool: bool = False) -> list[str]:
    """Let the story happen to a fleet; returns what went wrong."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

    async def main(loop: VirtualLoop) -> list[str]:
        fleet = Fleet(loop, 1, distributors=distributors, spool=spool)
        try:
            await story(fleet)
        finally:
            await fleet.stop()
        return fleet.violations

    return run_virtual(main)


async def complete(fleet: Fleet, *task_ids: str) -> None:
    """These tasks are taken and done."""
    for task_id in task_ids:
        fleet.user.submit(task_id, seconds=0.01)
    await fleet.until(lambda: set(task_ids) <= fleet.user.outcomes.keys(), 30.0, f"{task_ids[0]} … are done")
    for task_id in task_ids:
        end = fleet.user.outcomes.get(task_id, [None])[0]
        if not isinstance(end, dict) or end["status"] != "completed":
            fleet.violate(f"{task_id}: {end}")


@pytest.mark.parametrize("dead", [("distributor-1", "distributor-2"), ("distributor-1", "distributor-2", COORDINATOR)])
def test_workers_obey_a_fleet_that_lost_its_state_and_its_memory(dead: tuple[str, ...]) -> None:
    """Redis begins empty while the processes that knew more are restarted: fences begin anew, too, and the workers
    refused them for ever."""

    async def story(fleet: Fleet) -> None:
        await fleet.start()
        for _ in range(3):  # so that fences are higher than they will be afterwards
            for name in (COORDINATOR, "distributor-1", "distributor-2"):
                fleet.agents[name].crash()
            await asyncio.sleep(1.5)
        fleet.wipe()
        for name in dead:
            fleet.agents[name].crash()
        await asyncio.sleep(3)
        await complete(fleet, *(f"t{number}" for number in range(10)))

    assert tell(story) == []


@pytest.mark.parametrize("dead", [("distributor-1", "distributor-2"), (COORDINATOR,), ("distributor-1", COORDINATOR)])
def test_owners_that_a_store_which_went_back_gave_old_numbers_are_obeyed(dead: tuple[str, ...]) -> None:
    """Within one epoch an owner's fence was lower than what its workers (or distributors) had seen from one whom the
    store did not know any more: they refused it for as long as it lived."""

    async def story(fleet: Fleet) -> None:
        await fleet.start()
        copy = fleet.redis.copy()
        for _ in range(3):  # so that fences are higher than they will be afterwards
            for name in (COORDINATOR, "distributor-1", "distributor-2"):
                fleet.agents[name].crash()
            await asyncio.sleep(1.5)
        await complete(fleet, *(f"s{number}" for number in range(10)))
        for name in dead:
            fleet.agents[name].crash()
        fleet.restore(copy)
        await asyncio.sleep(3)
        await complete(fleet, *(f"t{number}" for number in range(10)))

    assert tell(story) == []


def test_a_lost_state_of_an_absent_distributor_stops_nobody_else() -> None:
    """The coordinator could not write what it remembered of a distributor that had joined after it had taken the lead,
    and took the lead anew for ever."""

    async def story(fleet: Fleet) -> None:
        fleet.agents[COORDINATOR].start()
        await asyncio.sleep(1)
        for name, agent in fleet.agents.items():
            if name != COORDINATOR:
                agent.start()
        fleet.user.connect()
        await asyncio.sleep(2)
        absent = fleet.agents["distributor-2"]
        fleet.user.submit("pinned", metadata={"distributor": absent.name}, seconds=5)
        await asyncio.sleep(0.3)
        del fleet.agents[absent.name]  # so that nobody starts it again
        absent.crash()
        await asyncio.sleep(1)
        fleet.wipe()
        await asyncio.sleep(3)
        await complete(fleet, *(f"t{number}" for number in range(10)))
        fleet.agents[absent.name] = absent
        absent.start()
        await fleet.until(lambda: "pinned" in fleet.user.outcomes, 40.0, "the pinned task is done")

    assert tell(story) == []


def test_what_was_on_its_way_when_state_and_memory_were_lost_may_run_beside_what_is_submitted_again() -> None:
    """The coordinator sent tasks to a distributor that was frozen, and died before it could answer the client, which
    submitted them again. Each distributor records a result, the client is told of one."""
    outcomes: dict[str, int] = {}

    async def story(fleet: Fleet) -> None:
        await fleet.start()
        absent = fleet.agents["distributor-2"]
        absent.freeze()
        fleet.network.cut(COORDINATOR, "client")
        for number in range(6):
            fleet.user.submit(f"t{number}", seconds=0.05)
        await asyncio.sleep(0.1)
        fleet.agents[COORDINATOR].crash()
        await asyncio.sleep(0.1)
        fleet.wipe()
        fleet.network.mend(COORDINATOR, "client")
        await asyncio.sleep(0.25)
        absent.thaw()
        await fleet.until(lambda: len(fleet.user.outcomes) == 6, 30.0, "all are done")
        await asyncio.sleep(1)
        outcomes.update({task_id: len(told) for task_id, told in fleet.user.outcomes.items()})
        sections = [[each.section for each in recorded] for recorded in fleet.witness.ended.values()]
        assert any(len(set(each)) == 2 for each in sections)

    assert tell(story) == []
    assert set(outcomes.values()) == {1}


@pytest.mark.parametrize("forgets", [False, True])
def test_a_task_that_is_back_in_the_inbox_runs_beside_itself_only_if_the_coordinator_forgot_where_it_is(
    *, forgets: bool
) -> None:
    """Its distributor is frozen meanwhile, so that it cannot bring it back first."""
    recorded: dict[str, int] = {}
    names = [f"t{number}" for number in range(6)]

    async def story(fleet: Fleet) -> None:
        await fleet.start()
        await complete(fleet, "first")  # so that its type is known
        home, other = fleet.agents["distributor-1"], fleet.agents["distributor-2"]
        home.stay_away(2.0)
        other.stay_away(4.0)
        home.crash()
        other.crash()
        await asyncio.sleep(1)
        for name in names:
            fleet.user.submit(name, seconds=5.0)
        await asyncio.sleep(0.2)
        copy = fleet.redis.copy()
        await fleet.until(lambda: set(names) <= fleet.witness.runs.keys(), 10.0, "all run")
        await fleet.until(lambda: other.core is not None and other.core.ready()[0], 10.0, "the other one is back")
        if forgets:
            fleet.agents[COORDINATOR].crash()
        fleet.restore(copy)
        home.freeze()
        await asyncio.sleep(1)
        home.thaw()
        await fleet.until(lambda: set(names) <= fleet.user.outcomes.keys(), 30.0, "all are done")
        await asyncio.sleep(3)
        recorded.update({each: len(fleet.witness.ended[each]) for each in names})
        assert [len(fleet.user.outcomes[each]) for each in names] == [1] * 6

    assert tell(story) == []
    assert set(recorded.values()) == {2 if forgets else 1}
