"""What each daemon shows of itself: metrics, liveness, readiness, state, logs."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
import uvloop
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from a2a_zmq import FleetClient, TaskFailed
from daemons.cli.fleet import LocalFleet
from daemons.metrics import METRICS
from daemons.settings import WorkerSettings
from daemons.worker.main import open_worker
from tests.integration.rig import PATIENCE_S, client_of, log_events, scrape, total, user_fleet, wait_until

# Metric families that the issue asks for, and on which daemon each must have counted something after some work.
EVERYWHERE = ("coordinator-1", "distributor-1", "worker-1")
FAMILIES = {
    "a2a_messages_total": EVERYWHERE,
    "a2a_message_latency_seconds_count": EVERYWHERE,
    "a2a_heartbeats_total": EVERYWHERE,
    "a2a_shared_state_updates_total": ("coordinator-1", "distributor-1"),
    "a2a_lease_acquire_seconds_count": ("coordinator-1", "distributor-1"),
    "a2a_tasks": ("coordinator-1", "distributor-1"),
    "a2a_task_execution_seconds_count": ("worker-1",),
    "a2a_task_retries_total": ("distributor-1",),
    "a2a_task_failures_total": ("distributor-1",),
    "a2a_agent_up": ("coordinator-1", "distributor-1"),
    "a2a_build_info": EVERYWHERE,
}
# Those that must be there but say zero in a fleet to which nothing happened (labelled ones have no series then).
QUIET = {
    "a2a_signature_failures_total",
    "a2a_routing_errors_total",
    "a2a_shared_state_conflicts_total",
    "a2a_lease_failures_total",
    "a2a_lease_renewal_failures_total",
    "a2a_failure_detection_seconds",
    "a2a_reconciliation_seconds",
}


@pytest.fixture(scope="module")
def worked(fleet: LocalFleet, client: FleetClient, tmp_path_factory: pytest.TempPathFactory) -> LocalFleet:
    """The module's fleet after some work: successes, a failure, a retry."""
    assert len(list(client.map("noop", [{}] * 300))) == 300
    ledger = tmp_path_factory.mktemp("worked") / "ledger"
    assert client.submit("flaky", {"ledger": str(ledger), "failures": 1}).result(PATIENCE_S) == 2
    with pytest.raises(TaskFailed):
        client.submit("raises", {}, max_attempts=1).result(PATIENCE_S)
    return fleet


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_metric_counts_where_its_thing_happens(worked: LocalFleet, family: str) -> None:
    for name in FAMILIES[family]:
        wait_until(lambda name=name: total(scrape(worked, name), family) > 0, f"{name} has counted {family}")


def test_every_daemon_describes_every_metric_but_for_values_that_it_does_not_have(worked: LocalFleet) -> None:
    wanted = {f"a2a_{metric.name}" for metric in METRICS}
    lonely = {f"a2a_{metric.name}" for metric in METRICS if metric.kind == "gauge" and not metric.labels}
    shared = {"a2a_store_up", "a2a_store_circuit", "a2a_leading", "a2a_spool_bytes", "a2a_spool_limit_bytes"}
    assert wanted >= QUIET
    for name in EVERYWHERE:
        _, text = worked.get(name, "/metrics")
        described = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP a2a_")}
        assert wanted - lonely <= described <= wanted, name
        assert shared & described == (set() if name == "worker-1" else shared), name
        assert {"a2a_ready", "a2a_loop_age_seconds"} <= described, name


def test_counts_are_true(worked: LocalFleet) -> None:
    def ended(status: str) -> float:
        return total(scrape(worked, "distributor-1"), "a2a_tasks", status=status)

    def ran(*types: str) -> float:
        count = "a2a_task_execution_seconds_count"
        return sum(total(scrape(worked, f"worker-{n}"), count, task_type=each) for n in (1, 2) for each in types)

    # Gauges are set by supervision, once a second. Another test of this fleet may have had a task that sleeps.
    wait_until(
        lambda: (ended("completed") - ran("sleep"), ended("failed")) == (301, 1), "301 completed tasks and a failed one"
    )
    distributor = scrape(worked, "distributor-1")
    assert total(distributor, "a2a_task_retries_total") == 1
    assert total(distributor, "a2a_task_failures_total", reason="raised") == 2
    assert ran("noop", "flaky") == 301
    assert total(scrape(worked, "coordinator-1"), "a2a_agent_up", agent="distributor-1", role="distributor") == 1
    up = {name: total(distributor, "a2a_agent_up", agent=name) for name in ("worker-1", "worker-2", "coordinator-1")}
    assert up == {"worker-1": 1, "worker-2": 1, "coordinator-1": 1}


def test_slow_tasks_can_be_looked_up_by_exemplars(worked: LocalFleet, client: FleetClient) -> None:
    handle = client.submit("sleep", {"seconds": 0.3})
    handle.result(PATIENCE_S)

    def examples(name: str, family: str) -> list[dict[str, str]]:
        text = openmetrics_page(worked.daemons[name].metrics_port)
        return [
            sample.exemplar.labels
            for found in openmetrics_families(text)  # type: ignore[no-untyped-call]  # it has no annotations
            if found.name == family
            for sample in found.samples
            if sample.exemplar is not None
        ]

    wanted = {"task_id": handle.task_id}
    assert wanted in examples("coordinator-1", "a2a_task_turnaround_seconds")
    runs = [examples(name, "a2a_task_execution_seconds") for name in ("worker-1", "worker-2")]
    assert wanted in [example for found in runs for example in found]
    assert examples("distributor-1", "a2a_message_latency_seconds")


