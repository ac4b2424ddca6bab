"""Runs that are given ahead: each waits in a busy child for the one before it, and is taken back if it could begin
elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from daemons.worker.executors.fitting import fits
from daemons.worker.executors.process_child import ChildProcess, Job

# One that waits behind another this long while a child is free is taken back.
RECALL_AFTER_S: Final = 0.005
# A larger one is not given ahead: it may fill the socket, and the request to give it back wait behind it.
AHEAD_BYTES: Final = 64 * 1024


def may_wait_in(child: ChildProcess, job: Job) -> bool:
    """The child has one run, and may be given this one too."""
    return (
        child.ready
        and child.recalled is None
        and len(child.jobs) == 1
        and len(job.frame) <= AHEAD_BYTES
        and fits(child, job.reference)
    )


def recall_at(child: ChildProcess) -> float:
    """From when on a free child is reason enough to take back what waits here; inf where nothing does."""
    return child.jobs[1].given_at + RECALL_AFTER_S if len(child.jobs) > 1 and child.recalled is None else math.inf


def behind(children: Iterable[ChildProcess], now: float, *, others_free: bool) -> list[Job]:
    """What is to be taken back.

    Args:
        others_free: another child could begin it. What was asked back already is so in any case.
    """
    return [
        child.jobs[1]
        for child in children
        if len(child.jobs) > 1 and (child.recalled is not None or (others_free and now >= recall_at(child)))
    ]
