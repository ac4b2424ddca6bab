"""Every metric of the suite, each with a sentence. Pure; :mod:`daemons.meter` counts them.

:data:`METRICS` is the only place where a metric is defined; a call with another name, or
other labels, fails a test and is dropped at run time. ``python -m daemons.metrics`` prints the table of
``docs/metrics.md``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PREFIX: Final = "a2a_"

# Upper bounds in seconds. FAST: one hop or one write, 0.1 ms to a second. TASK: user code, 1 ms to ten minutes.
# RECOVERY: detecting and repairing, 5 ms to a minute.
FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
TASK: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
RECOVERY: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)

# Label values that are known beforehand. Their series are zero from the start: of one that begins with its first
# event, increase() does not see that event, and an alert would miss it.
FAILURES: Final = ("raised", "timeout", "exited", "killed", "invalid_input", "unknown_task_type", "worker_lost")
STORE_ERRORS: Final = ("connection", "timeout", "loading", "readonly", "oom", "misconf", "noauth")
SIGNATURES: Final = ("signature", "identity", "sequence", "skew", "revoked", "token", "malformed", "auth")
LOSSES: Final = tuple(
    (role, reason)
    for role in ("coordinator", "distributor", "worker")
    for reason in ("exited", "disconnect", "silence")
)
REFUSALS: Final = ("BUSY", "UNAVAILABLE", "NOT_LEADER", "DRAINING", "FORBIDDEN", "INVALID_TASK", "UNKNOWN_TASK_TYPE")


class Metric(NamedTuple):
    """One metric. ``name`` is without the prefix; ``buckets`` only for histograms; ``known``: values of the labels that
    are zero from the start."""

    kind: str  # "counter" | "gauge" | "histogram"
    name: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()
    known: tuple[tuple[str, ...], ...] = ()


def _counter(
    name: str, labels: tuple[str, ...], text: str, known: tuple[str, ...] | tuple[tuple[str, ...], ...] = ()
) -> Metric:
    series = tuple((each,) if isinstance(each, str) else each for each in known)
    return Metric("counter", name, labels, text, known=series)


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Metric:
    return Metric("gauge", name, labels, text)


def _histogram(name: str, labels: tuple[str, ...], text: str, buckets: tuple[float, ...]) -> Metric:
    return Metric("histogram", name, labels, text, buckets)


METRICS: Final[tuple[Metric, ...]] = (
    # ---- messages
    _counter("messages_total", ("direction", "type"), "Messages sent (out) and accepted (in), by message type."),
    _histogram(
        "message_latency_seconds",
        (),
        "Time from sealing a message to handling it, by the wall clocks of both agents.",
        FAST,
    ),
    _counter(
        "signature_failures_total",
        ("reason",),
        "Frames refused because their origin or content could not be trusted.",
        SIGNATURES,
    ),
    _counter(
        "routing_errors_total",
        ("reason",),
        "Messages that were not allowed, not understood or could not be delivered.",
        ("version", "forbidden", "unroutable"),
    ),
    _counter("heartbeats_total", ("direction",), "Heartbeats sent (out) and received (in)."),
    # ---- shared state
    _counter(
        "shared_state_updates_total", (), "Writes to the shared state that were applied; each holds a whole batch."
    ),
    _counter("shared_state_conflicts_total", (), "Writes that met another writer's version or a higher fence."),
    _histogram(
        "shared_state_write_seconds", (), "Time that one write to the shared state took, retries included.", FAST
    ),
    _gauge("store_up", (), "1 while Redis can be read and written, else 0."),
    _gauge("leading", (), "1 while this agent owns its shared state (a coordinator: leads), 0 while it stands by."),
    _counter(
        "store_errors_total",
        ("reason",),
        "Exchanges with Redis that failed: connection, timeout, loading, or what it refuses by (readonly, oom, misconf,"
        " noauth).",
        STORE_ERRORS,
    ),
    _counter(
        "state_losses_total",
        (),
        "Times that Redis was found wiped, or gone back to an older copy, and the state was built anew from memory.",
    ),
    _gauge("store_circuit", (), "Circuit to Redis: 0 closed, 1 half-open (the spool is being handed in), 2 open."),
    _gauge(
        "spool_writes", (), "Writes that wait in the local spool for Redis, or for this agent to own its section again."
    ),
    _gauge("spool_bytes", (), "Bytes of these writes."),
    _gauge("spool_limit_bytes", (), "Bytes that the local spool may hold; above three quarters no new work is taken."),
    _counter(
        "spool_dropped_total",
        (),
        "Spooled records and results that were dropped because another owner had been faster.",
    ),
    _histogram("lease_acquire_seconds", (), "Time from wanting the lease of a section to holding it.", RECOVERY),
    _counter(
        "lease_failures_total",
        ("reason",),
        "Leases that were not obtained or were lost, by reason; unreadable: a key of lease or section cannot be read.",
        ("held", "state_lost", "unavailable", "unreadable"),
    ),
    _counter(
        "lease_renewal_failures_total",
        (),
        "Renewals of a held lease that failed; the holder stops acting when they go on.",
    ),
    # ---- tasks
    _gauge("tasks", ("status",), "Tasks known to this agent, by status; terminal ones are counted since its start."),
    _gauge("tasks_limit", (), "Unfinished tasks from which on new ones are refused (a coordinator's)."),
    _gauge("task_bytes", (), "Bytes of the records of unfinished tasks, with their payloads (a coordinator's)."),
    _gauge("task_bytes_limit", (), "Bytes of such records from which on new tasks are refused (a coordinator's)."),
    _gauge(
        "tasks_without_worker",
        ("reason",),
        "Tasks that nobody who is connected can run: no_worker (of their type, with their labels), no_graph (a worker"
        " with the version of the graph that they began with).",
    ),
    _counter(
        "requests_refused_total",
        ("code",),
        "Requests of clients that a coordinator refused, by error code; BUSY: a bound is reached, they try again.",
        REFUSALS,
    ),
    _histogram(
        "task_execution_seconds", ("task_type",), "Time that an attempt which completed ran, by task type.", TASK
    ),
    _histogram(
        "task_turnaround_seconds",
        (),
        "Time from accepting a task to its result at the coordinator; measured on one task of each batch of results.",
        TASK,
    ),
    _counter("task_retries_total", (), "Attempts after the first."),
    _counter(
        "task_pauses_total",
        ("reason",),
        "Attempts that ended before their task, and count as no failure: moved, put_off, or waiting for an answer.",
    ),
    _counter("task_retries_put_off_total", (), "Retries that wait longer because their task type fails too often."),
    _counter(
        "task_failures_total",
        ("reason",),
        "Attempts that failed, by reason; at a coordinator tasks that did.",
        FAILURES,
    ),
    _counter(
        "dead_letters_total",
        ("reason",),
        "Tasks that were given up as failed, by what ended their last attempt.",
        FAILURES,
    ),
    _gauge("dead_letters_kept", (), "Dead letters that are in the store, as the leading coordinator counts them."),
    _counter(
        "tasks_quarantined_total",
        (),
        "Tasks that were set aside because workers died while they ran them, and then a process that ran nothing else.",
    ),
    _counter(
        "late_results_total", (), "Results of attempts that were no longer current; acknowledged and not recorded."
    ),
    _counter("tasks_failed_over_total", (), "Tasks that were taken away from a distributor that stayed away."),
    # ---- traces
    _counter(
        "trace_spans_total",
        ("outcome",),
        "Spans by what became of them: exported; failed (the receiver did not take them); dropped (it is too slow).",
    ),
    # ---- chat models
    _counter(
        "llm_requests_total",
        ("provider", "model"),
        "Requests to chat models that were sent, those of repeated tries too.",
    ),
    _histogram(
        "llm_request_seconds", ("provider", "model"), "Time from sending a request to the end of its answer.", TASK
    ),
    _counter(
        "llm_tokens_total",
        ("provider", "model", "kind"),
        "Tokens as models report them: input (cached: so many of it came from a cache), output; estimated where they"
        " report none.",
    ),
    _counter(
        "llm_errors_total",
        ("provider", "model", "reason"),
        "Requests that failed, by HTTP status or timeout, connection, cancelled, other; budget: was not sent, because"
        " it could not have been in time.",
    ),
    _counter(
        "llm_throttled_total",
        ("provider", "model"),
        "Answers by which a provider made the whole fleet pause (429, 503).",
    ),
    _counter(
        "llm_waits_total",
        ("provider", "reason"),
        "Calls that had to wait for requests, tokens, concurrency, or while a provider was paused.",
    ),
    _histogram("llm_wait_seconds", ("provider",), "Time that these waited.", TASK),
    # ---- health
    _gauge(
        "agent_up",
        ("agent", "role"),
        "1 while the agent is alive as far as this one knows, else 0. One that was lost is shown for a day, one that"
        " left in good order is not.",
    ),
    _gauge("ready", (), "1 while /readyz answers 200: this agent can claim work."),
    _gauge("loop_age_seconds", (), "Time since the last round of this agent's main loop, measured as it is asked."),
    _gauge(
        "clock_offset_seconds",
        ("agent",),
        "The agent's clock minus ours, by its last heartbeat, which a slow way makes lower; 0 while it is away.",
    ),
    _counter(
        "peer_losses_total",
        ("role", "reason"),
        "Agents taken for dead: exited (proved), disconnect (did not come back), silence.",
        LOSSES,
    ),
    _histogram(
        "failure_detection_seconds", ("role",), "Time from a peer's last sign of life to taking it for dead.", RECOVERY
    ),
    _histogram(
        "reconciliation_seconds",
        (),
        "Time from regaining ownership, the store or a peer to a consistent state.",
        RECOVERY,
    ),
    _histogram("supervision_seconds", (), "Time that one run of the supervision graph took.", FAST),
    _counter(
        "supervision_fallbacks_total",
        ("reason",),
        "Runs that the plain sequence of steps did because the graph failed or was late.",
        ("raised", "late", "not_built"),
    ),
    _histogram("policy_seconds", ("policy",), "Time until a policy of the user's answered a question.", TASK),
    _counter(
        "policy_fallbacks_total",
        ("policy", "reason"),
        "Tasks that were decided on the built-in way because the user's policy was late, raised, invalid, stale (its"
        " choice had gone meanwhile), died, busy (with an earlier question, or its start) or not_asked.",
    ),
    _gauge("config_last_reload_successful", (), "1 if the settings could be used when they were last read, else 0."),
    _gauge(
        "config_last_reload_success_timestamp_seconds",
        (),
        "When settings that could be used were last read (Unix time).",
    ),
    _gauge("build_info", ("agent", "role", "version"), "Always 1; its labels say what runs here."),
)

BY_NAME: Final = {metric.name: metric for metric in METRICS}


def complaint(kind: str, name: str, labels: set[str]) -> str:
    """Why a call of ``count``, ``observe`` or ``gauge`` does not fit the list, "" if it does."""
    metric = BY_NAME.get(name)
    if metric is None:
        return f"no metric {PREFIX}{name}"
    if metric.kind != kind:
        return f"{PREFIX}{name} is a {metric.kind}, not a {kind}"
    if labels != set(metric.labels):
        return f"{PREFIX}{name} has the labels {sorted(metric.labels)}, not {sorted(labels)}"
    return ""


def reference() -> str:
    """The list as a Markdown table."""
    lines = ["| metric | kind | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{PREFIX}{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
