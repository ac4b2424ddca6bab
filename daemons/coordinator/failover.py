"""The last resort for a distributor that stays away: its tasks go to others that can run them.

::

    away, and no lease ──seize──> what is live there ──results──> moved records to the inbox ──cut──> evict ──> placed

*Seize* raises the fence of its section, so that no process of before can write there any more. A task is in the inbox
before it goes away there, and is given to nobody until then; so it is never nowhere, and never with two distributors.
If the distributor takes its section back in between, *evict* does nothing, and what it still has stays with it. The
same holds for what a coordinator before us left half moved: it is live there, and in the inbox with a later attempt.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final

import orjson

from a2a_zmq.clock import Now, iso
from a2a_zmq.protocol.message import Message
from a2a_zmq.tasks import ends
from daemons.coordinator.auditing import parsed
from daemons.coordinator.clients import Client
from daemons.coordinator.desk import Desk
from daemons.coordinator.distributors import Distributor
from daemons.coordinator.lives import moved_record
from daemons.coordinator.placement import eligible
from daemons.coordinator.records import MOVING, QUEUED, SENT, Entry, Need
from daemons.coordinator.staging import INBOX_SECTION
from daemons.coordinator.sync import Sync
from daemons.runtime.contract import QueryAnswer

# Seconds until it is tried again: after an answer that did not come; where there was nothing to move.
AGAIN_S: Final = 1.0
REST_S: Final = 10.0
# Ids that one history event names; the rest is in its count.
NAMED_IDS: Final = 20


class Move:
    """The tasks of one distributor on their way.

    Attributes:
        message: an operator's request that waits for its answer.
        fence: that we left in its section; None until it is seized.
        records: what is live there.
        todo: of these, what is to be moved yet.
        asked: the store was asked something.
        stored: the batch with which the present part is in the inbox; inf while there is none.
        again_at: monotonic time of the next try.
        count: tasks that were moved.
    """

    __slots__ = ("again_at", "asked", "count", "fence", "home", "message", "records", "stored", "todo")

    def __init__(self, home: Distributor, message: Message | None) -> None:
        self.home = home
        self.message = message
        self.fence: int | None = None
        self.records: dict[str, bytes] = {}
        self.todo: deque[Entry] = deque()
        self.asked = False
        self.stored = math.inf
        self.again_at = -math.inf
        self.count = 0


# Called with what the store answered.
Then = Callable[[Move, Any, Now], None]


class Failover:
    """See the module's text."""

    def __init__(self, desk: Desk, sync: Sync) -> None:
        self._desk = desk
        self._sync = sync
        self._moves: dict[Distributor, Move] = {}
        self._rests: dict[Distributor, float] = {}  # until when it is left alone

    # ------------------------------------------------------------ when

    def tick(self, now: Now) -> None:
        """Once an interval, while we lead and the store can be asked."""
        desk = self._desk
        for home in list(desk.ledger.distributors.values()):
            move = self._moves.get(home)
            if move is not None:
                if not move.asked and (move.stored == math.inf or not home.moving) and now.mono >= move.again_at:
                    self._seize(move, now)
            elif home.moving:  # left by a coordinator before us
                self._begin(home, None, now)
            elif not home.up and home.live and desk.draining is None:
                self._watch(home, now)

    def _watch(self, home: Distributor, now: Now) -> None:
        if home.given_up or self._due_in(home, now) <= 0:
            if now.mono < self._rests.get(home, -math.inf):
                return
            if next(self._movable(home), None) is not None:
                self._begin(home, None, now)
            else:
                self._rests[home] = now.mono + REST_S
        elif self._desk.config.distributor_failover_s:
            self._desk.ask("lease", {"distributor_id": home.agent_id}, partial(self._lease_read, home), now)

    def _lease_read(self, home: Distributor, answer: QueryAnswer, now: Now) -> None:
        if answer.error is not None or answer.value is not None:
            home.lease_seen = now.mono

    def _due_in(self, home: Distributor, now: Now) -> float:
        """Seconds until the tasks of a distributor that is away are moved; inf for never."""
        after_s = self._desk.config.distributor_failover_s
        since = max(home.changed_at, self._desk.leading_since, home.lease_seen)
        return since + after_s - now.mono if after_s else math.inf

    def _elsewhere(self, need: Need, home: Distributor) -> bool:
        """Whether another distributor can run a task with this need."""
        sites = [] if need.pinned else eligible(need, self._desk.ledger.distributors)
        return any(site is not home for site in sites)

    def _movable(self, home: Distributor) -> Iterator[Entry]:
        fit: dict[Need, bool] = {}
        for entry in self._desk.ledger.of(home):
            if entry.state in (SENT, QUEUED) and self._desk.durable(entry):
                if entry.need not in fit:
                    fit[entry.need] = self._elsewhere(entry.need, home)
                if fit[entry.need]:
                    yield entry

    # ------------------------------------------------------------ what others ask

    def request(self, client: Client, message: Message, now: Now) -> None:
        """``failover``: an operator knows that a distributor will not be back soon."""
        desk = self._desk
        home = desk.ledger.distributors.get(str(message.payload.get("agent_id")))
        if not client.operator:
            desk.refuse(message, "FORBIDDEN", "only operators move the tasks of a distributor")
        elif home is None:
            desk.refuse(message, "UNKNOWN_AGENT", f"no distributor {message.payload.get('agent_id')!r} is known")
        elif home.up and not home.draining:
            text = f"{home.agent_id} is connected and works; drain it first, or stop it"
            desk.refuse(message, "FORBIDDEN", text)
        elif home.up:
            home.given_up = True
            self._answer(message, home, 0, f"{home.agent_id} drains; what it leaves is moved when it has gone")
        elif not desk.store_available or desk.spooling or not desk.questions.room() or home in self._moves:
            desk.refuse(message, "BUSY", "its tasks are being moved, or the store cannot be asked now")
        else:
            detail = {"by": client.agent_id, "distributor": home.agent_id}
            desk.staging.history(INBOX_SECTION, now, "", "failover_asked", detail)
            self._begin(home, message, now)

    def _answer(self, message: Message, home: Distributor, count: int, text: str) -> None:
        answer = {"moving": count, "stay": home.live - count, "message": text}
        self._desk.staging.after.append(self._desk.reply(message, answer))

    def about(self, home: Distributor, now: Now) -> dict[str, Any]:
        """For the fleet's status: since when it is away, and in how many seconds its tasks go to others."""
        if home.up:
            return {}
        away_s = max(0.0, now.mono - max(home.changed_at, self._desk.leading_since))
        due_s = max(0.0, self._due_in(home, now))
        return {
            "away_s": round(away_s, 1),
            "away_since": iso(now.wall - away_s),
            "failover_in_s": round(due_s, 1) if home.live and due_s != math.inf else None,
            "moving": len(home.moving),
        }

    def prospect(self, entry: Entry, home: Distributor, now: Now) -> str:
        """When a task whose distributor is away goes elsewhere."""
        if entry.state == MOVING:
            return "it is being moved to another one"
        if entry.need.pinned:
            return "it is for that one only"
        if not self._elsewhere(entry.need, home):
            return "no other distributor that is connected can run it"
        due_s = self._due_in(home, now)
        if due_s == math.inf:
            return f"it waits for its return (`a2actl failover {home.agent_id}` gives it to another one)"
        return f"it goes to another one in {max(0.0, due_s):.0f} s, unless {home.agent_id} is back or renews its lease"

    # ------------------------------------------------------------ seize

    def _begin(self, home: Distributor, message: Message | None, now: Now) -> None:
        move = self._moves[home] = Move(home, message)
        self._seize(move, now)

    def _ask(self, move: Move, op: str, args: dict[str, Any], then: Then, now: Now) -> None:
        move.asked = True
        self._desk.ask(op, args, partial(self._told, move, then), now)

    def _told(self, move: Move, then: Then, answer: QueryAnswer, now: Now) -> None:
        move.asked = False
        if answer.error is None and self._desk.leading:
            then(move, answer.value, now)
            return
        # What we asked for may still be done, or be done already: seizing the section anew settles that.
        move.again_at, move.stored = now.mono + AGAIN_S, math.inf
        if move.message is not None:
            self._desk.refuse(move.message, "UNAVAILABLE", f"the store could not be asked: {answer.error}")
            move.message = None

    def _seize(self, move: Move, now: Now) -> None:
        move.stored = math.inf
        self._ask(move, "seize", {"distributor_id": move.home.agent_id}, self._seized, now)

    def _seized(self, move: Move, value: tuple[int | None, dict[str, bytes]], now: Now) -> None:
        home = move.home
        move.fence, move.records = value
        if move.fence is None:
            home.lease_seen = now.mono
            if move.message is not None:
                text = f"{home.agent_id} holds its lease: it lives, or died a moment ago"
                self._desk.refuse(move.message, "FORBIDDEN", text)
        else:
            move.todo = deque(self._movable(home))
            if any(entry.task_id not in move.records for entry in move.todo):
                self._sync.reconcile(home, now)  # it has ended, or was lost
            self._announce(move, now)
        ids = [task_id for task_id in home.moving if task_id not in move.records]
        self._ask(move, "results", {"distributor_ids": [home.agent_id], "task_ids": ids}, self._sort_out, now)

    def _announce(self, move: Move, now: Now) -> None:
        desk, home = self._desk, move.home
        count = len(move.todo)
        if count:
            detail = {"distributor": home.agent_id, "tasks": count, "away_s": self.about(home, now).get("away_s")}
            desk.log("warning", "failover", **detail)
            desk.staging.history(INBOX_SECTION, now, "", "failover", detail)
        if move.message is not None:
            stay = home.live - count
            more = f"; {stay} stay, for no other distributor can run them now" if stay else ""
            self._answer(move.message, home, count, f"{count} tasks of {home.agent_id} go to other distributors{more}")
            move.message = None

    def _sort_out(self, move: Move, results: dict[str, bytes], now: Now) -> None:
        """What was on its way when it was last tried: it is with its distributor still, or not any more."""
        desk, home = self._desk, move.home
        for task_id, entry in list(home.moving.items()):
            if task_id not in move.records:
                if task_id not in results or not desk.finish_stored(entry, results[task_id]):
                    self._moved(move, entry, now)
            elif move.fence is None:
                desk.ledger.leave(entry)
                desk.staging.section(INBOX_SECTION).drops.append(task_id)
                home.needs_sync = True
        if move.fence is None:
            del self._moves[home]
            self._rests[home] = now.mono + AGAIN_S
        elif home.moving:
            self._wait(move)
        else:
            self._next(move, now)

    # ------------------------------------------------------------ move

    def _next(self, move: Move, now: Now) -> None:
        """The next part, or the end."""
        desk, home = self._desk, move.home
        if desk.staging.unpersisted > desk.config.max_staged_tasks // 2:
            move.again_at = now.mono
            return
        part = [move.todo.popleft() for _ in islice(range(desk.config.move_chunk), len(move.todo))]
        if part:
            args = {"distributor_ids": [home.agent_id], "task_ids": [entry.task_id for entry in part]}
            self._ask(move, "results", args, partial(self._looked_up, part), now)
            return
        del self._moves[home]
        self._rests[home] = now.mono + (AGAIN_S if move.count else REST_S)

    def _looked_up(self, part: list[Entry], move: Move, results: dict[str, bytes], now: Now) -> None:
        """A record may have come to the store after its task had ended."""
        desk, home = self._desk, move.home
        for entry in part:
            record = parsed(entry.task_id, move.records.get(entry.task_id, b""))
            if record is None or entry.home is not home or entry.state not in (SENT, QUEUED):
                continue
            result = results.get(entry.task_id)
            if result is None or not ends(orjson.loads(result), record):
                desk.ledger.move(entry, moved_record(record, home.agent_id, now))
            elif desk.finish_stored(entry, result):
                desk.staging.section(home.section).drops.append(entry.task_id)
        if home.moving:
            desk.staging.put(INBOX_SECTION, list(home.moving.values()))
            self._wait(move)
        else:
            self._next(move, now)

    def _wait(self, move: Move) -> None:
        """For the batch with which the inbox has the last of them."""
        following = self._desk.staging.cuts + 1
        move.stored = max(entry.batch or following for entry in move.home.moving.values())

    def settle(self, now: Now) -> None:
        """Take away what the inbox has."""
        if not self._moves:
            return
        desk = self._desk
        for move in list(self._moves.values()):
            if move.asked or move.stored > desk.staging.applied or desk.spooling:
                continue
            ids = list(move.home.moving)
            args = {"distributor_id": move.home.agent_id, "fence": move.fence, "task_ids": ids}
            args["mutation_id"] = desk.staging.new_id()
            self._ask(move, "evict", args, partial(self._evicted, ids), now)

    def _evicted(self, ids: list[str], move: Move, fence: int | None, now: Now) -> None:
        if fence is None:  # it is back
            self._seize(move, now)
            return
        move.fence, move.stored = fence, math.inf
        desk, home = self._desk, move.home
        gone = [entry for task_id in ids if (entry := home.moving.get(task_id)) is not None]
        for entry in gone:
            self._moved(move, entry, now)
        detail = {"distributor": home.agent_id, "tasks": len(gone), "task_ids": ids[:NAMED_IDS]}
        task_id = ids[0] if len(ids) == 1 else ""
        desk.staging.history(INBOX_SECTION, now, task_id, "failed_over", detail)
        self._next(move, now)

    def _moved(self, move: Move, entry: Entry, now: Now) -> None:
        """Only the inbox has it: it is placed from there, unless it was to be cancelled."""
        desk, home = self._desk, move.home
        desk.ledger.moved(entry)
        move.count += 1
        desk.meter.count("tasks_failed_over_total")
        if entry.task_id in home.cancels:
            home.moved_cancels[entry.task_id] = home.cancels.pop(entry.task_id)
            desk.end_here(entry, "request", now)
        desk.place_held = True
