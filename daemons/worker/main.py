"""``a2a-worker``: load settings → learn the handlers → open transport → build core and executors → run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from a2a_zmq.errors import StoreUnavailable
from a2a_zmq.protocol.message import Role
from daemons.runtime import permissions
from daemons.runtime.launch import EX_TEMPFAIL, Daemon
from daemons.runtime.reconfigured import Reconfigured
from daemons.runtime.serving import serve
from daemons.settings import WorkerSettings
from daemons.settings_sources import command_line
from daemons.worker import graph
from daemons.worker.config import WorkerConfig
from daemons.worker.core import WorkerCore
from daemons.worker.executors.cooperative import HANDLERS
from daemons.worker.executors.facade import Executor
from daemons.worker.executors.forks import ForkServer
from daemons.worker.registry import Registry

if TYPE_CHECKING:
    from a2a_zmq.tracing.runs import Runs


def config_of(settings: WorkerSettings) -> WorkerConfig:
    return WorkerConfig(
        slots=settings.worker_slots,
        spare_children=settings.worker_spare_children,
        thread_slots=settings.worker_thread_slots,
        async_slots=settings.worker_async_slots,
        max_limit=settings.worker_max_held,
        max_result_bytes=settings.max_payload_bytes,
        drain_timeout_s=settings.drain_timeout_s,
    )


def checkpoints_of(settings: WorkerSettings) -> dict[str, Any]:
    """Where graphs keep their checkpoints, and for how long; goes to the child processes through a socket."""
    redis = settings.redis_config()
    return {
        "url": redis.url(),
        "connection": redis.tls_options(),
        "keep": settings.checkpoint_keep,
        "ttl_s": settings.checkpoint_ttl_s,
        "question_ttl_s": max(settings.checkpoint_ttl_s, settings.question_ttl_s),
        "stream_bytes": settings.stream_max_kb * 1024,
        "stream_ttl_s": settings.stream_ttl_s,
    }


def models_of(settings: WorkerSettings) -> dict[str, Any] | None:
    """What runs are told of chat models: names of keys, not the keys.

    Raises:
        ConfigError: a file with a key is missing.
    """
    providers = settings.llm_providers
    if not providers:
        return None
    for name, provider in providers.items():
        if provider.api_key_file is not None:
            provider.api_key(name)
    redis = settings.redis_config()
    return {
        "providers": {name: each.model_dump(mode="json", exclude_defaults=True) for name, each in providers.items()},
        "redis_url": redis.url(),
        "connection": redis.tls_options(),
    }


def runs_of(daemon: Daemon) -> Runs | None:
    """Traces of what handlers do; None, and nothing imported, where nothing is traced."""
    if daemon.tracer is None:
        return None
    from a2a_zmq.tracing.runs import Runs

    return Runs(daemon.tracer)


async def check_redis(settings: WorkerSettings, log: Any) -> None:
    """See that Redis lets graphs and budgets do what they need. If it is away it may be back when they need it.

    Raises:
        StoreUnavailable: it does not let us.
        ConfigError: a file for TLS cannot be used.
    """
    bounded = any(provider.bounded for provider in settings.llm_providers.values())
    needs = (permissions.GRAPHS if settings.worker_graphs else ()) + (permissions.MODELS if bounded else ())
    if not needs:
        return
    redis = settings.redis_config()
    redis.tls_context()
    try:
        await permissions.require(redis, needs)
    except StoreUnavailable as error:
        if error.fatal:
            raise
        log.warning("redis_away", why=str(error))


async def open_worker(settings: WorkerSettings) -> Daemon:
    daemon = Daemon(settings, Role.WORKER)
    # Handlers are listed by a child process: user modules are never imported here.
    models = models_of(settings)
    await check_redis(settings, daemon.log)
    forks = (
        ForkServer(list(settings.worker_graphs), traces=daemon.tracer is not None) if settings.worker_graphs else None
    )
    registry = await asyncio.to_thread(Registry.load, settings.worker_handlers, settings.worker_graphs, models, forks)
    config = config_of(settings)
    core = WorkerCore(
        settings.worker_id,
        settings.distributor_id,
        config=config,
        task_types=registry.kinds(),
        labels=settings.worker_labels,
        meter=daemon.meter,
        tracer=daemon.tracer,
    )
    daemon.add_spoke(core, settings.distributor_id, settings.spoke_addresses())
    await daemon.assemble(core, graph.supervisor(daemon.meter, daemon.steps))
    checkpoints = checkpoints_of(settings) if settings.worker_graphs else None
    executor = Executor(
        registry,
        config,
        daemon.shell.events,
        checkpoints=checkpoints,
        models=models,
        forks=forks,
        runs=runs_of(daemon),
    )
    daemon.shell.runner = executor
    executor.keep_warm()
    daemon.on_exit.append(executor.close)
    if forks is not None:
        daemon.on_exit.append(partial(asyncio.to_thread, forks.close))
    daemon.shell.chores.append(lambda: core.executor_health(*executor.health()))

    def use(new: WorkerSettings) -> None:
        nonlocal models
        daemon.shell.event(Reconfigured(config_of(new)))
        before, models = models, models_of(new)
        if before != models:
            executor.use_models(models or {**(before or {}), "providers": {}})

    daemon.reloader.accepts = models_of
    daemon.reloader.use.append(use)
    return daemon


def main(argv: Sequence[str] | None = None) -> int:
    status = serve(command_line(WorkerSettings, argv), Role.WORKER, open_worker)
    if status == EX_TEMPFAIL or any(thread.name.startswith(HANDLERS) for thread in threading.enumerate()):
        # All is said and done, but Python waits for threads of pools at its end, for ever where a handler hangs in one.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