def test_nothing_was_refused_in_a_quiet_fleet(worked: LocalFleet) -> None:
    for name in EVERYWHERE:
        found = scrape(worked, name)
        assert total(found, "a2a_signature_failures_total") == 0, name
        assert total(found, "a2a_routing_errors_total") == 0, name
        assert total(found, "a2a_shared_state_conflicts_total") == 0, name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("name", EVERYWHERE)
def test_promtool_finds_nothing(worked: LocalFleet, name: str) -> None:
    _, text = worked.get(name, "/metrics")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    findings = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("a2a_")]
    assert findings == []


def test_health_pages(worked: LocalFleet) -> None:
    for name in EVERYWHERE:
        assert worked.get(name, "/livez") == (200, '{"live":true}')
        status, text = worked.get(name, "/readyz")
        assert (status, orjson.loads(text)) == (200, {"ready": True, "reason": ""})
        status, text = worked.get(name, "/state")
        state = orjson.loads(text)
        assert (status, state["agent_id"]) == (200, name)
        assert {"status", "local_tasks", "last_heartbeat", "local_vars", "history", "metadata"} <= set(state)
        assert worked.get(name, "/elsewhere")[0] == 404


def test_logs_are_json_lines_that_say_who_speaks(worked: LocalFleet) -> None:
    for name in EVERYWHERE:
        events = log_events(worked, name)
        assert {event["agent"] for event in events} <= {*EVERYWHERE, "worker-2"}
        assert {event["role"] for event in events} == {name.partition("-")[0]}
        assert all(event["timestamp"].endswith(("Z", "+00:00")) for event in events)
        assert "started" in [event["event"] for event in events]


# ---------------------------------------------------------------- daemons that cannot work


def test_a_worker_is_not_ready_without_its_distributor_and_ready_again_with_it(no_orphans: Path) -> None:
    with user_fleet(workers=1) as fleet, client_of(fleet) as client:
        assert fleet.get("worker-1", "/readyz")[0] == 200
        fleet.kill("distributor-1", restart=False)
        wait_until(lambda: fleet.get("worker-1", "/readyz")[0] == 503, "worker-1 says that it is not ready")
        assert "distributor-1" in fleet.get("worker-1", "/readyz")[1]
        assert fleet.get("worker-1", "/livez")[0] == 200
        fleet.restart("distributor-1")
        wait_until(lambda: fleet.ready("worker-1"), "worker-1 is ready again")
        assert client.submit("noop", {}).result(PATIENCE_S) == {}


def test_owners_are_not_ready_without_redis_where_they_have_no_spool(no_orphans: Path) -> None:
    with user_fleet(workers=1, env={"A2A_SPOOL": "off"}) as fleet:
        fleet.kill("redis", restart=False)
        for name in ("coordinator-1", "distributor-1"):
            wait_until(lambda name=name: fleet.get(name, "/readyz")[0] == 503, f"{name} is not ready without Redis")
            assert fleet.get(name, "/livez")[0] == 200
        fleet.restart("redis")
        fleet.wait_ready()


def test_a_blocking_handler_does_not_hang_the_workers_loop(no_orphans: Path) -> None:
    """User code is not on the loop that answers heartbeats and probes, not even ``async`` code that blocks."""
    with user_fleet(workers=1, env={"A2A_LIVE_AFTER_MS": "1000"}) as fleet, client_of(fleet) as client:
        blocking = client.submit("blocks-loop", {"seconds": 1.5}, timeout_s=10)
        wait_until(lambda: blocking.status() == "in_progress", "the blocking handler runs")
        while not blocking.done():
            assert fleet.get("worker-1", "/livez")[0] == 200
            assert fleet.ready("worker-1")
        assert blocking.result() == "done"


def page(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=3) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def openmetrics_page(port: int) -> str:
    wanted = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(wanted, timeout=3) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        return str(answer.read().decode())


def first_that_is_not_200(port: int) -> tuple[int, str, str]:
    """Watch a daemon's liveness from a thread: (status, body, what readiness says then)."""
    until = time.monotonic() + PATIENCE_S
    while (answer := page(port, "/livez"))[0] == 200 and time.monotonic() < until:
        time.sleep(0.02)
    return *answer, page(port, "/readyz")[1]


def hang_until(watched: Future[tuple[int, str, str]]) -> None:
    """Block the calling thread, which is the loop's."""
    while not watched.done():
        time.sleep(0.01)


def test_a_main_loop_that_hangs_is_not_live(no_orphans: Path) -> None:
    """The thread that answers probes tells of a loop that is held up, and that it goes on again."""

    async def story() -> None:
        settings = WorkerSettings.model_validate(
            {"metrics_port": 0, "live_after_ms": 1000, "state_dir": str(no_orphans / "hung")}
        )
        daemon = await open_worker(settings)
        running = asyncio.ensure_future(daemon.run())
        assert daemon.health is not None
        port = daemon.health.port
        assert await asyncio.to_thread(page, port, "/livez") == (200, '{"live":true}')
        with ThreadPoolExecutor(1) as probe:
            watched = probe.submit(first_that_is_not_200, port)
            hang_until(watched)
        status, text, readiness = watched.result()
        assert (status, "hangs" in text) == (503, True)
        assert "did not answer" in readiness
        await asyncio.to_thread(wait_until, lambda: page(port, "/livez")[0] == 200, "the loop lives again")
        daemon.drain("test is over")
        assert await running == 0

    uvloop.run(asyncio.wait_for(story(), PATIENCE_S))
