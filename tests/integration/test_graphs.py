"""LangGraph graphs as tasks, in fleets of real processes: results, questions, and workers that leave or die."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq import FleetClient, TaskWaiting
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import a2actl, client_of, wait_until

# A graph's first run loads LangGraph in a child process: seconds on a busy host.
PATIENCE_S = 60.0
STEPS = 10

GRAPHS = """
import os
import time
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    n: int
    ledger: str
    answers: list


def note(state: State) -> None:
    with open(state["ledger"], "a") as ledger:
        ledger.write(f"{state['n']} {os.environ['WORKER_ID']}\\n")


def step(state: State) -> State:
    note(state)
    time.sleep(0.3)
    return {"n": state["n"] + 1}


def double(state: State) -> State:
    return {"n": 2 * state["n"]}


def ask(state: State) -> State:
    return {"answers": [*state.get("answers", []), [interrupt("Go on?"), os.environ["WORKER_ID"]]]}


def ask_again(state: State) -> State:
    first = interrupt({"question": "And now?"})
    return {"answers": [*state["answers"], [first, interrupt("Sure?")]]}


def straight(*nodes):
    graph = StateGraph(State)
    before = START
    for number, node in enumerate(nodes):
        name = f"{node.__name__}_{number}"
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, END)
    return graph.compile()


doubling = straight(double)
asking = straight(ask)
interview = straight(ask, ask_again)
steps = straight(*[step] * 10)
"""


@pytest.fixture(scope="module")
def project(no_orphans: Path) -> Path:
    """A LangGraph project as anybody has it."""
    directory = no_orphans / "project"
    directory.mkdir()
    (directory / "graphs.py").write_text(GRAPHS)
    names = ("doubling", "asking", "interview", "steps")
    described = {"dependencies": ["."], "graphs": {name: f"./graphs.py:{name}" for name in names}}
    (directory / "langgraph.json").write_bytes(orjson.dumps(described))
    return directory


@pytest.fixture
def fleet(project: Path) -> Iterator[LocalFleet]:
    """Two workers that have the project's graphs."""
    env = {"A2A_WORKER_GRAPHS": str(project / "langgraph.json"), "A2A_WORKER_SLOTS": "2"}
    with LocalFleet(workers=2, env=env) as fleet:
        yield fleet


@pytest.fixture
def client(fleet: LocalFleet) -> Iterator[FleetClient]:
    with client_of(fleet) as client:
        yield client


def lines(ledger: Path) -> list[tuple[int, str]]:
    """(step, worker) of each step that began."""
    if not ledger.exists():
        return []
    return [(int(number), worker) for number, worker in (line.split() for line in ledger.read_text().splitlines())]


def question_of(handle: Any) -> list[dict[str, Any]]:
    with pytest.raises(TaskWaiting) as waiting:
        handle.result(PATIENCE_S)
    return waiting.value.interrupts


def other(worker: str) -> str:
    return "worker-2" if worker == "worker-1" else "worker-1"


def test_a_graph_completes_with_its_output(client: FleetClient) -> None:
    handle = client.submit_graph("doubling", {"n": 21})
    assert handle.result(PATIENCE_S)["n"] == 42


def test_a_question_reaches_the_client_and_another_worker_goes_on_with_the_answer(
    fleet: LocalFleet, client: FleetClient
) -> None:
    handle = client.submit_graph("asking", {"n": 1})
    (asked,) = question_of(handle)
    assert asked["value"] == "Go on?"
    assert handle.status() == "waiting"
    assert client.status()["tasks"]["waiting"] == 1

    table = a2actl(fleet, "tasks", "--status", "waiting")
    assert "waiting" in table.stdout
    assert "Go on?" in table.stdout
    waited = a2actl(fleet, "result", handle.task_id)
    assert waited.returncode == 75
    assert f"a2actl resume {handle.task_id} --value JSON" in waited.stderr
    assert "Go on?" in a2actl(fleet, "explain", handle.task_id).stdout

    ran_on = next(event.detail["worker"] for event in client.history(handle.task_id) if event.name == "waiting")
    fleet.daemons[ran_on].signal(signal.SIGTERM)
    assert fleet.daemons[ran_on].wait(PATIENCE_S)
    handle.resume("yes")
    assert handle.result(PATIENCE_S)["answers"] == [["yes", other(ran_on)]]
    assert [event.name for event in client.history(handle.task_id)].count("resumed") == 1


