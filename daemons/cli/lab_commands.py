"""Commands that start a private fleet of their own: demo, bench, chaos and soak."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from daemons.cli.commands import command
from daemons.cli.invocation import CommandFailed, invocation


def register(app: typer.Typer) -> None:
    for each in (demo, bench, chaos, soak):
        command(app, each.__name__)(each)


def demo(
    ctx: typer.Context,
    kill_worker: Annotated[
        bool, typer.Option("--kill-worker", help="Kill a worker half-way (SIGKILL) and let the supervisor restart it.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Workers of the private fleet.")] = 2,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Analyse only so many files.")] = None,
) -> None:
    """Analyse Python's standard library on a private fleet, and verify the outcome in one process."""
    from daemons.cli import demo as show

    run = invocation(ctx)
    report = show.run_demo(workers=workers, kill=kill_worker, limit=limit, quiet=run.json)
    run.show(report, lambda: show.print_report(report))
    if not report["verified"]:
        raise CommandFailed(f"{len(report['differences'])} files differ from the analysis in one process")


def bench(
    ctx: typer.Context,
    *,
    only: Annotated[
        str | None,
        typer.Option(metavar="PARTS", help="Parts, comma-separated: idle, latency, throughput, depth, kill."),
    ] = None,
    tasks: Annotated[int, typer.Option(min=100, metavar="N", help="No-op tasks of one throughput run.")] = 50_000,
    samples: Annotated[int, typer.Option(min=10, metavar="N", help="Single tasks timed for the round trip.")] = 500,
    waiting: Annotated[
        int, typer.Option(min=2000, metavar="N", help="Waiting tasks of the deep queue (the shallow: 1,000).")
    ] = 100_000,
    kills: Annotated[int, typer.Option(min=1, metavar="N", help="Workers killed.")] = 10,
    idle_s: Annotated[
        float, typer.Option(min=0.5, metavar="SECONDS", help="Seconds over which idle cost is measured.")
    ] = 5.0,
    workers: Annotated[int, typer.Option(min=2, max=64, metavar="N", help="Workers of the private fleet.")] = 2,
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="Runs of which the median is reported.")] = 3,
) -> None:
    """Measure a private fleet on this machine: throughput, latency, memory, idle cost, recovery."""
    from daemons.cli import bench as lab

    run = invocation(ctx)
    chosen = lab.PARTS if only is None else tuple(part.strip() for part in only.split(","))
    unknown = [part for part in chosen if part not in lab.PARTS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is no part; there are {', '.join(lab.PARTS)}")
    sizes = lab.Sizes(
        tasks=tasks, samples=samples, waiting=waiting, kills=kills, idle_s=idle_s, workers=workers, repeat=repeat
    )
    report = lab.run_bench(chosen, sizes, quiet=run.json)
    run.show(report, lambda: lab.print_report(report))


def chaos(
    ctx: typer.Context,
    *,
    duration: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Seconds in which faults are begun.")
    ] = 60.0,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Of the plan of faults; a random one by default.")
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(
            metavar="FAULTS",
            help="Kinds of faults, comma-separated, NAME or NAME=COUNT; all by default. Counts end the run.",
        ),
    ] = None,
    rate: Annotated[float, typer.Option(min=1, max=5000, metavar="N", help="Tasks a second of the load.")] = 100.0,
    workers: Annotated[int, typer.Option(min=2, max=64, metavar="N", help="Workers of the private fleet.")] = 3,
    distributors: Annotated[
        int, typer.Option(min=1, max=16, metavar="N", help="Distributors of the private fleet.")
    ] = 1,
    slack: Annotated[
        float,
        typer.Option(
            min=1, metavar="FACTOR", help="Let times be so many times as long as promised: for a machine that is busy."
        ),
    ] = 1.0,
    fleet: Annotated[
        bool,
        typer.Option("--fleet", help="Break the fleet that runs on this host (--address) instead: processes only."),
    ] = False,
    yes_break_it: Annotated[bool, typer.Option("--yes-break-it", help="With --fleet: it is meant.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Each kind once, then end.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report to this file, as Markdown.")
    ] = None,
) -> None:
    """Break a fleet under load, and check every promise: nothing lost, nothing recorded twice, back in time.

    The fleet is a private one that is gone afterwards, unless --fleet is given.
    """
    import secrets

    from daemons.cli.chaos import report as forms
    from daemons.cli.chaos import run as lab

    run = invocation(ctx)
    if report is not None and not os.access(report if report.exists() else report.absolute().parent, os.W_OK):
        raise typer.BadParameter(f"--report {report}: cannot be written by this user, or its directory is not there")
    options = lab.Options(
        duration_s=duration,
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        faults=None if faults is None else tuple(name.strip() for name in faults.split(",")),
        rate=rate,
        workers=workers,
        distributors=distributors,
        once=once,
        slack=slack,
    )
    if fleet:
        run.timeout_s = run.timeout_s or lab.PATIENT_S
        addresses = list(run.settings.coordinator_address)
        found = lab.run_on(run.client, addresses, options, sure=yes_break_it, quiet=run.json)
    else:
        found = lab.run_own(options, quiet=run.json)
    run.show(found, lambda: forms.print_report(found))
    if report is not None:
        lab.write_report(found, report)
    if not found["ok"]:
        raise CommandFailed(f"{len(forms.complaints(found))} promises were broken (seed {options.seed})")


def soak(
    ctx: typer.Context,
    *,
    duration: Annotated[float, typer.Option(min=10, metavar="SECONDS", help="Seconds.")] = 1800.0,
    share: Annotated[
        float, typer.Option(min=0.01, max=1, metavar="PART", help="Of the highest rate, which is measured first.")
    ] = 0.5,
    rate: Annotated[
        float | None, typer.Option(min=1, metavar="N", help="Tasks a second, instead of that share.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Workers of the private fleet.")] = 2,
) -> None:
    """Load a private fleet for long: memory of each daemon must stay flat, and no key in Redis may stay for ever."""
    from daemons.cli.chaos import run as lab
    from daemons.cli.chaos import soak as show

    run = invocation(ctx)
    say = lab.Narrator(quiet=run.json)
    found = show.run_soak(seconds=duration, share=share, workers=workers, rate=rate, say=say)
    run.show(found, lambda: show.print_report(found))
    if not found["ok"]:
        raise CommandFailed(f"{len(found['broken'])} promises were broken")
