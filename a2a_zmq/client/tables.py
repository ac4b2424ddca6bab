"""The tables of the client's core, and what concerns several of them whatever the session. Pure."""

from __future__ import annotations

from typing import Any

from a2a_zmq.client.calls import CallTable
from a2a_zmq.client.entries import ACCEPTED, SENT, WATCHED, Entry
from a2a_zmq.client.streams import StreamTable
from a2a_zmq.client.submits import SubmitTable
from a2a_zmq.client.tasktable import TaskTable
from a2a_zmq.client.watches import WatchTable
from a2a_zmq.errors import FleetUnavailable, RequestRefused
from a2a_zmq.protocol.message import Message


class Tables:
    """See the module's text; :class:`ClientCore` says what each table is."""

    def __init__(self) -> None:
        self.tasks = TaskTable()
        self._submits = SubmitTable()
        self.calls = CallTable()
        self._watches = WatchTable()
        self.streams = StreamTable()

    def queued(self) -> int:
        """How many tasks are not sent yet."""
        return len(self._submits)

    def _take_watch(self, payload: dict[str, Any], asked: list[str]) -> None:
        self.tasks.take_results(payload.get("results"))
        for row in payload.get("live") or ():
            entry = self.tasks.get(row[0])
            if entry is not None:
                self.tasks.lives(entry, row[1])
        for task_id in payload.get("unknown") or ():
            entry = self.tasks.get(task_id)
            if entry is not None and task_id in asked and entry.phase in (WATCHED, ACCEPTED):
                text = f"the fleet does not know task {task_id} (never accepted, expired, or lost by the store)"
                self.tasks.finish(entry, RequestRefused("UNKNOWN_TASK", text))

    def _unreadable(self, message: Message, error: Exception, batch: list[Entry], watched: list[str]) -> None:
        """A message cannot be read: who waited for what it says is told so.

        Args:
            batch, watched: what was submitted, or asked about, with the request that it answers.
        """
        text = f"{message.sender} answered in a form that cannot be read ({error!r}); it may be of another release"
        problem = FleetUnavailable(text)
        for entry in batch:
            if entry.phase == SENT:
                self.tasks.finish(entry, problem)
        for task_id in watched:
            attached = self.tasks.get(task_id)
            if attached is not None and attached.phase == WATCHED:
                self.tasks.finish(attached, problem)
        if message.action == "task_events":
            self.streams.unreadable(message.payload.get("stream"), problem)

    def forget(self, sink: object) -> None:
        """Nobody reads this sink any more."""
        self.tasks.forget(sink)
        self._drop_ended()

    def _drop_ended(self) -> None:
        self._submits.drop_ended()
        self._watches.keep(self.tasks)

    def unsendable(self, request_id: str, error: RequestRefused) -> None:
        """The message can never be sent (too large): end what is in it."""
        for entry in self._submits.answered(request_id) or ():
            self.tasks.finish(entry, error)
        self.calls.refuse(request_id, error.code, error.message, None)

    def close(self, reason: str) -> None:
        """End all waiting with FleetUnavailable."""
        for entry in self.tasks.entries():
            self.tasks.finish(entry, FleetUnavailable(reason))
        self.calls.close(FleetUnavailable(reason))
        self.streams.fail(FleetUnavailable(reason))
        self._submits.clear()
        self._watches.clear()
