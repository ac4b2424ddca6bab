"""Times one fault: how soon it was seen, how soon the fleet worked again, and whether it is whole afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from daemons.cli.chaos.faults import Deed
from daemons.cli.chaos.kinds import CHILDREN, EXIT, HEAL, TASKS, WORKER
from daemons.cli.chaos.ledger import Ledger, Run
from daemons.cli.chaos.load import Load
from daemons.cli.chaos.plan import Fault
from daemons.cli.chaos.stage import Stage
from daemons.cli.chaos.tasks import CHILD
from daemons.cli.chaos.watch import Watch

# What has not recovered by then never will: the run goes on with the promise broken.
PATIENCE_S = 30.0
# A detection is written down behind the event.
DETECTION_S = 3.0
POLL_S = 0.01
READY_PAUSE_S = 0.05


@dataclass(slots=True)
class Outcome:
    """What became of one fault; times in milliseconds.

    Attributes:
        at, until: monotonic moments of the fault, and of the fleet being whole again.
        wall: wall time of the fault.
        detected_ms: after the fault; None if nobody needed to notice, or nobody did.
        recovered_ms: after the fault or its healing, one for each thing that had to recover.
        running: what ran at that moment.
        gone_ms: how long the kernel took to end the process that was killed.
        broken: broken promises, in words.
    """

    fault: Fault
    at: float
    wall: float
    running: list[Run]
    hit: int = 0
    until: float = 0.0
    detected_ms: float | None = None
    gone_ms: float | None = None
    recovered_ms: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Measure:
    """Measures faults on one fleet under one load."""

    def __init__(self, stage: Stage, load: Load, ledger: Ledger | None, watch: Watch) -> None:
        self._stage = stage
        self._load = load
        self._ledger = ledger
        self._watch = watch

    def running(self) -> list[Run]:
        """What runs now, as far as handlers tell."""
        if self._ledger is None:
            return []
        ledger = self._ledger
        ledger.read()
        return [run for run in ledger.running.values() if ledger.next_run(run) is None]

    def backlog(self) -> int:
        """Accepted tasks that do not run yet, about; 0 where nobody tells what runs."""
        return 0 if self._ledger is None else self._load.waiting - len(self.running())

    def child_backlog(self) -> int:
        """Accepted tasks that wait for a child process, about."""
        sent = sum(each.task_type == CHILD for each in self._load.under_way())
        return sent - len(self.child_runs(()))

    def child_runs(self, spared: Collection[str]) -> list[Run]:
        """What runs in child processes, but for those tasks."""
        return [run for run in self.running() if run.task_type == CHILD and run.task_id not in spared]

    def after(self, deed: Deed, first: int) -> Outcome:
        """Wait for detection, recovery and wholeness; returns what was found.

        Args:
            first: how many tasks had been sent before the fault.
        """
        kind = deed.fault.kind
        outcome = Outcome(deed.fault, deed.at, deed.wall, deed.running, len(deed.hit), gone_ms=deed.gone_ms)
        outcome.broken += deed.broken
        since = deed.healed if kind.since == HEAL else deed.at
        if kind.recovery == EXIT:
            outcome.recovered_ms = [(deed.healed - deed.at) * 1000]
        elif kind.recovery == TASKS:
            if self._ledger is None:
                self._wait(lambda: self._reruns_by_record(deed, outcome, first), outcome)
            else:
                self._wait(lambda: self._reruns(deed, outcome, first), outcome)
                if CHILDREN in kind.needs and not outcome.recovered_ms and not outcome.broken:
                    # Its run had ended in the moment of the signal: an idle process was killed, which nobody records.
                    deed.hit, outcome.hit = [], 0
        elif kind.recovery == WORKER:
            self._wait(lambda: self._works(deed.fault.victim, since, outcome, first), outcome)
        else:
            through = deed.fault.victim if kind.victim == "distributor" else ""
            self._wait(lambda: self._serves(since, outcome, first, through), outcome)
        self._detection(deed, outcome)
        self._wholeness(outcome)
        return outcome

    def wait_whole(self) -> bool:
        """Wait until every agent is ready; False if that takes too long."""
        until = time.monotonic() + PATIENCE_S
        while not self._stage.whole():
            if time.monotonic() > until:
                return False
            time.sleep(READY_PAUSE_S)
        return True

    # ------------------------------------------------------------ inside

    def _wait(self, done: Callable[[], bool], outcome: Outcome) -> None:
        until = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > until:
                outcome.broken.append(f"not recovered within {PATIENCE_S:g} s")
                return
            time.sleep(POLL_S)

    def _reruns(self, deed: Deed, outcome: Outcome, first: int) -> bool:
        """Each task that ran on the victim has begun again, or has its result."""
        ledger = self._ledger
        assert ledger is not None
        ledger.read()
        wanted = [run for run in deed.hit if (run.task_type == CHILD) == (deed.fault.kind.name == "child-kill")]
        again = [(run, ledger.next_run(run)) for run in wanted]
        missing = {run.task_id for run, later in again if later is None}
        if missing and any(sent.task_id in missing for sent in self._load.under_way()):
            return False
        outcome.recovered_ms = [(later.begun - deed.at) * 1000 for _, later in again if later is not None]
        return True

    def _reruns_by_record(self, deed: Deed, outcome: Outcome, first: int) -> bool:
        """As above, by what the result records say of when the last attempt began."""
        from a2a_zmq.clock import parse_iso

        before = [sent for sent in self._load.sent[:first] if not sent.arrived or sent.arrived > deed.at]
        if any(not sent.arrived for sent in before):
            return False
        outcome.recovered_ms = [
            (parse_iso(sent.record["started_at"]) - deed.wall) * 1000
            for sent in before
            if sent.record and sent.record["retry_count"] and sent.record["started_at"]
        ]
        outcome.hit = len(outcome.recovered_ms)
        return True

    def _works(self, victim: str, since: float, outcome: Outcome, first: int) -> bool:
        if self._ledger is None:
            return self._serves(since, outcome, first)
        self._ledger.read()
        found = [run.begun for run in self._ledger.begun_since(since) if run.worker == victim]
        outcome.recovered_ms = [(min(found) - since) * 1000] if found else []
        return bool(found)

    def _serves(self, since: float, outcome: Outcome, first: int, distributor: str = "") -> bool:
        sent = self._load.first_result_after(since, first, distributor)
        outcome.recovered_ms = [] if sent is None else [(sent.arrived - since) * 1000]
        return sent is not None

    def _detection(self, deed: Deed, outcome: Outcome) -> None:
        kind = deed.fault.kind
        child = deed.hit[0].task_id if deed.hit and CHILDREN in kind.needs else ""
        wanted = kind.detect.p99_ms is not None or bool(child)
        until = time.monotonic() + (DETECTION_S if wanted else 0.0)
        while True:
            self._watch.poll()
            death = self._watch.first_death(deed.fault.victim, deed.wall - 0.001)
            seen = self._watch.killed.get(child) if child else None if death is None else death.wall
            if seen is not None:
                outcome.detected_ms = max(0.0, (seen - deed.wall) * 1000)
                return
            if time.monotonic() >= until:
                break
            time.sleep(READY_PAUSE_S)
        if wanted:
            outcome.broken.append("no record says that it was killed" if child else "not detected")

    def _wholeness(self, outcome: Outcome) -> None:
        if not self.wait_whole():
            outcome.broken.append(f"the fleet was not whole again within {PATIENCE_S:g} s")
        outcome.until = time.monotonic()
