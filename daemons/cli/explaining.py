"""``a2actl explain``: a task's story, from what the coordinator, its distributor and the store say of it."""

from __future__ import annotations

from typing import Any

from a2a_zmq.tasks import ABANDONED, COMPLETED, FAILED, IN_PROGRESS, WAITING, Record
from daemons.cli.listing import exit_of
from daemons.cli.output import local_time, print_words, seconds_between, short
from daemons.cli.tables import Cell
from daemons.cli.waiting import how_to_answer, question

Json = dict[str, Any]
ERROR_CHARS = 300


def explanation(found: Json) -> list[str]:
    """Lines for people: what it is, its way, who holds it, its attempts, what holds now and why, its history."""
    record: Record = found.get("task") or {}
    metadata = record.get("metadata") or {}
    client = metadata.get("client") or "an unknown client"
    lines = [f"Task {record.get('task_id')} of type {record.get('task_type')!r}, submitted by {client}."]
    wishes = _wishes(metadata)
    if wishes:
        lines.append(f"It asks for {wishes}.")
    lines.append(_now(found, record, metadata))
    lines.extend(f"  - {reason}" for reason in found.get("why") or ())
    lines.extend(["", "Way:", *_way(found.get("hops") or [])])
    lines.extend(["", "Holders:", *_holders(found)])
    attempts = [_attempt(each) for each in found.get("attempts") or () if isinstance(each, dict)]
    if attempts:
        lines.extend(["", "Attempts that failed:", *attempts])
    detail = metadata.get("detail") or {}
    if detail.get("traceback"):
        lines.append(f"  `a2actl task {record.get('task_id')}` has the last one's traceback.")
    printed = detail.get("log")
    if printed:
        lines.extend(["", "Last lines of the last attempt:", *(f"  | {line}" for line in printed)])
    events = found.get("events") or []
    if events:
        lines.extend(["", "History:", *(_event(event) for event in reversed(events))])
    return lines


def print_lines(lines: list[str]) -> None:
    """The same on a terminal, wrapped below itself; headings stand out."""
    for line in lines:
        own = len(line) - len(line.lstrip(" -|"))
        style = "bold" if line.endswith(":") and not line.startswith(" ") and line.count(" ") < 6 else ""
        print_words(Cell(line, style), indent=" " * (own + 2))


def _wishes(metadata: Json) -> str:
    found = []
    if metadata.get("priority"):
        found.append(f"priority {metadata['priority']}")
    if metadata.get("timeout_s"):
        found.append(f"at most {metadata['timeout_s']:g} s an attempt")
    if metadata.get("max_attempts"):
        found.append(f"at most {metadata['max_attempts']} attempts")
    if metadata.get("labels"):
        found.append("a worker with " + ", ".join(f"{k}={v}" for k, v in metadata["labels"].items()))
    return ", ".join(found)


def _now(found: Json, record: Record, metadata: Json) -> str:
    status = record.get("status", "pending")
    holder = found.get("distributor") or {}
    number = holder.get("attempt") or metadata.get("attempt")
    attempt = f", attempt {number}{_try(record, number)}" if number else ""
    worker = holder.get("worker") or metadata.get("worker")
    where = worker or "no worker"
    if status == COMPLETED:
        took = metadata.get("execution_s")
        whole = seconds_between(record.get("created_at"), record.get("completed_at"))
        run = f" It ran {took:.3f} s" if isinstance(took, int | float) else ""
        total = (
            f", and ended {whole:.3f} s after it was submitted." if run and whole is not None else "." if run else ""
        )
        return f"It completed on {where}{attempt}.{run}{total}"
    if status in (FAILED, ABANDONED):
        kind = metadata.get("error_kind") or "error"
        if kind == "cancelled":
            return f"It was cancelled on {worker}{attempt}." if worker else "It was cancelled while no worker had it."
        place = f" on {worker}" if worker else ""
        reason = f"It {'failed' if status == FAILED else 'was abandoned'}{place}{attempt} ({kind})"
        error = sentence(short(record.get("error"), ERROR_CHARS))
        return f"{reason}: {error} `a2actl retry {record.get('task_id')}` runs it anew."
    if holder.get("phase") == "running" or status == IN_PROGRESS:
        since = holder.get("started_at") or record.get("started_at")
        begun = f"runs on {where}{attempt} since {local_time(since)}" if since else f"is with worker {where}{attempt}"
        return f"It {begun}."
    if status == WAITING:
        asked = metadata.get("interrupts") or holder.get("interrupts") or []
        how = how_to_answer(str(record.get("task_id")), asked)
        return f"It asks: {sentence(question(asked))} {how}. No worker is held meanwhile."
    reasons = found.get("why")
    place = {"inbox": "in the coordinator's inbox", "ended": "nowhere: it is unknown to the coordinator"}.get(
        str(found.get("state")), f"at {holder.get('id')} ({holder.get('phase') or found.get('state')})"
    )
    return f"It waits {place}{attempt}{':' if reasons else '.'}"


