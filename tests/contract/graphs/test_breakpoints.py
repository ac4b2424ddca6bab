"""Runs that stand still at nodes that the graph, or the task, names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from a2a_zmq.handlers import InvalidInput, TaskContext
from daemons.redis.embedded import EmbeddedRedis
from daemons.worker.executors.invoke import Ended
from daemons.worker.graphs.runs import GraphRunner

GRAPHS = """
import operator
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    ran: Annotated[list, operator.add]


def named(name):
    return lambda state: {"ran": [name]}


def chain(nodes, **options):
    builder = StateGraph(State)
    before = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(before, name)
        before = name
    builder.add_edge(before, END)
    return builder.compile(**options)


three = {name: named(name) for name in ("one", "two", "three")}
plain = chain(three)
before = chain(three, interrupt_before=["two", "three"])
after = chain(three, interrupt_after=["one", "two", "three"])
asking = chain({"one": named("one"), "two": lambda state: {"ran": [interrupt("two?")]}}, interrupt_before=["two"])
outer = chain({"inner": chain(three, interrupt_before=["two", "three"]), "last": named("last")})
"""
NAMES = ("plain", "before", "after", "asking", "outer")

Attempt = Callable[..., Any]


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempt]:
    """One attempt by a child process that has only just begun: its questions, or its output."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "standing.py").write_text(GRAPHS)
    file = directory / "langgraph.json"
    file.write_bytes(orjson.dumps({"graphs": {name: f"./standing.py:{name}" for name in NAMES}}))

    def run(graph: str, task: str, number: int, answers: dict[str, Any] | None = None, **members: Any) -> Any:
        metadata = {} if answers is None else {"resume": answers}
        runner = GraphRunner(options, 1 << 20)
        body = orjson.dumps({"input": {"ran": []}, **members})
        context = TaskContext(task, number, f"graph:{graph}", metadata=metadata)
        try:
            return runner.call(f"graph:{file}#{graph}", body, context, lambda run: None, lambda chunk: None)
        except Ended as ended:
            if ended.outcome != "waiting":
                raise
            return orjson.loads(ended.body)
        finally:
            runner.close()

    with EmbeddedRedis(appendfsync="no") as redis:
        port = redis.port
        options = {"url": f"redis://127.0.0.1:{port}", "keep": 20, "ttl_s": 600.0, "question_ttl_s": 600.0}
        options |= {"stream_bytes": 1 << 20, "stream_ttl_s": 60}
        yield run


@pytest.mark.parametrize(
    ("graph", "members"),
    [
        ("before", {}),
        ("after", {}),
        ("plain", {"interrupt_before": ["two", "three"]}),
        ("plain", {"interrupt_after": ["one", "two"], "stream_mode": ["updates"]}),
    ],
)
def test_a_run_waits_at_breakpoints_and_does_not_end_there_with_half_of_its_state(
    attempt: Attempt, graph: str, members: dict[str, Any]
) -> None:
    task = f"waits-{graph}-{'-'.join(members)}"
    answer = None
    for number, node in enumerate(["two", "three"], 1):
        (asked,) = attempt(graph, task, number, answer, **members)
        assert asked["id"].startswith("breakpoint-")
        assert asked["value"] == {"breakpoint": f"stands before {node}", "next": [node]}
        answer = {asked["id"]: None}
    assert attempt(graph, task, 3, answer, **members) == {"ran": ["one", "two", "three"]}


@pytest.mark.parametrize("graph", ["before", "after"])
def test_an_answer_does_not_count_for_the_next_breakpoint_when_a_worker_dies_before_it_has_told_of_that_one(
    attempt: Attempt, graph: str
) -> None:
    first = attempt(graph, f"dies-{graph}", 1)
    assert attempt(graph, f"dies-{graph}", 2) == first
    answer = {first[0]["id"]: "go"}
    second = attempt(graph, f"dies-{graph}", 3, answer)
    assert second[0]["value"]["next"] == ["three"]
    assert attempt(graph, f"dies-{graph}", 4, answer) == second
    assert attempt(graph, f"dies-{graph}", 5, {second[0]["id"]: "go"}) == {"ran": ["one", "two", "three"]}


def test_a_node_behind_a_breakpoint_may_ask_something_itself(attempt: Attempt) -> None:
    (stands,) = attempt("asking", "asks", 1)
    (asked,) = attempt("asking", "asks", 2, {stands["id"]: None})
    assert asked["value"] == "two?"
    assert attempt("asking", "asks", 3, {stands["id"]: None}) == [asked]
    assert attempt("asking", "asks", 4, {asked["id"]: "2"}) == {"ran": ["one", "2"]}


def test_a_run_waits_at_breakpoints_of_a_subgraph(attempt: Attempt) -> None:
    (stands,) = attempt("outer", "outer", 1)
    assert stands["value"]["next"] == ["two"]
    (further,) = attempt("outer", "outer", 2, {stands["id"]: None})
    assert further["value"]["next"] == ["three"]
    assert attempt("outer", "outer", 3, {further["id"]: None}) == {"ran": ["one", "two", "three", "last"]}


def test_a_breakpoint_at_a_node_that_is_not_there_is_refused(attempt: Attempt) -> None:
    with pytest.raises(InvalidInput, match="interrupt_after: the graph has no node 'tow', only one, two, three"):
        attempt("plain", "refused", 1, interrupt_after=["one", "tow"])


def test_a_null_input_is_not_called_missing(attempt: Attempt) -> None:
    with pytest.raises(InvalidInput, match="input: null would go on with another run"):
        attempt("plain", "null", 1, input=None)
