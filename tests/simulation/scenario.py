"""One simulated run: load, a random schedule of faults drawn from the seed, then quiet, then the invariants.

Promises that are checked: nothing accepted is lost; no result is recorded twice; the client is told each outcome
once; fences
never go back; when all is quiet no live task is left. The same seed gives the same trace.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from a2a_zmq.interfaces import INBOX
from daemons.distributor.config import DistributorConfig
from tests.simulation.fleet import COORDINATOR, Fleet
from tests.simulation.network import Faults
from tests.simulation.virtual import VirtualLoop, run_virtual

KINDS = ("worker", "worker", "distributor", "coordinator", "redis", "reply", "partition", "drain")
# A wiped Redis is restored from the agents' memories, so at this stage agents that hold them are not killed besides.
WIPING_KINDS = ("wipe", "worker", "redis", "reply", "partition")
FAULT_TIME_S = 3.0
QUIET_S = 60.0  # virtual: what all retries, leases and audits together may need to settle


@dataclass(frozen=True, slots=True)
class Result:
    seed: int
    trace: str
    accepted: int
    violations: tuple[str, ...]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def run_seed(
    seed: int, *, faults: bool = True, tasks: int = 40, keep_notes: bool = False, kinds: tuple[str, ...] = KINDS
) -> Result:
    """Run one seed to its end."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # a simulated fleet writes no logs

    async def main(loop: VirtualLoop) -> Result:
        chooser = random.Random(f"scenario {seed}")
        fleet = Fleet(loop, seed, distributors=chooser.choice((1, 1, 2)), workers=2)
        plan: list[str] = []
        try:
            await fleet.start()
            loading = loop.create_task(_load(fleet, chooser, tasks))
            if faults:
                await _nemesis(fleet, chooser, plan, kinds)
            await loading
            _calm(fleet)
            await _settle(fleet, tasks)
            _check(fleet, tasks)
        finally:
            await fleet.stop()
        notes = tuple(fleet.notes) if keep_notes or fleet.violations or fleet.errors else ()
        violations = (*fleet.violations, *(f"error: {error}" for error in fleet.errors))
        return Result(seed, fleet.trace(), len(fleet.accepted), violations, tuple(plan), notes)

    return run_virtual(main)


async def _load(fleet: Fleet, chooser: random.Random, tasks: int) -> None:
    for number in range(tasks):
        seconds = chooser.choice((0.0005, 0.001, 0.005, 0.05, 0.3))
        fleet.submit(f"task-{number}", seconds=seconds, fail_times=chooser.choice((0, 0, 0, 0, 1, 2)))
        await asyncio.sleep(chooser.uniform(0, FAULT_TIME_S / tasks * 1.5))


async def _nemesis(fleet: Fleet, chooser: random.Random, plan: list[str], kinds: tuple[str, ...]) -> None:
    until = fleet.loop.time() + FAULT_TIME_S
    if chooser.random() < 0.5:
        fleet.network.faults = Faults(
            drop=chooser.choice((0, 0, 0.01, 0.05)),
            duplicate=chooser.choice((0, 0.02, 0.1)),
            reorder=chooser.choice((0, 0, 0.02)),
            tamper=chooser.choice((0, 0, 0.01)),
            delay_max_s=chooser.choice((0.002, 0.02, 0.1)),
        )
        plan.append(f"network {fleet.network.faults}")
    while fleet.loop.time() < until:
        await asyncio.sleep(chooser.uniform(0.05, 0.6))
        kind = chooser.choice(kinds)
        plan.append(f"{fleet.loop.time():.3f} {kind}")
        await _strike(fleet, chooser, kind)


