"""Commands that start a private fleet of their own: demo and bench."""

from __future__ import annotations

from typing import Annotated

import typer

from daemons.cli.invocation import CommandFailed, invocation


def register(app: typer.Typer) -> None:
    for command in (demo, bench):
        app.command()(command)


def demo(
    ctx: typer.Context,
    kill_worker: Annotated[
        bool, typer.Option("--kill-worker", help="Kill a worker half-way (SIGKILL) and let the supervisor restart it.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers of the private fleet.")] = 2,
    limit: Annotated[int | None, typer.Option(min=1, help="Analyse only so many files.")] = None,
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
        str | None, typer.Option(help="Parts, comma-separated: idle, latency, throughput, depth, kill.")
    ] = None,
    tasks: Annotated[int, typer.Option(min=100, help="No-op tasks of one throughput run.")] = 50_000,
    samples: Annotated[int, typer.Option(min=10, help="Single tasks timed for the round trip.")] = 500,
    waiting: Annotated[
        int, typer.Option(min=2000, help="Waiting tasks of the deep queue (the shallow: 1,000).")
    ] = 100_000,
    kills: Annotated[int, typer.Option(min=1, help="Workers killed.")] = 10,
    idle_s: Annotated[float, typer.Option(min=0.5, help="Seconds over which idle cost is measured.")] = 5.0,
    workers: Annotated[int, typer.Option(min=2, max=64, help="Workers of the private fleet.")] = 2,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of which the median is reported.")] = 3,
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
