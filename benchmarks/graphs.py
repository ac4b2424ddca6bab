"""``python -m benchmarks.graphs``: graphs of ten steps on a private fleet.

- *overhead*: one run after the other, through client, coordinator, distributor and worker, each step checkpointed in
  Redis, beside plain ``ainvoke`` with LangGraph's SQLite saver in this process, in turn.
- *kills*: runs under load while a worker is killed every second. No finished step may run again: in the ledger a run's
  steps never go back, and a step that is there twice was the last one of an attempt that was killed.
- *resume*: from a worker's SIGKILL to the next step of each of its runs on another one.
- *restarts*: workers are drained (SIGTERM) one after the other under load. No step may be there twice.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from a2a_zmq import FleetClient
from benchmarks.common import machine
from benchmarks.graph_project.steps import STEPS, build
from daemons.cli.fleet import LocalFleet, wait_until
from daemons.cli.output import print_table

PROJECT = Path(__file__).parent / "graph_project" / "langgraph.json"
PARTS = ("overhead", "kills", "resume", "restarts")
PATIENCE_S = 180.0
KILL_EVERY_S = 1.0
# Runs before those that count: each worker's children have run the graph, and its spare has been started.
WARM_UP = 20
INPUT: dict[str, Any] = {"n": 0, "document": [{"text": "x" * 50} for _ in range(200)], "log": []}

Line = tuple[str, int, str, int, float]  # run, step, key, process, time


class Stage:
    """A fleet with the graph, a client, and the ledger."""

    def __init__(self, directory: Path, workers: int, slots: int) -> None:
        self.directory = directory
        self.workers = [f"worker-{number + 1}" for number in range(workers)]
        env = {"A2A_WORKER_GRAPHS": str(PROJECT), "A2A_WORKER_SLOTS": str(slots)}
        self.fleet = LocalFleet(workers=workers, env=env)
        self._ledgers = itertools.count(1)

    def ledger(self) -> Path:
        return self.directory / f"ledger-{next(self._ledgers)}"

    def client(self) -> FleetClient:
        return FleetClient(**self.fleet.client_arguments(operator=False))

    def replaced(self, worker: str, pid: int) -> bool:
        return self.fleet.pids.get(worker) not in (None, 0, pid)

    def process_of(self, pid: int) -> str | None:
        """The worker that this is a descendant of."""
        while pid > 1:
            for name in self.workers:
                if self.fleet.pids.get(name) == pid:
                    return name
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                return None
        return None


def wait_for_lines(ledger: Path, count: int) -> None:
    wait_until(lambda: len(lines_of(ledger)) >= count, f"{count} steps have begun", PATIENCE_S)


def lines_of(ledger: Path) -> list[Line]:
    if not ledger.exists():
        return []
    found = []
    for text in ledger.read_text().splitlines():
        run, step, key, pid, at = text.split()
        found.append((run, int(step), key, int(pid), float(at)))
    return found


def judge(lines: list[Line]) -> dict[str, Any]:
    """Steps that are there several times, and those among them that had finished."""
    runs: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        runs[line[0]].append(line)
    back, gaps, keys = 0, 0, 0
    for own in runs.values():
        steps = [step for _, step, *_ in own]
        back += sum(later < earlier for earlier, later in itertools.pairwise(steps))
        gaps += sum(later > earlier + 1 for earlier, later in itertools.pairwise(steps))
        by_step: dict[int, set[str]] = defaultdict(set)
        for _, step, key, *_ in own:
            by_step[step].add(key)
        keys += sum(len(each) > 1 for each in by_step.values())
    repeated = sum(count - 1 for count in Counter((run, step) for run, step, *_ in lines).values())
    return {
        "runs": len(runs),
        "lines": len(lines),
        "repeated_in_flight": repeated,
        "finished_steps_repeated": back,
        "steps_left_out": gaps,
        "steps_with_two_keys": keys,
    }


# ---------------------------------------------------------------- parts


async def plain_ms(directory: Path, rounds: Iterator[int]) -> Any:
    """A function that runs the graph in this process, with the SQLite saver."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    opened = AsyncSqliteSaver.from_conn_string(str(directory / "plain.db"))
    saver = await opened.__aenter__()
    graph: Any = build().compile(checkpointer=saver)

    async def run() -> float:
        began = time.perf_counter()
        await graph.ainvoke(INPUT, {"configurable": {"thread_id": f"t{next(rounds)}"}}, durability="sync")
        return (time.perf_counter() - began) * 1e3

    return run, opened


