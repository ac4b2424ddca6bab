"""Judges the recorded history of a whole run: nothing lost, nothing recorded twice, nobody wrongly declared dead."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from daemons.cli.chaos.ledger import Ledger
from daemons.cli.chaos.load import Sent, slim
from daemons.cli.chaos.measure import Outcome
from daemons.cli.chaos.watch import Death

EXAMPLES: Final = 5
# So many of the newest results of a distributor are kept, whatever else there is (see the retention of results).
KEPT: Final = 150_000
# A death may be told after its agent is back, or before we did what made it die (clocks of log lines).
TOLD_S: Final = 2.0
# So long after a fault that may make tasks run again, what its victim runs may still be such a task.
SETTLED_S: Final = 3.0


class Sample(NamedTuple):
    """What the store had at a moment.

    Attributes:
        at: monotonic time at which the look began.
        ids: tasks that it had a result of.
    """

    at: float
    ids: frozenset[str]


NOTHING: Final = Sample(0.0, frozenset())


@dataclass
class Verdict:
    """Counts of a run; all but ``accepted``, ``results``, ``runs`` and ``looked_for`` must be 0.

    Attributes:
        lost: accepted, and no result at the client.
        failed: a result that is no success, or a wrong value.
        looked_for: results at the client whose record was looked for: all but those on which a wipe came down.
        unrecorded: those of them that the store had not.
        twice: recorded more than once, or the store's record is not the one that the client got.
        doubled: the same attempt of a task ran more than once.
        repeated: ran again although nothing was promised to be broken for it (adopted tasks, drained workers …).
        false_deaths: declared dead, with no fault behind it.
        client_errors: submissions that ended with an error at the client.
        crashes: daemons that ended with an internal error, or by a signal that nobody sent.
        examples: what they are, some of each.
    """

    accepted: int = 0
    results: int = 0
    runs: int = 0
    lost: int = 0
    failed: int = 0
    looked_for: int = 0
    unrecorded: int = 0
    twice: int = 0
    doubled: int = 0
    repeated: int = 0
    false_deaths: int = 0
    client_errors: int = 0
    crashes: int = 0
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, name: str, texts: Sequence[str]) -> None:
        setattr(self, name, len(texts))
        if texts:
            self.examples[name] = list(texts[:EXAMPLES])

    @property
    def clean(self) -> bool:
        return not self.examples


def judge(
    sent: Sequence[Sent],
    *,
    errors: Sequence[str],
    outcomes: Sequence[Outcome],
    deaths: Sequence[Death],
    ledger: Ledger | None,
    stored: dict[str, list[Any]] | None,
    agents: dict[str, list[str]],
    before: Mapping[int, Sample] | None = None,
    crashes: Sequence[str] = (),
) -> Verdict:
    """
    Args:
        stored: records by task id, one for each place where the store has one; None if nobody may look there.
        before: what it had before it was wiped, by the fault's number.
        crashes: of daemons, one line each.
    """
    verdict = Verdict(accepted=len(sent), results=sum(1 for each in sent if each.arrived))
    verdict.note("lost", [each.task_id for each in sent if not each.arrived])
    wrong = [each for each in sent if each.arrived and each.outcome != "ok"]
    verdict.note("failed", [f"{each.task_id}: {each.outcome}" for each in wrong])
    verdict.note("client_errors", errors)
    verdict.note("crashes", crashes)
    if stored is not None:
        _stored(verdict, sent, stored, outcomes, before or {})
    if ledger is not None:
        verdict.runs = len(ledger.order)
        verdict.note("doubled", [f"{task_id} attempt {attempt}" for task_id, attempt in ledger.doubles()])
        verdict.note("repeated", _repeated(outcomes, ledger))
    verdict.note("false_deaths", _false_deaths(outcomes, deaths, agents))
    return verdict


def _stored(
    verdict: Verdict,
    sent: Sequence[Sent],
    stored: dict[str, list[Any]],
    outcomes: Sequence[Outcome],
    before: Mapping[int, Sample],
) -> None:
    twice = []
    for each in sent:
        records = stored.get(each.task_id, [])
        if len(records) > 1:
            twice.append(f"{each.task_id}: {len(records)} records")
        elif records and each.record is not None and slim(orjson.loads(records[0])) != each.record:
            twice.append(f"{each.task_id}: stored {slim(orjson.loads(records[0]))}, delivered {each.record}")
    # What stood on a disk while the store was away may come to it only later.
    seen = set(stored).union(*(sample.ids for sample in before.values()))
    due = list(_due(sent, outcomes, before))
    verdict.looked_for = len(due)
    missing = [task_id for task_id in due if task_id not in seen]
    verdict.note("unrecorded", missing)
    verdict.note("twice", twice)


def _due(sent: Sequence[Sent], outcomes: Sequence[Outcome], before: Mapping[int, Sample]) -> Iterator[str]:
    """Tasks whose record must have been seen: they began and ended between one wipe and the look before the next."""
    since = 0.0
    wipes = [outcome for outcome in outcomes if outcome.fault.kind.name == "redis-wipe"]
    for outcome in (*wipes, None):
        until = math.inf if outcome is None else before.get(outcome.fault.number, NOTHING).at
        ended = [each for each in sent if since < each.submitted and 0.0 < each.arrived < until]
        yield from (each.task_id for each in sorted(ended, key=lambda each: each.arrived)[-KEPT:])
        since = 0.0 if outcome is None else outcome.until


def _repeated(outcomes: Sequence[Outcome], ledger: Ledger) -> list[str]:
    """Tasks that ran while a fault hit that leaves them running, and were begun again before the next that does not."""
    found = []
    for index, outcome in enumerate(outcomes):
        if outcome.fault.kind.reruns:
            continue
        end = next((later.at for later in outcomes[index + 1 :] if later.fault.kind.reruns), float("inf"))
        # What piled up on a link comes when it heals: a worker may begin what was given to another one meanwhile.
        unsettled = {
            before.fault.victim
            for before in outcomes[:index]
            if before.fault.kind.reruns and outcome.at - before.until < SETTLED_S
        }
        for run in outcome.running:
            if run.worker in unsettled:
                continue
            later_run = ledger.next_run(run)
            if later_run is not None and outcome.at < later_run.begun < end:
                after_s = later_run.begun - outcome.at
                text = f"{run.task_id} on {run.worker} (attempt {run.attempt}) ran again after {after_s:.2f} s"
                found.append(f"{text}; the last fault was {outcome.fault.kind.name} no. {outcome.fault.number}")
    return list({text.split(" ", 1)[0]: text for text in found}.values())


def _false_deaths(outcomes: Sequence[Outcome], deaths: Sequence[Death], agents: dict[str, list[str]]) -> list[str]:
    role_of = {name: role for role, names in agents.items() for name in names}
    found = []
    for death in deaths:
        role = role_of.get(death.agent, "")
        if not any(_explains(outcome, death, role) for outcome in outcomes):
            before = [outcome for outcome in outcomes if outcome.wall <= death.wall + TOLD_S]
            during = f"{before[-1].fault.kind.name} no. {before[-1].fault.number}" if before else "the start"
            found.append(f"{death.agent} ({death.reason}) {_after(before, death)}after {during}")
    return found


def _after(before: Sequence[Outcome], death: Death) -> str:
    return f"{death.wall - before[-1].wall:.2f} s " if before else ""


def _explains(outcome: Outcome, death: Death, role: str) -> bool:
    ended = outcome.wall + (outcome.until - outcome.at)
    if not outcome.wall - TOLD_S <= death.wall <= ended + TOLD_S:
        return False
    if role not in outcome.fault.kind.suspects:
        return False
    return outcome.fault.victim == death.agent or outcome.fault.kind.victim != role
