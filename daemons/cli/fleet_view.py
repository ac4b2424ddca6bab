"""The fleet as ``status`` and ``top`` show it: lines for a terminal. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemons.cli.output import STYLES, counted, duration, milliseconds, styled
from daemons.cli.rates import Json, store_word
from daemons.cli.tables import Cell, Column, Line, cut, lay_out, wrap

SEPARATOR: Final = ", "

# ---------------------------------------------------------------- status

STATUS_COLUMNS: Final = (
    Column("agent", key=True),
    Column("state"),
    Column("pending", right=True),
    Column("running", right=True),
    Column("waiting", right=True, spare=1),
    Column("slots", right=True),
    Column("version", least=7, spare=3),
    Column("labels", least=12, spare=2),
)


def status_lines(fleet: Json, width: int | None) -> list[Line]:
    """``a2actl status``."""
    coordinator = fleet.get("coordinator") or {}
    lines = wrap(headline(coordinator, store_word(fleet)), width)
    store = fleet.get("store") or {}
    if not store.get("available", True) and not store.get("spooling") and store.get("spool_off"):
        lines += wrap(
            [Cell(f"no new tasks are taken while Redis is away: {store['spool_off']}", STYLES["waiting"])], width
        )
    if standbys := fleet.get("standbys"):
        lines += wrap([Cell("standing by: " + SEPARATOR.join(str(one.get("id")) for one in standbys))], width)
    sites = fleet.get("distributors") or []
    if sites:
        lines += [[], *lay_out(STATUS_COLUMNS, _status_rows(sites), width), []]
    else:
        lines += wrap([Cell("no distributor has joined yet: a2a-distributor starts one")], width)
    for one in sites:
        if not one.get("up") and one.get("away_s") is not None:
            lines += wrap([Cell(_away(one), STYLES["down"])], width)
    counts = fleet.get("tasks") or {}
    listed = _listed([Cell(f"{number:,} {name}") for name, number in counts.items()]) or [Cell("none yet")]
    told = Cell(" (ended ones since this coordinator's start)")
    lines += wrap([Cell("tasks: "), *listed, told], width, whole=True)
    if letters := coordinator.get("dead_letters"):
        lines += wrap([Cell(f"dead letters: {letters:,}", STYLES["waiting"]), Cell(" (a2actl tasks --dead)")], width)
    return lines


def headline(coordinator: Json, store: str) -> list[Cell]:
    """Who leads, for how long, and how it finds Redis."""
    leads = coordinator.get("leading") is not False
    parts = [
        Cell(f"coordinator {coordinator.get('id', '?')} "),
        Cell("leads", STYLES["up"]) if leads else Cell(f"stands by for {coordinator.get('leader') or 'nobody'}"),
        Cell(f", up {duration(float(coordinator.get('uptime_s') or 0))}, store "),
        Cell(store, STYLES["available" if store == "available" else "away" if store[:4] == "away" else "waiting"]),
    ]
    if store == "spooling":
        parts.append(Cell(" (Redis is away; writes are kept on the local disk)"))
    if coordinator.get("draining"):
        parts += [Cell(SEPARATOR), styled("draining")]
    return parts


def _status_rows(sites: Sequence[Json]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for one in sorted(sites, key=_by_name):
        state = styled(one.get("status") if one.get("up") else "down")
        counts = [_count(one.get(name)) for name in ("pending", "in_progress", "waiting", "slots")]
        rows.append([one.get("id"), state, *counts, one.get("suite"), ""])
        for worker in sorted(one.get("workers") or (), key=_by_name):
            labels = ",".join(f"{name}={text}" for name, text in (worker.get("labels") or {}).items())
            up = styled("up" if worker.get("up") else "down")
            row = [f"  {worker.get('id')}", up, "", "", "", worker.get("slots"), worker.get("version"), labels]
            rows.append(row)
    return rows


def _by_name(agent: Json) -> list[Any]:
    """worker-2 comes before worker-10."""
    parts = re.split(r"(\d+)", str(agent.get("id")))
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _away(one: Json) -> str:
    """Since when a distributor is away, and when its tasks go to others."""
    due_s = one.get("failover_in_s")
    moving = int(one.get("moving") or 0)
    moves = f"; {counted(moving, 'task')} {'is' if moving == 1 else 'are'} being moved" if moving else ""
    if not moves and due_s is not None:
        moves = f"; its tasks go to others that can run them in {due_s:.0f} s"
    return f"{one.get('id')} has been away for {one['away_s']:.0f} s{moves}"


# ---------------------------------------------------------------- top

TOP_COLUMNS: Final = (
    Column("agent", key=True),
    Column("state"),
    Column("done/s", right=True),
    Column("fail/s", right=True),
    Column("queue", right=True),
    Column("held", right=True, spare=2),
    Column("run", right=True),
    Column("slots", right=True),
    Column("run time", right=True),
    Column("stay", right=True, spare=1),
)
# By what agents may be ordered: what is highest first, but for names.
SORTS: Final[dict[str, Callable[[Json], Any]]] = {
    "agent": _by_name,
    "rate": lambda row: -(row["done_per_s"] or 0) - (row["failed_per_s"] or 0),
    "load": lambda row: -(row["queued"] or 0) - (row["held"] or 0) - (row["running"] or 0),
    "latency": lambda row: -(row["stay_s"] or row["run_s"] or 0),
}
HELP: Final = "q quit  s sort: {}  r reverse  p pause  ↑↓ scroll"


@dataclass
class View:
    """What somebody has chosen to see.

    Attributes:
        first: number of the first agent that is shown.
        note: what is wrong, "" if nothing is.
    """

    sort: str = "agent"
    reverse: bool = False
    paused: bool = False
    first: int = 0
    note: str = ""


def top_lines(picture: Json, view: View, width: int | None, height: int | None) -> list[Line]:
    """``a2actl top``: as many lines as there is room for (None: all)."""
    lines = _top_head(picture, view, width)
    table = lay_out(TOP_COLUMNS, [_top_row(row) for row in ordered(picture["agents"], view)], width)
    if not picture["agents"]:
        table = [[Cell("no distributor has joined yet", STYLES["waiting"])]]
    if height is None:
        return [*lines, [], *table]
    head, body = table[:1], table[1:]
    room = max(1, height - len(lines) - len(head) - 2)
    view.first = max(0, min(view.first, len(body) - room))
    shown = body[view.first : view.first + room]
    hidden = len(body) - len(shown)
    more = f"  {view.first + 1}-{view.first + len(shown)} of {len(body)} lines" if hidden else ""
    foot = Cell(cut(f"{HELP.format(view.sort)}{more}", width or 200), "dim")
    blank: list[Line] = [[] for _ in range(room - len(shown))]
    return [*lines, [], *head, *shown, *blank, [foot]]


def ordered(agents: Sequence[Json], view: View) -> list[Json]:
    """Distributors in the chosen order, each followed by its workers in that order."""
    by = SORTS[view.sort]
    sites = sorted((row for row in agents if row["role"] == "distributor"), key=by, reverse=view.reverse)
    rows: list[Json] = []
    for site in sites:
        mine = [row for row in agents if row["distributor"] == site["id"]]
        rows += [site, *sorted(mine, key=by, reverse=view.reverse)]
    return rows


def _top_head(picture: Json, view: View, width: int | None) -> list[Line]:
    rates, tasks, coordinator = picture["rates"], picture["tasks"], picture["coordinator"]
    lines = wrap(headline(coordinator, picture["store"]), width)
    speed = [
        Cell("in "),
        Cell(f"{_rate(rates['submitted'])}/s", "bold"),
        Cell(", done "),
        Cell(f"{_rate(rates['completed'])}/s", "bold"),
        Cell(", failed "),
        Cell(f"{_rate(rates['failed'])}/s", STYLES["failed"] if rates["failed"] else ""),
        Cell(f" over {picture['interval_s']:.1f} s" if picture["interval_s"] else "", "dim"),
    ]
    lines += wrap(speed, width)
    counts = [Cell(f"{count:,} {name}") for name, count in tasks.items()]
    if coordinator["inbox"]:
        counts.append(Cell(f"{coordinator['inbox']:,} in the inbox", STYLES["waiting"]))
    if coordinator["dead_letters"]:
        counts.append(Cell(f"{coordinator['dead_letters']:,} dead letters", STYLES["waiting"]))
    lines += wrap([Cell("tasks: "), *_listed(counts)], width, whole=True)
    if view.paused:
        lines += [[Cell("paused (p goes on)", STYLES["paused"])]]
    if view.note:
        lines += wrap([Cell(view.note, STYLES["down"])], width)
    return lines


def _listed(cells: Sequence[Cell]) -> list[Cell]:
    """With commas between them, which lines end and never begin with."""
    return [*(Cell(f"{cell.text}{SEPARATOR}", cell.style) for cell in cells[:-1]), *cells[-1:]]


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _top_row(row: Json) -> list[Any]:
    worker = row["role"] == "worker"
    slots = f"{row['slots_taken']}/{row['slots']}" if row["slots_taken"] is not None and row["slots"] else row["slots"]
    failing = Cell(_rate(row["failed_per_s"]), STYLES["failed"] if row["failed_per_s"] else "")
    return [
        ("  " if worker else "") + str(row["id"]),
        styled(row["state"]),
        _rate(row["done_per_s"]),
        failing,
        _count(row["queued"]),
        _count(row["held"]),
        _count(row["running"]),
        slots,
        milliseconds(row["run_s"]),
        milliseconds(row["stay_s"]),
    ]
