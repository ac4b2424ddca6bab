"""What a fleet does, from two answers to ``fleet_status``: counts, and how fast these grew in between. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

Json = dict[str, Any]
ENDED = ("completed", "failed", "abandoned")


class Sample(NamedTuple):
    """An answer to ``fleet_status`` with ``load``, and when it came (monotonic seconds)."""

    status: Json
    at: float


def picture(before: Sample | None, after: Sample) -> Json:
    """See :class:`daemons.cli.schemas.Top`. Rates are null without an earlier sample, or where counts began anew."""
    status = after.status
    coordinator = _dict(status.get("coordinator"))
    seconds = after.at - before.at if before is not None else 0.0
    same = before is not None and seconds > 0 and _process(before.status) == _process(status)
    tasks = {str(name): _number(count) for name, count in _dict(status.get("tasks")).items()}
    return {
        "time": coordinator.get("time"),
        "interval_s": round(seconds, 3) if before is not None else None,
        "coordinator": {
            "id": coordinator.get("id"),
            "leading": coordinator.get("leading") is not False,
            "leader": coordinator.get("leader"),
            "draining": coordinator.get("draining") is True,
            "uptime_s": coordinator.get("uptime_s"),
            "clients": coordinator.get("clients"),
            "inbox": coordinator.get("inbox"),
            "live": coordinator.get("live"),
            "dead_letters": coordinator.get("dead_letters"),
        },
        "standbys": [one.get("id") for one in _dicts(status.get("standbys"))],
        "store": store_word(status),
        "tasks": tasks,
        "rates": _fleet_rates(before.status if before is not None and same else None, status, seconds),
        "agents": _agents(before.status if before is not None else None, status, seconds),
    }


def store_word(status: Json) -> str:
    """How the coordinator finds Redis: ``available``, ``spooling``, or ``away: why``."""
    store = _dict(status.get("store"))
    if store.get("spooling"):
        return "spooling"
    return "available" if store.get("available", True) else f"away: {store.get('reason') or 'unknown'}"


def _process(status: Json) -> tuple[Any, ...]:
    """Who counts: a coordinator counts from its start, or from when it began to lead."""
    coordinator = _dict(status.get("coordinator"))
    return coordinator.get("id"), coordinator.get("fence"), coordinator.get("leading")


def _fleet_rates(before: Json | None, after: Json, seconds: float) -> Json:
    if before is None:
        return dict.fromkeys(("submitted", *ENDED))
    old, new = _dict(before.get("tasks")), _dict(after.get("tasks"))
    grown = {name: max(0.0, _number(new.get(name)) - _number(old.get(name))) for name in ENDED}
    live = _number(_dict(after.get("coordinator")).get("live")) - _number(_dict(before.get("coordinator")).get("live"))
    counts = {"submitted": _positive(sum(grown.values()) + live), **grown}
    return {name: round(count / seconds, 2) for name, count in counts.items()}


def _agents(before: Json | None, after: Json, seconds: float) -> list[Json]:
    """The distributors, each followed by its workers."""
    old = {
        (site.get("id"), worker.get("id")): _dict(worker.get("load"))
        for site in _dicts(before.get("distributors") if before is not None else None)
        for worker in _dicts(site.get("workers"))
    }
    rows: list[Json] = []
    for site in _dicts(after.get("distributors")):
        found = [
            _Worker(str(site.get("id")), each, old.get((site.get("id"), each.get("id"))))
            for each in _dicts(site.get("workers"))
        ]
        rows.append(_site_row(site, found, seconds))
        rows.extend(worker.row(seconds) for worker in found)
    return rows


def _site_row(site: Json, workers: list[_Worker], seconds: float) -> Json:
    runs = [worker.grown for worker in workers if worker.grown is not None]
    known = seconds > 0 and bool(runs)
    totals = {name: sum(each[name] for each in runs) for name in ("done", "failed", "run_s", "stay_s")}
    live = [worker for worker in workers if worker.up]
    running = sum(_number(worker.load.get("running")) for worker in live)
    return {
        "id": site.get("id"),
        "role": "distributor",
        "distributor": None,
        "state": site.get("status") if site.get("up") else "down",
        "queued": _number(site.get("pending")),
        "waiting": _number(site.get("waiting")),
        "held": sum(_number(worker.load.get("held")) for worker in live),
        "running": running if any(worker.load for worker in live) else _number(site.get("in_progress")),
        "slots_taken": sum(worker.slots_taken() or 0 for worker in live),
        "slots": site.get("slots") if site.get("up") else 0,
        **_speeds(totals if known else None, seconds),
    }


class _Worker:
    """A worker's entry, and how its counters grew; None if that is not known."""

    def __init__(self, distributor: str, entry: Json, old: Json | None) -> None:
        self.distributor = distributor
        self.entry = entry
        self.up = bool(entry.get("up", True))
        self.load = _dict(entry.get("load"))
        self.grown: dict[str, float] | None = None
        if self.load and old is not None:
            before = old if all(_number(self.load.get(n)) >= _number(old.get(n)) for n in ("done", "failed")) else {}
            self.grown = {
                name: _positive(_number(self.load.get(name)) - _number(before.get(name)))
                for name in ("done", "failed", "run_s", "stay_s")
            }

    def state(self) -> str:
        if not self.up:
            return "down"
        if self.load.get("draining"):
            return "draining"
        if self.load.get("suspect"):
            return "suspect"
        return "busy" if self.load.get("running") else "idle" if self.load else "up"

    def slots_taken(self) -> int | None:
        """Its slots that are in use: of the tasks that it holds, those that take one may be more."""
        return min(_number(self.load.get("in_slots")), _number(self.entry.get("slots"))) if self.load else None

    def row(self, seconds: float) -> Json:
        return {
            "id": self.entry.get("id"),
            "role": "worker",
            "distributor": self.distributor,
            "state": self.state(),
            "queued": None,
            "waiting": None,
            "held": self.load.get("held"),
            "running": self.load.get("running"),
            "slots_taken": self.slots_taken(),
            "slots": self.entry.get("slots"),
            **_speeds(self.grown if seconds > 0 else None, seconds),
        }


def _speeds(grown: dict[str, float] | None, seconds: float) -> Json:
    """Runs a second, and how long those took that ended in between."""
    if grown is None:
        return dict.fromkeys(("done_per_s", "failed_per_s", "run_s", "stay_s"))
    ended = grown["done"] + grown["failed"]
    return {
        "done_per_s": round(grown["done"] / seconds, 2),
        "failed_per_s": round(grown["failed"] / seconds, 2),
        "run_s": round(grown["run_s"] / ended, 6) if ended else None,
        "stay_s": round(grown["stay_s"] / ended, 6) if ended else None,
    }


def _positive(value: float) -> float:
    return max(0.0, value)


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
