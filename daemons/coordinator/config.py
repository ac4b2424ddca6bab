"""Limits and times of a coordinator, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class CoordinatorConfig:
    """See the comment at each member; durations in seconds, sizes in bytes.

    Attributes:
        max_live_tasks: unfinished tasks in the whole fleet. One costs about 0.5 KiB here besides its
            payload, so the default is about 250 MiB: what a small host can give.
        max_live_bytes: encoded records of all unfinished tasks together.
        client_share: one identity's tasks (and their bytes) may be so many times what is still free. Alone it gets four
            fifths, two greedy ones get four ninths each, and there is always room left for whoever comes next.
        max_staged_tasks: accepted tasks that wait for the store; more only means that Redis is slower than the
            clients, and a later answer.
        max_batch: tasks of one submission; larger ones would hold up everybody else's messages.
        max_payload_bytes: encoded payload of one task; larger data goes by reference. A quarter of the largest frame.
        max_metadata_bytes: encoded metadata of one task.
        assign_window: unfinished tasks that a distributor has been sent. It keeps distributors small and priorities
            effective (what is not sent can still be overtaken), and is far more than a distributor does in one round
            trip.
        message_bytes: size at which a message is cut, so that a heartbeat never waits long behind one.
        move_chunk: tasks that leave the inbox in one wake-up, so that a full inbox does not stall anybody.
        max_pending_questions: requests that wait for a read of the store.
        max_pending_checks: of these, submissions; each holds a whole message.
        question_timeout_s: how long a read of the store may take before its request is refused as UNAVAILABLE. Reads of
            a whole section have no such limit: they take as long as it is large.
        retry_after_s: what a refused client is told; jittered, so that clients do not come back at once.
        requeue_delay_s: pause after a peer's outbox was full; about what it takes a peer to acknowledge a window.
        recent_results, recent_bytes: result records kept in memory for questions about what just finished.
        max_backlog_bytes: results that wait for a client that does not take them; beyond, they are dropped here (they
            stay in the store, where ``watch_tasks`` finds them).
        max_watched: further subscriptions (beside each task's submitter).
        inbox_overdue_s: a task without a capable distributor for so long is reported.
        version_lag_s: a distributor may hold less than it was sent and report nothing for so long before the store is
            read.
        reconcile_pause_s: at least so long between two reads of one distributor's whole section.
        distributor_absent_s: an absent distributor with unfinished tasks is reported after so long.
        distributor_failover_s: the tasks of a distributor that is away, and has held no lease for so long, go to others
            that can run them; 0: never. Longer than a restart takes: it or its standby need not run them again.
        policy_timeout_s: how long tasks wait for the user's placement policy; 0: there is none.
        policy_rest_s: a policy that failed a few times in a row is left alone for so long, and no task waits for it.
        list_limit: records in one answer to ``list_tasks``.
        list_scan: live tasks that one ``list_tasks`` looks at, so that its cost does not grow with what waits.
        history_limit: events in one answer to ``history``.
        audit_interval_s: pause between two audits of all tasks by ourselves; 0 for none.
        audit_pace_s: pause between two pages (of some 500 records) of such an audit.
        audit_again_s: what seems wrong is looked at again after so long; what was on its way has come by then.
        audit_per_s: refusals that are written to the history each second; more would let an attacker fill it.
    """

    max_live_tasks: int = 500_000
    max_live_bytes: int = 512 * 1024 * 1024
    client_share: float = 4.0
    max_staged_tasks: int = 20_000
    max_batch: int = 2_000
    max_payload_bytes: int = 256 * 1024
    max_metadata_bytes: int = 8 * 1024
    assign_window: int = 20_000
    message_bytes: int = 256 * 1024
    move_chunk: int = 2_000
    max_pending_questions: int = 1_000
    max_pending_checks: int = 64
    question_timeout_s: float = 5.0
    retry_after_s: float = 0.25
    requeue_delay_s: float = 0.05
    recent_results: int = 20_000
    recent_bytes: int = 16 * 1024 * 1024
    max_backlog_bytes: int = 32 * 1024 * 1024
    max_watched: int = 100_000
    inbox_overdue_s: float = 30.0
    version_lag_s: float = 1.0
    reconcile_pause_s: float = 5.0
    distributor_absent_s: float = 10.0
    distributor_failover_s: float = 30.0
    policy_timeout_s: float = 0.0
    policy_rest_s: float = 5.0
    list_limit: int = 1_000
    list_scan: int = 20_000
    history_limit: int = 1_000
    audit_interval_s: float = 60.0
    audit_pace_s: float = 0.5
    audit_again_s: float = 0.3
    audit_per_s: float = 5.0

    def batch_room(self) -> int:
        """Tasks that clients are told to submit at once: it is taken whole or not at all, so a quarter of what is taken
        in all must hold it."""
        room = min(self.max_live_tasks, self.max_staged_tasks)
        return min(self.max_batch, max(1, room // 4))
