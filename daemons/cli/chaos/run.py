"""One run of the nemesis: start the load, break and mend the fleet by the plan, judge."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from a2a_zmq.client.sync import FleetClient
from daemons.cli.chaos import kinds, report
from daemons.cli.chaos.checker import Sample, judge
from daemons.cli.chaos.faults import ACTS, Deed
from daemons.cli.chaos.kinds import Kind
from daemons.cli.chaos.ledger import Ledger
from daemons.cli.chaos.load import Load, builtin_mix, counted_mix
from daemons.cli.chaos.measure import Measure, Outcome
from daemons.cli.chaos.plan import Fault, make_plan
from daemons.cli.chaos.running import NotHere, running_fleet
from daemons.cli.chaos.stage import OwnFleet, Stage, own_fleet
from daemons.cli.chaos.watch import HistoryWatch, OwnWatch, Watch
from daemons.cli.interrupts import undone

# How long results are waited for after the last fault.
FINISH_S: Final = 60.0
# The fleet and its load run so long before the first fault.
WARM_UP_S: Final = 2.0
PATIENT_S: Final = 120.0  # of a client that waits for a fleet to come back
WATCH_TIMEOUT_S: Final = 0.2  # for Redis, which may be frozen
# Tasks that wait to be begun: no more than the load of so many seconds counts as none; and how long that is waited for.
BACKLOG_S: Final = 0.15
CAUGHT_UP_S: Final = 10.0
VICTIM_S: Final = 5.0  # for a task in a child process to run


@dataclass(frozen=True, slots=True)
class Options:
    """See the options of ``a2actl chaos``."""

    duration_s: float = 60.0
    seed: int = 7
    faults: tuple[str, ...] | None = None
    rate: float = 100.0
    workers: int = 3
    distributors: int = 1
    once: bool = False
    slack: float = 1.0


def run_own(options: Options, *, quiet: bool) -> dict[str, Any]:
    """Break a private fleet; returns the report (see :func:`daemons.cli.chaos.report.summary`)."""
    chosen = kinds.chosen(options.faults)
    wants = {need for kind in chosen for need in kind.needs}
    say = Narrator(quiet=quiet)
    say(f"starting a fleet: {options.distributors} distributor(s), {options.workers} workers; seed {options.seed}")
    with own_fleet(workers=options.workers, distributors=options.distributors, wants=wants) as stage:
        watch = OwnWatch(stage.fleet.directory / "logs", stage.store(WATCH_TIMEOUT_S))
        with contextlib.closing(watch):
            return Nemesis(stage, options, chosen, watch, say).run()


def run_on(
    make: Callable[[], FleetClient], addresses: Sequence[str], options: Options, *, sure: bool, quiet: bool
) -> dict[str, Any]:
    """Break the processes of a fleet that runs on this host; its supervisor mends them.

    Args:
        make: makes an operator's client.
        sure: without it nothing is broken.

    Raises:
        NotHere: its processes cannot be told, or nobody was sure; the text lists what would be hit.
    """
    say = Narrator(quiet=quiet)
    with running_fleet(make, addresses) as stage, make() as watcher:
        found = ", ".join(f"{name} (process {pid})" for name, pid in stage.pids.items())
        if not sure:
            raise NotHere(f"this would kill and freeze {found}; say --yes-break-it if that is what you want")
        say(f"seed {options.seed}; this fleet: {found}")
        with undone():
            return Nemesis(stage, options, kinds.chosen(options.faults), HistoryWatch(watcher, time.time()), say).run()


class Narrator:
    """Tells on standard error what happens."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        if not self._quiet:
            print(f"{time.monotonic() - self._began:7.1f} s  {text}", file=sys.stderr, flush=True)


