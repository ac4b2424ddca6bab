"""What is done about findings: each repair is an ordinary write of ours, fenced and versioned, and leaves a line in the
audit history.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import INBOX, Section
from a2a_zmq.protocol.message import MessageType
from daemons.coordinator.asking import questions_in
from daemons.coordinator.auditing import (
    ADOPT,
    DROP,
    END,
    FINISH,
    INBOX_NAME,
    LISTEN,
    PUT_BACK,
    RECOUNT,
    REGISTER,
    Facts,
    Finding,
    asked_in,
)
from daemons.coordinator.desk import Desk
from daemons.coordinator.records import HELD, entry_of, restored_record
from daemons.coordinator.staging import INBOX_SECTION
from daemons.coordinator.sync import Sync
from daemons.runtime.contract import Send

# Repairs of one audit that get a line of their own in the history.
MAX_LINES: Final = 200


class Repairs:
    """See the module's text. Called in the turn in which the finding was judged."""

    def __init__(self, desk: Desk, sync: Sync) -> None:
        self._desk = desk
        self._sync = sync
        self._lines = 0
        self._table: Final[dict[str, Callable[[Finding, Facts, Now], None]]] = {
            DROP: self._drop,
            FINISH: self._finish,
            PUT_BACK: self._put_back,
            ADOPT: self._adopt,
            END: self._end,
            LISTEN: self._listen,
        }

    def begin(self) -> None:
        """Another audit begins."""
        self._lines = 0

    def do(self, finding: Finding, facts: Facts | None, now: Now) -> None:
        """Mend it."""
        desk = self._desk
        if finding.repair == RECOUNT:
            desk.ledger.recount()
        elif finding.repair == REGISTER:
            self._sync.enter(finding.section, now)
        elif facts is not None:
            self._table[finding.repair](finding, facts, now)
        self._lines += 1
        if self._lines > MAX_LINES:
            return  # the audit's own line has their number
        detail = {"kind": finding.kind, "section": finding.section, "repair": finding.repair}
        desk.staging.history(INBOX_SECTION, now, finding.task_id, "state_repaired", detail)

    def _drop(self, finding: Finding, facts: Facts, now: Now) -> None:
        place = INBOX if finding.section == INBOX_NAME else finding.section
        self._desk.staging.section(Section(place, "coordinator")).drops.append(finding.task_id)

    def _finish(self, finding: Finding, facts: Facts, now: Now) -> None:
        desk = self._desk
        entry = desk.ledger.live[finding.task_id]
        section = entry.home.section if entry.home is not None else INBOX_SECTION
        result = facts.before or facts.after
        if result is not None and desk.finish_stored(entry, result):
            desk.staging.section(section).drops.append(finding.task_id)

    def _put_back(self, finding: Finding, facts: Facts, now: Now) -> None:
        desk = self._desk
        entry = desk.ledger.live[finding.task_id]
        if entry.state == HELD:
            desk.staging.put(INBOX_SECTION, [entry])
        elif entry.home is not None:
            desk.ledger.rewrite(entry, restored_record(entry.record))
            self._sync.put_back(entry.home, [entry])
            # Asked to be cancelled before: asked again, after the assignment.
            entry.home.needs_sync |= entry.task_id in entry.home.cancels

    def _end(self, finding: Finding, facts: Facts, now: Now) -> None:
        desk = self._desk
        result = orjson.loads(facts.before or b"{}")
        payload = {"action": "end_waiting", "results": [result], **desk.mark()}
        desk.out.append(Send(finding.section, MessageType.REQUEST, payload))

    def _listen(self, finding: Finding, facts: Facts, now: Now) -> None:
        desk = self._desk
        entry, record = desk.ledger.live[finding.task_id], orjson.loads(facts.places[facts.home or INBOX])
        asked, known = asked_in(record), facts.waits
        if known is not None:
            desk.ledger.goes_on(entry, known)
        if asked is not None and desk.ledger.wait(entry, asked, questions_in(record["metadata"])):
            desk.joined.extend((client, entry) for client in desk.clients.subscribers(entry))

    def _adopt(self, finding: Finding, facts: Facts, now: Now) -> None:
        desk = self._desk
        place = INBOX if finding.section == INBOX_NAME else finding.section
        found = entry_of(facts.places[place], desk.ledger.needs, now.mono)
        if found is None:
            return
        entry, floor = found
        if place == INBOX:
            desk.ledger.adopt_held(entry)
            desk.place_held = True
        else:
            home = desk.ledger.distributor(place)
            desk.ledger.adopt(entry, home)
            if place not in facts.held:
                desk.ledger.queue(entry)
        if floor:
            desk.ledger.floors[entry.task_id] = floor
