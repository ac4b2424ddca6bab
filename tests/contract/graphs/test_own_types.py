"""Types of the user's own in a graph's state, when a run goes on from what is in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from a2a_zmq.handlers import TaskContext
from daemons.redis.embedded import EmbeddedRedis
from daemons.worker.executors.invoke import Ended
from daemons.worker.graphs.runs import GraphRunner

GRAPHS = """
import dataclasses
import operator
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Any, NamedTuple, TypedDict

from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel


class Colour(Enum):
    RED = "red"


class Size(NamedTuple):
    width: int


@dataclasses.dataclass
class Part:
    colour: Colour


class Order(BaseModel):
    id: int
    colour: Colour = Colour.RED


class Typed(TypedDict, total=False):
    order: Order
    parts: Annotated[list[Part], operator.add]
    sizes: Sequence[Size] | None
    told: str


class Loose(TypedDict, total=False):
    order: Any
    told: str


class Modelled(BaseModel):
    order: Order | None = None
    told: str = ""


def of(schema, make, tell, **options):
    builder = StateGraph(schema)
    builder.add_node("make", make)
    builder.add_node("ask", lambda state: interrupt("go on?") and {})
    builder.add_node("tell", tell)
    for before, after in ((START, "make"), ("make", "ask"), ("ask", "tell"), ("tell", END)):
        builder.add_edge(before, after)
    return builder.compile(**options)


def make_all(state):
    return {"order": Order(id=3), "parts": [Part(Colour.RED)], "sizes": [Size(4)]}


def tell_all(state):
    parts, sizes = state["parts"], state["sizes"]
    return {"told": f"{state['order'].id} {parts[0].colour.name} {sizes[0].width}", "parts": [], "sizes": None}


def make_order(state):
    return {"order": Order(id=3)}


def tell_order(state):
    order = state.order if isinstance(state, Modelled) else state["order"]
    return {"told": f"{order.id} {order.colour.name}"}


typed = of(Typed, make_all, tell_all)
modelled = of(Modelled, make_order, tell_order)
loose = of(Loose, make_order, tell_order)
within = StateGraph(Loose).add_node("inner", of(Modelled, make_order, tell_order)).add_edge(START, "inner").compile()


@task
def find() -> Order:
    return Order(id=3)


@entrypoint()
def functional(given: dict) -> dict:
    order = find().result()
    interrupt("go on?")
    return {"told": f"{order.id} {order.colour.name}"}


class Outer:
    class Inner(BaseModel):
        id: int = 3


class Hidden(TypedDict, total=False):
    order: Outer.Inner
    told: str


hidden = of(Hidden, lambda state: {"order": Outer.Inner()}, lambda state: {"told": state["order"].id})
"""
NAMES = ("typed", "modelled", "loose", "within", "functional", "hidden")

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Makes an attempt as a child process that has only just begun; ``allowed`` is what the project allows."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "ordering.py").write_text(GRAPHS)
    graphs = {name: f"./ordering.py:{name}" for name in NAMES}

    def attempt(graph: str, number: int, *, thread: str = "", allowed: Any = None, **metadata: Any) -> Any:
        file = Path(directory, f"langgraph-{'some' if allowed else 'none'}.json")
        serde = {"allowed_msgpack_modules": allowed}
        file.write_bytes(orjson.dumps({"graphs": graphs, "dependencies": ["."], "checkpointer": {"serde": serde}}))
        runner = GraphRunner(options, 1 << 20)
        context = TaskContext(thread or f"task-{graph}", number, f"graph:{graph}", metadata=metadata)
        try:
            return runner.call(f"graph:{file}#{graph}", b'{"input": {}}', context, lambda run: None, lambda chunk: None)
        except Ended as ended:
            return ended
        finally:
            runner.close()

    with EmbeddedRedis(appendfsync="no") as redis:
        options = {"url": f"redis://127.0.0.1:{redis.port}", "keep": 20, "ttl_s": 600.0, "question_ttl_s": 600.0}
        yield attempt


def goes_on(run: Run, graph: str, **options: Any) -> str:
    asked = run(graph, 1, **options)
    assert isinstance(asked, Ended), asked
    assert asked.outcome == "waiting", asked.error
    (question,) = orjson.loads(asked.body)
    output = run(graph, 2, resume={question["id"]: "yes"}, **options)
    assert not isinstance(output, Ended), output.error
    told: str = output["told"]
    return told


@pytest.mark.parametrize(
    ("graph", "told"),
    [("typed", "3 RED 4"), ("modelled", "3 RED"), ("within", "3 RED"), ("functional", "3 RED")],
)
def test_types_that_schemas_annotate_are_what_they_were_when_a_run_goes_on(run: Run, graph: str, told: str) -> None:
    assert goes_on(run, graph) == told


def test_types_that_the_project_allows_are_what_they_were_when_a_run_goes_on(run: Run) -> None:
    allowed = [["ordering", "Order"], ["ordering", "Colour"]]
    assert goes_on(run, "loose", thread="allowed", allowed=allowed) == "3 RED"
    assert goes_on(run, "loose", thread="all", allowed=True) == "3 RED"


def test_a_type_that_is_not_allowed_is_refused_as_it_is_stored_and_not_read_as_a_dict(run: Run) -> None:
    refused = run("loose", 1, thread="orders")
    assert isinstance(refused, Ended)
    assert (refused.outcome, refused.kind, refused.retryable) == ("failed", "type_not_allowed", False)
    assert "thread 'orders'" in refused.error
    assert "not allowed in checkpoints: ordering.Order, ordering.Colour" in refused.error
    assert "checkpointer.serde.allowed_msgpack_modules" in refused.error


def test_a_type_that_was_allowed_once_is_refused_as_it_is_read(run: Run) -> None:
    allowed = [["ordering", "Order"], ["ordering", "Colour"]]
    asked = run("loose", 1, thread="once", allowed=allowed)
    (question,) = orjson.loads(asked.body)
    refused = run("loose", 2, thread="once", resume={question["id"]: "yes"})
    assert isinstance(refused, Ended)
    assert (refused.outcome, refused.kind) == ("failed", "type_not_allowed")


def test_a_type_that_would_not_be_found_again_is_refused_as_it_is_stored(run: Run) -> None:
    refused = run("hidden", 1)
    assert isinstance(refused, Ended)
    assert "not at the top level of a module" in refused.error
    assert "ordering.Inner" in refused.error
