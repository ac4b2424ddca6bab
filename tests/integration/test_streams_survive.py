"""What graphs tell, where readers are slow, and workers and owners die."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq.streams import StreamEvent
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import client_of
from tests.integration.streaming import (
    FLOOD,
    PATIENCE_S,
    STEPS,
    custom,
    fleet_of,
    gathered,
    make_project,
    rising,
    rss_mb,
    running_on,
    steps_of,
)


@pytest.fixture(scope="module")
def project(no_orphans: Path) -> Path:
    return make_project(no_orphans)


@pytest.fixture
def fleet(project: Path) -> Iterator[LocalFleet]:
    with fleet_of(project) as fleet:
        yield fleet


def test_a_slow_reader_holds_nobody_up_and_is_told_of_what_is_not_kept(project: Path) -> None:
    """12 MB are told while one reader takes nothing and a second one reads along."""
    with fleet_of(project, A2A_STREAM_MAX_KB="1024") as fleet, client_of(fleet) as client, client_of(fleet) as other:
        coordinator = fleet.daemons["coordinator-1"]
        client.submit_graph("flooding", {}).result(PATIENCE_S)
        before = rss_mb(coordinator.pid)
        handle = client.submit_graph("flooding", {}, stream_mode="custom")
        slow = handle.stream()
        first = [next(slow)]
        quick: list[StreamEvent] = []
        gathered(other, handle.task_id, quick).join(PATIENCE_S)
        assert handle.result(PATIENCE_S)["n"] == FLOOD, "who does not read does not hold up the run"
        assert rising(quick)
        assert len([event for event in quick if event.type == "custom"]) > 100
        assert rss_mb(coordinator.pid) - before < 40, "what nobody takes is not kept in memory"
        rest = first + list(slow)
        assert rising(rest)
        assert [event.type for event in rest].count("gap") == 1
        assert rest[-1].data[0] == FLOOD - 1, "behind the gap comes everything that is kept, to the end"
        numbers = [event.data[0] for event in rest if event.type == "custom"]
        assert sum(second != first + 1 for first, second in itertools.pairwise(numbers)) == 1


def test_a_killed_worker_costs_no_finished_step_its_events(fleet: LocalFleet, tmp_path: Path) -> None:
    with client_of(fleet) as client, client_of(fleet) as other:
        handle = client.submit_graph("steps", {"n": 0, "pause": 0.2}, stream_mode=["updates", "custom"])
        events: list[StreamEvent] = []
        late: list[StreamEvent] = []
        killed = ""
        for event in handle.stream():
            events.append(event)
            if event.type == "custom" and event.data == {"begin": 4} and not killed:
                killed = running_on(client, handle.task_id)
                fleet.daemons[killed].signal(signal.SIGKILL)
        assert handle.result(PATIENCE_S)["n"] == STEPS
        assert killed
        assert rising(events)
        assert steps_of(events) == list(range(STEPS)), "each finished step was told, and none ran again"
        assert [event.attempt for event in events if event.type == "metadata"] == [1, 2]
        assert [event.data for event in events if event.type == "custom"].count({"begin": 4}) == 2
        gathered(other, handle.task_id, late).join(PATIENCE_S)
        assert late == events


def test_a_drained_worker_shows_as_a_new_attempt_and_no_step_is_told_twice(fleet: LocalFleet) -> None:
    with client_of(fleet) as client:
        handle = client.submit_graph("steps", {"n": 0, "pause": 0.2}, stream_mode=["updates", "custom"])
        events: list[StreamEvent] = []
        for event in handle.stream():
            events.append(event)
            if event.type == "custom" and event.data == {"end": 3}:
                fleet.daemons[running_on(client, handle.task_id)].signal(signal.SIGTERM)
        assert handle.result(PATIENCE_S)["n"] == STEPS
        assert rising(events)
        assert custom(events) == [{when: number} for number in range(STEPS) for when in ("begin", "end")]
        assert steps_of(events) == list(range(STEPS))
        assert [event.type for event in events].count("metadata") == 2


@pytest.mark.parametrize("owner", ["coordinator-1", "distributor-1"])
def test_a_stream_goes_on_through_the_death_of_an_owner(fleet: LocalFleet, owner: str) -> None:
    with client_of(fleet) as client:
        handle = client.submit_graph("steps", {"n": 0, "pause": 0.3}, stream_mode=["updates", "custom"])
        events: list[StreamEvent] = []
        for event in handle.stream():
            events.append(event)
            if event.type == "custom" and event.data == {"begin": 3} and event.attempt == 1:
                fleet.kill(owner, restart=False)
                assert fleet.daemons[owner].wait(PATIENCE_S)
                fleet.restart(owner, wait=False)
        assert handle.result(PATIENCE_S)["n"] == STEPS
        assert rising(events)
        assert custom(events) == [{when: number} for number in range(STEPS) for when in ("begin", "end")]
        assert not [event for event in events if event.type == "gap"]


def test_a_stream_goes_on_at_standbys_that_take_over(project: Path) -> None:
    with fleet_of(project, standbys=True) as fleet, client_of(fleet) as client:
        handle = client.submit_graph("steps", {"n": 0, "pause": 0.3}, stream_mode=["updates", "custom"])
        events: list[StreamEvent] = []
        for event in handle.stream():
            events.append(event)
            if event.type == "custom" and event.data in ({"begin": 2}, {"begin": 4}):
                owner = "coordinator-1" if event.data == {"begin": 2} else "distributor-1"
                fleet.daemons[owner].signal(signal.SIGKILL)
        assert handle.result(PATIENCE_S)["n"] == STEPS
        assert rising(events)
        assert custom(events) == [{when: number} for number in range(STEPS) for when in ("begin", "end")]
