"""What Prometheus sees of a healthy fleet: two coordinators, two distributors, three workers, some work."""

from __future__ import annotations

from typing import Final

from daemons.metrics import BY_NAME, PREFIX

# Samples of a series in promtool's notation, and the series by their text.
Series = dict[str, str]

INTERVAL_S: Final = 30
# So many samples: half an hour.
SAMPLES: Final = 60

ROLES: Final = {
    "coordinator-1": "coordinator",
    "coordinator-2": "coordinator",
    "distributor-1": "distributor",
    "distributor-2": "distributor",
    "worker-1": "worker",
    "worker-2": "worker",
    "worker-3": "worker",
}
OWNERS: Final = tuple(name for name, role in ROLES.items() if role != "worker")
LEADER: Final = "coordinator-1"
STANDBY: Final = "coordinator-2"


def target(agent_id: str) -> dict[str, str]:
    """The labels of whatever is scraped from this agent."""
    number = agent_id.rpartition("-")[2]
    host = f"host-{number}"
    return {
        "agent_host": host,
        "agent_id": agent_id,
        "agent_role": ROLES[agent_id],
        "instance": f"{host}:9570",
        "job": "a2a-zmq",
    }


def series(name: str, agent_id: str, **labels: str) -> str:
    """The text of one series of an agent."""
    found = {**target(agent_id), **labels}
    return name + "{" + ", ".join(f'{label}="{value}"' for label, value in sorted(found.items())) + "}"


def steady(value: float, samples: int = SAMPLES) -> str:
    return f"{value:g}x{samples}"


def rising(by: float, samples: int = SAMPLES, start: float = 0) -> str:
    """A counter that grows by so much with each sample."""
    return f"{start:g}+{by:g}x{samples}"


def histogram(
    name: str, agent_id: str, per_sample: float, value: float, samples: int = SAMPLES, **labels: str
) -> Series:
    """Observations of one value, so many with each sample."""
    metric = BY_NAME[name]
    full = PREFIX + name
    found = {
        series(f"{full}_bucket", agent_id, le=f"{bound}", **labels): (
            rising(per_sample, samples) if value <= bound else steady(0, samples)
        )
        for bound in (*metric.buckets, float("inf"))
    }
    found = {text.replace('le="inf"', 'le="+Inf"'): values for text, values in found.items()}
    found[series(f"{full}_count", agent_id, **labels)] = rising(per_sample, samples)
    found[series(f"{full}_sum", agent_id, **labels)] = rising(per_sample * value, samples)
    return found


def zeros(agent_id: str, samples: int) -> Series:
    """Counters whose series are there from the start."""
    found = {}
    for metric in BY_NAME.values():
        if metric.kind == "counter":
            for values in metric.known or ((),) * (not metric.labels):
                labels = dict(zip(metric.labels, values, strict=True))
                found[series(PREFIX + metric.name, agent_id, **labels)] = steady(0, samples)
    return found


def _of_everybody(agent_id: str, samples: int) -> Series:
    return {
        **zeros(agent_id, samples),
        series("up", agent_id): steady(1, samples),
        series("process_start_time_seconds", agent_id): steady(1e9, samples),
        series("process_open_fds", agent_id): steady(40, samples),
        series("process_max_fds", agent_id): steady(1024, samples),
        series("a2a_build_info", agent_id, agent=agent_id, role=ROLES[agent_id], version="1.0.0"): steady(1, samples),
        series("a2a_config_last_reload_successful", agent_id): steady(1, samples),
        series("a2a_loop_age_seconds", agent_id): steady(0.2, samples),
        series("a2a_ready", agent_id): steady(0 if agent_id == STANDBY else 1, samples),
        **histogram("message_latency_seconds", agent_id, 50, 0.0004, samples),
    }


