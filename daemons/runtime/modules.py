"""Importing what users name in settings: a module, or a file; and where child processes find the same modules."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType


def load_module(name: str) -> ModuleType:
    """Import a module by its dotted name, or by the absolute path of its file."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    # By its dotted name where it belongs to a package or lies on the path, so that it is not there twice.
    source = Path(name)
    for entry in sys.path:
        with contextlib.suppress(ValueError):
            parts = source.relative_to(entry or Path.cwd()).with_suffix("").parts
            if all(part.isidentifier() for part in parts):
                module = importlib.import_module(".".join(parts))
                if getattr(module, "__file__", None) == name:
                    return module
    module_name = "_graph_" + source.with_suffix("").as_posix().strip("/").replace("/", "_").replace("-", "_")
    known = sys.modules.get(module_name)
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(module_name, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # annotations of the module are looked up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def search_path() -> list[str]:
    """Where this process finds modules, without the entry that means "here"."""
    return [entry or str(Path.cwd()) for entry in sys.path]


def child_environment() -> dict[str, str]:
    """The environment in which a child finds the same modules as this process."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(search_path())}
