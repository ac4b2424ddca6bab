"""Traces of whole fleets of real processes, as a receiver gets them."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq import FleetClient, TaskFailed, TaskHandle, TaskWaiting
from daemons.cli.fleet import LocalFleet
from tests.integration.rig import (
    HANDLERS,
    PATIENCE_S,
    client_of,
    log_events,
    runs,
    scrape,
    total,
    user_fleet,
    wait_until,
)
from tests.otlp_receiver import Received, Receiver

CODE = "tests.integration.traced_code"
# A graph's first run loads LangGraph in a child process: seconds on a busy host.
GRAPH_S = 60.0

GRAPHS = """
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from opentelemetry import trace


class State(TypedDict, total=False):
    n: int


def plus(state: State) -> State:
    with trace.get_tracer("mine").start_as_current_span("inside plus"):
        return {"n": state["n"] + 1}


def ask(state: State) -> State:
    return {"n": state["n"] + interrupt("How many?")}


async def fails(state: State) -> State:
    raise ValueError("redis://user:hunter2@host")


def straight(**nodes):
    graph = StateGraph(State)
    before = START
    for name, node in nodes.items():
        graph.add_node(name, node)
        graph.add_edge(before, name)
        before = name
    graph.add_edge(before, END)
    return graph.compile()


sums = straight(first=plus, below=straight(deep=plus), asks=ask)
failing = straight(good=plus, bad=fails)
"""


@pytest.fixture(scope="module")
def receiver(no_orphans: Path) -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def fleet(no_orphans: Path, receiver: Receiver) -> Iterator[LocalFleet]:
    """Two workers with handlers and graphs, and traces."""
    directory = no_orphans / "project"
    directory.mkdir()
    (directory / "graphs.py").write_text(GRAPHS)
    described = {"dependencies": ["."], "graphs": {name: f"./graphs.py:{name}" for name in ("sums", "failing")}}
    (directory / "langgraph.json").write_bytes(orjson.dumps(described))
    env = {
        "A2A_OTLP_ENDPOINT": receiver.url,
        "A2A_WORKER_HANDLERS": f"{HANDLERS},{CODE}",
        "A2A_WORKER_GRAPHS": str(directory / "langgraph.json"),
    }
    with user_fleet(workers=2, env=env) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def client(fleet: LocalFleet, receiver: Receiver) -> Iterator[FleetClient]:
    with client_of(fleet, otlp_endpoint=receiver.url) as client:
        yield client


def trace_of(receiver: Receiver, handle: TaskHandle, *kinds: str, **counts: int) -> list[Received]:
    """The spans of a task's one trace, when there is one of each of these kinds, or as many as ``counts`` says."""
    wanted = Counter({**dict.fromkeys(kinds, 1), **counts})
    wait_until(lambda: wanted <= Counter(span.kind for span in receiver.of(handle.task_id)), f"{wanted} have come")
    found = receiver.of(handle.task_id)
    assert len({span.trace_id for span in found}) == 1, "one task, one trace"
    assert len({span.span_id for span in found}) == len(found), "each span once"
    return found


def one(spans: list[Received], name: str) -> Received:
    (found,) = [span for span in spans if span.name == name]
    return found


WAY = ("submit", "accept", "place", "attempt", "run", "record", "deliver")


def test_one_trace_shows_the_whole_way_of_a_task(client: FleetClient, receiver: Receiver) -> None:
    handle = client.submit("noop", {"n": 1})
    assert handle.result(PATIENCE_S) == {"n": 1}
    spans = trace_of(receiver, handle, *WAY)
    by = {span.kind: span for span in spans}
    assert {span.name for span in spans} == {f"{kind} noop" for kind in WAY}
    assert [by[kind].service for kind in WAY] == [
        "a2a-client",
        "a2a-coordinator",
        "a2a-coordinator",
        "a2a-distributor",
        "a2a-worker",
        "a2a-distributor",
        "a2a-coordinator",
    ]
    assert by["submit"].parent_id == ""
    for kind in ("accept", "place", "attempt", "record", "deliver"):
        assert by[kind].parent_id == by["submit"].span_id, kind
    assert by["run"].parent_id == by["attempt"].span_id
    assert by["run"].instance == by["attempt"].attributes["a2a.worker"]
    order = [by[kind].start for kind in ("submit", "accept", "attempt", "run", "record")]
    assert order == sorted(order)
    assert handle.record is not None
    assert by["submit"].trace_id in handle.record["metadata"]["traceparent"]


