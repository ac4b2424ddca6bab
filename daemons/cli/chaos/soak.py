"""``a2actl soak``: a long run at a steady rate. Memory must stay flat, and Redis must hold nothing for ever."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from a2a_zmq.client.handles import TaskHandle
from a2a_zmq.client.sync import FleetClient
from a2a_zmq.state.keys import Retention, classify
from daemons.cli.bench import run_noops, wait_started
from daemons.cli.fleet import LocalFleet
from daemons.cli.interrupts import private_fleet
from daemons.cli.output import print_table

GROUP_S: Final = 0.1
WARM_UP_TASKS: Final = 3_000
RATE_TASKS: Final = 20_000
# Groups without all results, at most: seconds of the load.
WAITING_GROUPS: Final = 100
SAMPLES: Final = 240
MIN_SAMPLE_S: Final = 1.0
# Caches and retained results fill up first; what counts is what comes after.
WARM_UP_SHARE: Final = 1 / 3
# Flat: over the rest of the run no more than this, whichever is larger; allocators alone move that much.
GROWTH_MB: Final = 6.0
GROWTH_SHARE: Final = 0.1
# The level at the beginning and at the end is the median of so much of the samples: what is given back does not count.
LEVEL_SHARE: Final = 0.1
# Redis keeps results until their bound is reached (minutes); shorter runs cannot say whether it stays there.
REDIS_FLAT_S: Final = 600.0


@dataclass
class Series:
    """Samples of one process: seconds since the start, and MB."""

    at_s: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)

    def add(self, at_s: float, mb: float) -> None:
        self.at_s.append(at_s)
        self.mb.append(mb)

    def settled(self) -> Series:
        """Without the warm-up."""
        first = len(self.at_s) and self.at_s[-1] * WARM_UP_SHARE
        kept = [(at_s, mb) for at_s, mb in zip(self.at_s, self.mb, strict=True) if at_s >= first]
        return Series([at_s for at_s, _ in kept], [mb for _, mb in kept])

    def slope_mb_s(self) -> float:
        """By least squares; 0 for less than two samples."""
        if len(self.at_s) < 2:
            return 0.0
        mean_t, mean_mb = sum(self.at_s) / len(self.at_s), sum(self.mb) / len(self.mb)
        spread = sum((t - mean_t) ** 2 for t in self.at_s)
        both = sum((t - mean_t) * (mb - mean_mb) for t, mb in zip(self.at_s, self.mb, strict=True))
        return both / spread if spread else 0.0

    def growth_mb(self) -> float:
        """By the slope, over the time of the samples."""
        return self.slope_mb_s() * (self.at_s[-1] - self.at_s[0]) if self.at_s else 0.0

    def levels_mb(self) -> tuple[float, float]:
        """At the beginning and at the end; a jump that stays counts whole, however late it comes."""
        count = max(1, round(len(self.mb) * LEVEL_SHARE))
        return statistics.median(self.mb[:count]), statistics.median(self.mb[-count:])


def flat(series: Series) -> bool:
    """Whether it grew no more than what allocators do by themselves: neither by its slope nor by its level."""
    settled = series.settled()
    if not settled.mb:
        return True
    first, last = settled.levels_mb()
    return max(settled.growth_mb(), last - first) <= max(GROWTH_MB, GROWTH_SHARE * first)


def run_soak(*, seconds: float, share: float, workers: int, rate: float | None, say: Any) -> dict[str, Any]:
    """Load a private fleet for so long at a share of the rate that it reaches here; returns what was found."""
    with private_fleet(workers=workers) as fleet, FleetClient(**fleet.client_arguments(operator=True)) as client:
        wait_started(fleet)
        run_noops(client, WARM_UP_TASKS)
        highest = rate / share if rate is not None else sorted(run_noops(client, RATE_TASKS) for _ in range(3))[1]
        say(f"highest rate {highest:,.0f} tasks/s; {seconds:g} s at {highest * share:,.0f} tasks/s")
        load = SteadyLoad(client, highest * share)
        watch = _sample(fleet, load, seconds, say)
        load.finish()
        ends = [str(end) for end in fleet.ends()]  # its supervisor has started them again
        with redis.Redis(host=fleet.redis_host, port=fleet.redis_port) as connection:
            loose = keys_without_end(connection)
    return _report(watch, load, ends + loose, seconds=seconds, highest=highest, share=share)


class SteadyLoad:
    """No-op tasks at a steady rate; each result is looked at once, in order.

    Attributes:
        submitted, right: tasks, and those whose value was right.
        trouble: what ended the load early, or was wrong.
    """

    def __init__(self, client: FleetClient, rate: float) -> None:
        self.submitted = 0
        self.right = 0
        self.trouble: list[str] = []
        self._client = client
        self._rate = rate
        self._groups: deque[tuple[int, list[TaskHandle]]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="soak-load", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        self._stop.set()
        self._thread.join(60.0)
        if self._thread.is_alive():
            self.trouble.append("the load did not end within 60 s")

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + GROUP_S, time.monotonic() - GROUP_S)
                count = max(1, round(self._rate * GROUP_S))
                payloads = [{"n": self.submitted + i} for i in range(count)]
                self._groups.append((self.submitted, self._client.submit_many("noop", payloads)))
                self.submitted += count
                while self._groups and (len(self._groups) > WAITING_GROUPS or self._groups[0][1][-1].done()):
                    self._check(*self._groups.popleft())
            while self._groups:
                self._check(*self._groups.popleft())
        except Exception as error:  # it is on a thread of its own: whoever finishes it must see why it ended
            self.trouble.append(f"{type(error).__name__}: {error}")

    def _check(self, first: int, handles: Sequence[TaskHandle]) -> None:
        for number, handle in enumerate(handles, first):
            if handle.result(60.0) == {"n": number}:
                self.right += 1
            else:
                self.trouble.append(f"task {number} returned {handle.result(0)!r:.60}")


def _sample(fleet: LocalFleet, load: SteadyLoad, seconds: float, say: Any) -> dict[str, Series]:
    """Memory of each daemon (PSS with children) and of Redis' data, until the time is over or the load ended."""
    found: dict[str, Series] = {}
    began = time.monotonic()
    pause_s = max(MIN_SAMPLE_S, seconds / SAMPLES)
    told = 0
    with redis.Redis(host=fleet.redis_host, port=fleet.redis_port) as connection:
        while (at_s := time.monotonic() - began) < seconds and not load.trouble:
            for name, mb in fleet.pss_mb().items():
                found.setdefault(name, Series()).add(at_s, mb)
            info: Any = connection.info("memory")
            found.setdefault("redis data", Series()).add(at_s, info["used_memory"] / 1e6)
            if int(at_s / seconds * 10) > told:
                told = int(at_s / seconds * 10)
                memory = ", ".join(f"{name} {series.mb[-1]:.0f}" for name, series in found.items())
                say(f"{load.right:,} results; MB: {memory}")
            time.sleep(pause_s)
    return found


