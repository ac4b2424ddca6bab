"""Which changes of a graph make it another one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from daemons.worker.graphs.fingerprint import fingerprint


class State(TypedDict, total=False):
    xs: Annotated[list[int], operator.add]
    n: int


class OtherState(TypedDict, total=False):
    xs: list[int]
    n: int


def one(state: Any) -> Any:
    return {"n": 1}


def two(state: Any) -> Any:
    return {"n": 2}


def straight(*, schema: Any = State, second: Callable[..., Any] = two, name: str = "b", extra: bool = False) -> Any:
    graph = StateGraph(schema)
    graph.add_node("a", one)
    graph.add_node(name, second)
    graph.add_edge(START, "a")
    graph.add_edge("a", name)
    graph.add_edge(name, END)
    if extra:
        graph.add_edge(START, name)
    return graph


def test_the_same_structure_has_the_same_hash_whatever_its_nodes_do() -> None:
    assert fingerprint(straight().compile()) == fingerprint(straight(second=one).compile())
    assert len(fingerprint(straight().compile())) == 16


@pytest.mark.parametrize(
    "changed",
    [
        straight(name="c").compile(),
        straight(extra=True).compile(),
        straight(schema=OtherState).compile(),
        straight().compile(interrupt_before=["b"]),
    ],
    ids=["another name of a node", "an edge more", "a channel without its reducer", "a breakpoint"],
)
def test_another_structure_has_another_hash(changed: Any) -> None:
    assert fingerprint(changed) != fingerprint(straight().compile())


def test_a_change_in_a_subgraph_counts() -> None:
    def around(inner: Any) -> Any:
        graph = StateGraph(State)
        graph.add_node("inner", inner)
        graph.add_edge(START, "inner")
        return graph.compile()

    assert fingerprint(around(straight().compile())) == fingerprint(around(straight(second=one).compile()))
    assert fingerprint(around(straight().compile())) != fingerprint(around(straight(name="c").compile()))


def test_where_a_branch_may_lead_counts() -> None:
    def branching(*ends: str) -> Any:
        def fan_out(state: State) -> list[Send]:
            return [Send(ends[0], state)]

        graph = straight()
        graph.add_node("c", one)
        graph.add_conditional_edges("a", fan_out, list(ends))
        return graph.compile()

    assert fingerprint(branching("b", "c")) == fingerprint(branching("c", "b"))
    assert fingerprint(branching("b", "c")) != fingerprint(branching("c"))


def test_of_the_functional_api_the_source_counts() -> None:
    @task
    def add(n: int) -> int:
        return n + 1

    @entrypoint()
    def flow(n: int) -> int:
        return add(n).result()

    first = fingerprint(flow)

    @entrypoint()
    def longer(n: int) -> int:
        return add(add(n).result()).result()

    assert fingerprint(longer) != first
