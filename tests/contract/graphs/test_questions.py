"""Answers to a graph's questions when workers die in between: each answers the question that it was given to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from redis import Redis

from a2a_zmq.handlers import TaskContext
from daemons.redis.embedded import EmbeddedRedis
from daemons.worker.executors.invoke import Ended
from daemons.worker.graphs.runs import GraphRunner

GRAPHS = """
import operator
from typing import Annotated, TypedDict

from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    answers: Annotated[list, operator.add]


def thrice(state: State) -> State:
    return {"answers": [interrupt("first"), interrupt("second"), interrupt("third")]}


def insistent(state: State) -> State:
    return {"answers": [interrupt("Sure?"), interrupt("Sure?"), interrupt("Sure?")]}


def once(question: str):
    def ask(state: State) -> State:
        return {"answers": [interrupt(question)]}

    return ask


def chain(**nodes):
    builder = StateGraph(State)
    before = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(before, name)
        before = name
    builder.add_edge(before, END)
    return builder.compile()


def side_by_side():
    builder = StateGraph(State)
    for name in ("left", "right"):
        builder.add_node(name, once(name))
        builder.add_edge(START, name)
        builder.add_edge(name, END)
    return builder.compile()


@task
async def half(name: str):
    return [interrupt(name + " one"), interrupt(name + " two")]


@entrypoint()
async def functional(state: State) -> State:
    return {"answers": [*await half("left"), interrupt("last")]}


one_node = chain(ask=thrice)
subgraph = chain(inner=chain(ask=thrice))
two_nodes = chain(ask=once("first"), more=once("second"), last=once("third"))
parallel = side_by_side()
again = chain(ask=insistent)
"""

Attempt = Callable[..., Any]


@pytest.fixture(scope="module")
def redis() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(appendfsync="no") as server:
        yield server


@pytest.fixture(scope="module")
def runner_of(tmp_path_factory: pytest.TempPathFactory, redis: EmbeddedRedis) -> Callable[[], tuple[GraphRunner, str]]:
    """What a worker's child process has: a new one each time, on the same Redis."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "questioning.py").write_text(GRAPHS)
    names = ("one_node", "subgraph", "two_nodes", "parallel", "functional", "again")
    described = {"graphs": {name: f"./questioning.py:{name}" for name in names}}
    file = directory / "langgraph.json"
    file.write_bytes(orjson.dumps(described))
    options = {"url": f"redis://127.0.0.1:{redis.port}", "keep": 20, "ttl_s": 600.0, "question_ttl_s": 3600.0}
    return lambda: (GraphRunner(options, 1 << 20), f"graph:{file}#")


class Task:
    """A graph's task, whose attempts are made by workers of which each dies after what it did last."""

    def __init__(self, runner_of: Callable[[], tuple[GraphRunner, str]], graph: str, name: str = "") -> None:
        self._runner_of = runner_of
        self._graph = graph
        self._name = name or f"task-{graph}"
        self._attempts = 0

    def attempt(self, answers: dict[str, Any] | None = None) -> Any:
        """The questions, or the output, of one more attempt."""
        self._attempts += 1
        metadata = {} if answers is None else {"resume": answers}
        context = TaskContext(self._name, self._attempts, f"graph:{self._graph}", metadata=metadata)
        runner, project = self._runner_of()
        body = orjson.dumps({"input": {"answers": []}})
        try:
            return runner.call(project + self._graph, body, context, lambda run: None, lambda chunk: None)
        except Ended as ended:
            if ended.outcome != "waiting":
                raise
            return orjson.loads(ended.body)
        finally:
            runner.close()


@pytest.mark.parametrize(
    ("graph", "questions"),
    [
        ("one_node", ["first", "second", "third"]),
        ("subgraph", ["first", "second", "third"]),
        ("two_nodes", ["first", "second", "third"]),
        ("functional", ["left one", "left two", "last"]),
    ],
)
def test_an_answer_is_not_taken_for_the_next_question_when_a_worker_dies_before_it_has_told_of_that_one(
    runner_of: Callable[[], tuple[GraphRunner, str]], graph: str, questions: list[str]
) -> None:
    task = Task(runner_of, graph)
    asked = task.attempt()
    answer: dict[str, Any] = {}
    for number, question in enumerate(questions, 1):
        assert [each["value"] for each in asked] == [question]
        if answer:  # nobody heard of the question, so the former answer comes again, twice
            for _ in range(2):
                assert task.attempt(answer) == asked
        answer = {asked[0]["id"]: f"answer {number}"}
        asked = task.attempt(answer)
    assert asked["answers"] == ["answer 1", "answer 2", "answer 3"]


def test_of_two_questions_at_a_time_the_one_that_was_not_answered_is_asked_again(
    runner_of: Callable[[], tuple[GraphRunner, str]],
) -> None:
    task = Task(runner_of, "parallel")
    left, right = sorted(task.attempt(), key=lambda each: str(each["value"]))
    for _ in range(2):
        assert task.attempt({left["id"]: "l"}) == [right]
    assert sorted(task.attempt({right["id"]: "r"})["answers"]) == ["l", "r"]


def test_the_same_question_in_a_node_has_another_id_each_time(
    runner_of: Callable[[], tuple[GraphRunner, str]],
) -> None:
    task = Task(runner_of, "again")
    asked = task.attempt()
    ids = []
    for number in range(3):
        ids.append(asked[0]["id"])
        asked = task.attempt({ids[-1]: number})
    assert len(set(ids)) == 3


def test_a_run_is_kept_while_it_waits_and_an_answer_that_comes_after_that_is_not_swallowed(
    runner_of: Callable[[], tuple[GraphRunner, str]], redis: EmbeddedRedis
) -> None:
    """The run began anew, without a word, and asked its first question once more."""
    task = Task(runner_of, "two_nodes", "kept")
    asked = task.attempt()
    with Redis(port=redis.port) as client:
        names = [name for name in client.scan_iter("{checkpoint:*") if b":kept:" in name]
        assert len(names) >= 5
        assert min(client.pttl(name) for name in names) > 3_000_000
        client.delete(*names)
    with pytest.raises(Ended, match="no checkpoint any more") as error:
        task.attempt({asked[0]["id"]: "too late"})
    assert (error.value.outcome, error.value.kind, error.value.retryable) == ("failed", "checkpoint_gone", False)
    assert [each["value"] for each in task.attempt()] == ["first"]