def test_a_task_that_comes_without_a_trace_gets_one(fleet: LocalFleet, receiver: Receiver) -> None:
    with client_of(fleet) as client:
        handle = client.submit("noop", {})
        handle.result(PATIENCE_S)
    spans = trace_of(receiver, handle, *WAY[1:])
    assert one(spans, "accept noop").parent_id == ""
    assert one(spans, "attempt noop").parent_id == one(spans, "accept noop").span_id


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
def test_what_a_handler_begins_and_logs_belongs_to_its_task(
    fleet: LocalFleet, client: FleetClient, receiver: Receiver, executor: str
) -> None:
    handle = client.submit(f"traced-{executor}", {})
    value = handle.result(PATIENCE_S)
    spans = trace_of(receiver, handle, *WAY, "inside")
    inside = one(spans, f"inside traced-{executor}")
    assert inside.parent_id == one(spans, f"run traced-{executor}").span_id
    assert inside.trace_id == value["trace_id"]
    assert handle.record is not None
    worker = handle.record["metadata"]["worker"]

    def lines() -> list[dict[str, Any]]:
        return [line for line in log_events(fleet, worker) if line.get("task_id") == handle.task_id]

    wait_until(lambda: len(lines()) == 2, "both lines are in the worker's log")
    for line in lines():
        assert (line["attempt"], line["trace_id"], line["part"]) == (1, inside.trace_id, "mine")
    assert lines()[0]["event"] == f"half way of traced-{executor}, password=***"
    assert lines()[1]["exception"].endswith("ValueError: redis://user:***@host")
    for line in log_events(fleet, worker):
        assert "hunter2" not in str(line)
        if line["part"] != "mine" and line["event"] != "attempt_failed":
            assert "trace_id" not in line, f"what the worker does itself is not of a task: {line}"


def test_a_handler_that_logs_without_end_is_held_back(fleet: LocalFleet, client: FleetClient) -> None:
    handle = client.submit("logs-much", {"lines": 5000})
    assert handle.result(PATIENCE_S) == "done"
    assert handle.record is not None
    worker = handle.record["metadata"]["worker"]
    written = [line for line in log_events(fleet, worker) if line.get("task_id") == handle.task_id]
    assert 0 < len(written) < 100


def test_a_killed_workers_task_goes_on_in_the_same_trace(
    fleet: LocalFleet, client: FleetClient, receiver: Receiver, ledger: Path, tmp_path: Path
) -> None:
    until = tmp_path / "until"
    handle = client.submit("held", {"n": 7, "ledger": str(ledger), "until": str(until)})
    wait_until(lambda: len(runs(ledger)) == 1, "it runs")
    victim = next(name for name, pid in fleet.pids.items() if pid == runs(ledger)[0].pid)
    fleet.kill(victim)
    wait_until(lambda: len(runs(ledger)) == 2, "it runs elsewhere")
    until.touch()
    assert handle.result(PATIENCE_S) == 7
    spans = trace_of(receiver, handle, *WAY, attempt=2)
    first, second = sorted((s for s in spans if s.kind == "attempt"), key=lambda s: s.attributes["a2a.attempt"])
    assert (first.attributes["a2a.worker"], first.attributes["a2a.outcome"]) == (victim, "worker_lost")
    assert "was lost" in first.error
    assert (second.attributes["a2a.outcome"], second.error, second.links) == ("completed", "", (first.span_id,))
    (run,) = [span for span in spans if span.kind == "run"]
    assert (run.parent_id, run.attributes["a2a.attempt"]) == (second.span_id, second.attributes["a2a.attempt"])
    wait_until(lambda: fleet.get(victim, "/readyz")[0] == 200, "the victim is back", GRAPH_S)


def test_what_ran_while_its_distributor_was_killed_is_one_attempt_in_one_trace(
    fleet: LocalFleet, client: FleetClient, receiver: Receiver, ledger: Path, tmp_path: Path
) -> None:
    until = tmp_path / "until"
    handle = client.submit("held", {"n": 7, "ledger": str(ledger), "until": str(until)})
    wait_until(lambda: len(runs(ledger)) == 1, "it runs")
    fleet.kill("distributor-1")
    wait_until(lambda: fleet.get("distributor-1", "/readyz")[0] == 200, "the successor is there", GRAPH_S)
    until.touch()
    assert handle.result(PATIENCE_S) == 7
    spans = trace_of(receiver, handle, *WAY)
    attempt, run = one(spans, "attempt held"), one(spans, "run held")
    assert (attempt.attributes["a2a.attempt"], run.parent_id) == (1, attempt.span_id)
    assert attempt.start <= run.start


def test_a_killed_process_is_named_in_both_spans(client: FleetClient, receiver: Receiver, ledger: Path) -> None:
    handle = client.submit("dies", {"ledger": str(ledger)}, max_attempts=2)
    with pytest.raises(TaskFailed):
        handle.result(PATIENCE_S)
    spans = trace_of(receiver, handle, *WAY, attempt=2, run=2)
    attempts = [span for span in spans if span.kind == "attempt"]
    found = [span for span in spans if span.kind == "run"]
    assert len(attempts) == len(found) == 2
    for span in [*attempts, *found]:
        assert span.attributes["a2a.signal"] == "SIGKILL"
        assert span.error.startswith("its process was killed by SIGKILL")
    assert one(spans, "record dies").attributes["a2a.status"] == "failed"


