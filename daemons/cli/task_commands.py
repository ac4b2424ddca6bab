"""Commands about tasks: submit, stream, result, resume, task, tasks, explain, cancel, retry, history."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from a2a_zmq.tasks import TRANSITIONS
from daemons.cli.commands import command
from daemons.cli.invocation import CommandFailed, Invocation, invocation

if TYPE_CHECKING:
    from a2a_zmq.client.requests import TaskFilter

TaskIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Task ids.")]


class Sort(StrEnum):
    """Orders of ``tasks``."""

    OLDEST = "oldest"
    NEWEST = "newest"
    TYPE = "type"
    STATUS = "status"
    WORKER = "worker"
    OWNER = "owner"
    TRIES = "tries"


def _statuses(incomplete: str) -> list[str]:
    """For a shell's TAB."""
    return [name for name in (*TRANSITIONS, "all") if name.startswith(incomplete)]


TypeOption = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only this task type.")]
TaskIdArgument = Annotated[str, typer.Argument(metavar="ID", help="Task id.")]


def register(app: typer.Typer) -> None:
    for each in (submit, stream, result, resume, task, tasks, explain, cancel, retry, history):
        command(app, each.__name__)(each)


def submit(
    ctx: typer.Context,
    *,
    task_type: Annotated[
        str | None, typer.Argument(metavar="TYPE", help="Task type, for example noop or compute.")
    ] = None,
    payload: Annotated[str | None, typer.Option(metavar="JSON", help="Payload, a JSON object.")] = None,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="Submit the same task so many times.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=(
                'Tasks, one JSON object a line ("-": standard input) with payload and, if wanted, task_type, priority, '
                "timeout_s, max_attempts, idempotency_key, task_id, distributor, labels (an object)."
            ),
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Show live what a graph tells, then its result.")] = False,
    stream_mode: Annotated[
        str | None, typer.Option(metavar="MODE,…", help="--stream with these: updates, custom, messages, values …")
    ] = None,
    priority: Annotated[int, typer.Option(metavar="N", help="Higher runs first.")] = 0,
    time_limit: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Seconds that one attempt may take.")
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Attempts before it counts as failed; by default as distributors are set: 3."
        ),
    ] = None,
    task_id: Annotated[str | None, typer.Option(metavar="ID", help="Use this id; a known id is the same task.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(metavar="KEY", help="The same key is the same task.")] = None,
    distributor: Annotated[str | None, typer.Option(metavar="ID", help="Run it there only.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Label that a worker must have.")
    ] = None,
) -> None:
    """Give the fleet tasks. Prints their ids once they are on disk, or with --wait their results."""
    from daemons.cli import submitting

    run = invocation(ctx)
    chosen = {
        "timeout_s": time_limit,
        "distributor": distributor,
        "labels": submitting.labels_of(label) if label else None,
        "task_id": task_id,
        "idempotency_key": idempotency_key,
    }
    options: dict[str, Any] = {"priority": priority, "max_attempts": max_attempts}
    options |= {name: value for name, value in chosen.items() if value is not None}
    watched = stream or stream_mode is not None
    named = task_id is not None or idempotency_key is not None
    _see_that_they_agree(file, payload, count, named=named, watched=watched)
    if file is not None:
        specs = submitting.read_tasks(file, task_type, options)
    elif task_type is None:
        raise typer.BadParameter("TYPE is missing (only --file may name it in each line)")
    else:
        given = submitting.parse_payload("{}" if payload is None else payload)
        if watched:
            from daemons.cli import streaming

            spec = {"task_type": task_type, "payload": given, **options}
            streaming.submit(run, spec, streaming.modes_of(stream_mode))
            return
        specs = ({"task_type": task_type, "payload": given, **options} for _ in range(count or 1))
    submitting.submit(run, specs, wait=wait)


def _see_that_they_agree(
    file: Path | None, payload: str | None, count: int | None, *, named: bool, watched: bool
) -> None:
    """
    Raises:
        BadParameter: options of ``submit`` do not go together.
    """
    if file is not None and (payload is not None or count is not None):
        raise typer.BadParameter("--file brings its own payloads: leave --payload and --count out")
    if (count or 1) > 1 and named:
        raise typer.BadParameter("--count makes different tasks: leave --task-id and --idempotency-key out")
    if watched and (file is not None or count is not None):
        raise typer.BadParameter("--stream shows one task: leave --file and --count out")


def stream(
    ctx: typer.Context,
    task_id: TaskIdArgument,
    *,
    after: Annotated[
        str | None,
        typer.Option("--from", metavar="EVENT", help="Only what comes after the event with this id (as in 1-17)."),
    ] = None,
) -> None:
    """Show what a graph's task tells, live or again, then its result. It must have been submitted with stream modes."""
    from daemons.cli import streaming

    streaming.attach(invocation(ctx), task_id, after)


def result(ctx: typer.Context, task_id: TaskIdArgument) -> None:
    """Wait for a task's result and print it (for at most --timeout seconds; 30 by default)."""
    from daemons.cli import waiting

    run = invocation(ctx)
    with run.client() as client:
        waiting.show_result(run, client.attach(task_id))


def resume(
    ctx: typer.Context,
    task_id: TaskIdArgument,
    *,
    value: Annotated[str | None, typer.Option(metavar="JSON", help="The answer, as JSON.")] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="The answer, as it is.")] = None,
    interrupt: Annotated[
        str | None, typer.Option(metavar="ID", help="Which question is answered, if there are several.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the result, or the next question.")] = False,
) -> None:
    """Answer what a task asks (see tasks --status waiting), so that it goes on."""
    from daemons.cli import waiting

    waiting.resume(invocation(ctx), task_id, waiting.value_of(value, text), interrupt, wait=wait)


