"""Checks snippets of Python and TOML without running them: names that they import and call are there, and take that."""

from __future__ import annotations

import ast
import importlib
import inspect
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from a2a_zmq.client.aio import AsyncFleetClient
from a2a_zmq.client.base import TaskOptions
from a2a_zmq.client.handles import AsyncTaskHandle, TaskHandle
from a2a_zmq.client.sync import FleetClient
from a2a_zmq.errors import ConfigError
from daemons.settings import MODELS
from daemons.settings_sources import load

# By what pages call these objects; both flavours have the same methods.
OBJECTS = {"fleet": (FleetClient, AsyncFleetClient), "handle": (TaskHandle, AsyncTaskHandle)}


def python_complaints(text: str, own_modules: frozenset[str]) -> list[str]:
    """What is wrong with a snippet of Python.

    Args:
        own_modules: modules that the page itself shows.
    """
    try:
        tree = compile(text, "snippet", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError as error:
        return [f"line {error.lineno}: {error.msg}"]
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.extend(import_complaints(alias.name, [], own_modules))
        elif isinstance(node, ast.ImportFrom):
            found.extend(import_complaints(node.module or "", [alias.name for alias in node.names], own_modules))
        elif isinstance(node, ast.Call):
            found.extend(call_complaints(node))
    return found


def import_complaints(module: str, names: list[str], own_modules: frozenset[str]) -> Iterator[str]:
    if module.partition(".")[0] in own_modules:
        return
    try:
        loaded = importlib.import_module(module)
    except ImportError:
        yield f"there is no module {module}"
        return
    for name in names:
        if not hasattr(loaded, name):
            try:
                importlib.import_module(f"{module}.{name}")
            except ImportError:
                yield f"{module} has no {name}"


def call_complaints(node: ast.Call) -> Iterator[str]:
    """Methods of clients and handles: they exist, and take these arguments."""
    function = node.func
    if not (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)):
        return
    for kind in OBJECTS.get(function.value.id, ()):
        method = getattr(kind, function.attr, None)
        if method is None:
            yield f"{kind.__name__} has no {function.attr}"
            continue
        if any(isinstance(each, ast.Starred) for each in node.args) or any(each.arg is None for each in node.keywords):
            continue
        signature = inspect.signature(method)
        keywords = {str(each.arg): each.value for each in node.keywords}
        try:
            signature.bind(None, *node.args, **keywords)
        except TypeError as error:
            yield f"{kind.__name__}.{function.attr}: {error}"
        if "options" in signature.parameters:
            known = {*signature.parameters, *TaskOptions.__annotations__}
            yield from (
                f"{kind.__name__}.{function.attr} has no option {name}" for name in keywords if name not in known
            )


def toml_complaints(text: str) -> list[str]:
    """What is wrong with a TOML file of settings: some role must take it as it is."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return [str(error)]
    found = []
    with tempfile.TemporaryDirectory(prefix="a2a-toml-") as name:
        file = Path(name) / "settings.toml"
        file.write_text(text, encoding="utf-8")
        for model in MODELS:
            try:
                load(model, config=file, environ={}, directory=Path(name))
            except ConfigError as error:
                found.append(f"{model.role}: {str(error).replace(str(file), 'it')}")
            else:
                return []
    return found
