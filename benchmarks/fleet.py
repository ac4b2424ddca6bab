"""``python -m benchmarks.fleet``: real daemons on this machine, measured as ``a2actl bench`` does it.

What a task waits for is measured a second time with ``appendfsync always``. ``docs/benchmarks.md`` reads the figures.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import orjson

from a2a_zmq.client.sync import FleetClient
from benchmarks.common import machine
from daemons.cli.bench import PARTS, Sizes, latency, print_report, run_bench, throughput
from daemons.cli.interrupts import private_fleet
from daemons.cli.output import print_table

FULL = Sizes()
QUICK = Sizes(tasks=5_000, samples=50, waiting=5_000, kills=2, idle_s=1.0, repeat=1)


def forced_to_disk(sizes: Sizes) -> dict[str, Any]:
    """Round trip and throughput where every write is on the disk before it counts."""
    env = {"redis": {"A2A_REDIS_APPENDFSYNC": "always"}}
    with (
        private_fleet(workers=sizes.workers, env_of=env) as fleet,
        FleetClient(**fleet.client_arguments(operator=True)) as client,
    ):
        return latency(client, sizes.samples) | throughput(fleet, client, sizes.tasks, sizes.repeat)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet", description="Measure a fleet of real daemons on this machine."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute, less exact")
    parser.add_argument("--only", choices=(*PARTS, "always"), action="append", help="only this part; may be repeated")
    args = parser.parse_args(argv)
    sizes = QUICK if args.quick else FULL
    about = machine()
    parts = tuple(part for part in PARTS if args.only is None or part in args.only)
    report: dict[str, Any] = run_bench(parts, sizes, quiet=False) if parts else {"fleet": {"workers": sizes.workers}}
    report["machine"] = about
    if args.only is None or "always" in args.only:
        print("measuring: always …", file=sys.stderr, flush=True)
        report["appendfsync_always"] = forced_to_disk(sizes)
    if args.json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        show(report)
    return 0


def show(report: dict[str, Any]) -> None:
    about = report["machine"]
    print(f"{about['cpu']}, load {about['load_1min']} before")
    print_report(report)
    always = report.get("appendfsync_always")
    if always is not None:
        times = always["roundtrip_ms"]
        rows = [
            ("no-op tasks a second", f"{always['noop_tasks_per_s']:,} {always['noop_tasks_per_s_runs']}"),
            ("one task, submit to result, ms", f"p50 {times['p50']}, p99 {times['p99']}, max {times['max']}"),
        ]
        print_table(("measurement", "value"), rows, title="With appendfsync always")


if __name__ == "__main__":
    sys.exit(main())