def _of_owner(agent_id: str, samples: int) -> Series:
    return {
        series("a2a_store_up", agent_id): steady(1, samples),
        series("a2a_leading", agent_id): steady(0 if agent_id == STANDBY else 1, samples),
        series("a2a_store_circuit", agent_id): steady(0, samples),
        series("a2a_spool_writes", agent_id): steady(0, samples),
        series("a2a_spool_bytes", agent_id): steady(0, samples),
        series("a2a_spool_limit_bytes", agent_id): steady(256 * 2**20, samples),
        series("a2a_tasks_without_worker", agent_id, reason="no_worker"): steady(0, samples),
        # A standby asks for the lease all the time; the others got theirs once.
        series("a2a_lease_failures_total", agent_id, reason="held"): rising(120 if agent_id == STANDBY else 0, samples),
        series("a2a_lease_acquire_seconds_count", agent_id): steady(0 if agent_id == STANDBY else 1, samples),
        **histogram("shared_state_write_seconds", agent_id, 20, 0.002, samples),
        **histogram("reconciliation_seconds", agent_id, 1, 0.05, samples),
    }


def _tasks(agent_id: str, samples: int, *, ended: float, pending: float, running: float) -> Series:
    return {
        series("a2a_tasks", agent_id, status="completed"): rising(ended, samples),
        series("a2a_tasks", agent_id, status="failed"): steady(2, samples),
        series("a2a_tasks", agent_id, status="pending"): steady(pending, samples),
        series("a2a_tasks", agent_id, status="in_progress"): steady(running, samples),
        series("a2a_tasks", agent_id, status="waiting"): steady(1, samples),
    }


def healthy(samples: int = SAMPLES) -> Series:
    """All that the alerts look at, in a fleet in which nothing is wrong."""
    found: Series = {}
    for agent_id in ROLES:
        found |= _of_everybody(agent_id, samples)
    for agent_id in OWNERS:
        found |= _of_owner(agent_id, samples)
    for agent_id in (LEADER, STANDBY):
        busy = agent_id == LEADER
        found |= _tasks(agent_id, samples, ended=3000 * busy, pending=200 * busy, running=8 * busy)
        found[series("a2a_tasks_limit", agent_id)] = steady(500_000, samples)
        found[series("a2a_task_bytes", agent_id)] = steady(200_000 * busy, samples)
        found[series("a2a_task_bytes_limit", agent_id)] = steady(512 << 20, samples)
        found[series("a2a_agent_up", agent_id, agent=agent_id, role="coordinator")] = steady(1, samples)
        for name in ("distributor-1", "distributor-2"):
            found[series("a2a_agent_up", agent_id, agent=name, role="distributor")] = steady(1, samples)
            found[series("a2a_clock_offset_seconds", agent_id, agent=name)] = steady(-0.002, samples)
        # A client's request is refused now and then, and that is no trouble.
        found[series("a2a_requests_refused_total", agent_id, code="NOT_LEADER")] = rising(1, samples)
    for name, workers in (("distributor-1", ("worker-1", "worker-2")), ("distributor-2", ("worker-3",))):
        found |= _tasks(name, samples, ended=1500, pending=20, running=4)
        found[series("a2a_tasks_without_worker", name, reason="no_graph")] = steady(0, samples)
        found[series("a2a_task_failures_total", name, reason="raised")] = rising(3, samples)
        for agent in (LEADER, STANDBY):
            found[series("a2a_agent_up", name, agent=agent, role="coordinator")] = steady(1, samples)
        for agent in workers:
            found[series("a2a_agent_up", name, agent=agent, role="worker")] = steady(1, samples)
            found[series("a2a_clock_offset_seconds", name, agent=agent)] = steady(0.001, samples)
        found |= histogram("failure_detection_seconds", name, 0, 0.1, samples, role="worker")
    for agent_id in ("worker-1", "worker-2", "worker-3"):
        model = {"provider": "main", "model": "m-1"}
        found[series("a2a_llm_requests_total", agent_id, **model)] = rising(10, samples)
        found[series("a2a_llm_errors_total", agent_id, reason="500", **model)] = rising(0.1, samples)
        found |= histogram("llm_wait_seconds", agent_id, 1, 0.4, samples, provider="main")
    return found
