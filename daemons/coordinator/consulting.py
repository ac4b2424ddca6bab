"""Asking the user's own placement policy: a graph that decides for a batch of tasks at a time.

Tasks that it is to decide on wait in the inbox, durable like everything there: a crash, a take-over or a drain finds
them where it looks anyway, and their client is answered without waiting for the policy. One question is open at a time,
so the batches grow with the load. What it does not answer in time, or not well, is placed by the built-in rules. It is
not asked where there is no choice, nor while we have something else to mend (an outage, a drain, an inbox that is not
checked yet).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from a2a_zmq.clock import Now
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.placement import Choices
from daemons.coordinator.records import HELD, Entry, Need
from daemons.runtime.advice import Adviser
from daemons.runtime.consults import Consulted
from daemons.runtime.contract import Log

Place = Callable[[list[Entry], list[Distributor]], None]


@dataclass(slots=True)
class Question:
    """What was asked: tasks by need, and the distributors that each need could choose from."""

    tasks: dict[Need, list[Entry]]
    sites: dict[Need, frozenset[str]]


class PlacementPolicy:
    """See the module's text."""

    def __init__(self, desk: Desk, place: Place) -> None:
        """
        Args:
            place: the built-in placement of a group of equal tasks.
        """
        self._desk = desk
        self._place = place
        self._adviser = Adviser(
            "placement",
            "placements",
            timeout_s=desk.config.policy_timeout_s,
            rest_s=desk.config.policy_rest_s,
            meter=desk.meter,
            log=self._log,
        )
        self._open: Question | None = None
        self._wanted: dict[Need, None] = {}  # those whose tasks wait in the inbox for being asked about

    def allow(self, timeout_s: float) -> None:
        """It gets so long from now on."""
        self._adviser.allow(timeout_s)

    def asks(self, now: float) -> bool:
        """Whether tasks for which there is a choice wait for the policy now."""
        if not self._adviser or self._adviser.rests(now):
            return False
        desk = self._desk
        return desk.store_available and not desk.spooling and desk.draining is None and desk.inbox_checked

    def want(self, need: Need) -> None:
        """Tasks with this need wait in the inbox for being asked about."""
        self._wanted[need] = None

    def not_asked(self, tasks: int) -> None:
        """So many for which there is a choice do not wait for it."""
        if self._adviser:
            self._adviser.fell_back("not_asked", tasks)

    def settle(self, now: Now) -> None:
        """Give up what is late; ask about what waits."""
        if self._open is not None and self._adviser.gives_up(now):
            self._conclude(self._open, {}, now)
        if self._wanted and self._open is None:
            self._ask(now)

    def next_deadline(self) -> float:
        return 0.0 if self._wanted and self._open is None else self._adviser.deadline()

    def _log(self, line: Log) -> None:
        self._desk.out.append(line)

    # ------------------------------------------------------------ asking

    def _ask(self, now: Now) -> None:
        desk = self._desk
        ledger = desk.ledger
        wanted, self._wanted = self._wanted, {}
        left = desk.config.move_chunk
        question = Question({}, {})
        choices = Choices(ledger.distributors)
        for need in sorted(wanted, key=lambda need: -need.priority):
            if need not in ledger.held:
                continue
            if left <= 0:
                self._wanted[need] = None  # with the next question
            elif len(sites := choices.of(need)) > 1:
                question.tasks[need] = list(islice(ledger.held[need], left))
                question.sites[need] = frozenset(site.agent_id for site in sites)
                left -= len(question.tasks[need])
        if question.tasks:
            self._open = question
            desk.out.append(self._adviser.ask(self._facts(question, now), now.mono))

    def _facts(self, question: Question, now: Now) -> dict[str, Any]:
        tasks: list[dict[str, Any]] = []
        for need, entries in question.tasks.items():
            candidates = sorted(question.sites[need])
            tasks.extend(
                {
                    "task_id": entry.task_id,
                    "task_type": need.task_type,
                    "priority": need.priority,
                    "labels": dict(need.labels or {}),
                    "client": entry.owner,
                    "bytes": len(entry.record),
                    "waited_s": round(now.mono - entry.since, 3),
                    "candidates": candidates,
                }
                for entry in entries
            )
        named = frozenset().union(*question.sites.values())
        homes = [home for home in self._desk.ledger.distributors.values() if home.agent_id in named]
        return {"tasks": tasks, "distributors": [_site(home) for home in homes]}

    # ------------------------------------------------------------ answers

    def answered(self, event: Consulted, now: Now) -> None:
        """The answer, or that there is none; one to a question that was given up says nothing any more."""
        question = self._open
        if question is None or not self._desk.leading:
            return
        choice = self._adviser.hear(event, now)
        if choice is not None:
            self._conclude(question, choice, now)

    def _conclude(self, question: Question, choice: dict[Any, Any], now: Now) -> None:
        """Place what was asked about and still waits; tasks that the policy does not name go the built-in way."""
        desk = self._desk
        self._open = None
        desk.place_held = True  # what has come meanwhile is looked at
        choices = Choices(desk.ledger.distributors)
        for need, asked in question.tasks.items():
            sites = choices.of(need)
            waiting = sum(entry.state == HELD and desk.ledger.live.get(entry.task_id) is entry for entry in asked)
            if not (sites and waiting):
                continue
            open_now = {site.agent_id: site for site in sites}
            groups: dict[str, list[Entry]] = {}
            # As a rule the same ones; whoever else stands first in the lane (the state was loaded anew) is placed, too.
            for entry in desk.ledger.take_held(need, waiting):
                desk.staging.moved(entry)
                name = self._checked(choice.get(entry.task_id), question.sites[need], open_now, now)
                groups.setdefault(name, []).append(entry)
            for name, entries in groups.items():
                self._place(entries, [open_now[name]] if name else sites)

    def _checked(self, name: Any, asked: frozenset[str], open_now: dict[str, Distributor], now: Now) -> str:
        """The chosen distributor's id; "" leaves it to the built-in rules."""
        if name is None:
            return ""
        if not isinstance(name, str) or name not in asked:
            self._adviser.wrong(f"{str(name)[:100]!r} is no candidate", now)
            return ""
        if name not in open_now:
            self._adviser.fell_back("stale", 1)
            return ""
        return name


def _site(home: Distributor) -> dict[str, Any]:
    return {
        "id": home.agent_id,
        "load": home.load,
        "slots": home.slots,
        "suspect": home.suspect,
        "host": home.host_id,
        "task_types": sorted(home.task_types),
        "workers": [{"task_types": sorted(types), "labels": dict(labels)} for types, labels in home.offers],
    }
