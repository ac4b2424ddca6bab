"""Carries placement out: tasks to distributors' sections and inbox, and messages that tell the distributors."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

import orjson

from a2a_zmq.clock import Now
from a2a_zmq.interfaces import Section
from a2a_zmq.protocol.message import MessageType
from daemons.coordinator.consulting import PlacementPolicy
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.placement import Choices, eligible, spread
from daemons.coordinator.records import FRESH, SENT, Entry, Need
from daemons.coordinator.staging import INBOX_SECTION
from daemons.runtime.contract import Effect, Send

# An unroutable distributor is about to be reported down; do not try again before that can be known.
UNROUTABLE_DELAY_S = 0.5
# What is looked at in the inbox in one wake-up (see ``Choices.work``): a few milliseconds. Clients choose how many
# needs there are, and labels that no worker has make one of each task.
LOOKS: Final = 4_000
_PRIORITY: Final = attrgetter("priority")


@dataclass(slots=True)
class Assignment(Send):
    """An ``assign_tasks`` message that remembers whose records it carries, should it not be deliverable."""

    entries: list[Entry] = field(default_factory=list)


class Assigner:
    """See the module's text."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._now = 0.0
        self._round: deque[Need] = deque()  # of the inbox, those that are still to be looked at
        self._whole = False  # to its end, without a pause
        self.policy = PlacementPolicy(desk, self._place)

    # ------------------------------------------------------------ placement

    def settle(self, now: Now) -> None:
        """Place what is fresh, let out of the inbox what can go, tell distributors whose window has opened."""
        desk = self._desk
        self._now = now.mono
        ledger = desk.ledger
        if ledger.fresh:
            fresh, ledger.fresh = ledger.fresh, []
            self._place_fresh(fresh, now)
        if (desk.place_held or desk.look_held or self._whole) and desk.inbox_checked:
            self._look_at_held()
        for home in ledger.distributors.values():
            if home.queue.size:
                self._pump(home, now)

    def _place_fresh(self, fresh: list[Entry], now: Now) -> None:
        groups: dict[Need, list[Entry]] = {}
        for entry in fresh:
            if entry.state == FRESH:  # not cancelled within the same wake-up
                group = groups.get(entry.need)
                if group is None:
                    groups[entry.need] = [entry]
                else:
                    group.append(entry)
        for need in sorted(groups, key=_PRIORITY, reverse=True) if len(groups) > 1 else groups:
            sites = eligible(need, self._desk.ledger.distributors)
            if sites and not self._left_to_policy(need, groups[need], sites):
                self._place(groups[need], sites)
            elif not sites:
                self._hold(need, groups[need], now)

    def _left_to_policy(self, need: Need, entries: list[Entry], sites: list[Distributor]) -> bool:
        """Whether these wait in the inbox for the user's policy."""
        if len(sites) == 1:
            return False
        if not self.policy.asks(self._now):
            self.policy.not_asked(len(entries))
            return False
        for entry in entries:
            self._desk.ledger.hold(entry)
        self._desk.staging.put(INBOX_SECTION, entries)
        self.policy.want(need)
        return True

    def _place(self, entries: list[Entry], sites: list[Distributor]) -> None:
        """Share a group of equal tasks out and stage their records, each in its distributor's section."""
        desk = self._desk
        start = 0
        for home, count in spread(len(entries), sites, desk.rng):
            part = entries[start : start + count]
            start += count
            desk.ledger.place(part, home)
            desk.staging.put(home.section, part)

    def _hold(self, need: Need, entries: list[Entry], now: Now) -> None:
        desk = self._desk
        if need not in desk.ledger.held:
            detail = {"task_type": need.task_type, "distributor": need.pinned, "tasks": len(entries)}
            task_id = entries[0].task_id if len(entries) == 1 else ""
            desk.staging.history(INBOX_SECTION, now, task_id, "held", detail)
        for entry in entries:
            desk.ledger.hold(entry)
        desk.staging.put(INBOX_SECTION, entries)

    def _look_at_held(self) -> None:
        """Go on through the inbox, a bounded part in one wake-up, the most urgent first.

        Something that changed has all of it looked at, part after part without a pause. Without that, just in case, one
        part is looked at each interval: the next one, so that after a while each has had its turn.
        """
        desk = self._desk
        if desk.place_held and not self._whole:  # what the round has passed already may be what can go now
            self._round.clear()
            self._whole, desk.place_held = True, False
        desk.look_held = False
        if not self._round:
            self._round.extend(sorted(desk.ledger.held, key=_PRIORITY, reverse=True))
        if self._place_held():
            self._whole = self._whole and bool(self._round)
        else:
            self._whole = True
            if len(desk.ledger.held) <= LOOKS:  # begin again: what has come meanwhile may be more urgent
                self._round.clear()

    def _place_held(self) -> bool:
        """Move what can be moved; False if what could has to wait for the next wake-up."""
        desk, ahead = self._desk, self._round
        ledger, config = desk.ledger, desk.config
        choices = Choices(ledger.distributors)
        left = config.move_chunk
        while ahead and choices.work < LOOKS:
            need = ahead[0]
            sites = choices.of(need) if need in ledger.held else []
            if not sites:
                ahead.popleft()
                continue
            if len(sites) > 1 and self.policy.asks(self._now):
                self.policy.want(need)
                ahead.popleft()
                continue
            if left <= 0 or desk.staging.unpersisted > config.max_staged_tasks // 2:
                return False
            entries = ledger.take_held(need, left)
            left -= len(entries)
            if len(sites) > 1:
                self.policy.not_asked(len(entries))
            for entry in entries:
                desk.staging.moved(entry)
            self._place(entries, sites)
            if need in ledger.held:
                return False
            ahead.popleft()
        return True

    # ------------------------------------------------------------ telling distributors

    def at_cut(self, section: Section, placed: list[Entry]) -> Iterable[Effect]:
        """The messages for records that this cut makes durable; what does not fit the window waits in the queue."""
        if not placed:
            return ()
        ledger = self._desk.ledger
        home = ledger.distributors[section.distributor_id]
        room = self._room(home) if not home.queue.size else 0
        told, rest = (placed, []) if room >= len(placed) else (placed[: max(0, room)], placed[max(0, room) :])
        for entry in rest:
            ledger.queue(entry)
        ledger.sent_all(told, home)
        return self._messages(home, told)

    def _room(self, home: Distributor) -> int:
        """How many tasks it may be told of now."""
        if not home.up or home.blocked_until > self._now:
            return 0
        return self._desk.config.assign_window - (home.sent - home.waiting)

    def _pump(self, home: Distributor, now: Now) -> None:
        """Tell of queued tasks that are durable, as far as the window allows."""
        desk = self._desk
        room = min(self._room(home), desk.config.move_chunk)
        entries: list[Entry] = []
        while len(entries) < room:
            entry = home.queue.pop()
            if entry is None:
                break
            if entry.batch > desk.staging.applied:
                # The most urgent one is still on its way to the store; in a moment all are durable.
                home.queue.push_front(entry)
                break
            if entry.task_id in home.cancels:  # cancelled while it was on its way: it is asked to end it, not to run it
                desk.ledger.sent_all([entry], home)
            else:
                entries.append(entry)
        if entries:
            desk.ledger.sent_all(entries, home)
            messages = self._messages(home, entries)
            for each in messages:  # a distributor that has read the version of the oldest may have ended that one
                each.payload["version"] = min(entry.version for entry in each.entries)
                if desk.spans is not None:
                    desk.spans.assigned(home.agent_id, each.entries, now)
            desk.out.extend(messages)

    def _messages(self, home: Distributor, entries: list[Entry]) -> list[Assignment]:
        """``assign_tasks`` messages of bounded size; records are embedded as they are. What version of the section has
        them is yet to be said."""
        if not entries:
            return []
        limit = self._desk.config.message_bytes
        size = 0
        first = 0
        out: list[Assignment] = []
        for index, entry in enumerate(entries):
            size += len(entry.record) + 1
            if size > limit and index > first:
                out.append(self._message(home, entries[first:index]))
                first = index
                size = len(entry.record) + 1
        out.append(self._message(home, entries[first:] if first else entries))
        return out

    def _message(self, home: Distributor, entries: list[Entry]) -> Assignment:
        tasks = orjson.Fragment(b"[" + b",".join([entry.record for entry in entries]) + b"]")
        payload = {"action": "assign_tasks", "tasks": tasks, **self._desk.mark()}
        return Assignment(home.agent_id, MessageType.REQUEST, payload, entries=entries)

    def undelivered(self, effect: Assignment, reason: str, now: Now) -> None:
        """Its outbox is full, or it is gone: back to the head of the queue, in the same order."""
        desk = self._desk
        home = desk.ledger.distributors[effect.to]
        if reason == "malformed" and len(effect.entries) == 1:
            # A record with answers in it may be larger than a message. Its distributor is to read it from the store;
            # at the head of the queue it would be in the way of all others for ever.
            desk.log("warning", "assignment_too_large", distributor=home.agent_id, task_id=effect.entries[0].task_id)
            home.needs_sync = True
            return
        for entry in reversed(effect.entries):
            if entry.state == SENT and entry.home is home:
                desk.ledger.queue(entry, front=True)
        delay = desk.config.requeue_delay_s if reason == "busy" else UNROUTABLE_DELAY_S
        home.blocked_until = max(home.blocked_until, now.mono + delay)
        if reason not in ("busy", "unroutable"):
            desk.log("error", "assignment_not_sendable", distributor=home.agent_id, reason=reason)

    def next_deadline(self) -> float:
        """When a blocked distributor is tried again, more can leave the inbox, or the user's policy is late."""
        desk = self._desk
        ledger = desk.ledger
        if not desk.leading:
            return math.inf
        if (desk.place_held or self._whole) and desk.inbox_checked and ledger.held and self._can_stage():
            return self._now
        waits = [
            home.blocked_until
            for home in ledger.distributors.values()
            if home.queue.size and home.blocked_until > self._now
        ]
        return min([self.policy.next_deadline(), *waits])

    def _can_stage(self) -> bool:
        return self._desk.staging.unpersisted <= self._desk.config.max_staged_tasks // 2