def _known(found: dict[str, Any] | None, task_id: str) -> dict[str, Any]:
    if found is None:
        raise CommandFailed(
            f"no task {task_id} is known (never accepted, its result has expired, or the store lost it)"
        )
    return found


def task(ctx: typer.Context, task_id: TaskIdArgument) -> None:
    """Everything that is recorded of a task."""
    from daemons.cli.waiting import print_value

    run = invocation(ctx)
    record = _known(run.ask(lambda client: client.get(task_id)), task_id)
    run.show({"task": record}, lambda: print_value(record))


def tasks(
    ctx: typer.Context,
    *,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS",
            help="pending, in_progress, waiting, completed, failed, abandoned, or all.",
            autocompletion=_statuses,
        ),
    ] = None,
    task_type: TypeOption = None,
    distributor: Annotated[str | None, typer.Option(metavar="ID", help="Only there.")] = None,
    worker: Annotated[
        str | None, typer.Option(metavar="ID", help="Only where this worker has the last attempt.")
    ] = None,
    owner: Annotated[str | None, typer.Option(metavar="CLIENT", help="Only of this client identity.")] = None,
    older: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Submitted longer ago than that: 90s, 10m, 2h, 7d.")
    ] = None,
    newer: Annotated[str | None, typer.Option(metavar="SPAN", help="Submitted since then.")] = None,
    text: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Only with this in their id, type, error or question; case does not count."),
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Dead letters: tasks that were given up.")] = False,
    sort: Annotated[
        Sort | None,
        typer.Option(
            metavar="ORDER",
            help="Order: oldest, newest (these choose which are listed, too), type, status, worker, owner or tries.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="At most so many.")] = 50,
) -> None:
    """List tasks: unfinished ones, or with their --status (or --dead) the newest of those that ended."""
    from daemons.cli import listing

    if status is not None and status not in (*TRANSITIONS, listing.ALL):
        raise typer.BadParameter(f"{status!r} is no status; there are {', '.join(TRANSITIONS)}, {listing.ALL}")
    if dead and status == listing.ALL:
        raise typer.BadParameter("--dead lists what was given up: leave --status all out")
    given = {
        "distributor": distributor,
        "worker": worker,
        "owner": owner,
        "text": text,
        "older_s": listing.seconds(older, "--older"),
        "newer_s": listing.seconds(newer, "--newer"),
        "newest": True if sort == Sort.NEWEST else None,
    }
    wanted = cast("TaskFilter", {name: value for name, value in given.items() if value is not None})
    run = invocation(ctx)
    page = run.ask(lambda client: listing.fetch(client, status, task_type, dead=dead, limit=limit, wanted=wanted))
    page = listing.ordered(page, sort.value if sort is not None else None)
    since = {"since": page.since} if page.since else {}
    shown = {"tasks": page.tasks, "total": page.total, "partial": page.partial, **since}
    run.show(shown, lambda: listing.print_tasks(page, status=status, dead=dead, limit=limit))


def explain(ctx: typer.Context, task_id: TaskIdArgument) -> None:
    """Where a task stands and why, who holds it, and how it got there."""
    from daemons.cli import explaining

    run = invocation(ctx)
    found = _known(run.ask(lambda client: client.explain(task_id)), task_id)
    lines = explaining.explanation(found)
    status = (found.get("task") or {}).get("status")
    run.show({"task_id": task_id, "status": status, **found, "lines": lines}, lambda: explaining.print_lines(lines))


def cancel(ctx: typer.Context, task_ids: TaskIds) -> None:
    """Cancel tasks; running ones are stopped. Fails if an id is unknown."""
    run = invocation(ctx)
    outcome = run.ask(lambda client: client.cancel(*task_ids))
    words = {"cancelled": "cancelled", "requested": "being cancelled", "terminal": "had ended"}
    _show_outcome(run, outcome, words)
    if outcome.get("unknown"):
        raise CommandFailed(f"unknown: {', '.join(map(str, outcome['unknown']))}")


def retry(
    ctx: typer.Context,
    task_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Task ids.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All dead letters (see tasks --dead).")] = False,
    task_type: TypeOption = None,
) -> None:
    """Run failed or abandoned tasks anew. Fails if one is refused."""
    if bool(task_ids) == dead:
        raise typer.BadParameter("name tasks, or give --dead for all dead letters")
    if task_type is not None and not dead:
        raise typer.BadParameter("--type goes with --dead")
    run = invocation(ctx)
    if dead:
        from daemons.cli import listing

        outcome = run.ask(lambda client: listing.retry_dead(client, task_type), "sending dead letters around again")
        if not any(outcome.values()):
            typer.echo("there are no dead letters" + (f" of type {task_type}" if task_type else ""), err=True)
    else:
        outcome = run.ask(lambda client: client.retry(*(task_ids or ())))
    _show_outcome(run, {**outcome, "refused": []}, {"retried": "runs again"}, shown=outcome)
    if outcome.get("refused"):
        raise CommandFailed("; ".join(f"{one} not retried: {why}" for one, why in outcome["refused"]))


def _show_outcome(
    run: Invocation, outcome: dict[str, list[Any]], words: dict[str, str], shown: dict[str, Any] | None = None
) -> None:
    def lines() -> None:
        for name, word in words.items():
            for task_id in outcome.get(name, ()):
                print(f"{task_id}  {word}")

    run.show(shown if shown is not None else outcome, lines)


def history(
    ctx: typer.Context,
    task_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only of this task.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 50,
) -> None:
    """The audit history, newest first."""
    from daemons.cli import output
    from daemons.cli.tables import Column

    run = invocation(ctx)
    events = run.ask(lambda client: client.history(task_id, limit=limit))

    def table() -> None:
        if not events:
            print("the history is empty" if task_id is None else f"the history has nothing about {task_id}")
            return
        columns = (Column("time"), Column("task", key=True), Column("event"), Column("detail", least=40, below=True))
        rows = [(output.local_time(e.time), e.task_id, e.name.replace("_", " "), _detail(e.detail)) for e in events]
        output.print_table(columns, rows)

    shown = [{"time": e.time, "task_id": e.task_id, "event": e.name, "detail": e.detail} for e in events]
    run.show({"events": shown}, table)


def _detail(detail: dict[str, Any]) -> str:
    from daemons.cli.output import short

    return ", ".join(f"{name} {short(value, 100)}" for name, value in detail.items() if value not in ("", None))