def keys_without_end(connection: redis.Redis) -> list[str]:
    """Keys that belong to no retention class, or should end and carry no time to live."""
    loose = []
    for raw in connection.scan_iter("*", count=1000):
        key = raw.decode(errors="replace")
        kind = classify(key)
        if kind is None:
            loose.append(f"{key}: no retention class")
        elif kind.retention is Retention.TTL and connection.pttl(raw) == -1:
            loose.append(f"{key}: no time to live")
    return loose


def _report(
    watch: dict[str, Series], load: SteadyLoad, found: list[str], *, seconds: float, highest: float, share: float
) -> dict[str, Any]:
    memory = {}
    for name, series in watch.items():
        settled = series.settled()
        judged = not name.startswith("redis") or seconds >= REDIS_FLAT_S
        first, last = settled.levels_mb()
        memory[name] = {
            "first_mb": round(first, 1),
            "last_mb": round(last, 1),
            "max_mb": round(max(series.mb), 1),
            "slope_mb_per_hour": round(settled.slope_mb_s() * 3600, 2),
            "flat": flat(series) if judged else None,
        }
    broken = [f"{name}: memory grows" for name, row in memory.items() if row["flat"] is False]
    broken += found + load.trouble[:10]
    if load.right != load.submitted:
        broken.append(f"{load.submitted - load.right} tasks without a right result")
    return {
        "ok": not broken,
        "seconds": seconds,
        "highest_tasks_per_s": round(highest),
        "tasks_per_s": round(highest * share),
        "reached_tasks_per_s": round(load.submitted / seconds),
        "submitted": load.submitted,
        "results": load.right,
        "memory": memory,
        "broken": broken,
    }


def print_report(report: dict[str, Any]) -> None:
    words = {True: "yes", False: "NO", None: "too short to say"}
    print_table(
        ("process", "MB after warm-up", "MB at the end", "highest MB", "MB an hour", "flat"),
        [
            (name, row["first_mb"], row["last_mb"], row["max_mb"], row["slope_mb_per_hour"], words[row["flat"]])
            for name, row in report["memory"].items()
        ],
        title=f"{report['results']:,} of {report['submitted']:,} tasks in {report['seconds']:g} s, "
        f"{report['reached_tasks_per_s']:,} tasks/s; {report['tasks_per_s']:,} were wanted, "
        f"of {report['highest_tasks_per_s']:,}",
        right="MB after warm-up,MB at the end,highest MB,MB an hour",
    )
    for line in report["broken"]:
        print(f"BROKEN: {line}")
    print("memory is flat, every key ends, every daemon ran through" if report["ok"] else "PROMISES WERE BROKEN")
