"""Users' policies, of placement and of retries, and nodes of supervision, in fleets of real processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from a2a_zmq import FleetClient, TaskHandle
from a2a_zmq.errors import TaskFailed
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    Run,
    a2actl,
    client_of,
    complaints,
    log_events,
    run,
    runs,
    scrape,
    total,
    user_fleet,
    wait_until,
)

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


RETRYING = """
import pathlib
import time

from langgraph.graph import END, START, StateGraph
from a2a_zmq.policies import RetryState

mood = pathlib.Path(__file__).with_name("retry-mood")


async def decide(state: RetryState) -> RetryState:
    kind = mood.read_text()
    if kind == "block":
        mood.with_name("blocked").touch()
        time.sleep(3600)
    if kind == "raise":
        raise ValueError("not today")
    decision = {"later": {"after_s": 1.5}, "give up": {"give_up": "the site is closed"}, "now": {"after_s": 0}}
    if kind == "elsewhere":
        return {"retries": {task["task_id"]: {"after_s": 0, "avoid": [task["worker"]]} for task in state["tasks"]}}
    return {"retries": {task["task_id"]: decision[kind] for task in state["tasks"]}}


graph = StateGraph(RetryState)
graph.add_node("decide", decide)
graph.add_edge(START, "decide")
graph.add_edge("decide", END)
"""

NODES = """
def look(state, context):
    found = context.local_state()
    context.log("looked", agent=found["agent_id"], status=found["status"])


def detect(state, context):
    raise ValueError("not today")


