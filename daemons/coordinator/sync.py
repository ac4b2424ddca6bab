"""Keeping our memory, the distributors' and the store's the same: at take-over, when one comes, when some was lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from a2a_zmq.clock import Now, parse_iso
from a2a_zmq.interfaces import INBOX, Loaded, Section
from a2a_zmq.protocol.message import Message, MessageType
from a2a_zmq.protocol.ports import LEFT, PeerDown, PeerInfo
from daemons.coordinator.assigning import Assignment
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.inbox import READ_CHUNK, Inbox
from daemons.coordinator.records import FRESH, MOVING, PLACED, QUEUED, SENT, Entry, entry_of, restored_record
from daemons.coordinator.staging import INBOX_SECTION
from daemons.runtime.calls import LocalAnswer, LocalCall
from daemons.runtime.contract import Hint, OwnershipGained, QueryAnswer, Send

# A distributor that we cannot reach may go on writing: its section is read no more often than this for it.
HINTED_PAUSE_S = 1.0

# Called with whether the distributor is new.
Registered = Callable[[bool, Now], None]


class Sync:
    """See the module's text."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.inbox = Inbox(desk)
        self._callers: dict[str, list[Registered]] = {}

    # ------------------------------------------------------------ ownership

    def gained(self, event: OwnershipGained, now: Now) -> None:
        """Rebuild from what was loaded; of our own memory only what was not durable yet, and who waits for what, is
        kept.
        """
        desk = self._desk
        ledger = desk.ledger
        # What was read under the former ownership says nothing now; clients that wait for it ask again.
        desk.questions.fail("the state is read anew", now)
        before, floors = ledger.live, ledger.floors
        applied = desk.staging.applied
        waiting = desk.staging.restart()
        cancels = {task_id for home in ledger.distributors.values() for task_id in home.cancels}
        ended = desk.staging.ended()
        callers, self._callers = self._callers, {}
        for then in [each for waiting in callers.values() for each in waiting]:
            then(False, now)
        if not desk.leading:
            desk.leading_since = now.mono
        desk.leading, desk.leader = True, desk.agent_id
        desk.fence, desk.epoch = event.fence, event.epoch
        ledger.clear()
        for section, loaded in event.loaded.items():
            if section.distributor_id != INBOX and section.writer == "coordinator":
                home = ledger.distributor(section.distributor_id)
                home.registered = True
                home.changed_at = home.changed_at or now.mono  # one that never came is away since we began to look
                self._adopt_all(home, loaded, ended, now)
        inbox = event.loaded.get(INBOX_SECTION)
        if inbox is not None:
            self.inbox.adopt(inbox, ended, self._placed(before, applied) if event.state_lost else {}, now)
        self._keep(before, applied, now, state_lost=event.state_lost)
        ledger.floors.update((task_id, floor) for task_id, floor in floors.items() if task_id in ledger.live)
        self._keep_cancels(cancels, now)
        desk.staging.after.extend(effect for effect in waiting if not isinstance(effect, Assignment))
        desk.staging.applied = desk.staging.cuts  # what was in flight is void and staged again
        for home in ledger.distributors.values():
            if home.up:
                desk.learn_types(home.task_types)
                self._tell_fence(home)
                self.meet(home, now)
        desk.stage_types()
        desk.place_held = True
        self.inbox.check(now)
        desk.log("info", "leading", fence=event.fence, tasks=len(ledger.live), inbox=ledger.held_count)

    def _adopt_all(self, home: Distributor, loaded: Loaded, ended: set[str], now: Now) -> None:
        ledger = self._desk.ledger
        for task_id, record in loaded.tasks.items():
            found = entry_of(record, ledger.needs, now.mono)
            if found is None or found[0].task_id != task_id:
                self._desk.log("error", "unreadable_record", section=home.agent_id, task_id=task_id)
            elif task_id in ledger.live:
                other = ledger.live[task_id].home
                place = other.agent_id if other is not None else INBOX
                self._desk.log("error", "task_in_two_places", task_id=task_id, places=[place, home.agent_id])
            elif task_id not in ended:
                ledger.adopt(found[0], home)
                if found[1]:
                    ledger.floors[task_id] = found[1]
        self._desk.know_cancels(home, loaded.header)

    def _given(self, entry: Entry, applied: int) -> bool:
        """It was durable with its distributor, which may have been told of it: nobody else may run it."""
        if entry.task_id in self._desk.restaged and entry.state in (PLACED, QUEUED, SENT):
            return True  # it was so before the store lost it, and goes back there
        return entry.state in (SENT, QUEUED, MOVING) and entry.batch != 0 and entry.batch <= applied

    def _placed(self, before: dict[str, Entry], applied: int) -> dict[str, Distributor]:
        """Tasks that were given to a distributor, and to which."""
        return {
            task_id: entry.home
            for task_id, entry in before.items()
            if entry.home is not None and entry.state != MOVING and self._given(entry, applied)
        }

    def _keep(self, before: dict[str, Entry], applied: int, now: Now, *, state_lost: bool) -> None:
        """Carry over subscribers, and tasks that no load can know: their write was under way, or the store has lost
        it.
        """
        ledger = self._desk.ledger
        lost: dict[Distributor, None] = {}
        for task_id, old in before.items():
            entry = ledger.live.get(task_id)
            if entry is not None:
                entry.subscriber = old.subscriber
                continue
            home = old.home
            old.lane = None
            if home is not None and self._given(old, applied):
                # Ended meanwhile, or lost: the comparison with the store, which follows, tells.
                if state_lost or task_id in self._desk.restaged:
                    lost[home] = None
                ledger.adopt(old, home)
            else:
                old.home = None
                old.state = FRESH
                old.batch = 0
                ledger.accept(old)
        for home in lost:
            self.reconcile(home, now, lost=state_lost)

    def _keep_cancels(self, task_ids: set[str], now: Now) -> None:
        """Asked to be cancelled before: again, or ended here if no distributor has it."""
        asked: dict[Distributor, list[str]] = {}
        for task_id in task_ids:
            entry = self._desk.ledger.live.get(task_id)
            if entry is not None and entry.home is not None:
                asked.setdefault(entry.home, []).append(task_id)
            elif entry is not None:
                self._desk.end_here(entry, "request", now)
        for home, ids in asked.items():
            self._desk.cancel_there(home, ids)

    def put_back(self, home: Distributor, entries: list[Entry]) -> None:
        """The store has lost these records: our copies go there again, and the distributor is told."""
        desk = self._desk
        for entry in entries:
            desk.ledger.unsend(entry)
            desk.restaged.add(entry.task_id)
        desk.staging.put(home.section, entries)

    # ------------------------------------------------------------ sessions

    def came(self, info: PeerInfo, now: Now) -> None:
        """A session with a distributor: the first, one after a reconnect, or one with its next process."""
        desk = self._desk
        home = desk.ledger.distributor(info.agent_id)
        if info.restarted or (home.boot_id and home.boot_id != info.boot_id):
            home.needs_sync = True
            home.draining = False
        away_s = now.mono - home.changed_at if home.boot_id and not home.up else 0.0
        first = not home.up
        home.came_up(info.boot_id, info.details, now.mono)
        home.host_id = info.host_id
        # What it reported before to somebody else is read from the store when it says that it follows us.
        home.follows = info.details.get("follows") in (desk.agent_id, None)
        desk.place_held = True
        desk.learn_types(home.task_types)
        if first and desk.leading:
            detail = {"restarted": info.restarted, "away_s": round(away_s, 3)}
            desk.staging.history(INBOX_SECTION, now, "", "distributor_up", {"distributor": home.agent_id, **detail})
        desk.meter.gauge("agent_up", 1, agent=home.agent_id, role="distributor")
        again = home.needs_sync and home.reconciling  # what is read now may be from before its last writes
        self.meet(home, now)
        home.needs_sync = home.needs_sync or again

    def went(self, event: PeerDown, now: Now) -> None:
        """No new work for it. Its tasks stay with it: it loads them when it is started again."""
        desk = self._desk
        home = desk.ledger.distributors.get(event.agent_id)
        if home is None or not home.up:
            return
        home.went_down(now.mono, left=event.reason in LEFT)
        desk.meter.gauge("agent_up", 0, agent=home.agent_id, role="distributor")
        if event.reason != "goodbye":
            desk.meter.observe("failure_detection_seconds", event.silent_s, role="distributor")
        if desk.leading:
            detail = {"distributor": home.agent_id, "reason": event.reason, "tasks": home.live}
            desk.staging.history(INBOX_SECTION, now, "", "distributor_down", detail)
        desk.log("warning", "distributor_down", distributor=home.agent_id, reason=event.reason, tasks=home.live)

    def hinted(self, event: Hint, now: Now) -> None:
        """A distributor wrote. While its session is up it tells us what; what it wrote before it went we read."""
        home = self._desk.ledger.distributors.get(event.distributor_id)
        if home is None or event.writer != "distributor" or event.version <= home.told_version:
            return
        home.held_version = max(home.held_version, event.version)
        rested = now.mono - home.reconciled_at > HINTED_PAUSE_S
        if rested and self._desk.leading and home.registered and home.live and not home.up:
            self.reconcile(home, now)

    def meet(self, home: Distributor, now: Now) -> None:
        """Make sure that it is registered, and that it and we know of the same tasks."""
        desk = self._desk
        if not desk.leading or not home.up:
            return
        desk.heed(home)
        if not home.registered:
            self._register(home, now)
            return
        if not home.needs_sync:
            return
        home.needs_sync = False
        if not home.live:
            return
        self._tell_fence(home)
        self._mark_read(home)
        # What is not durable yet is not assigned yet, and no cancellation must overtake that: later then.
        live = desk.ledger.live
        ids = sorted(each for each in home.cancels if each in live and desk.durable(live[each]))
        home.needs_sync = len(ids) < len(home.cancels)
        for start in range(0, len(ids), READ_CHUNK):
            payload = {"action": "cancel_tasks", "task_ids": ids[start : start + READ_CHUNK], **desk.mark()}
            desk.out.append(Send(home.agent_id, MessageType.REQUEST, payload))
        self.reconcile(home, now)

    def _tell_fence(self, home: Distributor) -> None:
        """Have it read its section, and know by our fence that we lead."""
        desk = self._desk
        desk.out.append(Send(home.agent_id, MessageType.REQUEST, {"action": "resync", **desk.mark()}))

    def beat(self, home: Distributor, message: Message, now: Now) -> None:
        """A distributor's heartbeat. One that follows us from now on reported to another coordinator before: what it
        told that one we find in the store."""
        home.beat(message.payload, now.mono)
        self._desk.heed(home)
        with contextlib.suppress(ValueError):  # its own affair; nothing depends on it
            home.clock_off_s = parse_iso(message.metadata.timestamp) - now.wall
        follows = message.payload.get("follows") is not False
        turned, home.follows = follows and not home.follows, follows
        if turned and self._desk.leading and home.registered and home.live:
            home.needs_sync = home.needs_sync or home.reconciling  # what is read now may have been read too early
            self.reconcile(home, now)

    def _mark_read(self, home: Distributor) -> None:
        """It reads its section: what is durable and queued for it will be known to it."""
        desk = self._desk
        read: list[Entry] = []
        later: list[Entry] = []
        while (entry := home.queue.pop()) is not None:
            (read if entry.batch <= desk.staging.applied else later).append(entry)
        desk.ledger.sent_all(read, home)
        for entry in later:
            home.queue.push(entry)

    # ------------------------------------------------------------ registration

    def register(self, call: LocalCall, now: Now) -> None:
        """``register_distributor``: True if it is new."""
        desk = self._desk
        agent_id = call.args["distributor_id"]
        self.registered(agent_id, lambda new, _: desk.out.append(LocalAnswer(call.call_id, new)), now)

    def registered(self, agent_id: str, then: Registered, now: Now) -> None:
        """Call ``then`` once the distributor is registered (or cannot be); with True if it is new."""
        home = self._desk.ledger.distributor(agent_id)
        if home.registered or not self._desk.leading:
            then(False, now)
            return
        self._callers.setdefault(agent_id, []).append(then)
        self._register(home, now)

    def enter(self, agent_id: str, now: Now) -> None:
        """The registry lacks it: enter it, and take in its tasks if we did not know it."""
        if self._desk.ledger.distributor(agent_id).registered:
            self._desk.ask("register", {"distributor_id": agent_id}, lambda _answer, _now: None, now)
        else:
            self.registered(agent_id, lambda _new, _now: None, now)

    def _register(self, home: Distributor, now: Now) -> None:
        if not home.registering:
            home.registering = True
            self._desk.ask("register", {"distributor_id": home.agent_id}, partial(self._registered, home), now)

    def _registered(self, home: Distributor, answer: QueryAnswer, now: Now) -> None:
        desk = self._desk
        home.registering = False
        callers = self._callers.pop(home.agent_id, [])
        if answer.error is None and isinstance(answer.value, Loaded):
            home.registered = True
            home.needs_sync = bool(answer.value.tasks)
            self._adopt_all(home, answer.value, desk.staging.ended(), now)
            desk.place_held = True
            desk.staging.history(home.section, now, "", "registered", {"distributor": home.agent_id})
            self.meet(home, now)
        else:
            desk.log("warning", "not_registered", distributor=home.agent_id, reason=answer.error)
        for index, then in enumerate(callers):
            then(home.registered and index == 0, now)

    # ------------------------------------------------------------ comparison with the store

    def reconcile(self, home: Distributor, now: Now, *, lost: bool = False) -> None:
        """Find tasks of ours that its section no longer has: they ended, and the message was lost.

        Args:
            lost: the whole state was lost, which the distributor notices, too. Then records that go back do not say
                that they were restored: what ended there it is about to record once more.
        """
        if home.reconciling:
            return
        desk = self._desk
        home.reconciling = True
        home.reconciled_at = now.mono
        home.short_since = None
        args = {"section": Section(home.agent_id, "coordinator")}
        desk.ask("load", args, partial(self._compare, home, desk.staging.applied, now.mono, lost=lost), now)

    def _compare(
        self, home: Distributor, applied: int, started: float, answer: QueryAnswer, now: Now, *, lost: bool
    ) -> None:
        desk = self._desk
        home.reconciling = False
        home.short_since = None  # what is missing is looked for now
        if answer.error is not None or not isinstance(answer.value, Loaded):
            home.needs_sync = True  # supervision tries again
            desk.log("warning", "not_reconciled", distributor=home.agent_id, reason=answer.error)
            return
        there = answer.value.tasks
        missing = [
            entry.task_id
            for entry in desk.ledger.of(home)
            if entry.state in (SENT, QUEUED) and entry.batch <= applied and entry.task_id not in there
        ]
        self.inbox.let_go(home, self.inbox.gone_back[home].difference(missing))
        for start in range(0, len(missing), READ_CHUNK):
            ids = missing[start : start + READ_CHUNK]
            args = {"distributor_ids": [home.agent_id], "task_ids": ids}
            desk.ask("results", args, partial(self._resolve, home, applied, ids, all_lost=lost), now)
        desk.meter.observe("reconciliation_seconds", now.mono - started)

    def _resolve(
        self, home: Distributor, applied: int, ids: list[str], answer: QueryAnswer, now: Now, *, all_lost: bool
    ) -> None:
        """Missing tasks have a result; or the store has lost them, then our copy of the record goes there again."""
        desk = self._desk
        if answer.error is not None:
            home.needs_sync = True
            return
        lost: list[Entry] = []
        for task_id in ids:
            entry = desk.ledger.live.get(task_id)
            if entry is None or entry.home is not home or entry.state not in (SENT, QUEUED) or entry.batch > applied:
                continue
            # If the store has lost the result that we know, too, the task has ended all the same: its client was told.
            stored = answer.value.get(task_id) or desk.recent.get(task_id)
            if stored is None or not desk.finish_stored(entry, stored):
                lost.append(entry)
        self.inbox.let_go(home, ids)
        if lost:
            for entry in lost if not all_lost else ():
                desk.ledger.rewrite(entry, restored_record(entry.record))
            # It may put its own there at the same time, which say how often it tried: they stay.
            desk.staging.section(home.section).yields = True
            self.put_back(home, lost)
            desk.log("error", "store_lost_tasks", distributor=home.agent_id, tasks=len(lost))
            detail = {"distributor": home.agent_id, "tasks": len(lost)}
            desk.staging.history(INBOX_SECTION, now, "", "store_lost_tasks", detail)
