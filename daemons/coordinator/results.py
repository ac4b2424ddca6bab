"""What distributors report: results of tasks, tasks they do not have, their workers, their load."""

from __future__ import annotations

from functools import partial
from typing import Final

from a2a_zmq.clock import Now
from a2a_zmq.encoding import kept_json
from a2a_zmq.protocol.message import Message
from a2a_zmq.tasks import COMPLETED, Record
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor, version_of
from daemons.coordinator.records import public_result
from daemons.runtime.contract import QueryAnswer
from daemons.runtime.exemplars import Exemplar

OBJECT: Final = (dict, type(None))  # what a result's metadata may be


class Results:
    """Results are recorded by the distributor before they are sent, so nothing here waits for the store."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def task_results(self, home: Distributor, message: Message, now: Now) -> None:
        """A batch of result records: each ends its task once, and goes to whoever waits for it."""
        desk = self._desk
        results = message.payload.get("results")
        if not isinstance(results, list):
            desk.log("warning", "malformed_results", distributor=home.agent_id)
            return
        live = desk.ledger.live
        finished = desk.finished
        floors = desk.ledger.floors
        spans = desk.spans
        unwanted = 0
        measured = False
        for record in results:
            try:
                entry = live.get(record["task_id"])
                known = record["status"] in finished and isinstance(record.get("metadata"), OBJECT)
            except (KeyError, TypeError):
                unwanted += 1
                continue
            if entry is None or entry.home is not home or not known or (floors and desk.stale(entry.task_id, record)):
                unwanted += 1
                continue
            # What did not complete is stored with its payload, for a retry; clients get it without.
            public = kept_json(record) if record["status"] == COMPLETED else public_result(record)
            desk.finish(entry, public, record)
            if not measured:  # one of a batch: each would cost about as much as all else that is done for it here
                measured = True
                desk.meter.observe("task_turnaround_seconds", now.mono - entry.since, _example(record))
            if spans is not None:
                spans.delivered(record, message.metadata.timestamp, now)
        if unwanted:
            # Late, repeated, or of a task that is somebody else's by now: acknowledged by the link, counted, and of
            # no effect.
            desk.late += unwanted
            desk.meter.count("routing_errors_total", unwanted, reason="late_result")
        home.told(version_of(message.payload.get("version")))

    def task_unknown(self, home: Distributor, message: Message, now: Now) -> None:
        """Asked to cancel, it does not hold these. Either its result got lost on the way, or nobody runs them."""
        desk = self._desk
        task_ids = message.payload.get("task_ids")
        if not isinstance(task_ids, list):
            return
        mine = [task_id for task_id in task_ids if isinstance(task_id, str) and self._asked(home, task_id)]
        if mine:
            args = {"distributor_ids": [home.agent_id], "task_ids": mine}
            desk.ask("results", args, partial(self._unknown_looked_up, home, mine), now)

    def _asked(self, home: Distributor, task_id: str) -> bool:
        entry = self._desk.ledger.live.get(task_id)
        return entry is not None and entry.home is home and task_id in home.cancels and self._desk.durable(entry)

    def _unknown_looked_up(self, home: Distributor, task_ids: list[str], answer: QueryAnswer, now: Now) -> None:
        desk = self._desk
        if answer.error is not None:
            home.needs_sync = True  # asked again when the store can be read
            return
        for task_id in task_ids:
            entry = desk.ledger.live.get(task_id)
            if entry is None or not self._asked(home, task_id):
                continue
            stored = answer.value.get(task_id)
            if stored is None or not desk.finish_stored(entry, stored):
                desk.end_here(entry, "request", now)

    def workers_changed(self, home: Distributor, message: Message, now: Now) -> None:
        desk = self._desk
        if home.describe(message.payload):
            desk.place_held = True
        desk.learn_types(home.task_types)


def _example(record: Record) -> Exemplar:
    metadata = record.get("metadata")
    return Exemplar(metadata.get("traceparent") if isinstance(metadata, dict) else None, record["task_id"])
