"""Requests that change tasks or agents: cancel, retry, drain."""

from __future__ import annotations

from functools import partial
from typing import Any

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.tasks import COMPLETED, TERMINAL, attempt_of, dead_letter
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.lives import revived_record
from daemons.coordinator.queries import task_ids_of
from daemons.coordinator.records import MOVING, QUEUED, Entry, entry_of, owner_of, unreadable
from daemons.coordinator.staging import INBOX_SECTION
from daemons.runtime.contract import QueryAnswer, Send

# Ids that one history event names; the rest is in its count.
NAMED_IDS = 20


class Cancellation:
    """One ``cancel_tasks`` on its way to its answer."""

    __slots__ = ("cancelled", "client", "message", "requested", "terminal", "unknown")

    def __init__(self, client: Client, message: Message) -> None:
        self.client = client
        self.message = message
        self.cancelled: list[str] = []
        self.requested: list[str] = []
        self.terminal: list[str] = []
        self.unknown: list[str] = []


class Commands:
    """See the module's text. Every answer waits until what it says is durable."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def _audit(self, now: Now, client: Client, name: str, task_ids: list[str]) -> None:
        if len(task_ids) == 1:
            self._desk.staging.history(INBOX_SECTION, now, task_ids[0], name, {"by": client.agent_id})
        elif task_ids:
            detail = {"by": client.agent_id, "tasks": len(task_ids), "task_ids": task_ids[:NAMED_IDS]}
            self._desk.staging.history(INBOX_SECTION, now, "", name, detail)

    # ------------------------------------------------------------ cancel_tasks

    def cancel(self, client: Client, message: Message, now: Now) -> None:
        """Not with a distributor: abandoned at once. With one: it is asked to stop it. Ended or unknown: said so."""
        desk = self._desk
        task_ids = task_ids_of(desk, message)
        if task_ids is None:
            return
        live = desk.ledger.live
        elsewhere = [task_id for task_id in task_ids if task_id not in live and desk.ended(task_id) is None]
        if elsewhere and not desk.questions.room():
            desk.refuse(message, "BUSY", "too many requests wait for the store")
            return
        order = Cancellation(client, message)
        asked: dict[Distributor, list[str]] = {}
        for task_id in task_ids:
            entry = live.get(task_id)
            if entry is None:
                stored = desk.ended(task_id)
                if stored is not None:
                    self._ended(order, task_id, stored)
            elif not client.may_see(entry.owner):
                order.unknown.append(task_id)
            else:
                self._stop(order, entry, asked, now)
        for home, ids in asked.items():
            self._ask_to_stop(home, ids)
        self._audit(now, client, "cancelled", order.cancelled + order.requested)
        if elsewhere:
            desk.ask_results(elsewhere, partial(self._cancel_found, order, elsewhere), now)
        else:
            self._cancel_answer(order)

    def _stop(self, order: Cancellation, entry: Entry, asked: dict[Distributor, list[str]], now: Now) -> None:
        home = entry.home
        if home is None or not (entry.batch or entry.state == MOVING):
            order.cancelled.append(entry.task_id)
            self._desk.end_here(entry, order.client.agent_id, now)
            return
        # It may be in the store already, where its distributor may have read it without being told: it must be asked.
        order.requested.append(entry.task_id)
        asked.setdefault(home, []).append(entry.task_id)
        if entry.state == QUEUED:
            home.queue.discard(entry)
            self._desk.ledger.sent_all([entry], home)  # there is nothing more to tell of it

    def _ask_to_stop(self, home: Distributor, task_ids: list[str]) -> None:
        """After the next cut: by then the assignments of these tasks have gone out, so the request does not overtake
        them.
        """
        self._desk.cancel_there(home, task_ids)
        if home.up:
            payload = {"action": "cancel_tasks", "task_ids": task_ids, **self._desk.mark()}
            self._desk.staging.after.append(Send(home.agent_id, MessageType.REQUEST, payload))

    def _ended(self, order: Cancellation, task_id: str, stored: bytes | None) -> None:
        visible = stored is not None and order.client.may_see(owner_of(orjson.loads(stored)))
        (order.terminal if visible else order.unknown).append(task_id)

    def _cancel_found(self, order: Cancellation, task_ids: list[str], answer: QueryAnswer, now: Now) -> None:
        if self._desk.unread(order.message, answer):
            return
        for task_id in task_ids:
            self._ended(order, task_id, answer.value.get(task_id))
        self._cancel_answer(order)

    def _cancel_answer(self, order: Cancellation) -> None:
        answer = {
            "cancelled": order.cancelled,
            "requested": order.requested,
            "terminal": order.terminal,
            "unknown": order.unknown,
        }
        self._desk.staging.after.append(self._desk.reply(order.message, answer))

    # ------------------------------------------------------------ retry_tasks

    def retry(self, client: Client, message: Message, now: Now) -> None:
        """Send failed or abandoned tasks around once more, with their attempts counted on."""
        desk = self._desk
        if not client.operator:
            desk.refuse(message, "FORBIDDEN", "only operators retry tasks")
            return
        if desk.draining is not None:
            desk.refuse(message, "DRAINING", f"{desk.agent_id} is shutting down")
            return
        task_ids = task_ids_of(desk, message)
        if task_ids is None:
            return
        if not desk.questions.room() or not desk.store_available:
            desk.refuse(message, "BUSY", "the store cannot be asked now")
            return
        # The store's result record is the truth about what ended, and how.
        desk.ask_results(task_ids, partial(self._retry_found, client, message, task_ids), now, letters=True)

    def _retry_found(
        self, client: Client, message: Message, task_ids: list[str], answer: QueryAnswer, now: Now
    ) -> None:
        desk = self._desk
        if answer.error is not None or not desk.leading:
            desk.refuse(message, "UNAVAILABLE", f"the store could not be read: {answer.error or 'not leading'}")
            return
        retried: list[str] = []
        refused: list[tuple[str, str]] = []
        for task_id in task_ids:
            why = self._revive(client, task_id, answer.value.get(task_id), now)
            if why is not None and task_id in answer.unreadable and task_id not in desk.ledger.live:
                why = unreadable(task_id)
            if why is None:
                retried.append(task_id)
            else:
                refused.append((task_id, why))
        self._audit(now, client, "retried", retried)
        desk.staging.after.append(desk.reply(message, {"retried": retried, "refused": refused}))

    def _revive(self, client: Client, task_id: str, stored: bytes | None, now: Now) -> str | None:
        """Why a task cannot be retried; None if it lives again."""
        desk = self._desk
        if task_id in desk.ledger.live:
            return "it has not ended"
        if stored is None:
            return "unknown: never accepted, its result has expired, or the store lost it"
        result = orjson.loads(stored)
        status = result.get("status")
        if status == COMPLETED or status not in TERMINAL:
            return f"it is {status}"
        known = desk.ended(task_id)
        if known is not None and attempt_of(orjson.loads(known)) > attempt_of(result):
            return "its result is not in the store yet"  # but in its distributor's spool
        if not isinstance(result.get("payload"), dict):
            return "its payload is not kept any more"
        if not isinstance(result.get("task_type"), str):
            return unreadable(task_id)
        found = entry_of(revived_record(result, now), desk.ledger.needs, now.mono)
        if found is None:
            return unreadable(task_id)
        entry, floor = found
        entry.subscriber = client.agent_id
        desk.letters -= dead_letter(result)
        desk.recent.forget(task_id)
        desk.ledger.accept(entry)
        if floor is not None:
            desk.ledger.floors[task_id] = floor
        return None

    # ------------------------------------------------------------ drain_agent

    def drain(self, client: Client, message: Message, now: Now) -> None:
        """A distributor, or a worker by way of its distributor: told to finish and leave. (Ourselves: the core's
        business.)
        """
        desk = self._desk
        agent_id = message.payload.get("agent_id")
        if not client.operator:
            desk.refuse(message, "FORBIDDEN", "only operators drain agents")
            return
        home = self._responsible(agent_id)
        if home is None:
            answer = {"draining": False, "message": f"no distributor or worker {agent_id!r} is connected"}
            desk.out.append(desk.reply(message, answer))
            return
        desk.out.append(Send(home.agent_id, MessageType.REQUEST, {"action": "drain", "agent_id": agent_id}))
        what = f"worker of {home.agent_id}"
        if home.agent_id == agent_id:
            home.draining = True
            what = f"{home.live} unfinished tasks stay in its section"
        desk.staging.history(INBOX_SECTION, now, "", "drain", {"by": client.agent_id, "agent": agent_id})
        desk.out.append(desk.reply(message, {"draining": True, "message": f"{agent_id} was told to drain ({what})"}))

    def _responsible(self, agent_id: Any) -> Distributor | None:
        if not isinstance(agent_id, str):
            return None
        home = self._desk.ledger.distributors.get(agent_id)
        if home is not None:
            return home if home.up else None
        for each in self._desk.ledger.distributors.values():
            if each.up and any(worker.get("id") == agent_id for worker in each.workers):
                return each
        return None
