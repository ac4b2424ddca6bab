"""Scenarios of outages of the store that single bugs were found in."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.fleet import COORDINATOR, Fleet, is_ready
from tests.simulation.test_stories_of_loss import tell

SITE = "distributor-1"


def status_of(fleet: Fleet, task_id: str) -> str:
    end = fleet.user.outcomes.get(task_id, [None])[0]
    return str(end["status"]) if isinstance(end, dict) else ""


@pytest.mark.parametrize("kills", [1, 2])
def test_a_cancel_outlives_the_coordinator_that_took_it_in_an_outage(kills: int) -> None:
    """The record was in the coordinator's spool only, so its distributor did not know the task. The coordinator was
    killed (and the next one, before it could hand in), and did not know of the cancel any more: the distributor left
    the task alone for 60 s, and then ran it."""
    ends: list[str] = []

    async def story(fleet: Fleet) -> None:
        await fleet.start()
        fleet.take_away()
        await asyncio.sleep(1)
        for pair in ((COORDINATOR, SITE), (SITE, COORDINATOR)):
            fleet.network.cut(*pair)
        fleet.user.submit("unwanted", metadata={}, hang=True)
        await fleet.until(lambda: "unwanted" in fleet.user.accepted_ids, 5.0, "it is accepted")
        fleet.user.cancel(["unwanted"])
        await fleet.until(lambda: "unwanted" in fleet.user.stopping, 5.0, "the cancel is acknowledged")
        coordinator = fleet.agents[COORDINATOR]
        coordinator.crash()
        coordinator.freezes_at_write = int(kills > 1)
        fleet.give_back()
        if kills > 1:
            await fleet.until(lambda: coordinator.frozen > 0, 20.0, "the next one begins to hand in")
            coordinator.crash()
            coordinator.thaw()
        for pair in ((COORDINATOR, SITE), (SITE, COORDINATOR)):
            fleet.network.mend(*pair)
        await fleet.until(lambda: "unwanted" in fleet.user.outcomes, 30.0, "it has ended")
        ends.append(status_of(fleet, "unwanted"))

    assert tell(story, distributors=1, spool=True) == []
    assert ends == ["abandoned"]


def test_a_report_that_comes_to_the_owner_that_was_replaced_is_not_lost() -> None:
    """A distributor that was cut off from the store went on with its spool, and a worker that met it again brought the
    report of a task that only its successor knew. It lets go of it; the worker repeats it when it meets the other."""
    attempts: list[int] = []

    async def story(fleet: Fleet) -> None:
        await fleet.start()
        fleet.take_away(SITE)
        for pair in ((COORDINATOR, SITE), (SITE, COORDINATOR)):  # which would tell it that it was replaced
            fleet.network.cut(*pair)
        await asyncio.sleep(0.5)
        twin = fleet.add_twin(SITE)
        await fleet.until(lambda: is_ready(twin), 20.0, "another process owns the section")
        fleet.network.point(SITE, twin.place)
        await asyncio.sleep(1)
        fleet.user.submit("theirs", seconds=0.05)
        await fleet.until(lambda: fleet.witness.runs.get("theirs") == [1], 5.0, "it runs")
        twin.freeze()
        fleet.network.point(SITE, SITE)
        await asyncio.sleep(1)
        twin.thaw()
        fleet.network.point(SITE, twin.place)
        await fleet.until(lambda: "theirs" in fleet.user.outcomes, 30.0, "it has ended")
        attempts.extend(each.attempt for each in fleet.witness.ended["theirs"])

    assert tell(story, distributors=1, spool=True) == []
    assert attempts == [1]