class Nemesis:
    """Runs a plan on a stage."""

    def __init__(
        self, stage: Stage, options: Options, chosen: Mapping[Kind, int | None], watch: Watch, say: Narrator
    ) -> None:
        self._stage = stage
        self._options = options
        self._watch = watch
        self._say = say
        self._skipped = {
            kind.name: next(stage.lacks[need] for need in kind.needs if need not in stage.has)
            for kind in chosen
            if not stage.has.issuperset(kind.needs)
        }
        usable = {kind: count for kind, count in chosen.items() if kind.name not in self._skipped}
        self._plan = make_plan(options.seed, options.duration_s, usable, stage.agents, once=options.once)
        self._ledger = None if stage.ledger is None else Ledger(stage.ledger)
        self._outcomes: list[Outcome] = []
        self._before: dict[int, Sample] = {}
        self._spared: set[str] = set()  # tasks whose child was killed

    def run(self) -> dict[str, Any]:
        options = self._options
        mix = counted_mix(options.seed) if self._ledger is not None else builtin_mix(options.seed)
        with self._stage.client() as client, _loaded(Load(client, options.rate, mix)) as load:
            measure = Measure(self._stage, load, self._ledger, self._watch)
            time.sleep(WARM_UP_S)
            began = time.monotonic()
            for fault in self._plan:
                if not self._when_due(fault, began, measure):
                    break
                self._do(fault, measure, load)
            seconds = time.monotonic() - began
            self._say("no more faults; waiting for the last results")
            load.finish(FINISH_S)
            return self._report(load, seconds)

    # ------------------------------------------------------------ one fault

    def _when_due(self, fault: Fault, began: float, measure: Measure) -> bool:
        """Wait for the fault's time; False if the run is over before it."""
        due = began + fault.at_s
        # If recoveries took longer than the plan thought: a moment of rest nevertheless, for tasks to get under way.
        time.sleep(max(0.5, due - time.monotonic()))
        return time.monotonic() - began < self._options.duration_s

    def _behind(self, fault: Fault, measure: Measure) -> bool:
        """Do tasks of the kind that is to be hit wait for a slot?"""
        if kinds.CHILDREN in fault.kind.needs and measure.child_backlog() > 0:
            return True
        return measure.backlog() > self._options.rate * BACKLOG_S

    def _do(self, fault: Fault, measure: Measure, load: Load) -> None:
        if fault.kind.recovery == kinds.TASKS:
            # What is promised for their tasks is promised where a slot is free, not behind a backlog.
            until = time.monotonic() + CAUGHT_UP_S
            while self._behind(fault, measure) and time.monotonic() < until:
                time.sleep(0.05)
        if kinds.CHILDREN in fault.kind.needs:
            until = time.monotonic() + VICTIM_S
            while not measure.child_runs(self._spared) and time.monotonic() < until:
                time.sleep(0.01)
        if fault.kind.name == "redis-wipe" and isinstance(self._stage, OwnFleet):
            self._before[fault.number] = Sample(time.monotonic(), frozenset(stored_results(self._stage)))
        first = len(load.sent)
        deed = Deed(fault, measure.running(), self._spared)
        with ACTS[fault.kind.name](self._stage, deed):
            if fault.lasts_s:
                time.sleep(fault.lasts_s)
            healed = time.monotonic()
        deed.healed = deed.healed or max(healed, deed.at)
        outcome = measure.after(deed, first)
        if self._ledger is not None and fault.kind.name in ("worker-kill", "child-kill"):
            self._ledger.forget(deed.hit)
            if kinds.CHILDREN in fault.kind.needs:
                self._spared.update(run.task_id for run in deed.hit)
        self._outcomes.append(outcome)
        self._say(_story(outcome, load))

    # ------------------------------------------------------------ the end

    def _report(self, load: Load, seconds: float) -> dict[str, Any]:
        stage, options = self._stage, self._options
        self._watch.poll()
        if self._ledger is not None:
            self._ledger.read()
        stored = stored_results(stage) if isinstance(stage, OwnFleet) else None
        verdict = judge(
            load.sent,
            errors=load.errors,
            outcomes=self._outcomes,
            deaths=self._watch.deaths,
            ledger=self._ledger,
            stored=stored,
            agents=stage.agents,
            before=self._before,
            crashes=stage.crashes(),
        )
        about = {
            "command": _command(options),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": report.machine(),
            "fleet": ", ".join(f"{len(names)} {role}{'s' * (len(names) > 1)}" for role, names in stage.agents.items()),
            "seed": options.seed,
            "rate": options.rate,
            "seconds": round(seconds, 1),
            "slack": options.slack,
            "planned": len(self._plan),
            "skipped": self._skipped,
            "longest_submission_s": round(load.longest_wait_s, 2),
            "log_errors": dict(sorted(getattr(self._watch, "errors", {}).items())),
        }
        return report.summary(self._outcomes, verdict, about)


@contextlib.contextmanager
def _loaded(load: Load) -> Iterator[Load]:
    load.start()
    try:
        yield load
    finally:
        load.close()


def stored_results(stage: OwnFleet) -> dict[str, list[bytes]]:
    """Result records by task id, from every place where the store keeps them."""
    found: dict[str, list[bytes]] = defaultdict(list)
    with stage.store() as connection:
        for key in connection.scan_iter("results:*", count=1000):
            for task_id, raw in connection.hscan_iter(key, count=1000):
                found[task_id.decode()].append(raw)
    return found


def _story(outcome: Outcome, load: Load) -> str:
    fault = outcome.fault
    parts = [f"no. {fault.number} {fault.kind.name} {fault.victim}".rstrip()]
    if fault.lasts_s:
        parts.append(f"for {fault.lasts_s:g} s")
    if outcome.hit:
        parts.append(f"{outcome.hit} tasks hit")
    if outcome.detected_ms is not None:
        parts.append(f"detected after {outcome.detected_ms:.0f} ms")
    if outcome.recovered_ms:
        low, high = min(outcome.recovered_ms), max(outcome.recovered_ms)
        span = f"{high:.0f}" if high - low < 1 else f"{low:.0f}–{high:.0f}"
        parts.append(f"recovered after {span} ms{' from healing' if fault.kind.since == kinds.HEAL else ''}")
    parts += [f"BROKEN: {text}" for text in outcome.broken]
    return f"{', '.join(parts)}; {load.results:,} results, {load.waiting} under way"


def _command(options: Options) -> str:
    parts = [f"a2actl chaos --duration {options.duration_s:g} --seed {options.seed}"]
    if options.faults is not None:
        parts.append(f"--faults {','.join(options.faults)}")
    parts.append(f"--rate {options.rate:g} --workers {options.workers} --distributors {options.distributors}")
    if options.slack != 1:
        parts.append(f"--slack {options.slack:g}")
    return " ".join([*parts, "--once"] if options.once else parts)


def write_report(found: dict[str, Any], path: Path) -> None:
    path.write_text(report.markdown(found) if path.suffix != ".json" else orjson.dumps(found).decode())
