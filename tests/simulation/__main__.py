"""``python -m tests.simulation --seeds 1000``: exit status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat

from tests.simulation import shrink
from tests.simulation.plan import MODES, draw
from tests.simulation.scenario import Result, run, run_seed


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate whole fleets.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--mode", choices=MODES, help="for all of them; by default each seed chooses")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--hashes", action="store_true", help="print the hash of each seed's trace")
    parser.add_argument("--show", type=int, metavar="SEED", help="run one seed and print its trace")
    parser.add_argument("--shrink", type=int, metavar="SEED", help="cut a failing seed down to the events it needs")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    if args.show is not None:
        return show(run(draw(args.show, args.mode), keep_notes=True))
    if args.shrink is not None:
        return shrink.main(draw(args.shrink, args.mode))
    started, broken, accepted, done, virtual_s = time.monotonic(), 0, 0, 0, 0.0
    for result in results(args):
        done += 1
        accepted += result.accepted
        virtual_s += result.virtual_s
        if args.hashes:
            print(f"{result.plan.seed} {result.trace}")
        if result.violations:
            broken += 1
            print(f"seed {result.plan.seed} ({result.plan.mode}): {'; '.join(result.violations)[:600]}", flush=True)
        elif done % 100 == 0 and sys.stderr.isatty():
            print(f"\r{done} seeds", end="", file=sys.stderr)
    seconds = time.monotonic() - started
    print(
        f"{done} seeds, {accepted} accepted tasks, {virtual_s / 3600:.1f} simulated hours in {seconds:.0f} s"
        f" ({done / seconds * 60:.0f} seeds a minute), {broken} with violations"
    )
    return 1 if broken else 0


def results(args: argparse.Namespace) -> Iterator[Result]:
    seeds = range(args.first, args.first + args.seeds)
    if args.processes == 1:
        yield from map(run_seed, seeds, repeat(args.mode))
        return
    with ProcessPoolExecutor(args.processes) as pool:
        yield from pool.map(partial(run_seed, mode=args.mode), seeds, chunksize=8)


def show(result: Result) -> int:
    print("\n".join(result.notes))
    print(f"mode {result.plan.mode}, {result.plan.distributors} distributors; events:")
    print("".join(f"  {event}\n" for event in result.plan.events if not event.kind.startswith("submit")), end="")
    print("violations:", *result.violations or ("none",), sep="\n  ")
    print(f"trace {result.trace}")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
