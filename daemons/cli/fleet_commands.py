"""Commands about the fleet: status, top, drain, failover, doctor."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from daemons.cli.commands import command
from daemons.cli.invocation import CommandFailed, Invocation, invocation

# A shell that completes does not wait for longer.
TAB_TIMEOUT_S = 1.0


class Order(StrEnum):
    """By what ``top`` orders agents."""

    AGENT = "agent"
    RATE = "rate"
    LOAD = "load"
    LATENCY = "latency"


def _agents(incomplete: str) -> list[str]:
    """For a shell's TAB: those that are connected."""
    try:
        fleet = Invocation(json=True, timeout_s=TAB_TIMEOUT_S).ask(lambda client: client.status())
    except Exception:  # no fleet, no keys: nothing to offer
        return []
    sites = [one for one in fleet.get("distributors") or () if one.get("up")]
    workers = [worker for one in sites for worker in one.get("workers") or () if worker.get("up")]
    names = [fleet["coordinator"]["id"], *(str(each.get("id")) for each in [*sites, *workers])]
    return [name for name in names if name.startswith(incomplete)]


def register(app: typer.Typer) -> None:
    for each in (status, top, drain, failover, doctor):
        command(app, each.__name__)(each)


def status(
    ctx: typer.Context,
    *,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Wait (at most --timeout s) until a coordinator leads and each distributor is up and has a worker; "
            "one that has been away for a minute and has no tasks does not count.",
        ),
    ] = False,
) -> None:
    """The fleet at a glance: coordinator, distributors, workers, tasks, store."""
    from daemons.cli import output, readiness
    from daemons.cli.fleet_view import status_lines

    run = invocation(ctx)
    fleet = readiness.wait_ready(run) if wait else run.ask(lambda client: client.status())
    run.show(fleet, lambda: output.print_lines(status_lines(fleet, output.width())))


def top(
    ctx: typer.Context,
    *,
    interval: Annotated[
        float, typer.Option(min=0.2, max=3600, metavar="SECONDS", help="Seconds between two looks.")
    ] = 2.0,
    count: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Print so many measurements and end; where there is no terminal: one."),
    ] = None,
    sort: Annotated[
        Order, typer.Option(metavar="ORDER", help="Order of the agents: agent, rate, load or latency.")
    ] = Order.AGENT,
) -> None:
    """The fleet at work, live: rates, queues, slots and latency of each agent.

    DONE/S and FAIL/S are runs that ended, a second; QUEUE waits for a worker, HELD is at one, RUN of these run; SLOTS
    are taken/all; RUN TIME and STAY are means of the runs that ended meanwhile: at work, and from dispatch to report.
    """
    from daemons.cli import top as show

    show.top(invocation(ctx), interval_s=interval, count=count, sort=sort.value)


def failover(
    ctx: typer.Context, distributor_id: Annotated[str, typer.Argument(metavar="DISTRIBUTOR", help="One that is away.")]
) -> None:
    """Give the tasks of a distributor that does not come back to others, now."""
    from daemons.cli import output

    run = invocation(ctx)
    answer = run.ask(lambda client: client.failover(distributor_id), f"taking the tasks of {distributor_id}")
    run.show(answer, lambda: output.print_words(str(answer.get("message"))))


def drain(
    ctx: typer.Context,
    agent_id: Annotated[
        str,
        typer.Argument(metavar="AGENT", help="A worker, a distributor or the coordinator.", autocompletion=_agents),
    ],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has left (for at most --timeout s).")] = False,
) -> None:
    """Let an agent finish what it runs, take nothing new, and leave."""
    from daemons.cli import draining, output
    from daemons.cli.progress import Busy

    run = invocation(ctx)
    with run.client() as client:
        with Busy("asking the fleet", enabled=not run.json):
            before, answer = client.status() if wait else {}, client.drain(agent_id)
        if not answer.get("draining"):
            run.show(answer, lambda: None)
            raise CommandFailed(str(answer.get("message") or f"{agent_id} does not drain"))
        if wait:
            answer["left"] = draining.wait_left(run, client, agent_id, before)
    word = f"{agent_id} has left" if wait else str(answer.get("message") or f"{agent_id} drains")
    run.show(answer, lambda: output.print_words(word))


def doctor(
    ctx: typer.Context,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is wrong with the fleet's state and has one right answer.")
    ] = False,
) -> None:
    """Look for what is wrong on this host, between it and the fleet, and in the fleet's state; say how to mend it."""
    from daemons.cli import diagnosis
    from daemons.cli.checks import run_checks
    from daemons.cli.progress import Busy

    run = invocation(ctx)
    with Busy("looking at this host", enabled=not run.json) as busy:
        checks = run_checks(run, repair=repair, say=busy.say)
    bad = [check for check in checks if not check.ok]
    shown: dict[str, Any] = {"ok": not bad, "checks": [check._asdict() for check in checks]}
    run.show(shown, lambda: diagnosis.print_checks(checks))
    if bad:
        raise CommandFailed(f"{len(bad)} of {len(checks)} checks failed: {', '.join(check.name for check in bad)}")
