"""What the inbox in the store holds when we take over: tasks that wait, and leftovers of tasks that were placed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Loaded
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.lives import life_of
from daemons.coordinator.records import HELD, entry_of
from daemons.coordinator.staging import INBOX_SECTION
from daemons.runtime.contract import QueryAnswer

# Ids in one read or message: some tens of kilobytes.
READ_CHUNK = 2_000


class Inbox:
    """
    Attributes:
        gone_back: tasks of each distributor that are in the inbox once more, because the state went back to before they
            were placed. There they stay until their distributor has them in the store again, or they have ended.
        checking: the comparison with the results is under way.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.gone_back: defaultdict[Distributor, set[str]] = defaultdict(set)
        self.checking = False

    def adopt(self, loaded: Loaded, ended: set[str], placed: Mapping[str, Distributor], now: Now) -> None:
        """A task that is in a distributor's section too was being moved: there (the inbox lets go), or away from it.

        Args:
            placed: tasks of which we know better, because the store has lost state: they are not taken from here. Their
                distributors may run them, and another one would record a second result.
        """
        desk = self._desk
        ledger = desk.ledger
        self.gone_back.clear()
        desk.known_types.update(_names_in(loaded.header.get("known_types") or "[]"))
        for task_id, record in loaded.tasks.items():
            found = entry_of(record, ledger.needs, now.mono)
            if found is None or found[0].task_id != task_id:
                desk.log("error", "unreadable_record", section="inbox", task_id=task_id)
            elif task_id in ledger.live:
                if not ledger.adopt_moving(ledger.live[task_id], record):
                    desk.staging.section(INBOX_SECTION).drops.append(task_id)
            elif task_id in placed:
                self.gone_back[placed[task_id]].add(task_id)
            elif task_id not in ended:
                ledger.adopt_held(found[0])
                if found[1]:
                    ledger.floors[task_id] = found[1]

    def let_go(self, home: Distributor, task_ids: Iterable[str]) -> None:
        """These tasks of a distributor were compared with the store: what is not to be written again has ended, or is
        in its section."""
        desk = self._desk
        gone = self.gone_back[home].intersection(task_ids)
        self.gone_back[home] -= gone
        for task_id in sorted(gone):
            entry = desk.ledger.live.get(task_id)
            if entry is None:
                desk.staging.section(INBOX_SECTION).drops.append(task_id)
            elif entry.home is not None:
                desk.staging.moved(entry)

    # ------------------------------------------------------------ comparison with the results

    def check(self, now: Now) -> None:
        """A task of the loaded inbox may have been placed and ended just before a crash, with only the inbox's copy
        left: nothing leaves the inbox before the results were looked at."""
        desk = self._desk
        ids = [entry.task_id for lane in desk.ledger.held.values() for entry in lane]
        desk.inbox_checked = not (ids and any(each.registered for each in desk.ledger.distributors.values()))
        if not desk.inbox_checked:
            self._check_next(ids, now)

    def _check_next(self, ids: list[str], now: Now) -> None:
        self.checking = True
        self._desk.ask_results(ids[:READ_CHUNK], partial(self._looked_up, ids), now)

    def _looked_up(self, ids: list[str], answer: QueryAnswer, now: Now) -> None:
        desk = self._desk
        self.checking = False
        if answer.error is not None:
            desk.log("warning", "inbox_not_checked", reason=answer.error)
            return  # supervision asks again
        for task_id, stored in answer.value.items():
            entry = desk.ledger.live.get(task_id)
            if entry is not None and entry.state == HELD and desk.finish_stored(entry, stored):
                desk.staging.section(INBOX_SECTION).drops.append(task_id)
        if len(ids) > READ_CHUNK:
            self._check_next(ids[READ_CHUNK:], now)
        else:
            desk.inbox_checked = True
            self._end_cancelled(now)

    def _end_cancelled(self, now: Now) -> None:
        """What came here from a distributor that stayed away, and was to be cancelled there: whoever moved it died
        before that was done."""
        desk = self._desk
        for home in desk.ledger.distributors.values():
            for task_id, life in home.moved_cancels.items():
                entry = desk.ledger.live.get(task_id)
                if entry is not None and entry.state == HELD and life_of(entry.record) == life:
                    desk.end_here(entry, "request", now)


def _names_in(text: str) -> list[str]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
