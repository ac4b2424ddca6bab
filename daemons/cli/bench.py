"""``a2actl bench``: what a private fleet does on this machine; ``benchmarks/`` calls the same functions."""

from __future__ import annotations

import os
import platform
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from a2a_zmq.client.sync import FleetClient
from a2a_zmq.clock import parse_iso
from daemons.cli.fleet import LocalFleet, wait_until
from daemons.cli.interrupts import private_fleet
from daemons.cli.output import print_words
from daemons.cli.progress import Busy

PARTS = ("idle", "latency", "throughput", "depth", "kill")
SHALLOW = 1_000
# Tasks that ask for this label wait for ever: no worker has it.
PARKED = {"bench-parked": "nowhere"}
WARM_UP_TASKS = 3_000
# A daemon serves at once, but goes on starting: it loads LangGraph in the background of its first supervision runs.
STARTED_S = 30.0
SETTLE_S = 1.0
IN_FLIGHT = 8_192


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; see the options of ``a2actl bench``."""

    tasks: int = 50_000
    samples: int = 500
    waiting: int = 100_000
    kills: int = 10
    idle_s: float = 5.0
    workers: int = 2
    repeat: int = 3


def run_bench(parts: tuple[str, ...], sizes: Sizes, *, quiet: bool) -> dict[str, Any]:
    """Run the parts in their order on one private fleet."""

    def say(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    report: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.release()},
        "fleet": {"workers": sizes.workers, "distributors": 1},
    }
    say(f"starting redis, coordinator, distributor and {sizes.workers} workers …")
    with (
        private_fleet(workers=sizes.workers) as fleet,
        FleetClient(**fleet.client_arguments(operator=True)) as client,
    ):
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "idle": lambda: idle(fleet, sizes.idle_s),
            "latency": lambda: latency(client, sizes.samples),
            "throughput": lambda: throughput(fleet, client, sizes.tasks, sizes.repeat),
            "depth": lambda: depth(fleet, client, sizes.tasks, sizes.waiting, sizes.repeat),
            "kill": lambda: kill_recovery(fleet, client, sizes.kills),
        }
        wait_started(fleet)
        for part in PARTS:
            if part in parts:
                say(f"measuring: {part} …")
                with Busy(f"measuring: {part}", enabled=not quiet):
                    report |= measures[part]()
    return report


# ---------------------------------------------------------------- parts


def idle(fleet: LocalFleet, seconds: float) -> dict[str, Any]:
    """Memory (PSS, with children) and processor use of a fleet that has started and has nothing to do."""
    time.sleep(SETTLE_S)
    before = fleet.cpu_s()
    began = time.monotonic()
    time.sleep(seconds)
    elapsed_s = time.monotonic() - began
    after = fleet.cpu_s()
    use = {name: round((after[name] - before[name]) / elapsed_s * 100, 2) for name in after if name in before}
    memory = {name: round(mb, 1) for name, mb in fleet.pss_mb().items()}
    return {"pss_mb": {**memory, "total": round(sum(memory.values()), 1)}, "idle_cpu_percent": use}


def wait_started(fleet: LocalFleet) -> None:
    """Wait until what the daemons load in the background is loaded, too; they are ready before.

    Raises:
        FleetStartError: it took too long.
    """
    names = [name for name, daemon in fleet.daemons.items() if daemon.metrics_port]
    wait_until(lambda: all(_supervised(fleet, name) for name in names), "the supervision graphs run", STARTED_S)


def _supervised(fleet: LocalFleet, name: str) -> bool:
    """Whether the daemon's supervision graph is loaded and has run: the last thing that a start brings."""
    runs = re.search(r"^a2a_supervision_seconds_count ([0-9.]+)", fleet.get(name, "/metrics")[1], re.MULTILINE)
    return runs is not None and float(runs[1]) > 0


def latency(client: FleetClient, samples: int) -> dict[str, Any]:
    """One task at a time on an idle fleet: submit to result, at the client."""
    for number in range(50):
        client.submit("noop", {"n": number}).result(30)
    times = []
    for number in range(samples):
        began = time.perf_counter()
        client.submit("noop", {"n": number}).result(30)
        times.append((time.perf_counter() - began) * 1000)
    return {"roundtrip_ms": _quantiles(times)}


def run_noops(client: FleetClient, tasks: int, in_flight: int = IN_FLIGHT) -> float:
    """Tasks a second of one bulk run, first submission to last result at the client; every value is checked."""
    began = time.perf_counter()
    count = 0
    for value in client.map("noop", ({"n": number} for number in range(tasks)), in_flight=in_flight):
        if value != {"n": count}:
            raise AssertionError(f"task {count} returned {value!r}")
        count += 1
    if count != tasks:
        raise AssertionError(f"{count} results of {tasks} tasks")
    return tasks / (time.perf_counter() - began)


