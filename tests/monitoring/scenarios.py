"""For each alert a failure in which it has to fire: what differs from the healthy fleet, and what the alert then says.

A failure begins after ten minutes (sample 20) and goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from tests.monitoring.fleet import (
    LEADER,
    ROLES,
    SAMPLES,
    STANDBY,
    Series,
    healthy,
    histogram,
    rising,
    series,
    steady,
    target,
)

BEGINS: Final = 20


@dataclass(frozen=True)
class Scenario:
    """One failure.

    Attributes:
        alert: that has to fire.
        changes: series that differ from those of the healthy fleet, or come with the failure.
        labels: of the alert, without its severity.
        value: as its texts show it, where they do.
        at: when it has to have fired (minutes).
        gone: agents of which there is nothing after the beginning, but that they do not answer.
        unheard: agents whose series end without a trace (nobody scrapes them any more).
        samples: of each series.
    """

    alert: str
    changes: Series = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    value: str = ""
    at: int = 20
    gone: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()
    samples: int = SAMPLES

    def input(self) -> Series:
        found = healthy(self.samples)
        for text in list(found):
            agent_id = next((name for name in ROLES if f'agent_id="{name}"' in text), "")
            if agent_id in (*self.gone, *self.unheard):
                found[text] = re.sub(r"x\d+\Z", f"x{BEGINS - 1} stale", found[text])
        for agent_id in self.gone:
            found[series("up", agent_id)] = then(1, 0)
        return found | self.changes


def then(before: float, after: float, samples: int = SAMPLES) -> str:
    """One value, from the beginning of the failure on another."""
    return f"{before:g}x{BEGINS - 1} {after:g}x{samples - BEGINS}"


def grows(by: float) -> str:
    """A counter that begins to grow."""
    return f"0x{BEGINS - 1} {by:g}+{by:g}x{SAMPLES - BEGINS}"


def begins(by: float) -> str:
    """A counter whose series begins with its first event."""
    return f"_x{BEGINS - 1} {by:g}+{by:g}x{SAMPLES - BEGINS}"


def slow(name: str, agent_id: str, value: float, **labels: str) -> Series:
    """So many observations of this value that the 99th percentile is there."""
    return histogram(name, agent_id, 50, value, SAMPLES, **labels)


def up(agent: str, role: str, seen_by: tuple[str, ...], value: str) -> Series:
    return {series("a2a_agent_up", name, agent=agent, role=role): value for name in seen_by}


BOTH: Final = (LEADER, STANDBY)
WORKER: Final = target("worker-1")
DISTRIBUTOR: Final = target("distributor-1")
MODEL: Final = {"provider": "main", "model": "m-1"}

FLEET: Final = (
    Scenario("A2aNothingScraped", unheard=tuple(ROLES), labels={"job": "a2a-zmq"}),
    Scenario("A2aScrapeFails", gone=("worker-1",), labels=WORKER),
    Scenario("A2aNoLeader", gone=(LEADER,)),
    Scenario("A2aTwoLeaders", {series("a2a_leading", STANDBY): then(0, 1)}),
    Scenario(
        "A2aCoordinatorDown",
        up(STANDBY, "coordinator", ("distributor-1", "distributor-2"), then(1, 0)),
        gone=(STANDBY,),
        labels={"agent": STANDBY},
    ),
    Scenario(
        "A2aDistributorDown",
        up("distributor-1", "distributor", BOTH, then(1, 0)),
        gone=("distributor-1",),
        labels={"agent": "distributor-1"},
    ),
    Scenario(
        "A2aWorkerDown",
        up("worker-1", "worker", ("distributor-1",), then(1, 0)),
        gone=("worker-1",),
        labels={"agent": "worker-1"},
    ),
    Scenario(
        "A2aNoWorkers",
        up("worker-1", "worker", ("distributor-1",), then(1, 0))
        | up("worker-2", "worker", ("distributor-1",), then(1, 0))
        | up("worker-3", "worker", ("distributor-2",), then(1, 0)),
        gone=("worker-1", "worker-2", "worker-3"),
    ),
    Scenario(
        "A2aNotReady",
        {series("a2a_ready", "worker-1"): then(1, 0)},
        labels={"agent_id": "worker-1", "agent_role": "worker"},
    ),
    Scenario(
        "A2aMainLoopHangs", {series("a2a_loop_age_seconds", "distributor-1"): then(0.2, 42)}, DISTRIBUTOR, value="42s"
    ),
    Scenario("A2aRestartLoop", {series("process_start_time_seconds", "worker-1"): rising(30, start=1e9)}, WORKER),
    Scenario(
        "A2aMixedVersions",
        {series("a2a_build_info", "worker-1", agent="worker-1", role="worker", version="0.9.0"): steady(1, 300)},
        at=135,
        samples=300,
    ),
    Scenario("A2aConfigReloadFailed", {series("a2a_config_last_reload_successful", "worker-1"): then(1, 0)}, WORKER),
    Scenario("A2aFileDescriptors", {series("process_open_fds", LEADER): then(40, 900)}, target(LEADER), value="87.89%"),
)

NETWORK: Final = (
    Scenario(
        "A2aPartition",
        up("worker-1", "worker", ("distributor-1",), then(1, 0)),
        labels={"agent_id": "worker-1"},
    ),
    Scenario("A2aRedisPartition", {series("a2a_store_up", "distributor-2"): then(1, 0)}),
    Scenario(
        "A2aPeersLost",
        {series("a2a_peer_losses_total", "distributor-1", role="worker", reason="silence"): grows(1)},
        {"agent_id": "distributor-1"},
    ),
    Scenario(
        "A2aProcessesDie",
        {series("a2a_peer_losses_total", "distributor-1", role="worker", reason="exited"): grows(1)},
        {"agent_id": "distributor-1", "role": "worker"},
    ),
    Scenario(
        "A2aDetectionSlow",
        slow("failure_detection_seconds", "distributor-1", 4, role="worker"),
        {"role": "worker"},
        value="4.97s",
    ),
    Scenario(
        "A2aClockOffset",
        {series("a2a_clock_offset_seconds", "distributor-1", agent="worker-1"): then(0.001, -12)},
        {**DISTRIBUTOR, "agent": "worker-1"},
        value="12s",
    ),
    Scenario(
        "A2aClockRefused",
        {series("a2a_signature_failures_total", "distributor-1", reason="skew"): grows(1)},
        {"agent_id": "distributor-1"},
    ),
    Scenario(
        "A2aSignatureFailures",
        {series("a2a_signature_failures_total", LEADER, reason="signature"): grows(1)},
        {"agent_id": LEADER, "reason": "signature"},
    ),
    Scenario(
        "A2aReplaysRefused",
        {series("a2a_signature_failures_total", LEADER, reason="sequence"): grows(1)},
        {"agent_id": LEADER},
    ),
    Scenario(
        "A2aVersionRefused",
        {series("a2a_routing_errors_total", "distributor-1", reason="version"): grows(1)},
        {"agent_id": "distributor-1"},
    ),
    Scenario(
        "A2aRoutingErrors",
        {series("a2a_routing_errors_total", LEADER, reason="unroutable"): grows(100)},
        {"agent_id": LEADER, "reason": "unroutable"},
    ),
    Scenario(
        "A2aMessageLatency",
        slow("message_latency_seconds", "worker-1", 0.8),
        {"agent_role": "worker"},
    ),
)

STATE: Final = (
    Scenario("A2aRedisDown", {series("a2a_store_up", LEADER): then(1, 0)}, target(LEADER)),
    Scenario("A2aRedisCircuitOpen", {series("a2a_store_circuit", LEADER): then(0, 2)}, target(LEADER)),
    Scenario(
        "A2aRedisOutOfMemory",
        {series("a2a_store_errors_total", "distributor-1", reason="oom"): grows(1)},
        {**DISTRIBUTOR, "reason": "oom"},
    ),
    Scenario(
        "A2aRedisDiskFull",
        {series("a2a_store_errors_total", "distributor-1", reason="misconf"): grows(1)},
        {**DISTRIBUTOR, "reason": "misconf"},
    ),
    Scenario(
        "A2aRedisReadOnly",
        {series("a2a_store_errors_total", "distributor-1", reason="readonly"): grows(1)},
        {**DISTRIBUTOR, "reason": "readonly"},
    ),
    Scenario("A2aStateLost", {series("a2a_state_losses_total", LEADER): then(0, 1)}, target(LEADER)),
    Scenario("A2aRedisSlow", slow("shared_state_write_seconds", "distributor-1", 0.2), {"agent_id": "distributor-1"}),
    Scenario("A2aSpoolGrowing", {series("a2a_spool_bytes", LEADER): grows(3 * 2**20)}, target(LEADER), value="102.4ki"),
    Scenario(
        "A2aSpoolNearlyFull", {series("a2a_spool_bytes", LEADER): then(0, 192 * 2**20)}, target(LEADER), value="75%"
    ),
    Scenario("A2aSpoolWaits", {series("a2a_spool_writes", STANDBY): then(0, 7)}, target(STANDBY)),
    Scenario("A2aLeaseRenewalsFail", {series("a2a_lease_renewal_failures_total", LEADER): grows(1)}, target(LEADER)),
    Scenario(
        "A2aLeaseFoughtOver",
        {series("a2a_lease_acquire_seconds_count", "distributor-1"): rising(0.5, start=1)},
        {"agent_id": "distributor-1"},
    ),
    Scenario("A2aStateConflicts", {series("a2a_shared_state_conflicts_total", LEADER): grows(1)}, target(LEADER)),
    Scenario(
        "A2aReconciliationSlow",
        slow("reconciliation_seconds", "distributor-1", 8),
        {"agent_id": "distributor-1"},
        value="9.95s",
    ),
)


def refused(code: str) -> Series:
    return {series("a2a_requests_refused_total", LEADER, code=code): grows(30)}


TASKS: Final = (
    Scenario(
        "A2aBacklog",
        {
            series("a2a_tasks", LEADER, status="pending"): steady(30_000),
            series("a2a_tasks", LEADER, status="completed"): rising(300),
        },
        value="50m 0s",
    ),
    Scenario(
        "A2aFleetNearlyFull",
        {series("a2a_tasks", LEADER, status="pending"): then(200, 449_991)},
        {"agent_id": LEADER},
        value="90%",
    ),
    Scenario(
        "A2aFleetNearlyFull",  # few tasks, with large payloads
        {series("a2a_task_bytes", LEADER): then(200_000, 483_183_820)},
        {"agent_id": LEADER},
        value="90%",
    ),
    Scenario("A2aClientsRefused", refused("BUSY"), {"agent_id": LEADER}),
    Scenario(
        "A2aTasksWithoutWorker",
        {series("a2a_tasks_without_worker", "distributor-1", reason="no_worker"): then(0, 3)},
        {"agent_id": "distributor-1"},
    ),
    Scenario(
        "A2aGraphRunsHeld",
        {series("a2a_tasks_without_worker", "distributor-1", reason="no_graph"): then(0, 3)},
        {"agent_id": "distributor-1"},
    ),
    Scenario("A2aTasksQuarantined", {series("a2a_tasks_quarantined_total", "distributor-1"): then(0, 1)}, DISTRIBUTOR),
    Scenario(
        "A2aDeadLetters",
        {series("a2a_dead_letters_total", "distributor-1", reason="raised"): then(0, 2)},
        {"agent_id": "distributor-1"},
    ),
    Scenario(
        "A2aAttemptsFail",
        {series("a2a_task_failures_total", "distributor-1", reason="timeout"): rising(500)},
        {"agent_id": "distributor-1"},
        value="25.11%",
    ),
    Scenario("A2aRetriesPutOff", {series("a2a_task_retries_put_off_total", "distributor-1"): grows(5)}, DISTRIBUTOR),
    Scenario("A2aTasksFailedOver", {series("a2a_tasks_failed_over_total", LEADER): then(0, 12)}, target(LEADER)),
    Scenario(
        "A2aModelBudgetExhausted",
        {series("a2a_llm_errors_total", "worker-1", reason="budget", **MODEL): begins(1)},
        {"provider": "main"},
    ),
    Scenario("A2aModelWaits", slow("llm_wait_seconds", "worker-1", 50, provider="main"), {"provider": "main"}),
    Scenario(
        "A2aModelThrottled",
        {series("a2a_llm_throttled_total", "worker-1", **MODEL): begins(2)},
        {"provider": "main"},
    ),
    Scenario(
        "A2aModelErrors",
        {series("a2a_llm_errors_total", "worker-1", reason="503", **MODEL): rising(6)},
        MODEL,
        value="21%",
    ),
    Scenario(
        "A2aPolicyFallbacks",
        {series("a2a_policy_fallbacks_total", LEADER, policy="placement", reason="late"): begins(1)},
        {"policy": "placement"},
    ),
    Scenario(
        "A2aSupervisionFallbacks",
        {series("a2a_supervision_fallbacks_total", "worker-1", reason="raised"): grows(1)},
        {"agent_id": "worker-1"},
    ),
)

SCENARIOS: Final[dict[str, tuple[Scenario, ...]]] = {
    "a2a-fleet.yml": FLEET,
    "a2a-network.yml": NETWORK,
    "a2a-state.yml": STATE,
    "a2a-tasks.yml": TASKS,
}
