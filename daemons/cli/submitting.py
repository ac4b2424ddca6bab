"""``a2actl submit``: where tasks come from, and what is shown of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import orjson
import typer

from a2a_zmq.client.base import TaskSpec, check_spec
from a2a_zmq.client.handles import TaskHandle
from a2a_zmq.client.sync import FleetClient
from a2a_zmq.errors import FleetError, FleetUnavailable, RequestRefused, TaskTimeout, TaskWaiting
from a2a_zmq.tasks import COMPLETED, WAITING
from daemons.cli.invocation import EX_INTERRUPTED, EX_TEMPFAIL, CommandFailed, Invocation, print_json
from daemons.cli.json_input import JsonRefused, parse_json
from daemons.cli.output import counted, short
from daemons.cli.progress import Busy, Progress
from daemons.cli.waiting import question, standing

# Members of a line of --file, with the type that each must have.
LINE_MEMBERS: dict[str, tuple[type, ...]] = {
    "task_type": (str,),
    "payload": (dict,),
    "priority": (int,),
    "timeout_s": (int, float),
    "max_attempts": (int,),
    "idempotency_key": (str,),
    "task_id": (str,),
    "distributor": (str,),
    "labels": (dict,),
}
# More than this many ids on a terminal help nobody.
SHOWN_IDS = 20


def parse_payload(text: str) -> dict[str, Any]:
    """The payload given on the command line."""
    try:
        value = parse_json(text)
    except JsonRefused as error:
        raise typer.BadParameter(f"--payload {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('--payload must be a JSON object, for example {"n": 1}')
    return value


def labels_of(texts: list[str]) -> dict[str, str]:
    labels = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--label {text!r} is not of the form NAME=VALUE")
        labels[name] = value
    return labels


def read_tasks(path: Path, task_type: str | None, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Tasks of a file; each line is checked, of a file that can be read twice before the first is submitted."""
    if path.is_file():
        for _ in _lines_of(path, task_type, options):
            pass
    yield from _lines_of(path, task_type, options)


def _lines_of(path: Path, task_type: str | None, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    name = "standard input" if str(path) == "-" else str(path)
    try:
        stream = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"--file {name}: cannot be read: {error.strerror}") from None
    with stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _task_of(line, f"{name}, line {number}", task_type, options)


def _task_of(line: bytes, where: str, task_type: str | None, options: dict[str, Any]) -> dict[str, Any]:
    try:
        given = parse_json(line)
    except JsonRefused as error:
        raise CommandFailed(f"{where}: {str(error).removeprefix('is ')}") from None
    if not isinstance(given, dict):
        raise CommandFailed(f'{where}: must be a JSON object, for example {{"payload": {{"n": 1}}}}')
    for name, value in given.items():
        types = LINE_MEMBERS.get(name)
        if types is None:
            raise CommandFailed(f"{where}: unknown member {name!r}; there are {', '.join(LINE_MEMBERS)}")
        if not isinstance(value, types) or isinstance(value, bool):
            raise CommandFailed(f"{where}: {name} must be {' or '.join(kind.__name__ for kind in types)}")
    task = {"payload": {}, **options, **given}
    if task_type is not None:
        task.setdefault("task_type", task_type)
    if "task_type" not in task:
        raise CommandFailed(f"{where}: no task_type, and none on the command line")
    try:
        check_spec(cast("TaskSpec", task))
    except RequestRefused as error:
        raise CommandFailed(f"{where}: {error.message}") from None
    return task


def submit(run: Invocation, specs: Iterable[dict[str, Any]], *, wait: bool) -> None:
    """Submit, and wait if wanted.

    Raises:
        CommandFailed: a task did not complete.
    """
    began = time.monotonic()
    pinned: set[str] = set()
    with run.client() as client:
        handles = _submit(run, client, _noting(specs, pinned))
        accepted_s = time.monotonic() - began
        _warn_of_strangers(client, pinned)
        if not handles:
            print("a2actl: there was nothing to submit", file=sys.stderr)
        if not wait:
            _show_ids(run, [handle.task_id for handle in handles], accepted_s)
            return
        try:
            _wait(run, handles)
        except KeyboardInterrupt:
            going_on = [handle.task_id for handle in handles if not handle.done()]
            _show_ids(run, going_on, time.monotonic() - began)
            go_on = f"{counted(len(going_on), 'task')} {'goes' if len(going_on) == 1 else 'go'} on"
            text = f"interrupted; {go_on}: a2actl result ID waits for one, a2actl cancel ID ends it"
            raise CommandFailed(text, EX_INTERRUPTED) from None
        results = [_summary(handle) for handle in handles]  # before the client's end ends those that wait
    elapsed_s = time.monotonic() - began
    waiting = [row for row in results if row["status"] == WAITING]
    bad = [row for row in results if row["status"] not in (COMPLETED, WAITING)]
    if run.json:
        head = {"submitted": len(results), "completed": len(results) - len(bad) - len(waiting)}
        head |= {"failed": len(bad), "waiting": len(waiting)}
        print_json({**head, "elapsed_s": round(elapsed_s, 6), "results": results})
    else:
        _show_results([row for row in results if row["status"] in (COMPLETED, WAITING)], len(results), elapsed_s)
    if bad:
        raise _failure(bad, len(results))
    if waiting:
        first = waiting[0]
        others = len(waiting) - 1
        more = f"\n{others:,} more {'tasks wait' if others > 1 else 'task waits'} for answers" if others else ""
        raise CommandFailed(standing(TaskWaiting(first["task_id"], first["interrupts"])) + more, EX_TEMPFAIL)


