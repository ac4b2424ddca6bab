"""The outcome of a run: one table for people, Markdown to keep, a dict for machines."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any, Final

from daemons.cli.chaos.checker import Verdict
from daemons.cli.chaos.kinds import BY_NAME, EXIT, HEAL, TASKS, WORKER, Kind, Limit
from daemons.cli.chaos.measure import Outcome

# What has to be 0, and how it is called.
ZEROS: Final = {
    "lost": "lost",
    "twice": "recorded twice",
    "unrecorded": "results without a record",
    "failed": "failed or wrong",
    "doubled": "attempts that ran twice",
    "repeated": "repeated without need",
    "false_deaths": "wrongly declared dead",
    "client_errors": "errors at the client",
    "crashes": "crashes of daemons",
}
# Of fewer values than this the median is not held against a promise: one slow one would be all of it.
MEDIAN_OF: Final = 5
_WHAT: Final = {TASKS: "tasks run elsewhere", WORKER: "the worker works", EXIT: "ended"}


def quantile(values: Sequence[float], share: float) -> float | None:
    """By nearest rank; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def summary(outcomes: Sequence[Outcome], verdict: Verdict, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, in JSON's types; ``ok`` says whether every promise was kept."""
    kinds = {}
    for kind in BY_NAME.values():
        of_kind = [outcome for outcome in outcomes if outcome.fault.kind is kind]
        if of_kind:
            kinds[kind.name] = _row(kind, of_kind, about["slack"])
    names = ("accepted", "results", "runs", "looked_for")
    counts = {name: getattr(verdict, name) for name in names}
    zeros = {name: getattr(verdict, name) for name in ZEROS}
    return {
        **about,
        "ok": verdict.clean and all(row["kept"] for row in kinds.values()),
        **counts,
        **zeros,
        "faults": kinds,
        "examples": dict(verdict.examples),
    }


def _row(kind: Kind, outcomes: Sequence[Outcome], slack: float) -> dict[str, Any]:
    detected = [outcome.detected_ms for outcome in outcomes if outcome.detected_ms is not None]
    recovered = [ms for outcome in outcomes for ms in outcome.recovered_ms]
    broken = [f"no. {outcome.fault.number}: {text}" for outcome in outcomes for text in outcome.broken]
    row: dict[str, Any] = {"what": kind.what, "count": len(outcomes), "hit": sum(outcome.hit for outcome in outcomes)}
    for name, values, limit in (("detected", detected, kind.detect), ("recovered", recovered, kind.recover)):
        row[f"{name}_ms"] = {
            "n": len(values),
            "p50": quantile(values, 0.5),
            "p99": quantile(values, 0.99),
            "max": quantile(values, 1.0),
        }
        broken += _over(name, row[f"{name}_ms"], limit, slack)
        row[f"{name}_promise_ms"] = {"p50": limit.p50_ms, "p99": limit.p99_ms}
    row["recovery"] = _recovery(kind)
    gone = [outcome.gone_ms for outcome in outcomes if outcome.gone_ms is not None]
    row["gone_ms"] = {"n": len(gone), "p50": quantile(gone, 0.5), "p99": quantile(gone, 0.99)}
    row["broken"] = broken
    row["kept"] = not broken
    return row


def _over(name: str, found: Mapping[str, Any], limit: Limit, slack: float) -> list[str]:
    p50_ms = limit.p50_ms if found["n"] >= MEDIAN_OF else None
    pairs = (("p50", p50_ms), ("p99", limit.p99_ms))
    return [
        f"{name} {which} {found[which]:g} ms, promised ≤ {bound:g} ms"
        for which, bound in pairs
        if bound is not None and found[which] is not None and found[which] > bound * slack
    ]


def _recovery(kind: Kind) -> str:
    what = _WHAT.get(kind.recovery, "a new task's result")
    return f"{what}{' after healing' if kind.since == HEAL else ''}"


# ---------------------------------------------------------------- forms


COLUMNS: Final = ("fault", "times", "hit", "detected p50/p99", "promise", "recovered p50/p99", "promise", "kept")


def rows(report: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """One line a kind of fault."""
    return [
        (
            name,
            row["count"],
            row["hit"] or "",
            _times(row["detected_ms"]),
            _promise(row["detected_promise_ms"]),
            _times(row["recovered_ms"]),
            _promise(row["recovered_promise_ms"]),
            "yes" if row["kept"] else "NO",
        )
        for name, row in report["faults"].items()
    ]


def _times(found: Mapping[str, Any]) -> str:
    return f"{found['p50']:.0f} / {found['p99']:.0f} ms" if found["n"] else ""


def _promise(limit: Mapping[str, float | None]) -> str:
    given = [f"{name} ≤ {ms:g}" for name, ms in limit.items() if ms is not None]
    return ", ".join(given)


def headline(report: Mapping[str, Any]) -> str:
    zeros = ", ".join(f"{report[name]} {text}" for name, text in ZEROS.items())
    runs = f", {report['runs']:,} runs" if report["runs"] else ""
    return f"{report['accepted']:,} accepted, {report['results']:,} results{runs}: {zeros}"


def complaints(report: Mapping[str, Any]) -> list[str]:
    """Every broken promise, one line each."""
    found = [f"{name}: {text}" for name, row in report["faults"].items() for text in row["broken"]]
    found += [f"{ZEROS[name]}: {text}" for name, texts in report["examples"].items() for text in texts]
    return found


def remarks(report: Mapping[str, Any]) -> list[str]:
    """What one should know to read the table."""
    found = [
        f"{name}: the kernel took {_times(row['gone_ms'])} to end the killed process, which is part of the times above"
        for name, row in report["faults"].items()
        if row["gone_ms"]["n"]
    ]
    if report["looked_for"]:
        found.append(
            f"a record was looked for of {report['looked_for']:,} results: not of those on which a wipe came down"
        )
    if report["slack"] != 1:
        found.append(f"times may be {report['slack']:g} times as long as promised before the promise counts as broken")
    for why in dict.fromkeys(report["skipped"].values()):
        names = ", ".join(name for name, reason in report["skipped"].items() if reason == why)
        found.append(f"skipped ({why}): {names}")
    return found


def print_report(report: Mapping[str, Any]) -> None:
    from daemons.cli.output import print_table

    title = f"{sum(row['count'] for row in report['faults'].values())} faults in {report['seconds']:.0f} s, seed "
    print_table(COLUMNS, rows(report), title=f"{title}{report['seed']}", right="times,hit")
    print(headline(report))
    for line in remarks(report):
        print(line)
    for line in complaints(report):
        print(f"BROKEN: {line}")
    print("every promise was kept" if report["ok"] else "PROMISES WERE BROKEN")


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a document."""

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell) for cell in cells) + " |"

    count = sum(row["count"] for row in report["faults"].values())
    parts = [
        "# Chaos report",
        "",
        f"`{report['command']}`, {report['date']}, {report['machine']}.",
        f"{count} faults in {report['seconds']:.0f} s, {report['fleet']}, load {report['rate']:g} tasks/s.",
        "",
        f"**{'Every promise was kept.' if report['ok'] else 'Promises were broken.'}** {headline(report)}.",
        "",
        line(COLUMNS),
        line(["---"] * len(COLUMNS)),
        *(line(row) for row in rows(report)),
        "",
        *(f"- `{name}`: {row['what']}; recovered: {row['recovery']}" for name, row in report["faults"].items()),
    ]
    parts += ["", *(f"- {text}" for text in remarks(report))]
    if not report["ok"]:
        parts += ["", "## Broken", "", *(f"- {text}" for text in complaints(report))]
    if report["log_errors"]:
        parts += ["", "## Errors in the logs", ""]
        parts += [f"- {name}: {number}" for name, number in report["log_errors"].items()]
    return "\n".join(parts) + "\n"


def machine() -> str:
    import os

    return f"{os.cpu_count()} processors, Python {platform.python_version()}, {platform.system()}"