def test_nodes_of_a_graph_and_of_its_subgraph_in_all_attempts(client: FleetClient, receiver: Receiver) -> None:
    handle = client.submit_graph("sums", {"n": 1})
    with pytest.raises(TaskWaiting):
        handle.result(GRAPH_S)
    handle.resume(40)
    assert handle.result(GRAPH_S)["n"] == 43
    spans = trace_of(receiver, handle, *WAY, run=2, attempt=2, node=5, inside=2)
    runs_of = {span.attributes["a2a.attempt"]: span for span in spans if span.kind == "run"}
    assert [runs_of[number].attributes["a2a.outcome"] for number in (1, 2)] == ["waiting", "completed"]
    first, below, deep = (one(spans, f"node {name}") for name in ("first", "below", "deep"))
    assert first.parent_id == below.parent_id == runs_of[1].span_id
    assert deep.parent_id == below.span_id
    assert (first.attributes["langgraph.step"], below.attributes["langgraph.step"]) == (1, 2)
    asks = sorted((span for span in spans if span.name == "node asks"), key=lambda span: span.start)
    assert [span.parent_id for span in asks] == [runs_of[1].span_id, runs_of[2].span_id]
    assert [span.attributes.get("langgraph.interrupted") for span in asks] == [True, None]
    assert all(span.error == "" for span in spans)
    inside = [span for span in spans if span.name == "inside plus"]
    assert {span.parent_id for span in inside} == {first.span_id, deep.span_id}


def test_a_node_that_fails_says_so_without_secrets(client: FleetClient, receiver: Receiver) -> None:
    handle = client.submit_graph("failing", {"n": 1}, max_attempts=1)
    with pytest.raises(TaskFailed):
        handle.result(GRAPH_S)
    spans = trace_of(receiver, handle, *WAY, node=2)
    assert one(spans, "node good").error == ""
    assert one(spans, "node bad").error == "ValueError: redis://user:***@host"
    for name in ("run graph:failing", "attempt graph:failing"):
        assert one(spans, name).error == "ValueError: redis://user:***@host (in node 'bad')", name


def test_what_was_exported_is_counted(fleet: LocalFleet, client: FleetClient) -> None:
    client.submit("noop", {}).result(PATIENCE_S)
    for name in ("coordinator-1", "distributor-1"):
        wait_until(
            lambda name=name: total(scrape(fleet, name), "a2a_trace_spans_total", outcome="exported") > 0,
            f"{name} counts",
        )


# ---------------------------------------------------------------- off, and away


def test_switched_off_nothing_of_it_is_imported_and_nothing_is_carried(no_orphans: Path) -> None:
    # Every import is told on standard error, which is the log.
    env = {"A2A_WORKER_HANDLERS": CODE, "PYTHONPROFILEIMPORTTIME": "1"}
    with user_fleet(workers=1, env=env) as fleet, client_of(fleet) as client:
        for executor in ("async", "process"):
            handle = client.submit(f"loaded-{executor}", {})
            found = handle.result(PATIENCE_S)
            assert found["modules"] == []
            assert "traceparent" not in found["metadata"]
            assert handle.record is not None
            assert "traceparent" not in handle.record["metadata"]
        for name, core in (
            ("coordinator-1", "daemons.coordinator.core"),
            ("distributor-1", "daemons.distributor.core"),
            ("worker-1", "daemons.worker.core"),
        ):
            imports = fleet.daemons[name].log.read_text(errors="replace")
            assert core in imports
            assert "opentelemetry" not in imports


def test_a_receiver_that_never_answers_slows_and_fails_nothing(no_orphans: Path, ledger: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # the kernel takes connections, and nobody reads
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"A2A_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "1", "A2A_SUPERVISION_INTERVAL_MS": "100"}
        with user_fleet(workers=2, env=env) as fleet:
            with client_of(fleet, otlp_endpoint=endpoint) as client:
                values = client.map("counted", ({"n": n} for n in range(500)))
                assert list(values) == list(range(500))
                assert client.submit("in-process", {}).result(PATIENCE_S) > 0
            for name in ("coordinator-1", "distributor-1"):
                wait_until(
                    lambda name=name: total(scrape(fleet, name), "a2a_trace_spans_total", outcome="failed") > 0,
                    f"{name} counts what was not taken",
                )
            lost = [line for line in log_events(fleet, "distributor-1") if line["event"] == "spans_lost"]
            assert lost
            assert {line["level"] for line in lost} == {"warning"}
            workers = {name: pid for name, pid in fleet.pids.items() if name.startswith("worker")}
        for pid in workers.values():
            assert not os.path.exists(f"/proc/{pid}"), "it left all the same"  # noqa: PTH110