def measured_runs(fleet: LocalFleet, client: FleetClient, tasks: int, repeat: int) -> dict[str, Any]:
    """Several bulk runs; of the median one: tasks a second, and what a task cost each process and Redis."""
    runs = []
    for _ in range(repeat):
        cpu, own, redis = fleet.cpu_s(), time.process_time(), redis_commands(fleet)
        rate = run_noops(client, tasks)
        own = time.process_time() - own
        spent = {name: round((used - cpu.get(name, 0.0)) / tasks * 1e6, 1) for name, used in fleet.cpu_s().items()}
        commands = (redis_commands(fleet) - redis) / tasks
        runs.append((rate, {**spent, "client": round(own / tasks * 1e6, 1)}, round(commands, 4)))
    rate, costs, commands = sorted(runs, key=lambda run: run[0])[repeat // 2]
    return {"rate": rate, "cpu_us": costs, "redis_commands": commands, "rates": [round(run[0]) for run in runs]}


def throughput(fleet: LocalFleet, client: FleetClient, tasks: int, repeat: int) -> dict[str, Any]:
    """Bulk no-op tasks, durable, every result back; and what that cost Redis, the daemons and the client."""
    run_noops(client, min(tasks, WARM_UP_TASKS))
    found = measured_runs(fleet, client, tasks, repeat)
    return {
        "noop_tasks_per_s": round(found["rate"]),
        "noop_tasks_per_s_runs": found["rates"],
        "cpu_us_per_task": found["cpu_us"],
        "redis_commands_per_task": found["redis_commands"],
        "pss_mb_after_load": {name: round(mb, 1) for name, mb in fleet.pss_mb().items()},
    }


def park(fleet: LocalFleet, count: int) -> list[str]:
    """Tasks that wait for a worker that does not exist; submitted by a client of their own, which leaves again."""
    with FleetClient(**fleet.client_arguments(operator=True)) as client:
        handles = client.submit_many("noop", ({} for _ in range(count)), labels=PARKED)
        return [handle.task_id for handle in handles]


def depth(fleet: LocalFleet, client: FleetClient, tasks: int, waiting: int, repeat: int) -> dict[str, Any]:
    """Throughput while many other tasks wait, against a thousand of them."""
    parked = park(fleet, SHALLOW)
    try:
        run_noops(client, min(tasks, WARM_UP_TASKS))
        shallow = measured_runs(fleet, client, tasks, repeat)
        parked += park(fleet, waiting - SHALLOW)
        deep = measured_runs(fleet, client, tasks, repeat)
    finally:
        client.cancel(*parked)
    by_waiting = {str(SHALLOW): shallow, str(waiting): deep}
    return {
        "queue_depth": {
            "tasks_per_s_by_waiting": {name: round(found["rate"]) for name, found in by_waiting.items()},
            "cpu_us_per_task_by_waiting": {name: found["cpu_us"] for name, found in by_waiting.items()},
            "ratio": round(deep["rate"] / shallow["rate"], 3),
        }
    }


def kill_recovery(fleet: LocalFleet, client: FleetClient, kills: int) -> dict[str, Any]:
    """A worker is killed while tasks run on it: until each of them runs elsewhere, in milliseconds after the signal."""
    times: list[float] = []
    workers = fleet.names("worker")
    for number in range(kills):
        victim = workers[number % len(workers)]
        handles = client.submit_many("sleep", ({"seconds": 0.7} for _ in range(8)), max_attempts=5)
        time.sleep(0.2 + random.random() / 10)  # all run by now; at a different point of every heartbeat
        killed_at = time.time()
        fleet.kill(victim, signal.SIGKILL)
        for handle in handles:
            handle.result(60)
            record = handle.record or {}
            if record.get("retry_count"):
                times.append((parse_iso(record["started_at"]) - killed_at) * 1000)
        fleet.wait_ready([victim])
    if not times:
        raise AssertionError("no task ran on a worker that was killed")
    return {"worker_kill_recovery_ms": {**_quantiles(times), "tasks": len(times), "kills": kills}}


def redis_commands(fleet: LocalFleet) -> int:
    """Commands that the fleet's Redis has processed so far."""
    import redis

    with redis.Redis(host=fleet.redis_host, port=fleet.redis_port) as connection:
        return int(connection.info("stats")["total_commands_processed"])


def _quantiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return {"p50": at(0.5), "p99": at(0.99), "max": round(ordered[-1], 3)}


# ---------------------------------------------------------------- table


def print_report(report: dict[str, Any]) -> None:
    """The measurements as a table, one line each."""
    rows: list[tuple[str, str]] = []
    if "noop_tasks_per_s" in report:
        rows.append(("no-op tasks a second", f"{report['noop_tasks_per_s']:,} {report['noop_tasks_per_s_runs']}"))
        costs = report["cpu_us_per_task"].items()
        rows.append(("processor time a task, µs", ", ".join(f"{name} {cost}" for name, cost in costs)))
        rows.append(("Redis commands a task", f"{report['redis_commands_per_task']}"))
    if "roundtrip_ms" in report:
        times = report["roundtrip_ms"]
        rows.append(("one task, submit to result, ms", f"p50 {times['p50']}, p99 {times['p99']}, max {times['max']}"))
    if "pss_mb" in report:
        rows.append(("memory idle, MB", ", ".join(f"{name} {mb}" for name, mb in report["pss_mb"].items())))
        use = report["idle_cpu_percent"].items()
        rows.append(("processor idle, % of a core", ", ".join(f"{name} {percent}" for name, percent in use)))
    if "queue_depth" in report:
        found = report["queue_depth"]
        rates = ", ".join(f"{rate:,} with {int(n):,}" for n, rate in found["tasks_per_s_by_waiting"].items())
        rows.append(("tasks a second by waiting tasks", f"{rates}: ratio {found['ratio']}"))
    if "worker_kill_recovery_ms" in report:
        times = report["worker_kill_recovery_ms"]
        text = f"p50 {times['p50']}, p99 {times['p99']} ({times['tasks']} tasks of {times['kills']} killed workers)"
        rows.append(("killed worker's tasks run elsewhere, ms", text))
    machine = report["machine"]
    title = f"{report['fleet']['workers']} workers, {machine['cpus']} processors, Python {machine['python']}"
    print_words(title, indent="  ")
    for name, value in rows:
        print_words(f"{name}: {value}", indent="  ")
