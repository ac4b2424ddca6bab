"""``python -m benchmarks.restarts``: how long a fleet under load stands still while its daemons are restarted in turn.

For each daemon: the longest time without any result at the client, from the order to leave until the daemon is ready
again and a second has passed, beside the longest one of an undisturbed second.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import orjson

from a2a_zmq.client.sync import FleetClient
from benchmarks.common import machine
from daemons.cli.fleet import LocalFleet
from daemons.cli.interrupts import private_fleet
from daemons.cli.output import print_table

# Further ones go on as before for so long, so that what a restart left to do is seen.
AFTERMATH_S = 1.0
LEAVE_TIMEOUT_S = 30.0


class Stream:
    """Keeps tasks in flight from a thread of its own, and notes when each result came."""

    def __init__(self, client: FleetClient, task_ms: float, in_flight: int) -> None:
        self.arrivals: list[float] = []
        self.passed_on = 0  # tasks whose attempt is not the first: handed back unstarted, as a rule
        self.error: Exception | None = None
        self._client = client
        self._task_ms = task_ms
        self._in_flight = in_flight
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def _payloads(self) -> Iterator[dict[str, Any]]:
        while not self._stop.is_set():
            yield {"seconds": self._task_ms / 1000}

    def _run(self) -> None:
        task_type = "sleep" if self._task_ms else "noop"
        try:
            for record in self._client.map(
                task_type,
                self._payloads(),
                as_completed=True,
                records=True,
                in_flight=self._in_flight,
                max_attempts=1,  # a task that is handed back must not use one up
            ):
                self.arrivals.append(time.monotonic())
                self.passed_on += record["metadata"].get("attempt", 1) > 1
                if record["status"] != "completed":
                    raise RuntimeError(f"a task came to nothing: {record}")
        except Exception as error:
            self.error = error

    def longest_gap_ms(self, since: float, until: float) -> float:
        """Longest time without a result between these two moments."""
        times = [since, *(at for at in self.arrivals if since < at < until), until]
        return round(max(later - earlier for earlier, later in pairwise(times)) * 1000, 1)

    def finish(self) -> None:
        self._stop.set()
        self._thread.join(LEAVE_TIMEOUT_S)
        if self.error is not None:
            raise self.error


def restart(fleet: LocalFleet, operator: FleetClient, name: str, *, drain: bool) -> None:
    if drain:
        operator.drain(name)
    else:
        fleet.kill(name, signal.SIGTERM)
    until = time.monotonic() + LEAVE_TIMEOUT_S
    while fleet.pids[name]:
        if time.monotonic() > until:
            raise RuntimeError(f"{name} does not leave")
        time.sleep(0.005)
    if fleet.daemons[name].exit_status != 0:
        raise RuntimeError(f"{name} left with status {fleet.daemons[name].exit_status}")
    fleet.restart(name)


def measure(rounds: int, task_ms: float, in_flight: int) -> dict[str, Any]:
    """Restart everything ``rounds`` times, in turn by SIGTERM and by drain."""
    gaps: dict[str, list[float]] = {}
    with (
        private_fleet(workers=2, supervise=False) as fleet,
        FleetClient(**fleet.client_arguments()) as client,
        FleetClient(**fleet.client_arguments(operator=True)) as operator,
    ):
        stream = Stream(client, task_ms, in_flight)
        time.sleep(AFTERMATH_S)
        for number in range(rounds):
            began = time.monotonic()
            time.sleep(AFTERMATH_S)
            gaps.setdefault("undisturbed", []).append(stream.longest_gap_ms(began, time.monotonic()))
            for name in ("worker-1", "worker-2", "distributor-1", "coordinator-1"):
                began = time.monotonic()
                restart(fleet, operator, name, drain=bool(number % 2))
                time.sleep(AFTERMATH_S)
                gaps.setdefault(name, []).append(stream.longest_gap_ms(began, time.monotonic()))
        stream.finish()
        return {"tasks": len(stream.arrivals), "passed_on": stream.passed_on, "longest_gap_ms": gaps}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restarts", description="Rolling restarts under load.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=4, help="SIGTERM and drain take turns")
    parser.add_argument("--task-ms", type=float, default=20.0, help="how long a task runs; 0 for no-op tasks")
    parser.add_argument("--in-flight", type=int, default=200)
    args = parser.parse_args(argv)
    report = {"machine": machine(), **measure(args.rounds, args.task_ms, args.in_flight)}
    if args.json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
        return 0
    print(f"{report['machine']['cpu']}, load {report['machine']['load_1min']} before")
    rows = [(name, ", ".join(f"{gap:g}" for gap in gaps)) for name, gaps in report["longest_gap_ms"].items()]
    title = f"Longest time without a result, ms ({report['tasks']:,} tasks, no error, {report['passed_on']} passed on)"
    print_table(("restarted", "each round"), rows, title=title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
