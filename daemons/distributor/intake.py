"""What the coordinator (or the in-process API) wants: new tasks, and tasks to be cancelled."""

from __future__ import annotations

from typing import Any

from a2a_zmq.clock import Now, iso
from a2a_zmq.ids import valid_agent_id, valid_task_id
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.tasks import ABANDONED
from daemons.distributor.consulting import waits_s
from daemons.distributor.dispatch import Dispatcher
from daemons.distributor.journal import Journal
from daemons.distributor.memory import QUEUED, RUNNING, STORING, LiveTask, Memory, Parsed, parse_record
from daemons.distributor.outcomes import Outcomes
from daemons.distributor.recovery import Recovery
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.contract import Log, Send

# Ids that were cancelled before we knew them are remembered, so that no later read brings them in: so many, for so many
# seconds. The coordinator ends these tasks itself, as soon as the store takes its write.
MAX_REFUSED = 10_000
REFUSED_S = 60.0
# Ids in one message: at most a quarter of a megabyte.
IDS_IN_A_MESSAGE = 2_000


class Intake:
    """Admits tasks and ends unwanted ones."""

    def __init__(
        self, memory: Memory, journal: Journal, dispatcher: Dispatcher, outcomes: Outcomes, recovery: Recovery
    ) -> None:
        self._memory = memory
        self._journal = journal
        self._dispatcher = dispatcher
        self._outcomes = outcomes
        self._recovery = recovery
        self._unread: dict[str, None] = {}  # cancelled, not known, but perhaps in the store: see cancel()

    def assign(self, message: Message, now: Now) -> None:
        """Tasks that the coordinator made durable in our section; what we know already changes nothing."""
        memory, payload = self._memory, message.payload
        if not self._fence_holds(message, now):
            return
        records = payload.get("tasks")
        if records is None:
            records = [payload.get("task")]
        if not isinstance(records, list):
            records = []
        bad, verify = 0, self._recovery.verifies(now)
        version = payload.get("version")
        late = isinstance(version, int) and version <= memory.read_version
        for record in records:
            parsed = parse_record(record)
            if parsed is None:
                bad += 1
                continue
            if not verify:
                self._admit(parsed, now, late=late)
        if not memory.owner:
            self._recovery.assigned_unowned = True
        elif verify:
            self._recovery.resync()
        if bad:
            memory.out.append(Log("error", "assignment_malformed", {"records": bad, "from": message.sender}))
            self._refuse(message, "INVALID_TASK", f"{bad} of {len(records)} records are not task records")

    def _fence_holds(self, message: Message, now: Now) -> bool:
        """A coordinator that was replaced may still be talking: its lower fence shows."""
        memory = self._memory
        guard = memory.coordinator_guard
        guard.hears(memory.coordinator_boots.get(message.sender, ""))
        fence, epoch = message.payload.get("fence", guard.fence), message.payload.get("epoch", "")
        if not isinstance(fence, int) or not isinstance(epoch, str) or not guard.admits(fence, epoch):
            memory.meter.count("routing_errors_total", reason="stale_fence")
            self._journal.note(now, "", "stale_fence", {"from": message.sender, "fence": str(fence)})
            self._refuse(message, "FORBIDDEN", "stale fence")
            return False
        return True

    def _admit(self, parsed: Parsed, now: Now, *, late: bool) -> None:
        memory = self._memory
        record, metadata, recorded = parsed
        task_id = record["task_id"]
        if task_id in memory.live:
            return
        if (task_id in memory.recent or self._journal.holds_result(task_id)) and self._recovery.ended(record):
            return
        # A coordinator that lost its memory together with the state takes what its client submits again for new.
        if late or (self._journal.spooled(task_id) and "retried" not in metadata):
            self._recovery.assigned_late(task_id, parsed)
            return
        memory.refused.pop(task_id, None)
        waits = self._outcomes.pauses.take(parsed)
        if waits is not None:
            self._outcomes.pauses.tell([waits])
            return
        task = LiveTask(record, metadata, recorded + 1, recorded, QUEUED)
        memory.live[task_id] = task
        memory.accepted += 1
        if self._recovery.adopted(task, now) or (memory.strays and self._outcomes.reported_before(task, now)):
            return
        if not (memory.strangers and self._outcomes.met_before(task)):
            if "decided" in metadata:  # at another distributor, before it came here
                task.not_before = now.mono + waits_s(task, now.wall)
            self._outcomes.pauses.queue_up(task, now)
            self._outcomes.delays.stored(task, now)

    def cancel(self, message: Message, now: Now) -> None:
        """Waiting tasks end at once, running ones when their worker reports; others we say we do not have.

        To say so is a promise, because the coordinator then ends the task: what is in the store must have been read
        before, and must not be taken in by a read that began before the coordinator's write. Nor may its result be in
        our spool only, where the coordinator cannot find it.
        """
        if not self._fence_holds(message, now):
            return
        wanted = message.payload.get("task_ids")
        self._unread.update((each, None) for each in (wanted if isinstance(wanted, list) else []) if type(each) is str)
        self.cancel_read(now)

    def cancel_read(self, now: Now) -> None:
        """Cancel what was asked for as far as it is known; the rest too, once everything is read."""
        memory = self._memory
        for task_id in list(self._unread):
            task = memory.live.get(task_id)
            if task is not None:
                self._cancel(task, now)
            if task is not None or self._journal.holds_result(task_id):
                del self._unread[task_id]
        if not self._unread or self._recovery.reading or memory.spooling:
            return
        unknown, self._unread = list(self._unread), {}
        memory.refused.update(dict.fromkeys(unknown, now.mono + REFUSED_S))
        while len(memory.refused) > MAX_REFUSED:
            del memory.refused[next(iter(memory.refused))]
        for start in range(0, len(unknown), IDS_IN_A_MESSAGE):
            payload = {"action": "task_unknown", "task_ids": unknown[start : start + IDS_IN_A_MESSAGE]}
            memory.out.append(Send(memory.coordinator, MessageType.EVENT, payload))

    def _cancel(self, task: LiveTask, now: Now) -> None:
        worker = self._memory.workers.get(task.worker) if task.phase is RUNNING else None
        if worker is None:
            self._outcomes.finish(task, ABANDONED, now, error="cancelled", kind="cancelled")
        else:
            task.cancelled = True
            worker.cancel(task.task_id, task.attempt)

    def resume(self, message: Message, now: Now) -> None:
        """Answers for tasks that wait."""
        if self._fence_holds(message, now):
            self._outcomes.pauses.resume(message, now)

    def end_waiting(self, message: Message, now: Now) -> None:
        """Results of tasks that wait here, and had ended."""
        if self._fence_holds(message, now):
            self._outcomes.pauses.end(message, now)

    def _refuse(self, message: Message, code: str, text: str) -> None:
        payload = {"action": message.action, "code": code, "message": text}
        reply_to = message.metadata.request_id
        self._memory.out.append(Send(message.sender, MessageType.ERROR, payload, reply_to=reply_to))

    # ------------------------------------------------------------ in-process API

    def local_call(self, call: LocalCall, now: Now) -> None:
        if call.name == "register_worker":
            self._answer(call, self._register(call.args.get("worker_id")))
        elif call.name == "assign_task_to_worker":
            if not self._assign_to(call, now):
                self._answer(call, accepted=False)
        else:
            self._answer(call, accepted=False)

    def _answer(self, call: LocalCall, accepted: bool) -> None:
        self._memory.out.append(LocalAnswer(call.call_id, accepted))

    def _register(self, worker_id: Any) -> bool:
        """Expect this worker: it is shown in the header, and after a restart it is waited for."""
        memory = self._memory
        if not valid_agent_id(worker_id):
            return False
        memory.registered[worker_id] = None
        return True

    def _assign_to(self, call: LocalCall, now: Now) -> bool:
        """Store the task, then send it to that worker; answered when it is stored."""
        memory = self._memory
        parsed = parse_record(call.args.get("task"))
        worker = memory.workers.get(str(call.args.get("worker_id")))
        if parsed is None or worker is None or not memory.owner:
            return False
        record, metadata, recorded = parsed
        task_id = record["task_id"]
        if task_id in memory.live or memory.recent.ended(record):
            return False
        if not valid_task_id(task_id) or not worker.serves(record["task_type"], {}, ""):
            return False
        record.setdefault("created_at", iso(now.wall))
        task = LiveTask(record, metadata, recorded + 1, recorded, STORING)
        task.pin = worker.agent_id
        memory.live[task_id] = task
        memory.accepted += 1
        self._journal.put(task)
        self._journal.answers[task_id] = call.call_id
        return True
