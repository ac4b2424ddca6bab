"""Compares the whole state: what the store holds, what we know, and what the distributors say they have.

An audit looks twice. The first look goes through everything in pages and notes what seems wrong; most of that only was
on its way. The second look, a moment later, asks about the notes alone and in an order that leaves no doubt (see
``_facts``): what is still wrong then is a finding. An audit is a generator, so that it reads like what it does; each
``yield`` waits for something, and others have their turns meanwhile.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import INBOX
from a2a_zmq.protocol.message import Message, MessageType
from daemons.coordinator.auditing import RECOUNT, Facts, Finding, Fleet, asked_in, ends, judge, judge_keys, parsed
from daemons.coordinator.audits import Audit, Pause, Read, Said, StoreAway, Wait
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.records import DONE, HELD, QUEUED, SENT, Entry, owner_of
from daemons.coordinator.repairs import Repairs
from daemons.coordinator.staging import INBOX_SECTION
from daemons.coordinator.sync import Sync
from daemons.runtime.contract import QueryAnswer, Send

# Ids of one question to distributors and store.
CHUNK: Final = 500
# Entries of the ledger that are looked at in one turn.
SLICE: Final = 2_000
# Up to so many live tasks, each one's result is looked for; of more, only of those that seem wrong.
DEEP_TASKS: Final = 20_000
# Findings of one answer: at most 200 KB.
SHOWN: Final = 500
ANSWER_S: Final = 3.0  # a distributor's, which may have to read its section for it


class Reconciler:
    """See the module's text. One audit at a time: asked for by an operator, or by ourselves now and then."""

    def __init__(self, desk: Desk, sync: Sync) -> None:
        self._desk = desk
        self._repairs = Repairs(desk, sync)
        self._audit: Audit | None = None
        self._number = 0
        self._next_own = float("-inf")
        self._now = Now(0.0, 0.0)

    # ------------------------------------------------------------ who wants one

    def request(self, client: Client, message: Message, now: Now) -> None:
        """``audit``: answered with the findings, and after the repairs are durable."""
        desk = self._desk
        if not client.operator:
            desk.refuse(message, "FORBIDDEN", "only operators audit the state")
        elif self._audit is not None and self._audit.message is not None:
            desk.refuse(message, "BUSY", "another audit is under way")
        elif not desk.questions.room() or not desk.store_available:
            desk.refuse(message, "BUSY", "the store cannot be asked now")
        else:
            self._begin(message, repair=message.payload.get("repair") is True, pace_s=0.0, now=now)

    def tick(self, now: Now) -> None:
        """Once an interval: end waits whose time is over; begin an audit of our own where it is time for one."""
        desk = self._desk
        every_s = desk.config.audit_interval_s
        audit = self._audit
        if audit is None:
            if self._next_own == float("-inf"):
                self._next_own = now.mono + every_s
            elif desk.leading and desk.store_available and every_s and now.mono >= self._next_own:
                self._begin(None, repair=True, pace_s=desk.config.audit_pace_s, now=now)
        elif audit.until and now.mono >= audit.until:
            self._resume(audit.said, now)

    def _begin(self, message: Message | None, *, repair: bool, pace_s: float, now: Now) -> None:
        self._number += 1  # an audit of our own that is under way gives way: what it waits for has another number
        self._next_own = now.mono + self._desk.config.audit_interval_s
        audit = self._audit = Audit(message, repair=repair, pace_s=pace_s, number=self._number, now=now)
        audit.fence = self._desk.fence
        self._repairs.begin()
        audit.steps = self._whole(audit) if message is not None else self._tasks(audit)
        self._resume(None, now)

    # ------------------------------------------------------------ waiting

    def _resume(self, value: Any, now: Now, *, error: str = "") -> None:
        """Go on to the next wait, or to the end."""
        audit = self._audit
        assert audit is not None
        assert audit.steps is not None
        self._now = now
        audit.until = 0.0
        audit.waiting = set()
        if not error and (not self._desk.leading or self._desk.fence != audit.fence):
            error = "the state was read anew"
        try:
            wait = audit.steps.throw(StoreAway(error)) if error else audit.steps.send(value)
        except StopIteration:
            self._done(audit, now)
        except StoreAway as gone:
            self._audit = None
            if audit.message is not None:
                self._desk.refuse(audit.message, "UNAVAILABLE", f"the state could not be read: {gone}")
        else:
            self._wait(audit, wait, now)

    def _wait(self, audit: Audit, wait: Read | Said | Pause, now: Now) -> None:
        if isinstance(wait, Read):
            self._desk.ask(wait.op, wait.args, partial(self._read, audit.number), now)
            return
        audit.said = {}
        if isinstance(wait, Pause):
            audit.until = now.mono + wait.seconds
            return
        audit.until = now.mono + ANSWER_S
        audit.waiting = set(wait.payloads)
        for name, payload in wait.payloads.items():
            asked = {"action": "audit", "number": audit.number, **payload}
            self._desk.out.append(Send(name, MessageType.REQUEST, asked))

    def _read(self, number: int, answer: QueryAnswer, now: Now) -> None:
        if self._audit is not None and self._audit.number == number:
            self._resume(answer.value, now, error=answer.error or "")

    def said(self, home: Distributor, message: Message, now: Now) -> None:
        """A distributor's answer."""
        audit = self._audit
        if audit is None or message.payload.get("number") != audit.number or home.agent_id not in audit.waiting:
            return
        audit.waiting.discard(home.agent_id)
        if message.payload.get("ready") is not False:
            audit.said[home.agent_id] = message.payload
        if not audit.waiting:
            self._resume(audit.said, now)

    # ------------------------------------------------------------ the steps of an audit

    def _whole(self, audit: Audit) -> Wait:
        yield from self._keys(audit)
        yield from self._distributors(audit)
        yield from self._tasks(audit)
        self._counts(audit)

    def _keys(self, audit: Audit) -> Wait:
        first = yield from self._key_findings(audit)
        if first:
            yield Pause(self._desk.config.audit_again_s)
            again = yield from self._key_findings(audit)
            self._found(audit, [finding for finding in again if finding in first])

    def _key_findings(self, audit: Audit) -> Wait:
        survey, entered = yield Read("survey", {})
        homes = self._desk.ledger.distributors.values()
        fleet = Fleet(
            self._desk.agent_id,
            self._desk.fence,
            registered={home.agent_id for home in homes if home.registered},
            up={home.agent_id for home in homes if home.up},
            entered=set(entered),
        )
        findings = judge_keys(survey.keys, fleet)
        audit.free = fleet.registered - fleet.leases.keys() - fleet.up if survey.whole else set()
        if not survey.whole:
            audit.unchecked = ["keys: there are too many in this Redis to look at all of them"]
            findings = [each for each in findings if each.kind not in ("no_lease", "unregistered")]
        return findings

    def _distributors(self, audit: Audit) -> Wait:
        """What they find wrong with themselves, and mend themselves."""
        said = yield from self._ask_all({"whole": True, "repair": audit.repair})
        for home in list(self._desk.ledger.distributors.values()):
            answer = said.get(home.agent_id)
            if answer is None:
                why = "it did not answer in time" if home.up else "it is not connected"
                audit.unchecked.append(f"{home.agent_id}'s memory: {why}")
                continue
            audit.unchecked.extend(str(each) for each in _list(answer.get("unchecked"))[:10])
            for row in _list(answer.get("findings"))[:SHOWN]:
                if isinstance(row, dict):
                    text = {name: str(row.get(name) or "") for name in ("kind", "task_id", "what", "repair")}
                    audit.findings.append(Finding(section=home.agent_id, **text))
                    audit.repaired += row.get("repaired") is True
                    if text["repair"]:
                        audit.theirs.add(text["task_id"])

    def _ask_all(self, payload: dict[str, Any]) -> Wait:
        """Ask every distributor that is here."""
        here = [home.agent_id for home in self._desk.ledger.distributors.values() if home.up]
        return (yield Said(dict.fromkeys(here, payload))) if here else {}

    def _tasks(self, audit: Audit) -> Wait:
        applied = self._desk.staging.applied
        for place in self._desk.everywhere():
            yield from self._place(audit, place)
        yield from self._ledger(audit, applied)
        if audit.noted:
            yield Pause(self._desk.config.audit_again_s)
        noted = list(audit.noted)
        for start in range(0, len(noted), CHUNK):
            yield from self._look_again(audit, noted[start : start + CHUNK])

    def _place(self, audit: Audit, place: str) -> Wait:
        """First look: does the ledger know what is live in the store?"""
        live = self._desk.ledger.live
        deep = len(live) <= DEEP_TASKS
        cursor = ""
        while True:
            cursor, records = yield Read("page", {"distributor_id": place, "cursor": cursor})
            audit.checked += len(records)
            for task_id, record in records.items():
                entry = live.get(task_id)
                home = _home(entry)
                found = parsed(task_id, record)
                if entry is not None and home == place and found is not None:
                    audit.there.add(entry.task_id)
                    if asked_in(found) != self._desk.ledger.asks(task_id):
                        audit.note(task_id)
                else:
                    audit.note(task_id)
            if deep and records:
                results = yield self._results(list(records))
                for task_id in results:
                    audit.note(task_id)
            if not cursor:
                return
            if audit.pace_s:
                yield Pause(audit.pace_s)

    def _ledger(self, audit: Audit, applied: int) -> Wait:
        """First look: is what the ledger knows in the store, and do the distributors know it?"""
        live = self._desk.ledger.live
        entries = iter(list(live.values()))
        while part := list(islice(entries, SLICE)):
            asked: dict[str, dict[str, Any]] = {}
            for entry in part:
                if live.get(entry.task_id) is not entry or not _settled(entry, applied):
                    continue
                if entry.task_id not in audit.there:
                    audit.note(entry.task_id)
                elif entry.state == SENT and entry.home is not None and entry.home.up:
                    asked.setdefault(entry.home.agent_id, {"task_ids": []})["task_ids"].append(entry.task_id)
            # Nobody to ask: a read of nothing lets others have their turn.
            said = yield Said(asked) if asked else Read("tasks", {"distributor_ids": [], "task_ids": []})
            for answer in said.values():
                for task_id in _list(answer.get("unknown")):
                    if isinstance(task_id, str):
                        audit.note(task_id)
            if audit.pace_s:
                yield Pause(audit.pace_s)
        audit.there = set()

    def _results(self, task_ids: list[str]) -> Read:
        return Read("results", {"distributor_ids": self._desk.everywhere(), "task_ids": task_ids})

    def _look_again(self, audit: Audit, task_ids: list[str]) -> Wait:
        """Second look, and the repairs: nothing happens between a judgement and what is done about it."""
        said = yield from self._ask_all({"task_ids": task_ids})
        staging = self._desk.staging
        applied = staging.applied
        # The inbox lets go of a task one cut after the distributor's section took it.
        let_go = applied if staging.empty() else applied - 1
        before = yield self._results(task_ids)
        places: dict[str, dict[str, bytes]] = {}
        for place in self._desk.everywhere():
            found = yield Read("tasks", {"distributor_ids": [place], "task_ids": task_ids})
            for task_id, record in found.items():
                places.setdefault(task_id, {})[place] = record
        after = yield self._results(task_ids)
        unknown = {name: set(map(str, _list(answer.get("unknown")))) for name, answer in said.items()}
        for task_id in task_ids:
            there = places.get(task_id, {})
            durable = let_go if INBOX in there else applied
            facts = self._facts(task_id, there, before.get(task_id), after.get(task_id), durable)
            if facts is None:
                continue
            facts.answered = unknown.keys()
            facts.held = {name for name, ids in unknown.items() if task_id not in ids}
            facts.free = audit.free
            self._found(audit, judge(facts), facts)

    def _facts(
        self, task_id: str, places: dict[str, bytes], before: bytes | None, after: bytes | None, applied: int
    ) -> Facts | None:
        """None if there is nothing to judge yet. The order of reading matters: a result and a live record are one only
        if the result was there first; a task is lost only if it was not live, and had no result after that. The
        distributors were asked before all that, and their reports come before their answers: a task that its
        distributor no longer held then, and that we still have, ended unheard.
        """
        desk = self._desk
        entry = desk.ledger.live.get(task_id)
        if entry is None:
            record = next((found for raw in places.values() if (found := parsed(task_id, raw)) is not None), None)
            if before is None and record is not None:
                before = desk.ended(task_id)
            known = before if ends(before, record) else None
            local = record is not None and not owner_of(record)
            return Facts(task_id, None, False, places, known, known, local=local) if places else None
        home = _home(entry)
        if home is None or not _settled(entry, applied):
            return None
        fresh = [
            result if result is not None and not desk.stale(task_id, orjson.loads(result)) else None
            for result in (before, after)
        ]
        facts = Facts(task_id, home, entry.state == SENT, places, fresh[0], fresh[1], local=not entry.owner)
        facts.waits, facts.wall = desk.ledger.asks(task_id), self._now.wall
        return facts

    def _counts(self, audit: Audit) -> None:
        ledger = self._desk.ledger
        problems = ledger.deep_audit() if len(ledger.live) <= DEEP_TASKS else ledger.audit()
        self._found(audit, [Finding("counts", "", "", each, RECOUNT) for each in problems])

    # ------------------------------------------------------------ findings

    def _found(self, audit: Audit, findings: list[Finding], facts: Facts | None = None) -> None:
        for finding in findings:
            if finding.task_id in audit.theirs:
                continue  # its distributor has said, and done, what there is to it
            audit.findings.append(finding)
            if audit.repair and finding.repair:
                self._repairs.do(finding, facts, self._now)
                audit.repaired += 1

    def _done(self, audit: Audit, now: Now) -> None:
        desk = self._desk
        self._audit = None
        desk.meter.observe("reconciliation_seconds", now.mono - audit.began)
        if audit.findings:
            kinds = sorted({finding.kind for finding in audit.findings})
            detail = {"findings": len(audit.findings), "repaired": audit.repaired, "kinds": kinds}
            desk.log("warning", "state_audited", **detail)
            if audit.repaired:
                desk.staging.history(INBOX_SECTION, now, "", "state_audited", detail)
        if audit.message is None:
            return
        rows = [
            {**finding._asdict(), "repaired": audit.repair and bool(finding.repair)}
            for finding in audit.findings[:SHOWN]
        ]
        answer = {
            "checked": audit.checked,
            "findings": rows,
            "total": len(audit.findings),
            "repaired": audit.repaired,
            "unchecked": audit.unchecked[:SHOWN],
            "seconds": round(now.mono - audit.began, 3),
        }
        # After the cut that carries the repairs.
        (desk.staging.after if audit.repaired else desk.out).append(desk.reply(audit.message, answer))


def _home(entry: Entry | None) -> str | None:
    """Where a task is that the store should have."""
    if entry is None or entry.state == DONE:
        return None
    if entry.home is not None:
        return entry.home.agent_id
    return INBOX if entry.state == HELD else None


def _settled(entry: Entry, applied: int) -> bool:
    """Its present write is applied."""
    return entry.state in (HELD, QUEUED, SENT) and entry.batch != 0 and entry.batch <= applied


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
