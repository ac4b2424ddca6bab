"""Tasks whose graphs asked somebody something: who is told, and answers on their way to the tasks' distributors.

What a task asks is in its record, which its distributor keeps; here is remembered which tasks wait, since when (by the
attempt that asked), and what they ask if that is short. An answer names the attempt that asked, so that one that is
repeated, or late, never answers another question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.nesting import MAX_VALUE_DEPTH, too_deep
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.tasks import WAITING, Record, read_record
from daemons.coordinator.asking import questions_in
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.records import QUEUED, Entry, owner_of
from daemons.coordinator.staging import INBOX_SECTION
from daemons.runtime.contract import QueryAnswer, Send

NAMED: Final = 10  # ids of questions that one refusal names
Questions = list[dict[str, Any]]


class Answer:
    """One ``resume_task`` on its way to its answer.

    Attributes:
        attempt: the one that asked.
        answers: value by question; None until it is known which question the value is for.
    """

    __slots__ = ("answers", "attempt", "client", "home", "message", "task_id")

    def __init__(self, client: Client, message: Message, task_id: str) -> None:
        self.client = client
        self.message = message
        self.task_id = task_id
        attempt, answers = message.payload.get("attempt"), message.payload.get("answers")
        self.attempt: int | None = attempt if isinstance(attempt, int) else None
        self.answers: dict[str, Any] | None = answers if isinstance(answers, dict) else None
        self.home: Distributor | None = None


class Waits:
    """See the module's text."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._under_way: dict[str, Answer] = {}  # by tag

    # ------------------------------------------------------------ questions

    def asked(self, home: Distributor, message: Message, now: Now) -> None:
        """``task_waiting``: tasks of a distributor wait; who waits for their results is told what for."""
        desk = self._desk
        items = message.payload.get("tasks")
        for item in items if isinstance(items, list) else ():
            task_id = item.get("task_id") if isinstance(item, dict) else None
            entry = desk.ledger.live.get(task_id) if isinstance(task_id, str) else None
            attempt, questions = (item.get("attempt"), questions_in(item)) if entry is not None else (None, [])
            if entry is None or entry.home is not home or not isinstance(attempt, int) or not questions:
                continue
            floor = desk.ledger.floors.get(entry.task_id)
            if (floor is not None and attempt <= floor.attempt) or not desk.ledger.wait(entry, attempt, questions):
                continue
            if entry.state == QUEUED:  # it read the task by itself: there is nothing more to tell it
                home.queue.discard(entry)
                desk.ledger.sent_all([entry], home)
            desk.stops(entry.task_id)
            self._say(desk.clients.subscribers(entry), entry, attempt, questions)

    def _say(self, clients: Iterable[Client], entry: Entry, attempt: int, questions: Questions) -> None:
        """Without questions: it goes on."""
        item = {"task_id": entry.task_id, "attempt": attempt, "interrupts": questions}
        for client in clients:
            self._desk.untold.pop((client.agent_id, entry.task_id), None)
            payload = {"action": "task_waiting", "tasks": [item]}
            self._desk.out.append(Send(client.agent_id, MessageType.EVENT, payload))

    def settle(self, now: Now) -> None:
        """Tell those who came to wait for a task that it waits itself."""
        joined, self._desk.joined = self._desk.joined, []
        for client, entry in joined:
            self._tell(client, entry, now)

    def _tell(self, client: Client, entry: Entry, now: Now) -> None:
        """This client waits for the result from now on: does the task wait for an answer?"""
        wait = self._desk.ledger.waits.get(entry.task_id)
        if wait is None or not wait.open:
            return

        def known(questions: Questions, _now: Now) -> None:
            if wait.open and questions:
                self._say([client], entry, wait.attempt, questions)
            elif wait.open:
                self._desk.leave_untold(client, entry)

        self.with_questions(entry, known, now)

    def with_questions(self, entry: Entry, then: Callable[[Questions, Now], None], now: Now) -> None:
        """Call ``then`` with what the task asks; with nothing if that cannot be read."""
        desk = self._desk
        wait = desk.ledger.waits[entry.task_id]
        if wait.questions:
            then(orjson.loads(wait.questions), now)
            return
        if entry.home is None or not desk.questions.room():
            then([], now)
            return

        def read(answer: QueryAnswer, later: Now) -> None:
            stored = answer.value.get(entry.task_id) if answer.error is None else None
            record = (read_record(stored) if stored is not None else None) or {}
            metadata = record.get("metadata") or {}
            asked = metadata.get("asked", metadata.get("attempt"))
            same = record.get("status") == WAITING and asked == wait.attempt
            then(questions_in(metadata) if same else [], later)

        desk.ask("tasks", {"distributor_ids": [entry.home.agent_id], "task_ids": [entry.task_id]}, read, now)

    # ------------------------------------------------------------ resume_task

    def resume(self, client: Client, message: Message, now: Now) -> None:
        """``resume_task``: answered when the task's distributor has stored that it goes on."""
        desk, payload = self._desk, message.payload
        task_id = payload.get("task_id")
        if not isinstance(task_id, str) or (("value" in payload) == ("answers" in payload)):
            desk.refuse(message, "INVALID_TASK", "wanted: task_id, and value or answers")
            return
        given = payload.get("value", payload.get("answers"))
        if "answers" in payload and not (isinstance(given, dict) and given):
            desk.refuse(message, "INVALID_TASK", "answers must be an object with a value for each question's id")
            return
        size = len(body := orjson.dumps(given))
        if size > desk.config.max_payload_bytes or too_deep(body):
            text = f"an answer has at most {desk.config.max_payload_bytes} bytes and {MAX_VALUE_DEPTH} levels"
            desk.refuse(message, "PAYLOAD_TOO_LARGE", text)
            return
        answer = Answer(client, message, task_id)
        entry = desk.ledger.live.get(task_id)
        if entry is not None and client.may_see(entry.owner):
            self._resume(answer, entry, now)
        elif entry is not None:
            self._unknown(answer)
        elif (stored := desk.ended(task_id)) is not None:
            self._ended(answer, stored)
        elif desk.questions.room():
            desk.ask_results([task_id], partial(self._looked_up, answer), now)
        else:
            desk.refuse(message, "BUSY", "too many requests wait for the store")

    def _unknown(self, answer: Answer) -> None:
        self._desk.refuse(answer.message, "UNKNOWN_TASK", f"no task {answer.task_id} of yours is known")

    def _looked_up(self, answer: Answer, found: QueryAnswer, now: Now) -> None:
        if self._desk.unread(answer.message, found, answer.task_id):
            return
        if (stored := found.value.get(answer.task_id)) is None:
            self._unknown(answer)
        else:
            self._ended(answer, stored)

    def _ended(self, answer: Answer, stored: bytes) -> None:
        """It has ended, after this answer perhaps, which is asked for again."""
        record: Record = orjson.loads(stored)
        resumed = (record.get("metadata") or {}).get("resumed")
        if not answer.client.may_see(owner_of(record)):
            self._unknown(answer)
        elif answer.attempt is not None and answer.attempt == resumed:
            self._done(answer)
        else:
            text = f"task {answer.task_id} does not wait for an answer: it is {record.get('status')}"
            self._desk.refuse(answer.message, "NOT_WAITING", text)

    def _resume(self, answer: Answer, entry: Entry, now: Now) -> None:
        wait = self._desk.ledger.waits.get(entry.task_id)
        if wait is not None and wait.open and answer.attempt in (None, wait.attempt):
            answer.attempt = wait.attempt
            self.with_questions(entry, partial(self._choose, answer, entry), now)
        elif answer.attempt is not None and answer.answers is not None:
            self._forward(answer, entry, now)  # perhaps it went on by this answer already: its distributor knows
        else:
            self._not_waiting(answer)

    def _not_waiting(self, answer: Answer) -> None:
        if answer.attempt is None and answer.task_id not in self._desk.ledger.waits:
            text = f"task {answer.task_id} does not wait for an answer yet: it has asked nothing"
        else:
            text = (
                f"task {answer.task_id} does not wait for this answer any more: it went on with an earlier one. If "
                f"questions are open still, it asks them again; several are answered together, or one after the other "
                f"as it asks"
            )
        self._desk.refuse(answer.message, "NOT_WAITING", text)

    def _choose(self, answer: Answer, entry: Entry, questions: Questions, now: Now) -> None:
        """Which question is the value for?"""
        ids = [each["id"] for each in questions]
        names = ", ".join(ids[:NAMED])
        if not ids:
            self._desk.refuse(answer.message, "UNAVAILABLE", "what the task asks could not be read from the store")
            return
        if answer.answers is None:
            if len(ids) > 1:
                text = f"task {answer.task_id} asks {len(ids)} questions, name the one that is answered: {names}"
                self._desk.refuse(answer.message, "AMBIGUOUS", text)
                return
            answer.answers = {ids[0]: answer.message.payload.get("value")}
        elif not answer.answers.keys() <= set(ids):
            text = f"task {answer.task_id} does not ask that; its open questions: {names}"
            self._desk.refuse(answer.message, "NOT_WAITING", text)
            return
        self._forward(answer, entry, now)

    # ------------------------------------------------------------ to the distributor and back

    def _forward(self, answer: Answer, entry: Entry, now: Now) -> None:
        desk = self._desk
        answer.home = entry.home
        if entry.home is None:
            text = f"task {answer.task_id} is on its way to another distributor"
            desk.refuse(answer.message, "UNAVAILABLE", text)
        elif not desk.questions.room():
            desk.refuse(answer.message, "BUSY", "too many requests wait for the store")
        else:
            tag = desk.questions.expect(partial(self._verdict, answer), now)
            self._under_way = {each: kept for each, kept in self._under_way.items() if desk.questions.pending(each)}
            self._under_way[tag] = answer
            self._send(tag, answer)

    def _send(self, tag: str, answer: Answer) -> None:
        if answer.home is not None and answer.home.up:
            tasks = [[answer.task_id, answer.answers, answer.attempt]]
            payload = {"action": "resume_tasks", "tasks": tasks, "tag": tag, **self._desk.mark()}
            self._desk.out.append(Send(answer.home.agent_id, MessageType.REQUEST, payload))

    def came(self, agent_id: str) -> None:
        """A session with this distributor is up: ask again what it has not answered."""
        for tag, answer in self._under_way.items():
            if answer.home is not None and answer.home.agent_id == agent_id and self._desk.questions.pending(tag):
                self._send(tag, answer)

    def told(self, home: Distributor, message: Message, now: Now) -> None:
        """A distributor's verdicts."""
        tag = message.payload.get("tag")
        if isinstance(tag, str) and self._under_way.pop(tag, None) is not None:
            self._desk.questions.answered(QueryAnswer(tag, message.payload.get("tasks")), now)

    def _verdict(self, answer: Answer, told: QueryAnswer, now: Now) -> None:
        desk = self._desk
        rows = told.value if isinstance(told.value, list) else []
        mine = (each for each in rows if isinstance(each, list) and len(each) > 1 and each[0] == answer.task_id)
        verdict = next((each[1] for each in mine), "")
        entry = desk.ledger.live.get(answer.task_id)
        over = verdict in ("resumed", "not_waiting") and answer.attempt is not None
        if over and entry is not None and desk.ledger.goes_on(entry, answer.attempt or 0):
            self._say(desk.clients.subscribers(entry), entry, answer.attempt or 0, [])
        if verdict == "resumed":
            detail = {"by": answer.client.agent_id, "attempt": answer.attempt}
            desk.staging.history(INBOX_SECTION, now, answer.task_id, "answered", detail)
            self._done(answer)
        elif verdict == "not_waiting":
            self._not_waiting(answer)
        else:
            why = told.error or "it does not know the task yet"
            where = answer.home.agent_id if answer.home is not None else "its distributor"
            desk.refuse(answer.message, "UNAVAILABLE", f"{where} has not taken the answer: {why}")

    def _done(self, answer: Answer) -> None:
        self._desk.out.append(self._desk.reply(answer.message, {"task_id": answer.task_id, "resumed": True}))