async def _strike(fleet: Fleet, chooser: random.Random, kind: str) -> None:
    names = list(fleet.agents)
    if kind in ("worker", "distributor", "coordinator"):
        fleet.agents[chooser.choice([name for name in names if name.startswith(kind)])].crash()
    elif kind == "redis":
        fleet.redis.take_away()
        fleet.note("redis away")
        await asyncio.sleep(chooser.uniform(0.05, 1.5))
        fleet.redis.give_back()
        fleet.note("redis back")
    elif kind == "wipe":
        fleet.wipe()
    elif kind == "reply":
        owner = chooser.choice([name for name in names if not name.startswith("worker")])
        fleet.redis.lose_replies(owner, chooser.randint(1, 3), applied=chooser.random() < 0.5)
    elif kind == "partition":
        one, other = chooser.sample([*names, "client"], 2)
        fleet.network.partition(one, other)
        fleet.note("cut", one, other)
        await asyncio.sleep(chooser.uniform(0.1, 1.5))
        fleet.network.heal()
        fleet.note("healed")
    elif kind == "drain":
        fleet.agents[chooser.choice([name for name in names if name != COORDINATOR])].drain()


def _calm(fleet: Fleet) -> None:
    fleet.network.faults = Faults()
    fleet.network.heal()
    fleet.redis.give_back()
    fleet.note("calm")


async def _settle(fleet: Fleet, tasks: int) -> None:
    await fleet.until(lambda: len(fleet.finished) == tasks, QUIET_S, "every task has an outcome at the client")
    await fleet.until(lambda: not _live(fleet), QUIET_S, "no live task is left in the store")


def _live(fleet: Fleet) -> list[str]:
    ids: list[str] = []
    for distributor in (INBOX, *(name for name in fleet.agents if name.startswith("distributor"))):
        key = f"tasks:{{shared:distributor:{distributor}}}" if distributor else "tasks:{shared:coordinator}"
        ids += fleet.redis.data("").hashes.get(key, {})
    return ids


def _check(fleet: Fleet, tasks: int) -> None:
    fleet.read_log()
    lost = fleet.accepted - set(fleet.recorded) - fleet.recorded_before_wipe
    if lost:
        fleet.violations.append(f"accepted but never recorded: {sorted(lost)}")
    untold = fleet.accepted - set(fleet.finished)
    if untold:
        fleet.violations.append(f"accepted but the client was never told: {sorted(untold)}; live: {_live(fleet)}")
    for task_id, outcomes in fleet.finished.items():
        if len(outcomes) != 1:
            fleet.violations.append(f"{task_id}: {len(outcomes)} outcomes at the client")
        end = outcomes[0]
        if not isinstance(end, dict) or (end["status"] != "completed" and not taken_for_a_killer(fleet, end)):
            fleet.violations.append(f"{task_id}: did not complete: {outcomes[0]}")


def taken_for_a_killer(fleet: Fleet, record: dict[str, Any]) -> bool:
    """Was it set aside because three workers died while they had it? (That they did is looked up.)"""
    had = len(fleet.runs.get(record["task_id"], ()))
    return record["metadata"].get("error_kind") == "worker_lost" and had >= DistributorConfig().max_worker_deaths + 1


def main(argv: list[str] | None = None) -> int:
    """``python -m tests.simulation.scenario --seeds 1000``: exit status 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="simulate")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--wipe", action="store_true", help="wipe Redis, too, and kill only workers")
    parser.add_argument("--show", type=int, help="run one seed and print its trace")
    args = parser.parse_args(argv)
    kinds = WIPING_KINDS if args.wipe else KINDS
    if args.show is not None:
        result = run_seed(args.show, keep_notes=True, kinds=kinds)
        print("\n".join(result.notes))
        print("faults:", *result.faults, sep="\n  ")
        print("violations:", *result.violations, sep="\n  ")
        return 1 if result.violations else 0
    started, broken, accepted, done = time.monotonic(), 0, 0, 0
    with ProcessPoolExecutor(args.processes) as pool:
        for result in pool.map(partial(run_seed, kinds=kinds), range(args.first, args.first + args.seeds), chunksize=8):
            done += 1
            accepted += result.accepted
            if result.violations:
                broken += 1
                print(f"seed {result.seed}: {'; '.join(result.violations)[:600]}", flush=True)
            elif done % 100 == 0 and sys.stderr.isatty():
                print(f"\r{done} seeds", end="", file=sys.stderr)
    rate = done / (time.monotonic() - started) * 60
    print(f"{done} seeds, {accepted} accepted tasks, {broken} with violations, {rate:.0f} seeds a minute")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
