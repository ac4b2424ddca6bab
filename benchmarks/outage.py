"""``python -m benchmarks.outage``: how long after Redis is back the work of its outage is with Redis.

A private fleet runs no-op tasks at its highest rate. Redis is killed (SIGKILL) and stays away; the fleet works on, on
its spools. Then Redis starts with its data. From its first answer it is measured when each owner's circuit is closed
(its spool is empty then), and when the store has the result of the last task that ended while Redis was away.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import threading
import time
from itertools import count
from typing import Any

import orjson

from a2a_zmq.client.sync import FleetClient
from a2a_zmq.config import RedisConfig
from a2a_zmq.state.redis_store import RedisStore
from benchmarks.common import machine
from daemons.cli.bench import IN_FLIGHT, run_noops, wait_started
from daemons.cli.fleet import COORDINATOR, DISTRIBUTOR, REDIS, LocalFleet, wait_until
from daemons.cli.interrupts import private_fleet
from daemons.cli.output import print_table

WARM_UP_TASKS = 20_000
# Load before the outage, so that Redis has something to read when it starts, and after it.
BEFORE_S = 3.0
AFTER_S = 3.0
TIMEOUT_S = 60.0
POLL_S = 0.02
OWNERS = (COORDINATOR, DISTRIBUTOR)
RESULTS = "results"


class Load:
    """Keeps no-op tasks in flight from a thread of its own."""

    def __init__(self, client: FleetClient, rate: float) -> None:
        """
        Args:
            rate: tasks a second; 0 for as many as the fleet takes.
        """
        self.ended = 0
        self.last = ""  # task that ended last
        self.error: Exception | None = None
        self._client = client
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def _payloads(self) -> Any:
        began = time.monotonic()
        for number in count():
            if self._stop.is_set():
                return
            if self._rate and number % 64 == 0:
                time.sleep(max(0.0, began + number / self._rate - time.monotonic()))
            yield {"n": number}

    def _run(self) -> None:
        try:
            for record in self._client.map(
                "noop", self._payloads(), as_completed=True, records=True, in_flight=IN_FLIGHT
            ):
                self.last = record["task_id"]
                self.ended += 1
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        self._stop.set()
        self._thread.join(TIMEOUT_S)
        if self.error is not None:
            raise self.error


def states(fleet: LocalFleet) -> dict[str, dict[str, Any]]:
    """Circuit and spool of each owner, as its ``/state`` says; those that do not answer are left out."""
    found = {}
    for name in OWNERS:
        status, text = fleet.get(name, "/state")
        if status == 200:
            found[name] = orjson.loads(text)["store"]
    return found


def measure(seconds: float, rate: float) -> dict[str, Any]:
    """One outage of that length."""
    with private_fleet(workers=2) as fleet, FleetClient(**fleet.client_arguments()) as client:
        wait_started(fleet)
        run_noops(client, WARM_UP_TASKS)
        load = Load(client, rate)
        time.sleep(BEFORE_S)
        fleet.kill(REDIS, signal.SIGKILL, restart=False)
        wait_until(lambda: not fleet.pids[REDIS], "Redis is gone", TIMEOUT_S)
        ended, began = load.ended, time.monotonic()
        time.sleep(seconds)
        spooled = {name: state["spooled_bytes"] >> 20 for name, state in states(fleet).items()}
        in_outage = (load.ended - ended) / (time.monotonic() - began)
        fleet.restart(REDIS, wait=False)
        wait_until(lambda: fleet.ready(REDIS), "Redis answers", TIMEOUT_S, 0.005)
        back, last = time.monotonic(), load.last
        found = {"tasks_per_s": round(in_outage), "spooled_mb": spooled, **watch(fleet, last, back)}
        time.sleep(AFTER_S)
        load.finish()
        return found


def watch(fleet: LocalFleet, last: str, back: float) -> dict[str, Any]:
    """Seconds after ``back`` (monotonic) until each circuit is closed, and until the store has the result of ``last``.

    Raises:
        RuntimeError: something did not happen in time.
    """
    reached: dict[str, float] = {}
    store = RedisStore(RedisConfig(host=fleet.redis_host, port=fleet.redis_port))
    with asyncio.Runner() as runner:
        while len(reached) <= len(OWNERS):
            if time.monotonic() > back + TIMEOUT_S:
                raise RuntimeError(f"not within {TIMEOUT_S:g} s; only {reached}")
            now = [name for name, state in states(fleet).items() if state["circuit"] == "closed"]
            if RESULTS not in reached and runner.run(store.results(DISTRIBUTOR, [last])):
                now.append(RESULTS)
            for name in now:
                reached.setdefault(name, round(time.monotonic() - back, 2))
            time.sleep(POLL_S)
        runner.run(store.close())
    return {"seconds_after": reached}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description="Redis is away, and comes back.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long Redis is away")
    parser.add_argument("--rate", type=float, default=0.0, help="tasks a second; as many as the fleet takes by default")
    args = parser.parse_args(argv)
    report: dict[str, Any] = {"machine": machine(), "rounds": []}
    for _ in range(args.rounds):
        report["rounds"].append(measure(args.seconds, args.rate))
    if args.json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
        return 0
    print(f"{report['machine']['cpu']}, load {report['machine']['load_1min']} before")
    columns = ("tasks/s while away", "spooled, MB", *(f"{name} closed, s" for name in OWNERS), "results stored, s")
    rows = [
        (
            f"{each['tasks_per_s']:,}",
            ", ".join(f"{name} {size}" for name, size in each["spooled_mb"].items()),
            *(f"{each['seconds_after'][name]:g}" for name in (*OWNERS, RESULTS)),
        )
        for each in report["rounds"]
    ]
    print_table(columns, rows, title=f"Redis was away for {args.seconds:g} s; seconds after its first answer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
