"""A LangGraph project: what its ``langgraph.json`` says, checked and with paths made absolute.

Only files and texts are looked at here; nothing of the project is imported. Keys that concern LangGraph's own server
(``http``, ``auth``, ``ui``, ``dockerfile_lines`` …) are left alone, so that existing projects run unchanged.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson

from a2a_zmq.errors import ConfigError
from daemons.env_files import read_env_file

# Graph names are part of task types and metric labels.
GRAPH_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# The name at the beginning of a requirement ("langchain-openai>=0.3; python_version > '3.10'").
REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
# Task type of the graph NAME.
PREFIX = "graph:"


class Project:
    """A project.

    Attributes:
        file: its ``langgraph.json``.
        graphs: graph name → (module file or dotted module name, variable).
        path: directories to be put before ``sys.path``, in this order.
        env: environment variables that its code expects; those that are set already go first.
        requirements: names of distributions that it asks for.
        allowed_types: (module, name) of types that checkpoints may hold besides those that graphs annotate; None for
            all.
    """

    def __init__(
        self,
        file: Path,
        graphs: dict[str, tuple[str, str]],
        path: list[str],
        env: dict[str, str],
        requirements: list[str],
        *,
        allowed_types: frozenset[tuple[str, ...]] | None = frozenset(),
    ) -> None:
        self.file = file
        self.graphs = graphs
        self.path = path
        self.env = env
        self.requirements = requirements
        self.allowed_types = allowed_types

    def missing(self) -> list[str]:
        """Distributions that are asked for and not installed where this runs."""
        absent: list[str] = []
        for name in self.requirements:
            try:
                version(name)
            except PackageNotFoundError:
                absent.append(name)
        return absent


def read_project(file: Path) -> Project:
    """What ``langgraph.json`` says.

    Raises:
        ConfigError: it cannot be read or used; the text names file and key.
    """
    file = file.absolute()
    content = _content(file)
    needed = content.get("python_version")
    if needed is not None and not isinstance(needed, str):
        raise ConfigError(f'{file}: python_version: expected a text like "3.11", got {needed!r}')
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if needed is not None and needed != here:
        raise ConfigError(f"{file}: python_version: the project wants Python {needed}, this worker runs {here}")
    path, requirements = _dependencies(file, content.get("dependencies", []))
    graphs, env = _graphs(file, content.get("graphs")), _env(file, content.get("env"))
    allowed_types = _allowed_types(file, content.get("checkpointer"))
    return Project(file, graphs, path, env, requirements, allowed_types=allowed_types)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{file}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a JSON object")
    return content


def _graphs(file: Path, value: Any) -> dict[str, tuple[str, str]]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f'{file}: graphs: expected an object of name → "./file.py:variable", not empty')
    graphs: dict[str, tuple[str, str]] = {}
    for name, given in value.items():
        text = given.get("path") if isinstance(given, dict) else given
        where = f"{file}: graphs.{name}"
        if GRAPH_NAME.match(name) is None:
            raise ConfigError(f"{where}: use up to 100 ASCII letters, digits and _ . - for a graph's name")
        module, colon, variable = text.rpartition(":") if isinstance(text, str) else ("", "", "")
        if not colon or not module or VARIABLE.match(variable) is None:
            raise ConfigError(f'{where}: expected "./file.py:variable", got {text!r}')
        if module.endswith(".py") or "/" in module:
            source = (file.parent / module).resolve()
            if source.suffix != ".py":
                raise ConfigError(f"{where}: {module} is no Python file")
            if not source.is_file():
                raise ConfigError(f"{where}: there is no file {source}")
            module = str(source)
        graphs[name] = (module, variable)
    return graphs


def _dependencies(file: Path, value: Any) -> tuple[list[str], list[str]]:
    """Directories for ``sys.path``, and names of distributions."""
    if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
        raise ConfigError(f"{file}: dependencies: expected a list of directories and package names")
    path: list[str] = []
    names: list[str] = []
    for each in value:
        if each.startswith("."):
            directory = (file.parent / each).resolve()
            if not directory.is_dir():
                raise ConfigError(f"{file}: dependencies: there is no directory {directory}")
            path.append(str(directory))
            if (directory / "src").is_dir():
                path.append(str(directory / "src"))
            names += _named_in(directory)
        elif (found := REQUIREMENT.match(each)) is not None:
            names.append(found[1])
        else:
            raise ConfigError(f"{file}: dependencies: {each!r} is neither a directory (./…) nor a package's name")
    return path, sorted(set(names))


def _named_in(directory: Path) -> list[str]:
    """Distributions that a local package asks for."""
    found: list[str] = []
    requirements, pyproject = directory / "requirements.txt", directory / "pyproject.toml"
    if requirements.is_file():
        lines = requirements.read_text(encoding="utf-8", errors="replace").splitlines()
        found += [line for line in lines if not line.lstrip().startswith(("#", "-", "."))]
    if pyproject.is_file():
        try:
            project = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{pyproject}: {error}") from None
        listed = project.get("dependencies") if isinstance(project, dict) else None
        found += [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []
    # What holds elsewhere only ("; python_version < '3.11'", "; sys_platform == 'win32'") is not judged.
    return [match[1] for each in found if ";" not in each and (match := REQUIREMENT.match(each)) is not None]


def _allowed_types(file: Path, checkpointer: Any) -> frozenset[tuple[str, ...]] | None:
    """Of ``checkpointer`` only what says which types its checkpoints may hold concerns us."""
    serde = checkpointer.get("serde") if isinstance(checkpointer, dict) else None
    value = serde.get("allowed_msgpack_modules") if isinstance(serde, dict) else None
    if value is True:
        return None
    if value in (None, False):
        return frozenset()
    if not isinstance(value, list) or not all(
        isinstance(each, list) and len(each) == 2 and all(isinstance(name, str) and name for name in each)
        for each in value
    ):
        where = f"{file}: checkpointer.serde.allowed_msgpack_modules"
        raise ConfigError(f'{where}: expected a list of ["package.module", "Type"], true, or null')
    return frozenset((module, name) for module, name in value)


def _env(file: Path, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, dict):
        if not all(isinstance(text, str) for text in value.values()):
            raise ConfigError(f"{file}: env: every value must be a text")
        return dict(value)
    if not isinstance(value, str):
        raise ConfigError(f"{file}: env: expected a path or an object of names and values")
    return read_env_file(file.parent / value)
