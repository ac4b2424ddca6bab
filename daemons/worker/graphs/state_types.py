"""Which types of its own a graph keeps in its state: those that its schemas annotate.

A checkpoint names the types of its values, and reading it builds them. Only what the graph itself says that it uses is
built, so that who can write to Redis cannot have anything else imported and called.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

# By these LangGraph's serializer knows pydantic's models and secrets, and named tuples.
STORED_BY: Final = ("model_dump", "get_secret_value", "_asdict")

Names = frozenset[tuple[str, ...]]


def annotated_types(graph: Any) -> Names:
    """(module, name) of each type in the schemas of a compiled graph and its subgraphs."""
    found: set[tuple[str, ...]] = set(getattr(graph, "_serde_allowlist", None) or ())
    seen: set[int] = set()
    todo = list(_schemas(graph))
    kept = []  # ids are only worth something as long as what has them is there
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        kept.append(each)
        todo += _parts(each)
        if isinstance(each, type) and get_origin(each) is None and _is_stored(each):
            found.add((each.__module__, each.__name__))
    return frozenset(found)


def _schemas(graph: Any) -> Iterator[Any]:
    for channel in graph.channels.values():
        for name in ("ValueType", "UpdateType"):
            with_types = getattr(channel, name, None)
            if with_types is not None:
                yield with_types
    yield getattr(graph, "context_schema", None)
    builder = getattr(graph, "builder", None)
    if builder is not None:
        yield from (builder.state_schema, builder.input_schema, builder.output_schema)
        yield from (node.input_schema for node in builder.nodes.values())
        yield from (each.input_schema for branches in builder.branches.values() for each in branches.values())
    for node in graph.nodes.values():
        if builder is None:
            yield from _results(node.bound)
        for subgraph in node.subgraphs or ():
            if hasattr(subgraph, "channels"):
                yield from _schemas(subgraph)


def _results(bound: Any) -> Iterator[Any]:
    """Of the functional API: what the tasks give that this function calls, as far as it names them."""
    function = getattr(bound, "afunc", None) or getattr(bound, "func", None)
    try:
        names = inspect.getclosurevars(inspect.unwrap(function))  # type: ignore[arg-type]  # the error is handled
    except (TypeError, ValueError):
        return
    for value in (*names.globals.values(), *names.nonlocals.values()):
        task = getattr(value, "func", None)
        if callable(task):
            yield _hints(task).get("return")


def _is_stored(each: type) -> bool:
    return (
        issubclass(each, Enum)
        or dataclasses.is_dataclass(each)
        or any(callable(getattr(each, name, None)) for name in STORED_BY)
    )


def _parts(each: Any) -> list[Any]:
    """What this annotation is made of."""
    if get_origin(each) is Literal:
        return [type(value) for value in get_args(each)]
    parts = [*get_args(each), get_origin(each), getattr(each, "__supertype__", None), getattr(each, "__value__", None)]
    if isinstance(each, type):
        parts += _hints(each).values() if each.__module__ != "builtins" else ()
    return [part for part in parts if part is not None]


def _hints(annotated: Any) -> dict[str, Any]:
    fields = getattr(annotated, "model_fields", None)
    if isinstance(fields, dict):  # of pydantic, whose classes have annotations of its own besides
        return {name: field.annotation for name, field in fields.items()}
    try:
        return get_type_hints(annotated, include_extras=True)
    except Exception:  # a name that is known to type checkers only
        own = getattr(annotated, "__annotations__", None)
        return dict(own) if isinstance(own, dict) else {}