def test_a_task_at_a_breakpoint_is_shown_and_goes_on_with_any_answer(fleet: LocalFleet, client: FleetClient) -> None:
    payload = {"input": {"n": 21}, "interrupt_before": ["double_0"]}
    handles = [client.submit("graph:doubling", payload) for _ in range(2)]
    for handle in handles:
        (asked,) = question_of(handle)
        assert asked["value"]["next"] == ["double_0"]
    assert "stands before double_0" in a2actl(fleet, "tasks", "--status", "waiting").stdout
    handles[0].resume(None)
    assert a2actl(fleet, "resume", handles[1].task_id, "--text", "go").returncode == 0
    assert [handle.result(PATIENCE_S)["n"] for handle in handles] == [42, 42]


def test_runs_of_one_thread_end_in_the_order_of_their_submission(client: FleetClient) -> None:
    handles = [client.submit_graph("doubling", {"n": number}, thread_id="turns") for number in range(6)]
    assert [handle.result(PATIENCE_S)["n"] for handle in handles] == [0, 2, 4, 6, 8, 10]
    ended = [handle.record["completed_at"] for handle in handles if handle.record is not None]
    assert ended == sorted(ended)


def test_questions_are_answered_one_after_the_other_from_the_command_line(fleet: LocalFleet) -> None:
    submitted = a2actl(
        fleet, "--timeout", "60", "submit", "graph:interview", "--payload", '{"input": {"n": 1}}', "--wait"
    )
    assert submitted.returncode == 75, submitted.stderr
    assert "Go on?" in submitted.stderr
    with client_of(fleet, operator=True) as operator:
        (task_id,) = [record["task_id"] for record in operator.tasks(status="waiting").tasks]
    assert "And now?" in a2actl(fleet, "--timeout", "60", "resume", task_id, "--text", "yes", "--wait").stderr
    assert "Sure?" in a2actl(fleet, "--timeout", "60", "resume", task_id, "--value", "[1]", "--wait").stderr
    done = a2actl(fleet, "--timeout", "60", "--json", "resume", task_id, "--value", "true", "--wait")
    assert done.returncode == 0, done.stderr
    answers = orjson.loads(done.stdout)["result"]["answers"]
    assert [each[0] for each in answers] == ["yes", [1]]
    assert answers[1][1] is True
    late = a2actl(fleet, "resume", task_id, "--text", "yes")
    assert late.returncode == 1
    assert "NOT_WAITING" in late.stderr


def test_a_question_outlives_distributor_and_coordinator(fleet: LocalFleet, client: FleetClient) -> None:
    handle = client.submit_graph("asking", {"n": 1})
    question_of(handle)
    for name in ("distributor-1", "coordinator-1"):
        fleet.kill(name, restart=False)
        assert fleet.daemons[name].wait(PATIENCE_S)
        fleet.restart(name)
    handle.resume("yes")
    assert handle.result(PATIENCE_S)["answers"][0][0] == "yes"


def test_a_waiting_task_is_cancelled(client: FleetClient) -> None:
    handle = client.submit_graph("asking", {"n": 1})
    question_of(handle)
    handle.cancel()
    wait_until(handle.done, "the cancelled task has ended")
    assert handle.status() == "abandoned"


def test_a_graph_goes_on_at_the_other_worker_when_its_worker_is_drained_and_repeats_no_step(
    fleet: LocalFleet, client: FleetClient, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    handle = client.submit_graph("steps", {"n": 0, "ledger": str(ledger)}, max_attempts=1)
    wait_until(lambda: len(lines(ledger)) >= 3, "three steps began", PATIENCE_S)
    first = lines(ledger)[0][1]
    fleet.daemons[first].signal(signal.SIGTERM)
    assert handle.result(PATIENCE_S)["n"] == STEPS
    assert [number for number, _ in lines(ledger)] == list(range(STEPS)), "no step is left out, none comes twice"
    assert lines(ledger)[-1][1] == other(first)
    assert [event.name for event in client.history(handle.task_id)].count("moved") == 1


def test_a_graph_whose_worker_is_killed_goes_on_from_its_last_step(
    fleet: LocalFleet, client: FleetClient, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    handle = client.submit_graph("steps", {"n": 0, "ledger": str(ledger)})
    wait_until(lambda: len(lines(ledger)) >= 4, "four steps began", PATIENCE_S)
    first = lines(ledger)[0][1]
    fleet.daemons[first].signal(signal.SIGKILL)
    assert handle.result(PATIENCE_S)["n"] == STEPS
    numbers = [number for number, _ in lines(ledger)]
    assert sorted(set(numbers)) == list(range(STEPS))
    assert len(numbers) <= STEPS + 1, "only the step in flight may come twice"
    assert lines(ledger)[-1][1] == other(first)
