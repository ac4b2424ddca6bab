"""``a2actl demo``: the fleet analyses Python's standard library, one task a file; one process verifies it."""

from __future__ import annotations

import signal
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from a2a_zmq.client.sync import FleetClient
from a2a_zmq.clock import parse_iso
from a2a_zmq.errors import TaskFailed
from a2a_zmq.tasks import COMPLETED
from daemons.cli.fleet import LocalFleet
from daemons.cli.interrupts import private_fleet
from daemons.cli.output import print_table, short
from daemons.cli.progress import Progress
from daemons.cli.tables import Column
from daemons.worker.builtin.python_source_stats import python_source_stats

TASK_TYPE = "python_source_stats"
# Enough that no worker waits for us, few enough that a killed worker holds a handful.
IN_FLIGHT = 256
MOST_COMPLEX = 10
SUMS = ("lines", "code_lines", "functions", "classes", "complexity")
# History is written behind: so long after the event it must be there.
HISTORY_TIMEOUT_S = 5.0
HISTORY_EVENTS = 1000
VICTIM = "worker-1"


def standard_library_files(limit: int | None = None) -> list[str]:
    """Every Python file of the running interpreter's standard library, sorted; installed packages are none of it."""
    root = Path(sysconfig.get_paths()["stdlib"])
    foreign = {"site-packages", "dist-packages", "__pycache__"}
    files = sorted(str(path) for path in root.rglob("*.py") if not foreign.intersection(path.parts))
    return files[:limit]


def run_demo(*, workers: int, kill: bool, limit: int | None, quiet: bool) -> dict[str, Any]:
    """Run it; see :func:`print_report` for what the members mean."""
    files = standard_library_files(limit)
    _say(quiet, f"starting redis, coordinator, distributor and {workers} workers …")
    with private_fleet(workers=workers) as fleet, FleetClient(**fleet.client_arguments(operator=True)) as client:
        began = time.monotonic()
        records, murder = _analyse(fleet, client, files, kill=kill, quiet=quiet)
        elapsed_s = time.monotonic() - began
        aftermath = _aftermath(client, murder, records) if murder is not None else None
    verify_began = time.monotonic()
    differences = _verify(files, records, quiet=quiet)
    rows = [record["result"] for record in records if record.get("status") == COMPLETED]
    report: dict[str, Any] = {
        "files": len(files),
        "totals": {name: sum(row[name] for row in rows) for name in SUMS},
        "unparsable": sum(row["parse_error"] is not None for row in rows),
        "most_complex": _most_complex(rows),
        "elapsed_s": round(elapsed_s, 3),
        "tasks_per_s": round(len(files) / elapsed_s, 1),
        "workers": dict(sorted(Counter(str(record["metadata"].get("worker")) for record in records).items())),
        "one_process_s": round(time.monotonic() - verify_began, 3),
        "verified": not differences,
        "differences": differences[:MOST_COMPLEX],
    }
    if aftermath is not None:
        report["kill"] = aftermath
    return report


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def _analyse(
    fleet: LocalFleet, client: FleetClient, files: list[str], *, kill: bool, quiet: bool
) -> tuple[list[dict[str, Any]], tuple[int, float] | None]:
    """Result records of all files, and (pid, wall time) of the killing."""
    records: list[dict[str, Any]] = []
    murder: tuple[int, float] | None = None
    payloads = ({"path": path} for path in files)
    with Progress("analysing", len(files), enabled=not quiet) as advance:
        for record in client.map(TASK_TYPE, payloads, as_completed=True, in_flight=IN_FLIGHT, records=True):
            records.append(record)
            advance()
            if kill and murder is None and len(records) >= len(files) // 2:
                at = time.time()
                murder = (fleet.kill(VICTIM, signal.SIGKILL), at)
                _say(quiet, f"killed {VICTIM} (process {murder[0]}) after {len(records)} of {len(files)} files")
    failed = [record for record in records if record.get("status") != COMPLETED]
    if failed:
        worst = failed[0]
        kind = str((worst.get("metadata") or {}).get("error_kind") or "raised")
        raise TaskFailed(worst["task_id"], str(worst.get("error")), kind)
    return records, murder


def _verify(files: list[str], records: list[dict[str, Any]], *, quiet: bool) -> list[str]:
    """Files whose analysis in this one process is not exactly the fleet's, or that came twice or not at all."""
    from_fleet: dict[str, Any] = {}
    differences = []
    for record in records:
        path = record["result"]["path"]
        if path in from_fleet:
            differences.append(path)
        from_fleet[path] = record["result"]
    with Progress("verifying in one process", len(files), enabled=not quiet) as advance:
        for path in files:
            here = orjson.loads(orjson.dumps(python_source_stats({"path": path})))
            if from_fleet.pop(path, None) != here:
                differences.append(path)
            advance()
    return [*differences, *from_fleet]


