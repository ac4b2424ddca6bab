"""Commands about the fleet: status, drain, failover, doctor."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daemons.cli.invocation import CommandFailed, invocation


def register(app: typer.Typer) -> None:
    for command in (status, drain, failover, doctor):
        app.command()(command)


def status(ctx: typer.Context) -> None:
    """The fleet at a glance: coordinator, distributors, workers, tasks, store."""
    run = invocation(ctx)
    with run.client() as client:
        fleet = client.status()
    run.show(fleet, lambda: _print_status(fleet))


def _print_status(fleet: dict[str, Any]) -> None:
    from daemons.cli.output import print_table

    coordinator = fleet.get("coordinator") or {}
    store = fleet.get("store") or {}
    leads = "leads" if coordinator.get("leading", True) else f"stands by for {coordinator.get('leader') or 'nobody'}"
    print(
        f"coordinator {coordinator.get('id', '?')} {leads}, up {float(coordinator.get('uptime_s') or 0):.0f} s, "
        f"store {'available' if store.get('available', True) else 'away: ' + str(store.get('reason'))}"
        f"{', on the local spool' if store.get('spooling') else ''}"
    )
    if standbys := fleet.get("standbys"):
        print("standing by: " + ", ".join(str(one.get("id")) for one in standbys))
    rows: list[tuple[Any, ...]] = []
    for one in fleet.get("distributors") or ():
        state = one.get("status") if one.get("up") else "down"
        rows.append((one.get("id"), state, one.get("pending"), one.get("in_progress"), one.get("slots", ""), ""))
        for worker in one.get("workers") or ():
            labels = ",".join(f"{k}={v}" for k, v in (worker.get("labels") or {}).items())
            rows.append(
                (f"  {worker.get('id')}", "up" if worker.get("up") else "down", "", "", worker.get("slots"), labels)
            )
    print_table(("agent", "state", "pending", "running", "slots", "labels"), rows, right="pending,running,slots")
    for one in fleet.get("distributors") or ():
        if not one.get("up") and one.get("away_s") is not None:
            print(_away(one))
    counts = fleet.get("tasks") or {}
    listed = ", ".join(f"{number} {name}" for name, number in counts.items()) or "none yet"
    print(f"tasks: {listed} (ended ones since this coordinator's start)")
    letters = (fleet.get("coordinator") or {}).get("dead_letters")
    if letters:
        print(f"dead letters: {letters} (a2actl tasks --dead)")


def _away(one: dict[str, Any]) -> str:
    """Since when a distributor is away, and when its tasks go to others."""
    due_s = one.get("failover_in_s")
    moves = f"; {one['moving']} tasks are being moved" if one.get("moving") else ""
    if not moves and due_s is not None:
        moves = f"; its tasks go to others that can run them in {due_s:.0f} s"
    return f"{one.get('id')} has been away for {one['away_s']:.0f} s{moves}"


def failover(
    ctx: typer.Context, distributor_id: Annotated[str, typer.Argument(metavar="DISTRIBUTOR", help="One that is away.")]
) -> None:
    """Give the tasks of a distributor that does not come back to others, now."""
    run = invocation(ctx)
    with run.client() as client:
        answer = client.failover(distributor_id)
    run.show(answer, lambda: print(answer.get("message")))


def drain(
    ctx: typer.Context, agent_id: Annotated[str, typer.Argument(metavar="AGENT", help="A distributor or worker.")]
) -> None:
    """Let an agent finish what it runs, take nothing new, and leave."""
    run = invocation(ctx)
    with run.client() as client:
        answer = client.drain(agent_id)
    run.show(answer, lambda: print(answer.get("message") or f"{agent_id} drains") if answer.get("draining") else None)
    if not answer.get("draining"):
        raise CommandFailed(str(answer.get("message") or f"{agent_id} does not drain"))


def doctor(
    ctx: typer.Context,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what is wrong with the fleet's state and has one right answer.")
    ] = False,
) -> None:
    """Look for what is wrong on this host, between it and the fleet, and in the fleet's state; say how to mend it."""
    from daemons.cli import state_checks
    from daemons.cli.checks import run_checks

    run = invocation(ctx)
    checks = run_checks(run, repair=repair)
    bad = [check for check in checks if not check.ok]

    def lines() -> None:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.text}")
            for line in state_checks.lines(check):
                print(f"      {line}")
            if not check.ok:
                print(f"      fix: {check.fix}")

    run.show({"ok": not bad, "checks": [check._asdict() for check in checks]}, lines)
    if bad:
        raise CommandFailed(f"{len(bad)} of {len(checks)} checks failed: {', '.join(check.name for check in bad)}")
