"""Importing a project's graphs: in child processes only, never in the worker itself."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from a2a_zmq.errors import ConfigError
from daemons.runtime.modules import load_module
from daemons.worker.executors.invoke import one_line, place
from daemons.worker.graphs.fingerprint import fingerprint
from daemons.worker.graphs.project import PREFIX, Project, read_project

REFERENCE = "graph:"

_projects: dict[str, Project] = {}


def open_project(file: str) -> Project:
    """Read a project once, and let its code find its modules and environment variables.

    Raises:
        ConfigError: it cannot be used here; the text names file and key.
    """
    project = _projects.get(file)
    if project is None:
        project = read_project(Path(file))
        absent = project.missing()
        if absent:
            named = ", ".join(absent)
            raise ConfigError(f"{project.file}: dependencies: not installed in {sys.prefix}: {named}")
        sys.path[:0] = [each for each in project.path if each not in sys.path]
        for name, value in project.env.items():
            os.environ.setdefault(name, value)
        _projects[file] = project
    return project


class Graph:
    """A graph of a project as it was found: compiled, a builder, or a function that makes one.

    Attributes:
        name: its name in ``langgraph.json``.
        hash: see :mod:`daemons.worker.graphs.fingerprint`; known once it was opened.
        serializer: of its checkpoints, which builds the types that its schemas annotate and those that its project
            allows; known once it was opened.
    """

    def __init__(
        self, name: str, found: Any, where: str, allowed_types: frozenset[tuple[str, ...]] | None = frozenset()
    ) -> None:
        self.name = name
        self._found = found
        self._where = where
        self._allowed_types = allowed_types
        self.hash = ""
        self.serializer: Any = None

    def made_by_function(self) -> bool:
        return not _is_graph(self._found)

    @asynccontextmanager
    async def opened(self, config: dict[str, Any], saver: Any) -> AsyncIterator[Any]:
        """The compiled graph with this checkpoint saver, for one run.

        Raises:
            ConfigError: what was found, or made, is no graph.
        """
        if not self.made_by_function():
            yield self._known(self._found, saver)
            return
        arguments = (config,) if _takes_config(self._found) else ()
        made = self._found(*arguments)
        if inspect.isawaitable(made):
            made = await made
        async with contextlib.AsyncExitStack() as stack:
            if hasattr(made, "__aenter__"):
                made = await stack.enter_async_context(made)
            elif hasattr(made, "__enter__") and not _is_graph(made):
                made = stack.enter_context(made)
            if not _is_graph(made):
                raise ConfigError(f"{self._where}: made a {type(made).__name__}, which is no graph")
            yield self._known(made, saver)

    def _known(self, graph: Any, saver: Any) -> Any:
        """The graph with this saver, which gets the graph's serializer: LangGraph itself tells a saver of the types
        that a graph annotates only as it compiles the graph with it, and only where the environment asks for that."""
        from langgraph.graph import StateGraph

        compiled = graph.compile() if isinstance(graph, StateGraph) else graph
        if not self.hash:
            self.hash = fingerprint(compiled)
            self.serializer = _serializer(compiled, self._allowed_types)
        if saver is not None:
            saver.serde = self.serializer
        return compiled.copy({"checkpointer": saver})


def load_graph(reference: str) -> Graph:
    """The graph behind ``graph:FILE#NAME``.

    Raises:
        ConfigError: it cannot be imported, or is no graph.
    """
    file, _, name = reference.removeprefix(REFERENCE).rpartition("#")
    project = open_project(file)
    module_name, variable = project.graphs[name]
    where = f"{project.file}: graphs.{name}"
    try:
        module = load_module(module_name)
    except (Exception, SystemExit) as error:  # sys.exit() in a module is a mistake like any other
        raise ConfigError(f"{where}: cannot import {module_name}: {one_line(error)}{place(error)}") from error
    found = getattr(module, variable, None)
    if found is None:
        raise ConfigError(f"{where}: {module_name} has no {variable!r}")
    if not (_is_graph(found) or callable(found)):
        raise ConfigError(
            f"{where}: {variable!r} is a {type(found).__name__}, not a graph or a function that makes one"
        )
    return Graph(name, found, where, project.allowed_types)


def describe_project(file: str) -> list[dict[str, Any]]:
    """What a worker needs to know of a project's graphs.

    Returns:
        ``{name, executor, timeout_s, reference, graph}`` each, or one ``{"error": one line}``.
    """
    import asyncio

    where = file
    try:
        project = open_project(file)
        described: list[dict[str, Any]] = []
        for name in project.graphs:
            reference = f"{REFERENCE}{project.file}#{name}"
            where = f"{project.file}: graphs.{name}"
            graph_hash = asyncio.run(_hash_of(load_graph(reference)))
            described.append(
                {
                    "name": PREFIX + name,
                    "executor": "process",
                    "timeout_s": None,
                    "reference": reference,
                    "graph": graph_hash,
                }
            )
    except ConfigError as error:
        return [{"error": str(error)}]
    except BaseException as error:  # of a function that makes a graph, or a graph that is none
        return [{"error": f"{where}: {one_line(error)}"}]
    return described


async def _hash_of(graph: Graph) -> str:
    async with graph.opened({"configurable": {}}, None):
        return graph.hash


def _is_graph(value: Any) -> bool:
    from langgraph.graph import StateGraph
    from langgraph.pregel import Pregel

    return isinstance(value, (Pregel, StateGraph))


def _serializer(graph: Any, allowed_types: frozenset[tuple[str, ...]] | None) -> Any:
    if allowed_types is None:  # the project says so: LangGraph's default, which builds whatever it finds
        from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

        return JsonPlusSerializer(allowed_msgpack_modules=True)
    from a2a_zmq.checkpoint import strict_serializer
    from daemons.worker.graphs.state_types import annotated_types

    return strict_serializer(annotated_types(graph) | allowed_types)


def _takes_config(function: Any) -> bool:
    try:
        return bool(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False