def _most_complex(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    root = sysconfig.get_paths()["stdlib"]
    best = sorted(rows, key=lambda row: (-row["complexity"], row["path"]))[:MOST_COMPLEX]
    return [
        {
            "path": str(Path(row["path"]).relative_to(root)),
            "complexity": row["complexity"],
            "functions": row["functions"],
            "most_complex": row["most_complex"],
            "max_complexity": row["max_complexity"],
        }
        for row in best
    ]


def _aftermath(client: FleetClient, murder: tuple[int, float], records: list[dict[str, Any]]) -> dict[str, Any]:
    """What the fleet's own history and the records say of the killing; times in milliseconds after the signal."""
    pid, killed_at = murder
    down = up = None
    until = time.monotonic() + HISTORY_TIMEOUT_S
    while (down is None or up is None) and time.monotonic() < until:
        for event in client.history(limit=HISTORY_EVENTS):
            if event.detail.get("worker") == VICTIM and parse_iso(event.time) >= killed_at:
                down = event if event.name == "worker_down" else down
                up = event if event.name == "worker_up" else up
        time.sleep(0.1)
    again = [record for record in records if record.get("retry_count") and record.get("started_at")]
    restarts = sorted((parse_iso(record["started_at"]) - killed_at) * 1000 for record in again)
    return {
        "worker": VICTIM,
        "pid": pid,
        "detected_after_ms": None if down is None else round((parse_iso(down.time) - killed_at) * 1000, 1),
        "reason": None if down is None else down.detail.get("reason"),
        "tasks_lost": None if down is None else down.detail.get("tasks"),
        "tasks_run_again": len(again),
        "first_running_again_after_ms": round(restarts[0], 1) if restarts else None,
        "all_running_again_after_ms": round(restarts[-1], 1) if restarts else None,
        "worker_back_after_ms": None if up is None else round((parse_iso(up.time) - killed_at) * 1000, 1),
    }


def print_report(report: dict[str, Any]) -> None:
    """The closing table."""
    totals = report["totals"]
    print_table(
        ("files", "lines", "code lines", "functions", "classes", "complexity", "unparsable"),
        [(f"{report['files']:,}", *(f"{totals[name]:,}" for name in SUMS), report["unparsable"])],
        title="Standard library, totals",
        right="files,lines,code lines,functions,classes,complexity,unparsable",
    )
    print()
    print_table(
        (
            Column("file", key=True),
            Column("complexity", right=True),
            Column("most complex function", least=21),
            Column("its own", right=True, spare=1),
        ),
        [
            (row["path"], row["complexity"], short(row["most_complex"], 50), row["max_complexity"])
            for row in report["most_complex"]
        ],
        title="The most complex files",
    )
    print()
    print_table(
        ("worker", "files", "share"),
        [(name, count, f"{count / report['files']:.1%}") for name, count in report["workers"].items()],
        title=f"{report['files']:,} tasks in {report['elapsed_s']:.2f} s: {report['tasks_per_s']:.0f} tasks/s",
        right="files,share",
    )
    if "kill" in report:
        _print_kill(report["kill"])
    if report["verified"]:
        print(f"verified: all {report['files']:,} results equal those of one process ({report['one_process_s']:.2f} s)")
    else:
        print(f"NOT VERIFIED, for example: {', '.join(report['differences'])}")


def _print_kill(kill: dict[str, Any]) -> None:
    def ms(value: float | None) -> str:
        return "an unknown time" if value is None else f"{value:.0f} ms"

    print(
        f"{kill['worker']} (process {kill['pid']}) was killed: detected after {ms(kill['detected_after_ms'])} "
        f"({kill['reason']}), it held {kill['tasks_lost']} tasks; {kill['tasks_run_again']} had begun and ran again"
    )
    if kill["tasks_run_again"]:
        print(
            f"recovery: the first ran again after {ms(kill['first_running_again_after_ms'])}, "
            f"the last after {ms(kill['all_running_again_after_ms'])}; "
            f"{kill['worker']} was back after {ms(kill['worker_back_after_ms'])}"
        )
    else:
        print(f"recovery: {kill['worker']} was back after {ms(kill['worker_back_after_ms'])}")
