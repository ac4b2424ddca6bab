"""Which task types a worker has, and how each is run.

Sources: the built-in types, and the configuration's ``worker_handlers``, each of which is a module (all its ``@task``
functions), a ``module:function`` (its declared name; without ``@task`` the task type is the text itself) or
``name=module:function``; and ``worker_graphs``, LangGraph projects. Only what the configuration names can be run: a
client's task type is looked up here and never imported.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from a2a_zmq.errors import ConfigError
from daemons import logs
from daemons.runtime.modules import child_environment
from daemons.worker.builtin import BUILTIN
from daemons.worker.kinds import TaskKind

if TYPE_CHECKING:
    from daemons.worker.executors.forks import ForkServer

# Importing a machine-learning framework takes tens of seconds on a cold disk; longer is a mistake worth telling.
LIST_TIMEOUT_S = 120.0
# What takes longer is named in the log while it lasts.
SLOW_IMPORT_S = 5.0


class Registry:
    """Task types by name."""

    def __init__(self, kinds: Mapping[str, TaskKind] | None = None) -> None:
        self._kinds: dict[str, TaskKind] = dict(BUILTIN if kinds is None else kinds)

    @classmethod
    def load(
        cls,
        sources: Iterable[str] = (),
        graphs: Iterable[str] = (),
        models: dict[str, Any] | None = None,
        forks: ForkServer | None = None,
        started: Mapping[str, Any] | None = None,
    ) -> Registry:
        """The built-in types and what the sources offer; starts short-lived child processes, one for all handlers, and
        one for each project.

        Args:
            sources: handlers (see the module's text).
            graphs: ``langgraph.json`` files; each of their graphs is the task type ``graph:NAME``.
            models: arguments of :func:`a2a_zmq.llm.configure`: modules may make chat models as they are imported.
            forks: has imported LangGraph.
            started: how child processes are started where that is not as this one was: arguments of ``subprocess.run``.

        Raises:
            ConfigError: a source cannot be used; the text names it. Two sources with one task type are refused too.
        """
        registry = cls()
        wanted, projects = list(sources), list(graphs)
        if wanted:
            registry._add("worker_handlers", _list("worker_handlers", "--list", wanted, models, started=started))
        listed: list[dict[str, Any]] = []
        for project in projects:  # each in a process of its own: two of them may have modules of the same name
            listed += _list("worker_graphs", "--list-graphs", [project], models, forks, started=started)
        registry._add("worker_graphs", listed)
        return registry

    def get(self, task_type: str) -> TaskKind | None:
        return self._kinds.get(task_type)

    def kinds(self) -> dict[str, TaskKind]:
        """Task type → how it is run; what :class:`daemons.worker.core.WorkerCore` wants."""
        return dict(self._kinds)

    def names(self) -> list[str]:
        return sorted(self._kinds)

    def _add(self, setting: str, entries: list[dict[str, Any]]) -> None:
        user: dict[str, str] = {}
        for entry in entries:
            if "error" in entry:
                raise ConfigError(f"{setting}: {entry['error']}")
            name, reference = entry["name"], entry["reference"]
            if user.get(name, reference) != reference:
                raise ConfigError(f"{setting}: task type {name!r} is both {user[name]} and {reference}")
            if name in BUILTIN:
                raise ConfigError(f"{setting}: {reference} takes the name of the built-in task type {name!r}")
            user[name] = reference
            self._kinds[name] = TaskKind(entry["executor"], entry["timeout_s"], reference, graph=entry.get("graph", ""))


def _list(
    setting: str,
    option: str,
    sources: list[str],
    models: dict[str, Any] | None,
    forks: ForkServer | None = None,
    *,
    started: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    given = orjson.dumps(models)
    names = ", ".join(sources)
    log = logs.get_logger("registry")
    log.debug("importing", setting=setting, names=names)  # a setting that is wrong ends with one line
    told = {"setting": setting, "names": names, "gives_up_after_s": LIST_TIMEOUT_S}
    slow = threading.Timer(SLOW_IMPORT_S, log.info, ("still_importing",), told)
    slow.daemon = True
    slow.start()
    try:
        forked = forks.run([option, *sources], given, LIST_TIMEOUT_S) if forks is not None else None
        done = forked or subprocess.run(  # noqa: S603 - our own module, names from the configuration
            [sys.executable, "-m", "daemons.worker.executors.child", option, *sources],
            input=given,
            capture_output=True,
            timeout=LIST_TIMEOUT_S,
            check=False,
            **{"env": child_environment(), **(started or {})},
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{setting}: importing {names} took more than {LIST_TIMEOUT_S:g} s") from None
    finally:
        slow.cancel()
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        how = f"exit status {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
        raise ConfigError(f"{setting}: importing {names} ended with {how}: {last[0][:300]}")
    listed: list[dict[str, Any]] = orjson.loads(done.stdout)
    return listed
