"""Taking tasks in: validate, refuse, recognise what is known already, accept."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.ids import identity_of, valid_agent_id
from a2a_zmq.protocol.message import Message
from a2a_zmq.tasks import Record
from a2a_zmq.tracing.context import TRACEPARENT
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.records import Admission, Entry, Rejection, owner_of, public_result, unreadable
from daemons.coordinator.rules import METADATA
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.contract import QueryAnswer

MEBI: Final = 1024 * 1024


class Submission:
    """One ``submit_tasks`` on its way to its answer.

    Attributes:
        entries: valid tasks; ``accepted`` of them were new.
        found: encoded results of tasks that had ended already.
    """

    __slots__ = ("accepted", "client", "duplicates", "entries", "found", "message", "rejected")

    def __init__(self, client: Client, message: Message) -> None:
        self.client = client
        self.message = message
        self.entries: list[Entry] = []
        self.accepted = 0
        self.duplicates: list[str] = []
        self.rejected: list[Rejection] = []
        self.found: list[bytes] = []


class Submissions:
    """See the module's text."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def submit(self, client: Client, message: Message, now: Now) -> None:
        """``submit_tasks``; with one task as ``task`` also the specification's single form."""
        desk = self._desk
        payload = message.payload
        tasks = [payload["task"]] if "task" in payload else payload.get("tasks")
        if not isinstance(tasks, list):
            desk.refuse(message, "INVALID_TASK", "tasks must be a list")
            return
        check = payload.get("check") is True
        refusal = self._refusal(client.identity, len(tasks), check=check)
        if refusal is not None:
            desk.refuse(message, *refusal)
            return
        submission = Submission(client, message)
        admission = self._admission(client.identity, client.agent_id, now, _trace_of(message))
        if check:
            self._check(submission, admission, tasks, now)
            return
        live = desk.ledger.live
        accept = desk.accept
        take = admission.take
        for task in tasks:
            entry = take(task)
            if type(entry) is not Entry:
                submission.rejected.append(entry)  # type: ignore[arg-type]
            elif entry.task_id in live:
                self._join(submission, entry.task_id)
            else:
                accept(entry)
                submission.accepted += 1
        self._answer_when_durable(submission)

    def _admission(self, owner: str, subscriber: str, now: Now, traceparent: str | None = None) -> Admission:
        desk = self._desk
        return Admission(
            desk.config,
            desk.ledger.needs,
            desk.known_types,
            desk.offers,
            desk.offered_types,
            owner=owner,
            subscriber=subscriber,
            now=now,
            traceparent=traceparent,
            spans=desk.spans,
        )

    def _refusal(self, owner: str, count: int, *, check: bool) -> tuple[str, str] | None:
        """Why nothing of a submission of so many tasks can be taken now; None if it can."""
        desk = self._desk
        config, ledger = desk.config, desk.ledger
        if desk.draining is not None:
            return "DRAINING", f"{desk.agent_id} is shutting down"
        if not desk.store_available:
            off = f", and nothing is taken into the spool: {desk.spool_off}" if desk.spool_off else ""
            return "BUSY", f"the store is not available ({desk.store_reason or 'unknown reason'}){off}"
        if count > config.max_batch:
            return "PAYLOAD_TOO_LARGE", f"{count} tasks in one message, the limit is {config.max_batch}"
        if len(ledger.live) + count > config.max_live_tasks:
            return "BUSY", f"the fleet holds {len(ledger.live)} unfinished tasks, the limit is {config.max_live_tasks}"
        if ledger.live_bytes >= config.max_live_bytes:
            return "BUSY", (
                f"the fleet's {len(ledger.live)} unfinished tasks have {ledger.live_bytes / MEBI:.0f} MiB, the limit is"
                f" {config.max_live_bytes / MEBI:.0f} MiB"
            )
        free, free_bytes = config.max_live_tasks - len(ledger.live), config.max_live_bytes - ledger.live_bytes
        if (
            ledger.owners.get(owner, 0) + count > config.client_share * free
            or ledger.owner_bytes.get(owner, 0) > config.client_share * free_bytes
        ):
            return "BUSY", f"{owner} has its share of the room with {ledger.owners.get(owner, 0)} unfinished tasks"
        if desk.staging.unpersisted + len(ledger.fresh) + count > config.max_staged_tasks:
            return "BUSY", "too many accepted tasks wait for the store"
        if check and (desk.checks >= config.max_pending_checks or not desk.questions.room()):
            return "BUSY", "too many submissions wait for a look into the store"
        return None

    # ------------------------------------------------------------ known ids

    def _join(self, submission: Submission, task_id: str) -> None:
        """The task is unfinished: its result will come to this client too."""
        entry = self._desk.ledger.live[task_id]
        client = submission.client
        if not client.may_see(entry.owner):
            submission.rejected.append(_taken(task_id))
        elif not self._desk.subscribe(client, entry):
            message = "too many subscriptions"
            submission.rejected.append({"task_id": task_id, "code": "BUSY", "message": message})
        else:
            submission.duplicates.append(task_id)

    def _ended(self, submission: Submission, task_id: str, stored: bytes) -> None:
        """The task has ended before: its result is the answer."""
        record = orjson.loads(stored)
        if not submission.client.may_see(owner_of(record)):
            submission.rejected.append(_taken(task_id))
            return
        submission.duplicates.append(task_id)
        submission.found.append(public_result(record))

    def _check(self, submission: Submission, admission: Admission, tasks: list[Any], now: Now) -> None:
        """Ids that may have been submitted before: what is not live is looked up among the results first."""
        desk = self._desk
        for task in tasks:
            entry = admission.take(task)
            if not isinstance(entry, Entry):
                submission.rejected.append(entry)
            elif entry.task_id in desk.ledger.live:
                self._join(submission, entry.task_id)
            elif (stored := desk.ended(entry.task_id)) is not None:
                self._ended(submission, entry.task_id, stored)
            else:
                submission.entries.append(entry)
        if not submission.entries:
            self._answer_when_durable(submission)
            return
        desk.checks += 1
        desk.ask_results([entry.task_id for entry in submission.entries], partial(self._checked, submission), now)

    def _checked(self, submission: Submission, answer: QueryAnswer, now: Now) -> None:
        desk = self._desk
        desk.checks -= 1
        if answer.error is not None or not desk.leading or desk.draining is not None:
            desk.refuse(
                submission.message,
                "BUSY",
                f"could not look whether the tasks are known: {answer.error or 'not leading'}",
            )
            return
        for entry in submission.entries:
            if entry.task_id in desk.ledger.live:  # submitted again while we looked
                self._join(submission, entry.task_id)
            elif (stored := desk.ended(entry.task_id) or answer.value.get(entry.task_id)) is not None:
                self._ended(submission, entry.task_id, stored)
            elif entry.task_id in answer.unreadable:  # it has ended: nothing of that id is to run once more
                told = {"task_id": entry.task_id, "code": "UNREADABLE", "message": unreadable(entry.task_id)}
                submission.rejected.append(told)
            else:
                desk.accept(entry)
                submission.accepted += 1
        self._answer_when_durable(submission)

    def _answer_when_durable(self, submission: Submission) -> None:
        desk = self._desk
        answer = {"accepted": submission.accepted, "duplicates": submission.duplicates, "rejected": submission.rejected}
        desk.staging.after.append(desk.reply(submission.message, answer))
        if submission.found:
            desk.staging.after.extend(desk.result_messages(submission.client.agent_id, submission.found))

    # ------------------------------------------------------------ in-process API

    def assign(self, call: LocalCall, now: Now) -> None:
        """``assign_task_to_distributor``: accept and pin. Answers True once durable; False (and a log line) if
        refused.
        """
        desk = self._desk
        task, distributor_id = call.args.get("task"), call.args.get("distributor_id")
        refusal: tuple[str, str] | None
        if not desk.leading:
            refusal = ("NOT_LEADER", f"{desk.agent_id} does not lead")
        elif not isinstance(task, dict) or not valid_agent_id(distributor_id):
            refusal = ("INVALID_TASK", "a task record and a distributor's id are wanted")
        else:
            refusal = self._refusal(identity_of(desk.agent_id), 1, check=False)
        if refusal is None:
            refusal = self._take_local(task, distributor_id, now)
        if refusal is not None:
            task_id = task.get("task_id") if isinstance(task, dict) else None
            desk.log("warning", "assignment_refused", task_id=task_id, code=refusal[0], reason=refusal[1])
            desk.out.append(LocalAnswer(call.call_id, False))
            return
        desk.staging.after.append(LocalAnswer(call.call_id, True))

    def _take_local(self, task: Any, distributor_id: Any, now: Now) -> tuple[str, str] | None:
        desk = self._desk
        pinned: Record = {
            "task_id": task.get("task_id"),
            "task_type": task.get("task_type"),
            "payload": task.get("payload") or {},
            "metadata": {**(task.get("metadata") or {}), "distributor": distributor_id},
        }
        if task.get("status", "pending") != "pending":
            return "INVALID_TASK", f"the task is {task['status']}, not pending"
        entry = self._admission(identity_of(desk.agent_id), "", now).take(pinned)
        if not isinstance(entry, Entry):
            return entry["code"], entry["message"]
        known = desk.ledger.live.get(entry.task_id)
        if known is not None:
            home = known.home.agent_id if known.home is not None else known.need.pinned
            return (
                None
                if home == distributor_id
                else ("INVALID_TASK", f"task {entry.task_id} is with {home or 'the inbox'}")
            )
        desk.accept(entry)
        return None


def _trace_of(message: Message) -> str | None:
    """The trace for tasks that name none. Each of them keeps a copy, so it must be one that a task could name itself;
    anything else is left out: the tasks are none the worse for it."""
    trace = message.metadata.traceparent
    return trace if trace is not None and METADATA[TRACEPARENT][0](trace) else None


def _taken(task_id: str) -> Rejection:
    return {"task_id": task_id, "code": "FORBIDDEN", "message": "this id belongs to a task of another client"}
