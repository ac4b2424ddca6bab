"""Limits and times of a distributor, each with the reason for its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# A task that was running in so many workers as they died is a suspect.
SUSPECT_DEATHS: Final = 2


@dataclass(slots=True)
class DistributorConfig:
    """What an operator or a test may want otherwise; the defaults suit one site with tens of workers.

    Attributes:
        address: where workers reach us; told to the coordinator for its status.
        adoption_grace_s: how long a new owner waits for workers to show what they still hold. A worker's
            socket tries again every 2 s at the latest (2.5 s with jitter), then comes HELLO; waiting longer would only
            delay tasks whose worker is gone too.
        adoption_settle_s: when every known worker is back, wait this much more: results that they could not deliver
            come right behind their inventory, and must not be run again.
        in_progress_after_s: a task that runs longer than this gets its ``in_progress`` record. Shorter ones would
            pay a second write for a status that nobody has time to read.
        max_attempts: attempts of a task that names no number itself.
        max_worker_deaths: a task that was running in this many workers as they died is a suspect: it runs in a process
            of its own from then on, or is tried first where there are many.
        most_worker_deaths: from this many on a death in its trial is enough, although it runs in a process of its own.
            Such a one can hardly kill its worker, but where a container is killed as a whole for its memory it does.
        trial_delay_s: before a trial. Workers that die for a common reason (their host, its memory) die within this
            time, and a supervisor has started them again.
        trial_s: length of the first trial, counted from the start of the run; doubled with every further death.
        retry_base_s: least delay before a failed attempt is repeated; long enough for a transient fault to pass.
        retry_cap_s: most delay between attempts.
        retry_budget_share, retry_budget_per_s: what failed is repeated without more delay for this share of the
            successes of its task type, and so many a second besides; what is above waits longer.
        retry_budget_burst_s: a budget that was not used holds so many seconds' worth.
        retry_put_off_s: most that a retry waits for its budget: what was put off may prove that the trouble is over.
        policy_timeout_s: how long failed attempts wait for the user's retry policy; 0: there is none.
        policy_rest_s: a policy that failed a few times in a row is left alone for so long, and nothing waits for it.
        policy_batch: failed attempts that it is asked about at a time; what comes on top goes the built-in way.
        overdue_slack_s: added to an attempt's time limit before we end it ourselves. The worker enforces the limit
            with a cooperative phase and two signals, which takes a few seconds.
        message_bytes: a message with several tasks is cut here: far below the frame limit of 1 MiB, and short enough
            that heartbeats do not wait behind it.
        write_bytes: one transaction carries no more than this, so that Redis stays responsive.
        backlog_slice: records of re-queued tasks written with one batch after a restart; results go first.
        max_unrecorded: results that may wait for the store before dispatching stops (count).
        max_unrecorded_bytes: the same in bytes: what a long outage may cost in memory.
        recent_ids: ended tasks that are remembered (twice this at most), so that an assignment repeated after a
            coordinator's restart is not run again. Several seconds of full load.
        lazy_flush_s: history lines and a changed status wait this long for a write to ride on.
        blocked_s: a peer whose outbox was full is left alone this long.
        resync_retry_s: a read of the store that failed is repeated after this.
        sweep_interval_s: the reconciler begins a round over all live tasks no more often than this, and when the last
            one is through.
        sweep_slice: tasks that it checks in one step: about a millisecond's work.
        vanished_s: a worker that says for this long that it holds nothing, although we count tasks on it, and that
            got and reported nothing meanwhile, does not have them.
        drain_s: time that running tasks have after the coordinator's ``drain``.
        drain_flush_s: after a drain's deadline, results may wait this long for the store.
        max_unreported: result messages kept for a coordinator that cannot be reached; older ones it finds in the store.
        history_per_cut: history lines of one write; what is above is counted, so that a flood cannot fill the store.
        local_tasks: running tasks shown in the local state.
    """

    address: str = ""
    adoption_grace_s: float = 3.0
    adoption_settle_s: float = 0.15
    in_progress_after_s: float = 0.1
    max_attempts: int = 3
    max_worker_deaths: int = SUSPECT_DEATHS
    most_worker_deaths: int = 6
    trial_delay_s: float = 1.0
    trial_s: float = 0.5
    retry_base_s: float = 0.05
    retry_cap_s: float = 10.0
    retry_budget_share: float = 0.2
    retry_budget_per_s: float = 10.0
    retry_budget_burst_s: float = 10.0
    retry_put_off_s: float = 60.0
    policy_timeout_s: float = 0.0
    policy_rest_s: float = 5.0
    policy_batch: int = 1_000
    overdue_slack_s: float = 10.0
    message_bytes: int = 256 * 1024
    write_bytes: int = 4 * 1024 * 1024
    backlog_slice: int = 2_000
    max_unrecorded: int = 20_000
    max_unrecorded_bytes: int = 64 * 1024 * 1024
    recent_ids: int = 65_536
    lazy_flush_s: float = 1.0
    blocked_s: float = 0.05
    resync_retry_s: float = 1.0
    sweep_interval_s: float = 10.0
    sweep_slice: int = 1_000
    vanished_s: float = 5.0
    drain_s: float = 30.0
    drain_flush_s: float = 5.0
    max_unreported: int = 256
    history_per_cut: int = 256
    local_tasks: int = 50
