"""Limits so small that every one of them is met. (A submission is taken whole, so what is taken in all stays larger
than the client's batch.)"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from a2a_zmq.protocol.ports import Port
from daemons.coordinator.core import CoordinatorCore
from daemons.distributor.core import DistributorCore
from daemons.runtime.contract import Core
from daemons.worker.config import WorkerConfig


def tighten(core: Core, chooser: random.Random) -> None:
    """Set the limits of a core that was just made; a worker is made with :func:`worker_config`."""
    if isinstance(core, CoordinatorCore):
        _limit(
            core.desk,
            assign_window=chooser.choice((1, 3, 10)),
            move_chunk=chooser.choice((1, 2)),
            message_bytes=chooser.choice((400, 2_000)),
            max_staged_tasks=chooser.choice((41, 80)),
            max_pending_checks=chooser.choice((1, 4)),
            max_backlog_bytes=chooser.choice((2_000, 100_000)),
        )
        core.config = core.desk.clients._config = core.desk.config
    elif isinstance(core, DistributorCore):
        _limit(
            core._memory,
            message_bytes=chooser.choice((300, 1_500)),
            write_bytes=chooser.choice((300, 3_000)),
            backlog_slice=1,
            max_unreported=chooser.choice((1, 4)),
            history_per_cut=3,
            max_unrecorded=chooser.choice((1, 5)),
            sweep_slice=3,
        )
        core._journal._config = core._memory.config


def _limit(owner: Any, **limits: int) -> None:
    owner.config = dataclasses.replace(owner.config, **limits)


def worker_config(chooser: random.Random) -> WorkerConfig:
    return WorkerConfig(
        slots=1,
        message_bytes=200,
        async_slots=chooser.choice((1, 3)),
        max_limit=chooser.choice((2, 8)),
        keep_results=chooser.choice((1, 3, 50)),
    )


def tighten_port(port: Port, chooser: random.Random) -> None:
    """Small outboxes and windows."""
    sizes = {"outbox_max_messages": chooser.choice((3, 8)), "window_messages": chooser.choice((1, 2))}
    unbounded: Any = port  # hubs and spokes have these members, the protocol does not say so
    unbounded.config = dataclasses.replace(unbounded.config, ack_every=1, **sizes)
    for peer in unbounded._peers.values():
        peer.link._config = unbounded.config