def _failure(bad: list[dict[str, Any]], submitted: int) -> CommandFailed:
    """What is said, on standard error alone, of tasks that did not complete."""
    lines = [f"task {row['task_id']} {row['status']}: {short(row['error'], 200)}" for row in bad[:SHOWN_IDS]]
    if len(bad) == 1:
        return CommandFailed(lines[0])
    for line in lines:
        print(f"a2actl: {line}", file=sys.stderr)
    return CommandFailed(f"{len(bad)} of {submitted} tasks did not complete")


def _submit(run: Invocation, client: FleetClient, specs: Iterable[dict[str, Any]]) -> list[TaskHandle]:
    began = time.monotonic()
    try:
        with Busy("submitting", enabled=not run.json) as busy:
            return client.submit_tasks(cast("Iterable[TaskSpec]", _counted(specs, busy)))
    except Exception as error:
        accepted: tuple[str, ...] = getattr(error, "accepted", ())
        if accepted:  # whoever mends the rest and submits all again would run these twice
            _show_ids(run, list(accepted), time.monotonic() - began, most=len(accepted))
            count = f"{len(accepted):,} tasks were" if len(accepted) > 1 else "one task was"
            print(f"a2actl: {count} accepted, with the ids above; not all the others:", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        text = "interrupted while submitting; what was accepted until then goes on (a2actl tasks lists it)"
        raise CommandFailed(text, EX_INTERRUPTED) from None


def _counted(specs: Iterable[dict[str, Any]], busy: Busy) -> Iterator[dict[str, Any]]:
    """The same tasks; who waits sees how many it were."""
    for number, spec in enumerate(specs):
        if number and not number % 1_000:
            busy.say(f"submitting: {number:,} tasks")
        yield spec


def _noting(specs: Iterable[dict[str, Any]], pinned: set[str]) -> Iterator[dict[str, Any]]:
    """The same tasks; ``pinned`` gets the distributors that they ask for."""
    for spec in specs:
        if "distributor" in spec:
            pinned.add(spec["distributor"])
        yield spec


def _warn_of_strangers(client: FleetClient, pinned: set[str]) -> None:
    """Tasks for a distributor that is not there (yet) are taken; whoever mistyped its name wants to know."""
    if not pinned:
        return
    try:
        known = {str(one.get("id")) for one in client.status().get("distributors") or ()}
    except FleetError:
        return  # the tasks are accepted; only the warning is lost
    for name in sorted(pinned - known):
        there = ", ".join(sorted(known)) or "none"
        print(
            f"a2actl: warning: no distributor {name!r} is registered (there are: {there}); tasks for it wait until it "
            "joins, or are cancelled",
            file=sys.stderr,
        )


def _wait(run: Invocation, handles: list[TaskHandle]) -> None:
    until = None if run.timeout_s is None else time.monotonic() + run.timeout_s
    shown: Progress | Busy = Progress("waiting", len(handles), enabled=not run.json)
    if len(handles) == 1:
        shown = Busy(f"waiting for {handles[0].task_id}", enabled=not run.json)
    with shown:
        for handle in handles:
            try:
                handle.result(None if until is None else max(0.0, until - time.monotonic()))
            except TaskTimeout:
                raise TaskTimeout(handle.task_id, run.timeout_s or 0.0) from None  # of all, not what was left of it
            except FleetUnavailable:
                raise
            except Exception as error:
                # What failed, or waits for an answer, is said of each task below.
                if handle.record is None and not isinstance(error, TaskWaiting):
                    raise
            if isinstance(shown, Progress):
                shown.advance()


def _summary(handle: TaskHandle) -> dict[str, Any]:
    if handle.interrupts:
        return {"task_id": handle.task_id, "status": WAITING, "result": None, "error": None,
                "interrupts": handle.interrupts}  # fmt: skip
    record = handle.record or {}
    row = {"task_id": handle.task_id, "status": record.get("status", ""), "result": record.get("result")}
    return {**row, "error": record.get("error")}


def _show_ids(run: Invocation, task_ids: list[str], elapsed_s: float, *, most: int = SHOWN_IDS) -> None:
    if run.json:
        print_json({"submitted": len(task_ids), "elapsed_s": round(elapsed_s, 6), "task_ids": task_ids})
        return
    shown = task_ids if not sys.stdout.isatty() else task_ids[:most]
    for task_id in shown:
        print(task_id)
    if len(shown) < len(task_ids):
        print(f"… {len(task_ids)} tasks in {elapsed_s:.2f} s")


def _show_results(results: list[dict[str, Any]], submitted: int, elapsed_s: float) -> None:
    for row in results[:SHOWN_IDS]:
        value = question(row["interrupts"]) if row["status"] == WAITING else orjson.dumps(row["result"]).decode()
        print(f"{row['task_id']}  {row['status']}  {short(value, 200)}")
    if submitted > SHOWN_IDS:
        print(f"… {submitted} tasks in {elapsed_s:.2f} s")
