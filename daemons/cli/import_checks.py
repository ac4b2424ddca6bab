"""Whether a worker can import what it is to run: ``a2actl config check`` tries it, in processes like its own."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from a2a_zmq.errors import ConfigError
from daemons.cli.config_targets import Target
from daemons.host_files import STATE, exists, host_variables
from daemons.runtime.modules import child_environment
from daemons.settings import WorkerSettings
from daemons.settings_check import ERROR, WARNING, Checked, Finding

# As units of this host run.
SYSTEM_USER: Final = "a2a-zmq"
SETTINGS: Final = ("worker_handlers", "worker_graphs")


def import_checks(good: Iterable[tuple[Target, Checked]]) -> Iterator[Finding]:
    """What workers would end with as they start; each set of modules is imported once."""
    seen: set[str] = set()
    for target, checked in good:
        settings = checked.settings
        if not isinstance(settings, WorkerSettings):
            continue
        started = _started(target)
        for name in SETTINGS:
            sources = _sources(settings, name)
            key = repr((name, sources, started["env"].get("PYTHONPATH"), started.get("cwd")))
            if sources and key not in seen:
                seen.add(key)
                yield from _of_sources(target, checked, name, started)


def _sources(settings: WorkerSettings, name: str) -> list[str]:
    """Without projects that are not there, which is told already."""
    if name == "worker_graphs":
        return [each for each in settings.worker_graphs if exists(Path(each).expanduser())]
    return list(settings.worker_handlers)


def _of_sources(target: Target, checked: Checked, name: str, started: Mapping[str, Any]) -> Iterator[Finding]:
    from daemons.worker.main import models_of
    from daemons.worker.registry import Registry

    settings = checked.settings
    assert isinstance(settings, WorkerSettings)
    try:
        models = models_of(settings)
    except ConfigError:  # a key of a model is missing, which is told already
        return
    sources = _sources(settings, name)
    try:
        if name == "worker_handlers":
            Registry.load(sources, models=models, started=started)
        else:
            Registry.load(graphs=sources, models=models, started=started)
    except ConfigError as error:
        problem = str(error).removeprefix(f"{name}: ")
        if "No module named" in problem and not target.is_unit:
            # Only of units it is known where their agents look.
            hint = "its directory belongs into PYTHONPATH; the worker's own may be another one than here"
            yield checked.finding(WARNING, name, problem, hint)
        else:
            yield checked.finding(ERROR, name, problem)


def _started(target: Target) -> dict[str, Any]:
    """How the worker would start them: its variables, and its user if we may become that."""
    variables = dict(target.environ)
    for unit in target.unit_variables:
        variables |= {each.name: each.value for each in unit.found}
    for path in target.host_files:
        variables |= host_variables(path)
    given = variables.pop("PYTHONPATH", "")
    ours = child_environment()["PYTHONPATH"]
    where = os.pathsep.join(dict.fromkeys(filter(None, [*ours.split(os.pathsep), *given.split(os.pathsep)])))
    started: dict[str, Any] = {"env": {**variables, "PYTHONPATH": where, "PYTHONDONTWRITEBYTECODE": "1"}}
    if target.is_unit and os.geteuid() == 0:
        try:
            user = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            return started
        started["env"]["HOME"] = user.pw_dir
        started |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        if STATE.is_dir():
            started["cwd"] = STATE
    return started
