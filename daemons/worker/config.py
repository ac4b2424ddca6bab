"""Limits of a worker, with a reason for each default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class WorkerConfig:
    """Limits of a worker's core and executors.

    Attributes:
        slots: processor-bound tasks that run at a time (child processes); what is announced as ``slots``.
        thread_slots: runs of executor ``thread`` at a time.
        async_slots: runs of executor ``async`` at a time; they mostly wait, so many.
        max_limit: bound of the credit that is granted to the distributor (unfinished tasks, started or not).
        credit_horizon_s: work held ready beyond the running tasks, in seconds at the recent rate: covers the way to the
            distributor and back with room for a busy host, while long tasks are left to whoever is free.
        message_bytes: results are split over messages of about this size, so that heartbeats never wait long behind
            one.
        max_result_bytes: larger results fail the task.
        started_after_s: runs that last longer are reported as started.
        keep_results: results kept after sending, for a distributor that restarts before it recorded them; it can have
            at most a credit's worth and a batch or two unrecorded.
        keep_results_bytes, keep_results_s: further bounds of the same.
        drain_timeout_s: seconds that running tasks get when the worker is asked to leave without a deadline.
        stop_grace_s: between asking a run to end and SIGTERM.
        kill_grace_s: between SIGTERM and SIGKILL.
        spare_children: free children kept beside busy ones, with the handlers' modules imported; so many more than
            ``slots`` there may be. A worker keeps them also while nothing runs.
        child_idle_s: an idle child process is ended after this time; the memory is worth more than the 60 ms to start
            one.
        child_start_s: a child that is not ready after this time (imports hang) is killed.
    """

    slots: int = 2
    thread_slots: int = 4
    async_slots: int = 1024
    max_limit: int = 1024
    credit_horizon_s: float = 0.05
    message_bytes: int = 256 * 1024
    max_result_bytes: int = 256 * 1024
    started_after_s: float = 0.1
    keep_results: int = 4096
    keep_results_bytes: int = 16 * 1024 * 1024
    keep_results_s: float = 60.0
    drain_timeout_s: float = 10.0
    stop_grace_s: float = 0.5
    kill_grace_s: float = 1.0
    spare_children: int = 2
    child_idle_s: float = 60.0
    child_start_s: float = 60.0
