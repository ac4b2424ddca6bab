"""The distributor's part of an audit of the whole state, asked for by the coordinator: which tasks it has, and whether
its memory agrees with itself and with the store.
"""

from __future__ import annotations

from typing import Any, Final

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Loaded
from a2a_zmq.protocol.message import Message, MessageType
from daemons.distributor.journal import Journal
from daemons.distributor.memory import ENDED, STORING, LiveTask, Memory
from daemons.distributor.oversight import Oversight
from daemons.distributor.recovery import Recovery
from daemons.runtime.contract import Query, QueryAnswer, Send

AUDIT: Final = "audit"  # tag of our query
# Live tasks that are gone through in one turn: some tens of milliseconds.
MAX_TASKS: Final = 50_000
MAX_ROWS: Final = 200

Row = dict[str, Any]


class Auditing:
    """See the module's text."""

    def __init__(self, memory: Memory, journal: Journal, oversight: Oversight, recovery: Recovery) -> None:
        self._memory = memory
        self._journal = journal
        self._oversight = oversight
        self._recovery = recovery
        self._asked: Message | None = None
        self._stored: dict[str, LiveTask] = {}

    def asked(self, message: Message, now: Now) -> None:
        """``audit``: about some tasks, or about everything."""
        memory = self._memory
        if self._recovery.reading or memory.restored:
            self._answer(message, {"ready": False})  # what we do not know now we may know in a moment
        elif message.payload.get("whole") is not True:
            self._answer(message, {"unknown": self._unknown(message.payload.get("task_ids"))})
        elif len(memory.live) > MAX_TASKS:
            text = f"{memory.agent_id}'s memory: {len(memory.live)} tasks are too many to go through at once"
            self._answer(message, {"unchecked": [text]})
        else:
            self._asked = message
            self._stored = {
                task_id: task
                for task_id, task in memory.live.items()
                if task.phase is not STORING and task.phase is not ENDED
            }
            memory.out.append(Query(AUDIT, "load", {"section": self._journal.section}))

    def loaded(self, answer: QueryAnswer, now: Now) -> None:
        """The store's side: what was ours before it was read, and still is, must be there."""
        message, self._asked = self._asked, None
        stored, self._stored = self._stored, {}
        if message is None:
            return
        if not self._memory.owner:
            text = f"{self._memory.agent_id}'s memory: its section could not be read: not owned"
            self._answer(message, {"unchecked": [text]})
            return
        if answer.error is not None or not isinstance(answer.value, Loaded):
            self._answer(message, {"findings": [_row("unreadable_section", "", str(answer.error), "", False)]})
            return
        repair = message.payload.get("repair") is True
        rows = self._oversight.audit(now, repair=repair)
        there = answer.value.tasks
        for task_id, task in stored.items():
            absent = task_id not in there and self._memory.live.get(task_id) is task
            if absent and task.phase is not STORING:
                if repair:
                    self._journal.put(task)
                    detail = {"kind": "not_stored", "repair": "put_back"}
                    self._journal.note(now, task_id, "state_repaired", detail)
                rows.append(_row("not_stored", task_id, "it is held here, but not in the store", "put_back", repair))
        unchecked = [f"{self._memory.agent_id}: {len(rows) - MAX_ROWS} more findings"] if len(rows) > MAX_ROWS else []
        self._answer(message, {"findings": rows[:MAX_ROWS], "unchecked": unchecked})

    def _unknown(self, task_ids: Any) -> list[str]:
        """Those that we neither have, nor have ended and not reported, nor were told to leave alone."""
        memory, journal = self._memory, self._journal
        return [
            task_id
            for task_id in (task_ids if isinstance(task_ids, list) else ())
            if isinstance(task_id, str)
            and task_id not in memory.live
            and task_id not in memory.refused
            and not journal.holds_result(task_id)
        ]

    def _answer(self, message: Message, payload: Row) -> None:
        answer = {"action": message.action, "number": message.payload.get("number"), **payload}
        send = Send(message.sender, MessageType.RESPONSE, answer, reply_to=message.metadata.request_id)
        self._memory.out.append(send)


def _row(kind: str, task_id: str, what: str, repair: str, repaired: bool) -> Row:
    return {"kind": kind, "task_id": task_id, "what": what, "repair": repair, "repaired": repaired and bool(repair)}