def _try(record: Record, number: int) -> str:
    """Which of its tries that attempt is, where its number says something else: take-overs raise that, too."""
    counted = int(record.get("retry_count") or 0) + (record.get("status") != FAILED)
    return f" (try {counted})" if counted != number and record.get("status") != ABANDONED else ""


def sentence(text: str) -> str:
    """With a full stop, if nothing ends it."""
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


def _way(hops: list[list[Any]]) -> list[str]:
    lines = []
    before = None
    for name, time, detail in hops:
        step = seconds_between(before, time)
        after = f"+{step:.3f} s" if step is not None else ""
        lines.append(f"  {local_time(time)}  {after:>11}  {name:<10}  {short(detail, ERROR_CHARS)}")
        before = time
    return lines


def _holders(found: Json) -> list[str]:
    about = found.get("coordinator") or {}
    durable = ""
    if "durable" in about:
        durable = ", its record is durable" if about["durable"] else ", its record is not durable yet"
    lines = [f"  coordinator {about.get('id')}: fence {about.get('fence')}{_lease(about.get('lease'))}{durable}"]
    if about.get("waits_for_result"):
        lines.append(f"  client {about['waits_for_result']} is connected and waits for the result")
    holder = found.get("distributor")
    if holder:
        state = "" if "up" not in holder else ", connected" if holder["up"] else ", not connected"
        fence = f": fence {holder['fence']}" if holder.get("fence") else ""
        lines.append(f"  distributor {holder.get('id')}{fence}{_lease(holder.get('lease'))}{state}")
        if holder.get("worker"):
            lines.append(f"  worker {holder['worker']}: attempt {holder.get('attempt')}")
    places = found.get("places") or {}
    kept = [f"{name} of {', '.join(where)}" for name, where in places.items() if where]
    if kept:
        lines.append(f"  in the store: {'; '.join(kept)}")
    return lines


def _lease(lease: Json | None) -> str:
    if not lease:
        return ""
    agent, host, pid = [*str(lease.get("owner")).split("|"), "?", "?"][:3]
    left = lease.get("remaining_s")
    return (
        f", lease held by {agent} (pid {pid}, host {short(host, 12)}) with fence {lease.get('fence')} for {left:.1f} s"
    )


def _attempt(told: Json) -> str:
    took = told.get("execution_s")
    held = told.get("held_s")
    seconds = f" after {took:.3f} s" if isinstance(took, int | float) else ""
    seconds = seconds or (f", {held:.3f} s after its dispatch" if isinstance(held, int | float) else "")
    ended = exit_of(told)
    how = f" [{ended}]" if ended else ""
    where = f"{local_time(told.get('ended_at'))}  attempt {told.get('attempt')} on {told.get('worker') or 'no worker'}"
    return f"  {where}: {told.get('kind')}{how}{seconds}: {short(told.get('error'), ERROR_CHARS)}"


def _event(event: list[Any]) -> str:
    time, _, name, detail = event
    told = ", ".join(f"{key} {short(value, 120)}" for key, value in detail.items() if value not in ("", None))
    return f"  {local_time(time)}  {str(name).replace('_', ' ')}{': ' + told if told else ''}"
