"""``python -m benchmarks.micro``: what the parts cost, one by one, in this process. ``docs/benchmarks.md`` reads it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import orjson

from benchmarks import cores, messages, store
from benchmarks.common import FULL, QUICK, Effort, machine
from daemons.cli.output import print_table

PARTS: dict[str, Callable[[Effort], dict[str, Any]]] = {
    "cores": cores.measure,
    "messages": messages.measure,
    "store": store.measure,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.micro", description="Measure what the parts cost, one by one."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="seconds instead of half a minute, less exact")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be repeated")
    args = parser.parse_args(argv)
    report: dict[str, Any] = {"machine": machine()}
    for name, measure in PARTS.items():
        if args.only is None or name in args.only:
            print(f"measuring: {name} …", file=sys.stderr, flush=True)
            report[name] = measure(QUICK if args.quick else FULL)
    if args.json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        show(report)
    return 0


def show(report: dict[str, Any]) -> None:
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    about = report["machine"]
    print(f"{about['cpus']} processors ({about['cpu']}), Python {about['python']}, load {about['load_1min']}\n")
    if "cores" in report:
        columns = ("tasks a message", "coordinator", "distributor", "worker")
        rows = [(batch, *(found[name] for name in columns[1:])) for batch, found in report["cores"].items()]
        print_table(columns, rows, title="Cores: processor time a task, µs", right=",".join(columns))
    if "messages" in report:
        columns = ("tasks a message", "bytes", "seal", "open", "parse", "port to port")
        rows = [
            (count, found["bytes"], found["seal_us"], found["open_us"], found["parse_us"], found["ports_us"])
            for count, found in report["messages"].items()
        ]
        print_table(columns, rows, title="Messages: processor time a message, µs", right=",".join(columns))
    if "store" in report:
        columns = ("appendfsync", "tasks a write", "accept p50", "accept p99", "results p50", "results p99")
        rows = [
            (mode, tasks, *(found[kind][share] for kind in ("accept", "results") for share in ("p50", "p99")))
            for mode, sizes in report["store"].items()
            for tasks, found in sizes.items()
        ]
        print_table(columns, rows, title="Store: time of an atomic write, ms", right=",".join(columns[1:]))


if __name__ == "__main__":
    sys.exit(main())
