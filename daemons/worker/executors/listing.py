"""What handler modules, and projects of graphs, offer. Runs in a child process, so that user code is not imported into
the worker to learn names."""

from __future__ import annotations

import importlib
import os
from typing import Any

import orjson

from a2a_zmq.errors import ConfigError
from a2a_zmq.handlers import TaskOptions, options_of, resolve_executor
from a2a_zmq.llm import configure
from a2a_zmq.texts import whole_texts
from daemons.worker.executors.invoke import Handler, find, one_line, place


def answer(kind: str, *sources: str) -> None:
    """Print, as JSON, what each source offers, or ``{"error": ...}`` for those that cannot be used (see registry).

    Args:
        kind: ``--list`` for handlers, ``--list-graphs`` for files of projects.
    """
    # Modules may print while they are imported: the answer has a descriptor of its own.
    descriptor = os.dup(1)
    os.dup2(2, 1)
    with open(0, "rb", closefd=False) as given:  # a fork's sys.stdin was made for another file
        models = orjson.loads(given.read() or b"null")
    if models is not None:
        configure(**models)
    if kind == "--list":
        found = [item for source in sources for item in describe(source)]
    else:
        from daemons.worker.graphs.loading import describe_project

        found = [item for source in sources for item in describe_project(source)]
    os.write(descriptor, orjson.dumps(whole_texts(found)))


def describe(source: str) -> list[dict[str, Any]]:
    """The task types of ``module``, ``module:function`` or ``name=module:function``.

    Returns:
        ``{name, executor, timeout_s, reference}`` each, or one ``{"error": one line}``.
    """
    name, equals, reference = source.partition("=")
    if not equals:
        name, reference = "", source
    try:
        if ":" in reference:
            return [_one(name, reference)]
        if equals:
            raise ConfigError(f"{source!r}: a name needs module:function, not a whole module")
        return _module(reference)
    except ConfigError as error:
        return [{"error": str(error)}]


def _one(name: str, reference: str) -> dict[str, Any]:
    function = find(reference)
    Handler(function)  # its signature can be used
    marked = options_of(function)
    options = marked[0] if marked else TaskOptions(reference, resolve_executor(reference, function, "auto"), None)
    return _entry(name or options.name, options, reference)


def _module(module_name: str) -> list[dict[str, Any]]:
    try:
        module = importlib.import_module(module_name)
    except BaseException as error:  # sys.exit() in a module is a mistake like any other
        raise ConfigError(f"cannot import handler module {module_name!r}: {one_line(error)}{place(error)}") from error
    found: list[dict[str, Any]] = []
    for attribute, value in vars(module).items():
        for options in options_of(value):
            Handler(value)
            found.append(_entry(options.name, options, f"{module_name}:{attribute}"))
    if not found:
        raise ConfigError(f"handler module {module_name!r} has no function decorated with @task")
    return found


def _entry(name: str, options: TaskOptions, reference: str) -> dict[str, Any]:
    return {"name": name, "executor": options.executor, "timeout_s": options.timeout_s, "reference": reference}