def overhead(stage: Stage, client: FleetClient, rounds: int) -> dict[str, Any]:
    loop = asyncio.new_event_loop()
    run, opened = loop.run_until_complete(plain_ms(stage.directory, itertools.count()))
    fleet: list[float] = []
    plain: list[float] = []
    for number in range(rounds + WARM_UP):
        began = time.perf_counter()
        assert client.submit_graph("steps", INPUT).result(PATIENCE_S)["n"] == STEPS
        took = (time.perf_counter() - began) * 1e3
        other = loop.run_until_complete(run())
        if number >= WARM_UP:
            fleet.append(took)
            plain.append(other)
    loop.run_until_complete(opened.__aexit__(None, None, None))
    loop.close()
    ratios = [ours / theirs for ours, theirs in zip(fleet, plain, strict=True)]
    return {
        "fleet_ms": round(statistics.median(fleet), 1),
        "sqlite_ms": round(statistics.median(plain), 1),
        "ratio_of_medians": round(statistics.median(fleet) / statistics.median(plain), 2),
        "median_ratio": round(statistics.median(ratios), 2),
    }


def submit(client: FleetClient, ledger: Path, runs: int, pause_s: float) -> list[Any]:
    payloads = [
        {"input": {**INPUT, "run": f"r{number}", "ledger": str(ledger), "pause_s": pause_s}} for number in range(runs)
    ]
    return list(client.submit_many("graph:steps", payloads, max_attempts=50))


def kills(stage: Stage, client: FleetClient, runs: int, rng: random.Random) -> dict[str, Any]:
    ledger = stage.ledger()
    began = time.monotonic()
    handles = submit(client, ledger, runs, 0.1)
    killed = 0
    pending = list(handles)
    while pending:
        next_kill = time.monotonic() + KILL_EVERY_S
        if lines_of(ledger):
            stage.fleet.kill(rng.choice(stage.workers))
            killed += 1
        pending = [handle for handle in pending if not handle.done()]
        if time.monotonic() - began > PATIENCE_S:
            break
        time.sleep(max(0.0, next_kill - time.monotonic()))
    right = sum(handle.done() and handle.result(1.0)["n"] == STEPS for handle in handles)
    return {
        "kills": killed,
        "finished": right,
        "seconds": round(time.monotonic() - began, 1),
        **judge(lines_of(ledger)),
    }


def resume(stage: Stage, client: FleetClient, times: int) -> dict[str, Any]:
    """One run at a time on its worker: what is killed is in the middle of a step of 50 ms."""
    took: list[float] = []
    for _ in range(times):
        ledger = stage.ledger()
        (handle,) = submit(client, ledger, 1, 0.05)
        wait_for_lines(ledger, 3)
        worker = stage.process_of(lines_of(ledger)[-1][3])
        if worker is None:
            continue
        before, killed = len(lines_of(ledger)), time.time()
        stage.fleet.kill(worker)
        assert handle.result(PATIENCE_S)["n"] == STEPS
        later = [at for *_, at in lines_of(ledger)[before:] if at > killed]
        took.append((later[0] - killed) * 1e3)
        stage.fleet.wait_ready()
    took.sort()
    return {"times": len(took), "p50_ms": round(took[len(took) // 2]), "p99_ms": round(took[-1])}


def restarts(stage: Stage, client: FleetClient, runs: int) -> dict[str, Any]:
    ledger = stage.ledger()
    handles = submit(client, ledger, runs, 0.1)
    wait_for_lines(ledger, 20)
    for name in stage.workers:
        before = stage.fleet.kill(name, signal.SIGTERM)
        wait_until(partial(stage.replaced, name, before), f"{name} has left, and is back", PATIENCE_S)
        stage.fleet.wait_ready()
    right = sum(handle.result(PATIENCE_S)["n"] == STEPS for handle in handles)
    return {"finished": right, **judge(lines_of(ledger))}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs", description="Graphs on a private fleet.")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=40, help="of overhead and resume")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--slots", type=int, default=4, help="graphs that a worker runs at a time")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    print(machine())
    with tempfile.TemporaryDirectory(prefix="a2a-graphs-") as directory:
        stage = Stage(Path(directory), args.workers, args.slots)
        with stage.fleet, stage.client() as client:
            client.submit_graph("steps", INPUT).result(PATIENCE_S)
            parts: dict[str, Callable[[], dict[str, Any]]] = {
                "overhead": lambda: overhead(stage, client, args.rounds),
                "resume": lambda: resume(stage, client, args.rounds),
                "kills": lambda: kills(stage, client, args.runs, random.Random(args.seed)),
                "restarts": lambda: restarts(stage, client, args.runs // 2),
            }
            for name, part in parts.items():
                if args.only in (None, name):
                    rows = [[key, str(value)] for key, value in part().items()]
                    print_table(["", ""], rows, title=name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