nodes = {"look": look}
broken = {"detect": detect}
"""


@pytest.fixture(scope="module")
def mood(no_orphans: Path) -> Path:
    no_orphans.joinpath("retrying.py").write_text(RETRYING)
    no_orphans.joinpath("nodes.py").write_text(NODES)
    return no_orphans / "retry-mood"


@pytest.fixture(scope="module")
def retrying(mood: Path) -> Iterator[LocalFleet]:
    mood.write_text("now")
    policy = {
        "A2A_RETRY_POLICY": f"{mood.with_name('retrying.py')}:graph",
        "A2A_POLICY_TIMEOUT_MS": "5000",
        "A2A_SUPERVISION_NODES": f"{mood.with_name('nodes.py')}:nodes",
    }
    with user_fleet(workers=2, env_of={"distributor-1": policy}) as fleet:
        yield fleet


class Failing:
    """Tasks that fail once before they end well."""

    def __init__(self, fleet: LocalFleet, mood: Path, ledger: Path) -> None:
        self.fleet, self.mood, self.ledger = fleet, mood, ledger

    def submit(self, client: FleetClient, mood: str) -> TaskHandle:
        self.mood.write_text(mood)
        self.ledger.touch()
        return client.submit("flaky", {"ledger": str(self.ledger), "failures": 1}, max_attempts=3)

    def runs(self, handle: TaskHandle) -> list[Run]:
        return [run for run in runs(self.ledger) if run.task_id == handle.task_id]

    def fell_back(self, reason: str) -> float:
        return total(scrape(self.fleet, "distributor-1"), "a2a_policy_fallbacks_total", policy="retry", reason=reason)

    def answers(self, client: FleetClient) -> bool:
        """Does the policy answer? One that blocked before is started anew, and has a rest after three failures."""
        handle = self.submit(client, "give up")
        try:
            handle.result(PATIENCE_S)
        except TaskFailed:
            return True
        return False


@pytest.fixture
def client(retrying: LocalFleet) -> Iterator[FleetClient]:
    with client_of(retrying, operator=True) as client:
        yield client


@pytest.fixture
def failing(retrying: LocalFleet, client: FleetClient, mood: Path, tmp_path: Path) -> Failing:
    failing = Failing(retrying, mood, tmp_path / "ledger")
    wait_until(lambda: failing.answers(client), "the policy answers", PATIENCE_S, pause_s=1.0)
    return failing


def test_a_retry_policy_delays_an_attempt(failing: Failing, client: FleetClient) -> None:
    handle = failing.submit(client, "later")
    handle.result(PATIENCE_S)
    first, second = failing.runs(handle)
    assert second.mono - first.mono >= 1.5
    assert handle.record is not None
    assert [each["kind"] for each in handle.record["metadata"]["attempts"]] == ["raised"]


def test_a_retry_policy_sends_an_attempt_to_another_worker(failing: Failing, client: FleetClient) -> None:
    for _ in range(4):
        handle = failing.submit(client, "elsewhere")
        handle.result(PATIENCE_S)
        first, second = failing.runs(handle)
        assert first.pid != second.pid


def test_a_retry_policy_gives_a_task_up_and_an_operator_runs_it_again(failing: Failing, client: FleetClient) -> None:
    handle = failing.submit(client, "give up")
    with pytest.raises(TaskFailed, match="given up by the retry policy: the site is closed") as failed:
        handle.result(PATIENCE_S)
    assert failed.value.kind == "given_up"
    assert len(failing.runs(handle)) == 1
    shown = a2actl(failing.fleet, "tasks", "--status", "failed", "--json")
    assert handle.task_id in shown.stdout, shown
    again = a2actl(failing.fleet, "retry", handle.task_id)
    assert again.returncode == 0, again
    wait_until(lambda: len(failing.runs(handle)) == 2, "it runs again", PATIENCE_S)


@pytest.mark.parametrize(("mood_", "reason"), [("raise", "raised"), ("block", "late")])
def test_where_a_retry_policy_fails_the_built_in_rules_decide(
    failing: Failing, client: FleetClient, mood_: str, reason: str
) -> None:
    before = failing.fell_back(reason)
    handle = failing.submit(client, mood_)
    handle.result(PATIENCE_S)
    assert len(failing.runs(handle)) == 2
    wait_until(lambda: failing.fell_back(reason) > before, f"it is counted as {reason}", PATIENCE_S)


def test_what_waits_for_a_retry_policy_outlives_its_distributor(failing: Failing, client: FleetClient) -> None:
    asked = failing.mood.with_name("blocked")

    def begun() -> TaskHandle:
        """A task that the policy is at work on."""
        asked.unlink(missing_ok=True)
        handle = failing.submit(client, "block")
        wait_until(lambda: asked.exists() or handle.done(), "the policy is asked, or still starts", PATIENCE_S)
        return handle

    handle = begun()
    while handle.done():
        handle = begun()
    failing.fleet.kill("distributor-1")
    failing.mood.write_text("now")
    handle.result(PATIENCE_S)
    assert len(failing.runs(handle)) == 2


def test_nodes_of_ones_own_see_the_agent(retrying: LocalFleet) -> None:
    def seen() -> list[str]:
        return [line["agent"] for line in log_events(retrying, "distributor-1") if line["event"] == "looked"]

    wait_until(lambda: "distributor-1" in seen(), "the node has looked", PATIENCE_S)
    assert total(scrape(retrying, "distributor-1"), "a2a_supervision_fallbacks_total") == 0
    assert complaints(retrying) == []


def test_nodes_that_fail_are_counted_and_the_agent_goes_on(mood: Path) -> None:
    env = {"A2A_SUPERVISION_NODES": f"{mood.with_name('nodes.py')}:broken"}
    with LocalFleet(workers=1, env=env) as fleet, client_of(fleet) as client:
        for name in ("coordinator-1", "distributor-1", "worker-1"):
            wait_until(
                lambda name=name: total(scrape(fleet, name), "a2a_supervision_fallbacks_total", reason="raised") > 0,
                f"the failures of {name} are counted",
                PATIENCE_S,
            )
        assert client.submit("noop", {"n": 1}).result(PATIENCE_S) == {"n": 1}
        assert complaints(fleet, "supervision_graph_failed") == []


@pytest.mark.parametrize(
    ("program", "setting"),
    [
        ("coordinator", "placement-policy"),
        ("distributor", "retry-policy"),
        ("distributor", "supervision-nodes"),
        ("worker", "supervision-nodes"),
    ],
)
def test_what_cannot_be_imported_ends_the_daemon_with_one_line(no_orphans: Path, program: str, setting: str) -> None:
    env = {"A2A_STATE_DIR": str(no_orphans / "state"), "PATH": os.environ["PATH"]}
    done = run(f"a2a-{program}", f"--{setting}", "no_such_module:graph", env=env, cwd=no_orphans)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode == 78
    assert len(lines) == 1
    assert setting.replace("-", "_") in lines[0]
    assert "no_such_module" in lines[0]
